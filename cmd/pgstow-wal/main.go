// Command pgstow-wal is what PostgreSQL calls for each WAL file: `pgstow-wal push %p` as archive_command, `pgstow-wal fetch %f %p`
// as restore_command. It answers from the spool if that has the answer, and otherwise becomes `pgstow wal push` or `pgstow wal fetch`,
// which do the whole work. It links nothing but the standard library, because a process that links a store's client costs several
// times as much to start.
package main

import (
	"os"
	"time"

	"pgstow/cmd/internal/detach"
	"pgstow/cmd/internal/hotpath"
	"pgstow/wal/spool"
)

// version is stamped by the build with the same value as that of pgstow: only then do the two share a spool.
var version = "development"

func main() {
	hotpath.Guard()
	os.Exit(run(os.Args[1:], os.Environ()))
}

func run(args, environ []string) int {
	if len(args) == 0 || args[0] != hotpath.Push && args[0] != hotpath.Fetch {
		message("usage: pgstow-wal push [flags] %p | pgstow-wal fetch [flags] %f %p")
		// Whatever this was meant to be, a restore_command must never take it for "not in the archive".
		return hotpath.FetchFailed
	}
	if answered(args[0], args[1:], environ) {
		return 0
	}
	err := hotpath.Exec(args, environ)
	message(err.Error())
	message("hint: pgstow must be in the same folder as pgstow-wal, or in PATH")
	if args[0] == hotpath.Push {
		return hotpath.PushFailed
	}
	return hotpath.FetchFailed
}

// answered tells whether the spool had the answer. Whatever is wrong, doubtful or unknown is the full program's to speak of.
func answered(command string, args, environ []string) bool {
	call, err := hotpath.Parse(command, args)
	if err != nil {
		return false
	}
	place, err := call.Spool(version, environ)
	if err != nil {
		return false
	}
	s, err := spool.Open(place.Name, place.Roots...)
	if err != nil {
		return false
	}
	if command == hotpath.Push {
		return pushed(s, call)
	}
	run, _ := detach.Running(place.Data) // without a server it is of no run
	return fetched(s.ForRun(run.Start()), call)
}

// fetched hands the file over if it waits in the spool, or is on its way there. Only whole segments are, and those are the answer whatever
// else the call asks for.
func fetched(s *spool.Spool, call hotpath.Call) bool {
	if done, err := s.Take(call.File, call.Path); done || err != nil {
		return done
	}
	if !s.AwaitClaim(hotpath.Fetch, call.File, spool.ClaimStale) {
		return false
	}
	done, err := s.Take(call.File, call.Path)
	return err == nil && done
}

// pushed tells whether the file is in the archive already, or is once the worker that stores it now has done so.
func pushed(s *spool.Spool, call hotpath.Call) bool {
	id, err := spool.Stat(call.Path)
	if err != nil {
		return false
	}
	if s.Stored(call.File, id) {
		return true
	}
	done := make(chan bool, 1)
	go func() { done <- s.AwaitClaim(hotpath.Push, call.File, spool.ClaimStale) }()
	select {
	case waited := <-done:
		return waited && s.Stored(call.File, id)
	case <-time.After(patience(id.Size)):
		return false
	}
}

// patience is how long a file of size bytes is waited for: as long as a push takes at most by default.
func patience(size int64) time.Duration {
	const most, mib, free = time.Minute, 1 << 20, 16
	return most + time.Duration(max(0, size/mib-free))*time.Second
}

func message(text string) { _, _ = os.Stderr.WriteString("pgstow-wal: " + text + "\n") }
