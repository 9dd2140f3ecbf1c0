package huge_test

import (
	"path/filepath"
	"testing"
	"time"

	"pgstow/storage/file"
	"pgstow/test/huge"
)

// TestFiles: the same archive in folders.
func TestFiles(t *testing.T) {
	n := segments(t)
	s := newScene(n)
	root := filepath.Join(t.TempDir(), "repo")
	store, err := file.Create(file.Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.put(t.Context(), store)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	for _, part := range []struct {
		names huge.Names
		at    time.Time
	}{{s.one, time.Now().Add(-time.Hour)}, {s.two, time.Now().Add(-time.Hour)}, {s.head, time.Now().Add(-time.Minute)}} {
		if err := huge.MakeFiles(root, part.names, part.at); err != nil {
			t.Fatal(err)
		}
	}
	made := time.Since(begin)
	begin = time.Now()
	var listed time.Duration
	peak, kept := memory(func() {
		x, err := r.ListWAL(t.Context(), ref, segmentSize)
		if err != nil {
			t.Fatal(err)
		}
		listed = time.Since(begin)
		s.checkIndex(t, x)
	})
	t.Logf("%d segments: made in %s, listed in %s, peak %d MiB, kept %d KiB", n, made.Round(time.Millisecond), listed.Round(time.Millisecond), peak>>20, kept>>10)
	if peak > maxPeak || kept > maxKept {
		t.Errorf("%d MiB at the peak, %d KiB kept", peak>>20, kept>>10)
	}
	env := []string{"PGSTOW_REPO=file://" + root}
	for _, p := range programs {
		if p.reads {
			continue // the files are empty
		}
		t.Run(p.name, func(t *testing.T) { p.run(t, s, env) })
	}
}
