// Package spool is pgstow's local cache beside PostgreSQL: what is already stored in the archive, and what was fetched ahead.
//
// It is linked into pgstow-wal, which PostgreSQL starts for each WAL file, so it uses the standard library only, and little of it.
//
// Nothing in a spool is ever needed. Its one promise is that it does not lie: an answer is given only when every byte that it rests
// on was checked, and any doubt (missing, short, wrong checksum, other file, other configuration, other owner) means "not there".
// Removing, truncating or overwriting any part of it, at any moment, costs time and nothing else.
//
//	<root>/<name>/            0700, owned by the effective user, on a local file system, not a link (see Open)
//	    marks                 1024 slots of 128 bytes: "this very file is stored" (see MarkStored)
//	    <kind>.record         something that was found out and stays valid for a while (see PutRecord)
//	    ready/<wal name>      a verified WAL file that waits for restore_command (see AddReady)
//	    ready/<wal name>.sum  its size and CRC32C
//
// The name is a hash of everything that decides where bytes go and of the data directory they come from (see Identity.Name), so a
// spool never answers for another repository, cluster, program version or server.
package spool
