// Package prefetch_test is about the segments that are fetched before recovery asks for them: with real servers, and with a spool and processes
// to which everything happens that can.
package prefetch_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

func TestMain(m *testing.M) { os.Exit(world.Main(m)) }

const patient = 2 * time.Minute

// stage is a world with a backup and some segments behind it in the archive.
type stage struct {
	*world.World
	t        *testing.T
	major    int
	segments []string
	want     pg.Sums
}

// newStage makes a server that archives n segments of 1 MiB behind its backup, and ends it.
func newStage(t *testing.T, o world.Options, n int) *stage {
	t.Helper()
	s := newRunning(t, o, n)
	s.want = s.Server.Sums()
	s.Server.Stop(pg.Fast)
	return s
}

// newRunning is newStage with the server still at work.
func newRunning(t *testing.T, o world.Options, n int) *stage {
	t.Helper()
	o.WALSegmentSizeMiB = 1
	s := &stage{World: world.New(t, o), t: t, major: o.Major}
	if s.major == 0 {
		s.major = pg.DefaultMajor
	}
	s.Server.Exec("CREATE TABLE t (segment int, pad text)")
	s.Backup()
	s.fill(s.Server, n)
	return s
}

// fill ends n segments, each with rows of its own, and waits until they are in the archive.
func (s *stage) fill(server *pg.Server, n int) {
	s.t.Helper()
	for range n {
		server.Exec("INSERT INTO t SELECT " + strconv.Itoa(len(s.segments)) + ", md5(i::text || random()) FROM generate_series(1, 1000) i")
		s.segments = append(s.segments, server.SwitchWAL())
	}
	server.WaitArchived(s.segments[len(s.segments)-1])
}

// command is a restore_command without any setting of its own.
func command(t *testing.T) string {
	t.Helper()
	return pg.Binary(t, "pgstow-wal") + " fetch %f %p || exit $(($? == 2 ? 126 : $?))"
}

// attach makes a server of a restored directory.
func (s *stage) attach(dir string, env ...string) *pg.Server {
	s.t.Helper()
	return pg.Attach(s.t, dir, pg.Options{
		Major: s.major, Args: []string{"-c", "restore_command=" + command(s.t)}, Env: append(s.Env(), env...), StartTimeout: patient,
	})
}

// restore restores into a new directory, from which nothing is recovered yet.
func (s *stage) restore(args ...string) string {
	s.t.Helper()
	return s.Restore(append([]string{"--action", "promote"}, args...)...)
}

// wantRecovered waits for the end of recovery and compares what is there with what there was.
func (s *stage) wantRecovered(server *pg.Server) {
	s.t.Helper()
	s.awaitPrimary(server)
	if d := s.want.Diff(server.Sums()); d != "" {
		s.t.Errorf("recovered:\n%s\n%s", d, server.LogTail())
	}
}

func (s *stage) awaitPrimary(server *pg.Server) {
	s.t.Helper()
	pg.Await(s.t, "the end of recovery", patient, func() (bool, error) {
		got, err := server.TryValue("postgres", "SELECT pg_is_in_recovery()")
		return err == nil && got == "f", nil
	})
}

// recovered starts a server, recovers all, and returns it.
func (s *stage) recovered(dir string, env ...string) *pg.Server {
	s.t.Helper()
	server := s.attach(dir, env...)
	server.Start()
	s.wantRecovered(server)
	return server
}

// prefetchers are the process ids of those that work in a spool below this folder.
func prefetchers(t *testing.T, folder string) (pids []int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		line, err := os.ReadFile(filepath.Join(p, "cmdline"))
		if err != nil || !bytes.HasPrefix(line, []byte("pgstow\x00wal\x00prefetch\x00")) {
			continue
		}
		cwd, err := os.Readlink(filepath.Join(p, "cwd"))
		pid, bad := strconv.Atoi(filepath.Base(p))
		if err == nil && bad == nil && strings.HasPrefix(strings.TrimSuffix(cwd, " (deleted)"), folder) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// awaitGone waits until no prefetcher works below the world's folder, or below another one.
func (s *stage) awaitGone(folders ...string) {
	s.t.Helper()
	for _, folder := range append(folders, s.Dir) {
		pg.Await(s.t, "the prefetchers' end", patient, func() (bool, error) { return len(prefetchers(s.t, folder)) == 0, nil })
	}
}

// waiting are the files that lie ready in any spool below a folder.
func waiting(t *testing.T, folder string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*", "ready", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func (s *stage) spool() string {
	s.t.Helper()
	for _, entry := range s.Env() {
		if dir, ok := strings.CutPrefix(entry, "PGSTOW_SPOOL="); ok {
			return dir
		}
	}
	s.t.Fatal("no spool in the environment")
	return ""
}

// newSpool makes a folder for spools.
func (s *stage) newSpool(parent string) string {
	s.t.Helper()
	dir, err := os.MkdirTemp(parent, "pgstow-prefetch-")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	pg.Chown(s.t, dir)
	return dir
}

// counts are the requests for segments, by name.
func (s *stage) counts() map[string]int {
	found := map[string]int{}
	for _, r := range s.RequestsFor("GET", "/wal/") {
		if name := filepath.Base(r.Path); len(name) == 24 {
			found[name]++
		}
	}
	return found
}

// wantFewRequests fails the test unless each segment was asked for once, but for a few, and what does not exist a few times.
func (s *stage) wantFewRequests(n int) {
	s.t.Helper()
	all, beyond, twice := s.counts(), 0, 0
	exists := map[string]bool{}
	for _, name := range s.segments {
		exists[name] = true
		if all[name] == 0 {
			s.t.Errorf("%s was never asked for", name)
		}
	}
	for name, times := range all {
		switch {
		case !exists[name] && name > s.segments[len(s.segments)-1]:
			beyond += times
		case times > 1:
			twice += times - 1
		}
	}
	lists := 0 // of the proofs of absence: four files, a few lists each
	for _, r := range s.RequestsFor("GET", "") {
		if strings.Contains(r.Query, "list-type=2") {
			lists++
		}
	}
	s.t.Logf("%d segments, %d of the requests were repeated, %d behind the end, %d lists", len(s.segments), twice, beyond, lists)
	if twice > n || beyond > 16 || lists > 20 {
		s.t.Errorf("too many requests: %d were repeated, %d behind the end, %d lists", twice, beyond, lists)
	}
}

func kill(t *testing.T, pid int, sig syscall.Signal) bool {
	t.Helper()
	err := syscall.Kill(pid, sig)
	if err != nil && err != syscall.ESRCH {
		t.Fatal(err)
	}
	return err == nil
}
