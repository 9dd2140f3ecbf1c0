package detach

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
)

// pidFile is the server's lock file in its data directory (CreateDataDirLockFile in src/backend/utils/init/miscinit.c).
const pidFile = "postmaster.pid"

// startLines are the lines of the file, from the first, that stay the same as long as the server runs: process id, data directory, start
// time (LOCK_FILE_LINE_* in src/include/miscadmin.h).
const startLines = 3

// Server is one run of the server of a data directory.
type Server struct {
	file  string
	start string
	pid   string
}

// Running finds the server that runs now on the data directory. Without a postmaster.pid there is none, and ok is false. The path is made
// absolute, since who watches it changes his working directory.
func Running(pgdata string) (s Server, ok bool) {
	dir, err := filepath.Abs(pgdata)
	if err != nil {
		return Server{}, false
	}
	s.file = filepath.Join(dir, pidFile)
	s.start, ok = startOf(s.file)
	s.pid, _, _ = strings.Cut(s.start, "\n")
	return s, ok
}

// Alive tells whether it is still that run of the server: its postmaster.pid is there and speaks of the same start. A process id is never
// looked up: it may be somebody else's by now.
func (s Server) Alive() bool {
	start, ok := startOf(s.file)
	return ok && start == s.start
}

// Start identifies the run of the server, so that a process can be told which one it belongs to.
func (s Server) Start() string { return s.start }

// MayAdopt tells whether the server is process 1 of its container. It would then adopt every orphan, and takes an end of one that is neither
// 0 nor 1 for the crash of one of its own processes (CleanupBackend and HandleChildCrash in src/backend/postmaster/postmaster.c): it ends all
// sessions and starts again.
func (s Server) MayAdopt() bool { return strings.TrimSpace(s.pid) == "1" }

func startOf(file string) (string, bool) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", false
	}
	lines := bytes.SplitAfterN(b, []byte("\n"), startLines+1)
	if len(lines) <= startLines {
		return "", false // it is being written
	}
	return string(bytes.Join(lines[:startLines], nil)), true
}
