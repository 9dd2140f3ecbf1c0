package spool_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"pgstow/wal/spool"
)

func TestReadyIsOfOneRunOfTheServer(t *testing.T) {
	s, _ := create(t)
	first, second := s.ForRun("4711\n/data\n1700000000\n"), s.ForRun("4711\n/data\n1700000001\n")
	content := pattern(5000)
	for _, c := range []struct {
		what        string
		made, asked *spool.Spool
		want        bool
	}{
		{"same run", first, first, true}, {"another run", first, second, false}, {"no server", first, s, false},
		{"no server then", s, first, false}, {"none at all", s, s.ForRun(""), true},
	} {
		if err := c.made.AddReady(segmentName, content); err != nil {
			t.Fatal(err)
		}
		if done, err := c.asked.Take(segmentName, filepath.Join(t.TempDir(), "x")); done != c.want || err != nil {
			t.Errorf("%s: %v, %v", c.what, done, err)
		}
		s.DropReady(segmentName)
	}
	if (*spool.Spool)(nil).ForRun("x") != nil {
		t.Error("a spool out of none")
	}
}

// TestReadyInParts: written in pieces of any size, and one bad byte in any chunk, its first and last ones included, is found.
func TestReadyInParts(t *testing.T) {
	s, _ := create(t)
	other, err := os.MkdirTemp("/dev/shm", "pgstow-test-")
	if err != nil {
		t.Logf("no second file system here: %v", err)
		other = t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(other) })
	const mib = 1 << 20
	for _, size := range []int{0, 1, mib - 1, mib, mib + 1, 5*mib + 17} {
		content := pattern(size)
		for _, dir := range []string{t.TempDir(), other} {
			add := func() {
				r, err := s.NewReady(segmentName)
				if err != nil {
					t.Fatal(err)
				}
				for rest := content; len(rest) > 0; {
					n := min(len(rest), 700001)
					if _, err := r.Write(rest[:n]); err != nil {
						t.Fatal(err)
					}
					rest = rest[n:]
				}
				if s.HasReady(segmentName) {
					t.Fatal("it waits before it is finished")
				}
				if err := r.Finish(); err != nil || !s.HasReady(segmentName) {
					t.Fatalf("finished: %v, waiting: %v", err, s.HasReady(segmentName))
				}
				r.Discard()
			}
			dst := filepath.Join(dir, "x")
			add()
			if done, err := s.Take(segmentName, dst); !done || err != nil {
				t.Fatalf("%d bytes: %v, %v", size, done, err)
			}
			if got, err := os.ReadFile(dst); err != nil || !bytes.Equal(got, content) {
				t.Fatalf("%d bytes: other ones arrived: %v", size, err)
			}
			_ = os.Remove(dst)
			for _, at := range []int{0, size / 2, mib - 1, mib, size - 1} {
				if at < 0 || at >= size {
					continue
				}
				add()
				flip(t, filepath.Join(s.Dir(), "ready", segmentName), int64(at))
				if done, err := s.Take(segmentName, dst); done || err != nil {
					t.Errorf("byte %d of %d flipped: %v, %v", at, size, done, err)
				}
				if left, _ := os.ReadDir(dir); len(left) != 0 || s.HasReady(segmentName) {
					t.Errorf("byte %d of %d flipped: left: %v, still waiting: %v", at, size, left, s.HasReady(segmentName))
				}
			}
		}
	}
}

func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if _, err = f.ReadAt(b[:], at); err == nil {
		b[0] ^= 4
		_, err = f.WriteAt(b[:], at)
	}
	if cerr := f.Close(); err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
}

// TestTruncatedWhileChecked: the check maps the file, and a mapping has no memory behind the end of a file that somebody cuts.
func TestTruncatedWhileChecked(t *testing.T) {
	s, _ := create(t)
	content := pattern(16 << 20)
	taken := 0
	for range 30 {
		if err := s.AddReady(segmentName, content); err != nil {
			t.Fatal(err)
		}
		cut := make(chan error)
		go func() { cut <- os.Truncate(filepath.Join(s.Dir(), "ready", segmentName), 100) }()
		done, err := s.Take(segmentName, filepath.Join(t.TempDir(), "x"))
		if err != nil {
			t.Fatal(err)
		}
		if done {
			taken++ // before it was cut: what happens to it then is not the spool's business
		}
		if err := <-cut; err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	t.Logf("%d of 30 were taken before they were cut", taken)
}

func TestDropOthers(t *testing.T) {
	s, _ := create(t)
	names := []string{"000000010000000000000042", "000000010000000000000043", "000000020000000000000043"}
	for _, n := range names {
		if err := s.AddReady(n, pattern(10)); err != nil {
			t.Fatal(err)
		}
	}
	r, err := s.NewReady("000000010000000000000044")
	if err != nil {
		t.Fatal(err)
	}
	s.DropOthers(func(name string) bool { return name == names[1] })
	if s.HasReady(names[0]) || !s.HasReady(names[1]) || s.HasReady(names[2]) {
		t.Error("the wrong ones are left")
	}
	if err := r.Finish(); err != nil {
		t.Errorf("what was being written is gone: %v", err)
	}
	s.DropOthers(nil)
	if left, err := os.ReadDir(s.Dir()); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func BenchmarkTake(b *testing.B) {
	root := filepath.Join(b.TempDir(), "root")
	s, err := spool.Create(name, root)
	if err != nil {
		b.Fatal(err)
	}
	content := pattern(16 << 20)
	for _, c := range []struct{ what, dir string }{{"rename", b.TempDir()}, {"copy", "/dev/shm"}} {
		b.Run(c.what, func(b *testing.B) {
			dir, err := os.MkdirTemp(c.dir, "pgstow-bench-")
			if err != nil {
				b.Skip(err)
			}
			b.Cleanup(func() { _ = os.RemoveAll(dir) })
			b.SetBytes(int64(len(content)))
			for b.Loop() {
				b.StopTimer()
				_ = os.Remove(filepath.Join(dir, "x")) // as the server has renamed it: to replace a large file is dear
				if err := s.AddReady(segmentName, content); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if done, err := s.Take(segmentName, filepath.Join(dir, "x")); !done || err != nil {
					b.Fatal(done, err)
				}
			}
		})
	}
}
