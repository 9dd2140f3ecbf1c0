package ahead_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// TestDrain: a queue is emptied, each file by one PUT and no other request, whoever stores it.
func TestDrain(t *testing.T) {
	pg.Long(t, "starts a server and a store")
	t.Parallel()
	s := newStage(t, world.Options{Store: world.MinIO, Count: true, Env: []string{foreverIdle}})
	s.resume(program(t)) // the first push looks at the repository
	s.awaitEmpty()
	s.resume(noArchiving)
	names := s.fill(24)
	s.ForgetRequests()
	s.resume(program(t))
	s.awaitEmpty()
	wantOnePutEach(t, s.Requests(), names)
	s.wantAll()
	if n := len(s.workers()); n != 1 {
		t.Errorf("%d workers, want one", n)
	}
	s.Server.Stop(pg.Fast)
	s.awaitNoWorker()
	s.wantTidy()
}

// wantTidy fails the test if a worker that is gone has left anything but knowledge behind.
func (s *stage) wantTidy() {
	s.t.Helper()
	for _, dir := range s.spools() {
		entries, err := os.ReadDir(dir)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, e := range entries {
			if e.Name() != "marks" && !strings.HasSuffix(e.Name(), ".record") {
				s.t.Errorf("left in the spool: %s", e.Name())
			}
		}
	}
}

// TestAheadOfTheServer: what the worker has stored, the server's calls only look up.
func TestAheadOfTheServer(t *testing.T) {
	pg.Long(t, "starts a server and a store")
	t.Parallel()
	s := newStage(t, world.Options{Store: world.MinIO, Count: true, Env: []string{foreverIdle}})
	s.fill(20)
	w := s.startWorker()
	pg.Await(t, "all files in the store", patient, func() (bool, error) { return len(s.KeysWith("/wal/0")) >= len(s.names), nil })
	// The last mark may come a moment after its object.
	s.ForgetRequests()
	if err := w.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := w.Wait(); err != nil {
		t.Fatalf("the worker ended with %v", err)
	}
	c := s.counted()
	s.resume(c.command)
	s.awaitEmpty()
	if calls := c.calls(t); len(calls) > 1 { // the one whose mark was lost with the worker, if that came between object and mark
		t.Errorf("the full program was started for files that are stored: %q", calls)
	}
	for _, r := range s.Requests() {
		if r.Method != "PUT" && r.Method != "GET" || len(s.Requests()) > 2 {
			t.Errorf("the store was asked again: %+v", r)
		}
	}
	s.wantAll()
}

// TestTwoPushers: several calls for the same file at once are all a success, and the store gets it once.
func TestTwoPushers(t *testing.T) {
	pg.Long(t, "starts a server and a store")
	t.Parallel()
	s, g := newGated(t, world.Options{Env: []string{foreverIdle}})
	s.Check(s.RunProgram("pgstow-wal", "push", "--pgdata", s.Server.Dir, s.path(s.names[0])), 0)
	names := s.fill(3)
	g.Forget()
	g.Shut()
	var done sync.WaitGroup
	for range 2 {
		for _, name := range names {
			done.Go(func() {
				r := s.RunProgram("pgstow-wal", "push", "--pgdata", s.Server.Dir, s.path(name))
				if r.Code != 0 {
					t.Errorf("%s", r)
				}
			})
		}
	}
	g.AwaitWaiting(t, len(names))
	g.Open()
	done.Wait()
	wantOnePutEach(t, slices.DeleteFunc(g.Requests(), func(r world.Request) bool { return !slices.Contains(names, filepath.Base(r.Path)) }), names)
}

// askedFor is how check speaks of what the worker could not store.
const askedFor = "before the server asked for it failed"

// TestNeighbourFails: a damaged file stops the server's archiving there, as it must; its neighbours are stored all the same, it is not, and `check`
// tells of it. When it is whole again all goes on.
func TestNeighbourFails(t *testing.T) {
	t.Parallel()
	s := newStage(t, world.Options{Env: []string{foreverIdle}})
	names := s.fill(6)
	bad := names[2]
	if err := os.WriteFile(s.path(bad), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	s.resume(program(t))
	pg.Await(t, "the neighbours in the store", patient, func() (bool, error) {
		for _, name := range slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == bad }) {
			if len(s.WALKeys(name)) != 1 {
				return false, nil
			}
		}
		return true, nil
	})
	s.Server.AwaitValue("SELECT last_failed_wal FROM pg_stat_archiver", bad)
	if keys := s.WALKeys(bad); len(keys) != 0 {
		t.Errorf("a damaged file was stored: %v", keys)
	}
	if log := s.Server.Log(); !strings.Contains(log, "exit code 12") {
		t.Errorf("the server was not told that the file is refused:\n%s", s.Server.LogTail())
	}
	pg.Await(t, "the worker's own try", patient, func() (bool, error) {
		r := s.Run("check", "--no-switch")
		return strings.Contains(r.Stdout, bad) && strings.Contains(r.Stdout, askedFor), nil
	})
	if err := os.WriteFile(s.path(bad), s.files[bad], 0o600); err != nil {
		t.Fatal(err)
	}
	s.Server.Reload() // ends the archiver's pause
	s.awaitEmpty()
	s.wantAll()
	if r := s.Run("check", "--no-switch"); strings.Contains(r.Stdout, askedFor) {
		t.Errorf("check tells of what is over: %s", r)
	}
}

// TestStatusRenamed: archive_status is taken away and comes back, as a restore or a curious person might do, while the worker looks at it.
func TestStatusRenamed(t *testing.T) {
	t.Parallel()
	s := newStage(t, world.Options{Env: []string{foreverIdle}})
	status := filepath.Join(s.Server.Dir, "pg_wal", "archive_status")
	s.fill(4)
	w := s.startWorker()
	first := len(s.names)
	stored := func(n int) func() (bool, error) {
		return func() (bool, error) { return len(s.KeysWith("/wal/0")) >= n, nil }
	}
	pg.Await(t, "the first files", patient, stored(first))
	for range 3 {
		s.fill(1) // the server makes .ready files, so that must not happen while the folder is away
		if err := os.Rename(status, status+".away"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(status+".away", status); err != nil {
			t.Fatal(err)
		}
	}
	pg.Await(t, "the files that came after", patient, stored(len(s.names)))
	if err := w.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := w.Wait(); err != nil {
		t.Errorf("the worker ended with %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(status, "*.done")); err != nil || len(left) > 0 {
		t.Errorf("somebody but the server changed archive_status: %v, %v", left, err)
	}
	s.resume(program(t))
	s.awaitEmpty()
	s.wantAll()
}

// TestEnds: a worker goes when there is nothing to do, and with its server, with status 0.
func TestEnds(t *testing.T) {
	t.Parallel()
	s := newStage(t, world.Options{Env: []string{foreverIdle}})
	ended := func(what string, w *exec.Cmd) {
		t.Helper()
		if err := w.Wait(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		s.wantTidy()
	}
	ended("idle", s.startWorker(briefly)) // another environment, and so another spool
	s.wantAll()                           // what waited is stored first

	w := s.startWorker()
	s.awaitWorking(w)
	s.Server.Kill()
	if err := os.Remove(filepath.Join(s.Server.Dir, "postmaster.pid")); err != nil {
		t.Fatal(err)
	}
	ended("without a server", w)
	ended("never with one", s.startWorker())

	s.Server.Start()
	w = s.startWorker()
	s.awaitWorking(w)
	if err := s.startWorker().Wait(); err != nil {
		t.Errorf("a second worker: %v", err)
	}
	for _, dir := range s.spools() {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	ended("without a spool", w)
}

// awaitWorking waits until a worker has entered its spool and has the lock.
func (s *stage) awaitWorking(w *exec.Cmd) {
	s.t.Helper()
	pg.Await(s.t, "a worker's lock", patient, func() (bool, error) {
		locks, err := filepath.Glob(filepath.Join(s.Dir, "spool*", "*", "worker.lock"))
		return slices.Contains(s.workers(), w.Process.Pid) && len(locks) > 0, err
	})
}
