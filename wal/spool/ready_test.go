package spool_test

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

func TestTakeHandsOverOnce(t *testing.T) {
	s, _ := create(t)
	content := pattern(1 << 20)
	if err := s.AddReady(segmentName, content); err != nil {
		t.Fatal(err)
	}
	dst := filepath.Join(t.TempDir(), "RECOVERYXLOG")
	write(t, dst, []byte("old"))
	if done, err := s.Take("000000010000000000000041", dst); done || err != nil {
		t.Fatalf("another name: %v, %v", done, err)
	}
	if done, err := s.Take(segmentName, dst); !done || err != nil {
		t.Fatalf("got %v, %v", done, err)
	}
	if got, err := os.ReadFile(dst); err != nil || !bytes.Equal(got, content) {
		t.Fatalf("%d bytes arrived, error %v", len(got), err)
	}
	if done, err := s.Take(segmentName, dst); done || err != nil {
		t.Fatalf("the second time: %v, %v", done, err)
	}
	if left, _ := os.ReadDir(filepath.Join(s.Dir(), "ready")); len(left) != 0 {
		t.Errorf("%d files are left", len(left))
	}
}

func TestTakeGivesNothingThatIsNotWhole(t *testing.T) {
	for _, part := range []string{"", ".sum"} {
		for _, d := range damages() {
			t.Run("file"+part+" "+d.name, func(t *testing.T) {
				s, _ := create(t)
				if err := s.AddReady(segmentName, bytes.Repeat([]byte("wal "), 1000)); err != nil {
					t.Fatal(err)
				}
				d.do(t, filepath.Join(s.Dir(), "ready", segmentName+part))
				dst := filepath.Join(t.TempDir(), "RECOVERYXLOG")
				done, err := s.Take(segmentName, dst)
				if done || err != nil {
					t.Fatalf("got %v, %v", done, err)
				}
				if _, err := os.Lstat(dst); !os.IsNotExist(err) {
					t.Fatalf("the destination was touched: %v", err)
				}
			})
		}
	}
	t.Run("under another name", func(t *testing.T) {
		s, _ := create(t)
		if err := s.AddReady(segmentName, pattern(1000)); err != nil {
			t.Fatal(err)
		}
		const other = "000000010000000000000043"
		for _, suffix := range []string{"", ".sum"} {
			if err := os.Rename(filepath.Join(s.Dir(), "ready", segmentName+suffix), filepath.Join(s.Dir(), "ready", other+suffix)); err != nil {
				t.Fatal(err)
			}
		}
		if done, err := s.Take(other, filepath.Join(t.TempDir(), "x")); done || err != nil {
			t.Fatalf("got %v, %v", done, err)
		}
	})
	t.Run("every byte", func(t *testing.T) {
		s, _ := create(t)
		content := pattern(64)
		for i := range content {
			if err := s.AddReady(segmentName, content); err != nil {
				t.Fatal(err)
			}
			bad := append([]byte(nil), content...)
			bad[i] ^= 1
			write(t, filepath.Join(s.Dir(), "ready", segmentName), bad)
			if done, err := s.Take(segmentName, filepath.Join(t.TempDir(), "x")); done || err != nil {
				t.Fatalf("byte %d flipped: %v, %v", i, done, err)
			}
		}
	})
}

func TestTakeToAnotherFileSystem(t *testing.T) {
	const memory = "/dev/shm"
	s, _ := create(t)
	dir, err := os.MkdirTemp(memory, "pgstow-test-")
	if err != nil {
		t.Skipf("no second file system here: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	content := pattern(3<<20 + 17)
	if err := s.AddReady(segmentName, content); err != nil {
		t.Fatal(err)
	}
	dst := filepath.Join(dir, "RECOVERYXLOG")
	write(t, dst+".pgstow", []byte("left behind by a killed one"))
	if done, err := s.Take(segmentName, dst); !done || err != nil {
		t.Fatalf("got %v, %v", done, err)
	}
	if got, err := os.ReadFile(dst); err != nil || !bytes.Equal(got, content) {
		t.Fatalf("%d bytes arrived, error %v", len(got), err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left beside it: %v", left)
	}
}

func TestTakeThatCannotWriteSaysSo(t *testing.T) {
	s, _ := create(t)
	if err := s.AddReady(segmentName, pattern(100)); err != nil {
		t.Fatal(err)
	}
	if done, err := s.Take(segmentName, filepath.Join(t.TempDir(), "no", "such", "folder")); done || err == nil {
		t.Fatalf("got %v, %v", done, err)
	}
	if done, err := s.Take(segmentName, filepath.Join(t.TempDir(), "x")); !done || err != nil {
		t.Fatalf("it must still be there: %v, %v", done, err)
	}
}

func TestOneOfManyTakesIt(t *testing.T) {
	s, _ := create(t)
	for range 20 {
		if err := s.AddReady(segmentName, pattern(10000)); err != nil {
			t.Fatal(err)
		}
		var winners atomic.Int32
		var done sync.WaitGroup
		dir := t.TempDir()
		for i := range 8 {
			done.Go(func() {
				ok, err := s.Take(segmentName, filepath.Join(dir, string(rune('a'+i))))
				if err != nil {
					t.Error(err)
				}
				if ok {
					winners.Add(1)
				}
			})
		}
		done.Wait()
		if left, _ := os.ReadDir(dir); winners.Load() != 1 || len(left) != 1 {
			t.Fatalf("%d took it, %d files", winners.Load(), len(left))
		}
	}
}

func TestSpoolRemovedAtAnyStep(t *testing.T) {
	s, root := create(t)
	steps := []func(){
		func() { _ = s.AddReady(segmentName, pattern(1000)) },
		func() { _ = s.AddReady("000000010000000000000043", pattern(1000)) },
		func() {
			if done, err := s.Take(segmentName, filepath.Join(t.TempDir(), "x")); done || err != nil {
				t.Errorf("out of a removed spool: %v, %v", done, err)
			}
		},
	}
	for _, step := range steps {
		if err := os.RemoveAll(root); err != nil {
			t.Fatal(err)
		}
		step()
	}
}
