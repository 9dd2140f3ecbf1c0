// Package hotpath is what PostgreSQL's two commands need before anything else, in pgstow-wal and in pgstow alike: dying in a way
// that cannot be misread, the arguments, the data directory and the spool that belongs to both.
//
// It uses the standard library and wal/spool only, because pgstow-wal is started for each WAL file.
package hotpath

import (
	"runtime/debug"
	"syscall"
)

// Exit codes of fetch. PostgreSQL takes every code up to 125 for "not in the archive" and ends recovery there, so there are no others
// (src/backend/access/transam/xlogarchive.c, RestoreArchivedFile).
const (
	FetchDone   = 0
	FetchAbsent = 1 // proven absence, or an unreachable store in standby mode
	FetchFailed = 126
)

// PushFailed is the exit code of a push that is to be tried again.
const PushFailed = 1

// Guard is the first statement of main in every program that restore_command may run. A Go program that panics, fails in its runtime
// or gets SIGQUIT exits with code 2, which PostgreSQL takes for the end of the archive; after Guard all of these die by SIGABRT, on
// which recovery stops and can be started again. `pg_ctl stop -m immediate` sends SIGQUIT to the whole process group of the server's
// startup process. SIGTERM and SIGINT must be left at their default, which is death by that signal. No core is wanted of any of it.
//
// What happens before main is not covered: SIGQUIT within the first millisecond, a thread or memory that the runtime does not get. Exec
// sets GOTRACEBACK for the program it starts, which helps but where memory is short; the restore_command that `pgstow init` and `pgstow
// restore` write turns code 2 into 126 in the shell, which covers all of it.
func Guard() {
	debug.SetTraceback("crash")
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_CORE, &limit); err == nil {
		limit.Cur = 0
		_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &limit)
	}
}
