package archive

import (
	"os"
	"path/filepath"
	"strings"
	"time"
)

// stoppingStall replaces PushOptions.Stall while the server is being stopped. The archiver then asks for each waiting file up to three more
// times, in up to two rounds (pgarch_MainLoop and pgarch_ArchiverCopyLoop in src/backend/postmaster/pgarch.c), and the stop waits for it; pg_ctl
// waits for 60 s. What is not stored now is stored after the next start.
const stoppingStall = 3 * time.Second

// statusLine is the line of postmaster.pid, from 1 on, that says what the server is doing (LOCK_FILE_LINE_PM_STATUS in miscadmin.h).
const statusLine = 8

// stopping tells whether the server of a data directory is being stopped. Whatever cannot be read means that it is not.
func stopping(pgdata string) bool {
	b, err := os.ReadFile(filepath.Join(pgdata, "postmaster.pid"))
	if err != nil {
		return false
	}
	lines := strings.Split(string(b), "\n")
	return len(lines) >= statusLine && strings.TrimSpace(lines[statusLine-1]) == "stopping"
}
