// Package wal knows PostgreSQL's write-ahead log as bytes and names: LSNs, segment arithmetic, file names,
// timelines and their history files, backup history files, page and record headers, and the check that tells
// a complete segment from a padded or damaged one.
//
// The package does no I/O, imports the standard library alone, and supports PostgreSQL 13 to 18 of the
// machine's byte order being little endian. Rules are PostgreSQL's own; the docstrings name the source file
// each was read from (paths are below src/ of the PostgreSQL tree).
package wal
