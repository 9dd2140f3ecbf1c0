package ahead_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
	"pgstow/wal/archive"
)

// TestStoppedWorker: a worker hangs in the middle of its files, as SIGSTOP makes it. The server's calls go on alone, another worker takes its
// place, and when the first one wakes it finds that and ends.
func TestStoppedWorker(t *testing.T) {
	pg.Long(t, "starts a server and a store")
	t.Parallel()
	s, g := newGated(t, world.Options{Env: []string{foreverIdle}})
	s.fill(8)
	g.Shut()
	w := s.startWorker()
	g.AwaitWaiting(t, 2)
	stop(t, w.Process.Pid)
	g.Open()
	locks, err := filepath.Glob(filepath.Join(s.Dir, "spool*", "*", "worker.lock"))
	if err != nil || len(locks) != 1 {
		t.Fatalf("locks %v, %v", locks, err)
	}
	pg.Await(t, "a lock without a sign of life", patient, func() (bool, error) {
		info, err := os.Stat(locks[0])
		return err == nil && time.Since(info.ModTime()) > archive.WorkerStale, err
	})
	s.resume(program(t))
	s.awaitEmpty()
	s.wantAll()
	if pids := s.workers(); !slices.ContainsFunc(pids, func(pid int) bool { return pid != w.Process.Pid }) {
		t.Errorf("no worker but the one that hangs: %v", pids)
	}
	if err := w.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := w.Wait(); err != nil {
		t.Errorf("the worker whose place was taken ended with %v", err)
	}
	s.fill(2)
	s.awaitEmpty()
	s.wantAll()
}

// stop sends SIGSTOP and waits until the process stands.
func stop(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	pg.Await(t, "a process that stands", patient, func() (bool, error) { return state(pid) == 'T', nil })
}

// TestKilledWorker: a worker is killed with files on their way. Its claims die with it.
func TestKilledWorker(t *testing.T) {
	pg.Long(t, "starts a server and a store")
	t.Parallel()
	s, g := newGated(t, world.Options{Env: []string{foreverIdle}})
	s.fill(8)
	g.Shut()
	w := s.startWorker()
	g.AwaitWaiting(t, 2)
	if err := w.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = w.Wait()
	g.Open()
	s.resume(program(t))
	s.awaitEmpty()
	s.wantAll()
	s.Server.Stop(pg.Fast)
	s.awaitNoWorker()
	s.wantTidy()
}

// TestWorkersKilledAtRandom: whatever runs of pgstow is killed, again and again, while the server fills segments and archives them.
func TestWorkersKilledAtRandom(t *testing.T) {
	t.Parallel()
	s := newStage(t, world.Options{Env: []string{foreverIdle}})
	s.resume(program(t))
	random := rand.New(rand.NewPCG(1, 2))
	var kills atomic.Int32
	ended := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		moments := rand.New(rand.NewPCG(3, 4))
		for {
			select {
			case <-ended:
				return
			case <-time.After(time.Duration(moments.IntN(300)) * time.Millisecond): // the moment is what is random here
				for _, pid := range s.workers() {
					if syscall.Kill(pid, syscall.SIGKILL) == nil {
						kills.Add(1)
					}
				}
			}
		}
	})
	defer func() { done.Wait() }()
	defer close(ended)
	rounds := int32(pg.Rounds(t, 5))
	for kills.Load() < rounds {
		s.fill(1 + random.IntN(6)) // a worker comes with what is to be archived
		s.awaitEmpty()
	}
	s.wantAll()
}

// TestStoreThatHangs: no worker asks a store that does not answer again and again, and none stays.
func TestStoreThatHangs(t *testing.T) {
	pg.Long(t, "starts a server and a store")
	t.Parallel()
	s, g := newGated(t, world.Options{Env: []string{briefly, "PGSTOW_PUSH_DEADLINE=1s"}})
	s.Check(s.RunProgram("pgstow-wal", "push", "--pgdata", s.Server.Dir, s.path(s.names[0])), 0)
	s.fill(12)
	g.Forget()
	g.Shut()
	w := s.startWorker()
	if err := w.Wait(); err != nil {
		t.Errorf("the worker ended with %v", err)
	}
	tried := g.Arrived()
	g.Open()
	if len(tried) == 0 {
		t.Error("the worker has asked the store for nothing")
	}
	for name, n := range tried {
		if n > 1 {
			t.Errorf("%s was tried %d times by one worker", name, n)
		}
	}
	s.resume(program(t))
	s.awaitEmpty()
	s.wantAll()
}

// TestShutdown: the server is stopped while the store hangs and the worker waits for it. It stops, nothing of the worker is left, and the next start
// archives all.
func TestShutdown(t *testing.T) {
	pg.Long(t, "takes a quarter of a minute")
	t.Parallel()
	s, g := newGated(t, world.Options{Env: []string{foreverIdle, "PGSTOW_PUSH_DEADLINE=1s"}})
	s.resume(program(t))
	s.awaitEmpty()
	for _, mode := range []pg.Mode{pg.Immediate, pg.Fast} {
		g.Shut()
		s.fill(4)
		g.AwaitWaiting(t, 2) // the call's own and one of the worker's
		s.Server.Stop(mode)
		s.awaitNoWorker()
		if mode == pg.Fast {
			s.wantTidy()
		}
		for _, name := range s.names[len(s.names)-4:] {
			if _, err := os.Stat(s.path(name)); err != nil {
				t.Errorf("a segment that is not archived is gone: %v", err)
			}
		}
		g.Open()
		s.Server.Start()
		s.awaitEmpty()
	}
	s.settle()
	s.wantAll()
}
