// Package outage_test takes the store away from servers that archive and from servers that recover. Whatever happens to the store, no acknowledged
// WAL may be missing and no recovery may end before the archive does.
package outage_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// They wait for deadlines most of their time.
func TestMain(m *testing.M) { os.Exit(world.MainAtOnce(m, 6)) }

// newStage makes a world on a MinIO server of its own, which may be killed.
func newStage(t *testing.T, o world.Options) *world.World {
	t.Helper()
	o.Store, o.Own = world.MinIO, true
	return world.New(t, o)
}

// eachMajor runs a test of recovery on each version.
func eachMajor(t *testing.T, f func(t *testing.T, major int)) {
	t.Helper()
	world.EachMajor(t, pg.AllMajors(t), f)
}

// gate is a restore_command that calls pgstow-wal and, as long as it is shut, first waits before one segment. So a test can do something to the
// store at a point of recovery that it knows, without racing it.
type gate struct {
	t       *testing.T
	dir     string
	Segment string
	program string
}

func newGate(t *testing.T, segment string) *gate {
	t.Helper()
	g := &gate{t: t, dir: pg.TempDir(t), Segment: segment, program: pg.Binary(t, "pgstow-wal")}
	return g
}

// Shut makes the next recovery wait before the segment. It is to be called again after each Open.
func (g *gate) Shut() {
	g.t.Helper()
	fifo := filepath.Join(g.dir, "shut")
	if err := syscall.Mkfifo(fifo, 0o666); err != nil {
		g.t.Fatal(err)
	}
	pg.Chown(g.t, fifo)
}

// Await waits until a recovery stands before the gate.
func (g *gate) Await(s *pg.Server) {
	g.t.Helper()
	s.Await("recovery to ask for "+g.Segment, time.Minute, func() (bool, error) {
		if !s.Running() {
			return false, fmt.Errorf("the server has exited before")
		}
		_, err := os.Stat(filepath.Join(g.dir, "waiting"))
		return err == nil, nil
	})
}

// Open lets the recovery go on that stands before the gate.
func (g *gate) Open() {
	g.t.Helper()
	fifo, err := os.OpenFile(filepath.Join(g.dir, "shut"), os.O_WRONLY, 0) // there is a reader: this does not wait
	if err != nil {
		g.t.Fatal(err)
	}
	for _, name := range []string{"shut", "waiting"} {
		if err := os.Remove(filepath.Join(g.dir, name)); err != nil {
			g.t.Fatal(err)
		}
	}
	if _, err := fifo.WriteString("go on\n"); err != nil {
		g.t.Fatal(err)
	}
	if err := fifo.Close(); err != nil {
		g.t.Fatal(err)
	}
}

// Command is the restore_command with these flags of fetch, and what the shell is to do with its result: "exec" or nothing before, and after it
// for example "|| exit 1".
func (g *gate) Command(flags, after string) string {
	g.t.Helper()
	exec := "exec "
	if after != "" {
		exec = ""
	}
	script := fmt.Sprintf(`#!/bin/sh
if [ "$1" = %[2]s ] && [ -p %[1]s/shut ]; then
	: >%[1]s/waiting
	read -r _ <%[1]s/shut
fi
%[3]s%[4]s fetch %[5]s "$1" "$2" %[6]s
`, g.dir, g.Segment, exec, g.program, flags, after)
	path := filepath.Join(g.dir, fmt.Sprintf("restore-%d.sh", len(g.scripts())))
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		g.t.Fatal(err)
	}
	return path + " %f %p"
}

func (g *gate) scripts() []string {
	names, err := filepath.Glob(filepath.Join(g.dir, "restore-*.sh"))
	if err != nil {
		g.t.Fatal(err)
	}
	return names
}

// archived is a cluster whose WAL is in the archive, and which is gone.
type archived struct {
	*world.World
	major int
	gate  *gate // before a segment that lies behind the backup's end and before the archive's
	want  pg.Sums
	rows  string // of table t at the archive's end
	next  string // the segment behind the archive's end
}

// newArchived makes a cluster with a backup and three segments behind it, each with rows of its own, and ends it.
func newArchived(t *testing.T, major int) *archived {
	t.Helper()
	w := newStage(t, world.Options{Major: major, WALSegmentSizeMiB: 1})
	s := w.Server
	s.Exec("CREATE TABLE t (i int)")
	w.Backup()
	var names []string
	for part := range 3 {
		s.Exec(fmt.Sprintf("INSERT INTO t SELECT generate_series(1, 1000) + %d", 1000*part))
		names = append(names, s.ArchiveAll())
	}
	a := &archived{World: w, major: major, want: s.Sums(), gate: newGate(t, names[1])}
	a.rows = s.Value("SELECT count(*) FROM t")
	s.Exec("SELECT pg_create_restore_point('lost')") // a position at a segment's very end would be named after that one
	a.next = s.Value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
	if a.next == names[2] {
		t.Fatalf("%s is both archived and current", a.next)
	}
	s.Kill()
	return a
}

// server attaches a server to a restored directory, with another restore_command and patience than the restore gave it.
func (a *archived) server(t *testing.T, dir, command string, env ...string) *pg.Server {
	t.Helper()
	args := []string{"-c", "log_min_messages=debug2"}
	if command != "" {
		args = append(args, "-c", "restore_command="+command)
	}
	return pg.Attach(t, dir, pg.Options{Major: a.major, Args: args, Env: append(a.Env(), env...)})
}

// endOfRecovery are what PostgreSQL logs when it takes what it has for all there is (StartupXLOG and FinishWalRecovery in xlog.c and
// xlogrecovery.c of 13 to 18).
var endOfRecovery = []string{"redo done at", "selected new timeline ID", "archive recovery complete"}

// wantUnfinished fails the test if a recovery in dir, of which this is the log, has taken what it had for all there is.
func wantUnfinished(t *testing.T, dir, log string) {
	t.Helper()
	if found := finished(t, dir, log); found != "" {
		t.Errorf("recovery was ended early: %s\n%s", found, log[max(0, len(log)-8192):])
	}
}

// finished says by what one sees that a recovery was ended; "" if it was not.
func finished(t *testing.T, dir, log string) string {
	t.Helper()
	for _, text := range endOfRecovery {
		if strings.Contains(log, text) {
			return text
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "recovery.signal")); err != nil {
		return err.Error()
	}
	histories, err := filepath.Glob(filepath.Join(dir, "pg_wal", "*.history"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(histories, " ")
}

// wantAborted waits until a recovery has ended the server, and fails the test unless it did so by a FATAL error that names the command.
func wantAborted(t *testing.T, s *pg.Server) {
	t.Helper()
	state, err := s.Wait(time.Minute)
	if err != nil {
		s.Kill()
		t.Fatalf("recovery neither ended nor aborted: %v\n%s", err, s.LogTail())
	}
	log := s.Log()
	if state.ExitCode() == 0 || !strings.Contains(log, "FATAL:  could not restore file") {
		t.Errorf("the server ended with %s\n%s", state, s.LogTail())
	}
	wantUnfinished(t, s.Dir, log)
}

// wantRecovered starts a server whose store is there again, and fails the test unless it recovers all and takes writes.
func (a *archived) wantRecovered(t *testing.T, s *pg.Server) {
	t.Helper()
	s.Start()
	s.WaitPrimary()
	if d := a.want.Diff(s.Sums()); d != "" {
		t.Errorf("recovered:\n%s", d)
	}
	// The end was said to be the end by the one exit status that means it.
	end := fmt.Sprintf("could not restore file %q from archive: child process exited with exit code 1\n", a.next)
	if log := s.Log(); !strings.Contains(log, end) {
		t.Errorf("the log does not have %s\n%s", end, s.LogTail())
	}
	s.Exec("CREATE TABLE writable()")
	s.Stop(pg.Fast)
}
