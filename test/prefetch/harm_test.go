package prefetch_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// during does something again and again while a recovery runs.
func (s *stage) during(server *pg.Server, what func()) {
	s.t.Helper()
	if err := server.Launch(); err != nil {
		s.t.Fatal(err)
	}
	pg.Await(s.t, "the end of recovery", patient, func() (bool, error) {
		what()
		got, err := server.TryValue("postgres", "SELECT pg_is_in_recovery()")
		return err == nil && got == "f", nil
	})
	s.wantRecovered(server)
	server.Stop(pg.Fast)
}

// TestSpoolIsHarmed: files in the spool are removed, cut, filled with zeros, as after a power cut, and changed, all the time.
func TestSpoolIsHarmed(t *testing.T) {
	t.Parallel()
	s := newStage(t, world.Options{}, 24)
	harmed := 0
	for round := range pg.Rounds(t, 2) {
		r := rand.New(rand.NewPCG(uint64(round), 42))
		s.during(s.attach(s.restore()), func() {
			files := waiting(t, s.spool())
			all, err := filepath.Glob(filepath.Join(s.spool(), "*", "*"))
			if err != nil {
				t.Fatal(err)
			}
			if r.IntN(8) == 0 {
				files = all // locks, claims, folders
			}
			if len(files) > 0 {
				if harm(r, files[r.IntN(len(files))]) {
					harmed++
				}
			}
		})
	}
	if harmed == 0 {
		t.Error("no file in the spool was harmed")
	}
	s.awaitGone()
}

// harm does one of several things to a file, which may be gone by now; it tells whether it did.
func harm(r *rand.Rand, path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return os.RemoveAll(path) == nil // a folder
	}
	defer func() { _ = f.Close() }()
	// What is in the spool is changed and not what was handed over meanwhile: that is the server's.
	still := func() bool {
		now, err := os.Stat(path)
		return err == nil && os.SameFile(now, info)
	}
	switch r.IntN(4) {
	case 0:
		return os.Remove(path) == nil
	case 1:
		return still() && replaced(path, make([]byte, info.Size()))
	case 2:
		if b, err := os.ReadFile(path); err == nil && len(b) > 0 {
			return replaced(path, b[:r.IntN(len(b))])
		}
	case 3:
		if b, err := os.ReadFile(path); err == nil && len(b) > 0 {
			b[r.IntN(len(b))] ^= 1 << r.IntN(8)
			return replaced(path, b)
		}
	}
	return false
}

// replaced puts other bytes where a file is, if it is there. The file itself may be the server's already.
func replaced(path string, b []byte) bool {
	other := filepath.Join(filepath.Dir(path), ".harm")
	if err := os.WriteFile(other, b, 0o600); err != nil {
		return false
	}
	if user := pg.Credential(); user != nil {
		_ = os.Chown(other, int(user.Uid), int(user.Gid))
	}
	_, err := os.Stat(path)
	if err == nil {
		err = os.Rename(other, path)
	}
	_ = os.Remove(other)
	return err == nil
}

// TestPrefetcherIsKilled: prefetchers are killed, and stopped so that they hang, in the middle.
func TestPrefetcherIsKilled(t *testing.T) {
	t.Parallel()
	s := newStage(t, world.Options{}, 24)
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP} {
		var hit []int
		last := time.Time{}
		s.during(s.attach(s.restore()), func() {
			if sig == syscall.SIGSTOP && len(hit) >= 3 || time.Since(last) < 50*time.Millisecond {
				return
			}
			last = time.Now()
			for _, pid := range prefetchers(t, s.Dir) {
				if kill(t, pid, sig) {
					hit = append(hit, pid)
				}
			}
		})
		if len(hit) == 0 {
			t.Errorf("%s: no prefetcher was hit", sig)
		}
		if sig == syscall.SIGSTOP {
			for _, pid := range prefetchers(t, s.Dir) {
				kill(t, pid, syscall.SIGCONT) // they find out that they are not wanted
			}
		}
		s.awaitGone()
	}
}

// TestSpoolElsewhere: the spool is on another file system than pg_wal, has hardly any room, has none, or cannot be written.
func TestSpoolElsewhere(t *testing.T) {
	t.Parallel()
	s := newStage(t, world.Options{}, 10)
	t.Run("memory", func(t *testing.T) {
		spool := s.newSpool("/dev/shm")
		seen := 0
		server := s.attach(s.restore(), "PGSTOW_SPOOL="+spool)
		s.during(server, func() { seen += len(waiting(t, spool)) })
		s.awaitGone(spool)
		if left := waiting(t, spool); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		if seen == 0 {
			t.Error("nothing was ever seen in the spool")
		}
	})
	for name, size := range map[string]string{"little": "size=3m", "none": "size=200k"} {
		t.Run(name, func(t *testing.T) {
			if os.Geteuid() != 0 {
				pg.Missing(t, "root, to mount a small file system")
			}
			spool := s.newSpool("")
			if err := syscall.Mount("tmpfs", spool, "tmpfs", 0, size+",mode=0700"); err != nil {
				pg.Missing(t, "mounting: "+err.Error())
			}
			t.Cleanup(func() { _ = syscall.Unmount(spool, syscall.MNT_DETACH) })
			pg.Chown(t, spool)
			server := s.attach(s.restore(), "PGSTOW_SPOOL="+spool)
			s.during(server, func() {})
			s.awaitGone(spool)
			told := strings.Count(server.Log(), "no prefetch, recovery is slower")
			if name == "none" && told != 1 {
				t.Errorf("the log says %d times that there is no room:\n%s", told, server.LogTail())
			}
		})
	}
	t.Run("unwritable", func(t *testing.T) {
		if os.Geteuid() != 0 {
			pg.Missing(t, "root, to own a folder that the server's user cannot write")
		}
		spool := t.TempDir()
		if err := os.Chmod(spool, 0o755); err != nil {
			t.Fatal(err)
		}
		server := s.attach(s.restore(), "PGSTOW_SPOOL="+spool)
		s.during(server, func() {})
		if !strings.Contains(server.Log(), "no spool") {
			t.Errorf("the log does not say that there is no spool:\n%s", server.LogTail())
		}
	})
}
