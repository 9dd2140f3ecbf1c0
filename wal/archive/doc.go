// Package archive does what PostgreSQL's archive_command and restore_command are for.
//
// [Push] stores one file of pg_wal and promises that no acknowledged WAL is ever lost or replaced: the file is inspected, stored
// under its only key if that does not exist, and acknowledged when the store has confirmed. The same file pushed twice is a
// success, another file of the same name never is.
//
// [Fetch] brings one file back and promises that "not in the archive" ([ErrAbsent]) is only said when it is proven: recovery takes
// it for the end of WAL and opens the server for writes. Whatever else goes wrong is another error, on which PostgreSQL stops and
// can be started again.
//
// Both ask the store for as little as they can: a push is one PUT and a fetch one GET in the steady state.
package archive
