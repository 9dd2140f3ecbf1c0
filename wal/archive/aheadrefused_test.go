package archive_test

import (
	"os"
	"path/filepath"
	"testing"

	"pgstow/wal/archive"
)

// TestNothingBehindRefused: the archive has other WAL under a file's name. What follows it may be of a server that went another way, and must not
// come into the archive before the one whose archive this is; whether a worker finds that out or the server's own call did, until it is settled.
func TestNothingBehindRefused(t *testing.T) {
	t.Parallel()
	for _, byCall := range []bool{false, true} {
		w := newWorld(t)
		w.push(plainSegment)
		w.overwrite(w.key(firstSegment), w.stored(w.key(plainSegment)))
		for _, name := range []string{firstSegment, secondSegment, thirdSegment} {
			w.wait(name, fixture(t, name))
		}
		early, content := history(3)
		w.wait(early, content)
		o := w.workerOptions()
		o.Files = 1
		if byCall {
			_, err := archive.Push(t.Context(), w.pushOptions(), filepath.Join(w.data, "pg_wal", firstSegment))
			if refusedBy(err) == nil {
				t.Fatalf("got %v", err)
			}
			o.Files = 8
		}
		r := w.work(o)
		if r.Stored != 1 || r.Failed != 1 || !w.isMarked(early) {
			t.Errorf("%+v, want the history file stored", r)
		}
		if keys := w.keys(); len(w.stored(w.key(firstSegment))) == 0 || w.isMarked(secondSegment) || w.isMarked(thirdSegment) {
			t.Errorf("behind a refused file something was stored: %v", keys)
		}
		// The server is told that all is well with it, or the file was moved away.
		must(t, os.Remove(filepath.Join(w.statusDir(), firstSegment+".ready")))
		if r := w.work(w.workerOptions()); r.Stored != 2 {
			t.Errorf("%+v after that was settled", r)
		}
	}
}

// TestFirstIsSettled: a worker comes upon a queue of which a call has the first file in hand. What becomes of that is known before anything behind it
// is stored.
func TestFirstIsSettled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(plainSegment)
	w.overwrite(w.key(firstSegment), w.stored(w.key(plainSegment)))
	for _, name := range []string{firstSegment, secondSegment, thirdSegment} {
		w.wait(name, fixture(t, name))
	}
	results := make(chan archive.WorkerResult, 1)
	o := w.pushOptions()
	o.Store = slowPuts{w.store, firstSegment, func() bool {
		// The worker has taken the others in hand, and they have not been stored.
		s, ok := w.spool.Claim("push", thirdSegment)
		s.Release()
		return !ok
	}}
	o.StartWorker = func() error {
		go func() {
			r, err := archive.RunWorker(t.Context(), w.workerOptions())
			if err != nil {
				t.Error(err)
			}
			results <- r
		}()
		return nil
	}
	if _, err := archive.Push(t.Context(), o, filepath.Join(w.data, "pg_wal", firstSegment)); refusedBy(err) == nil {
		t.Fatalf("got %v", err)
	}
	if r := <-results; r.Stored != 0 || w.isMarked(secondSegment) || w.isMarked(thirdSegment) {
		t.Errorf("%+v behind a refused file", r)
	}
}

// TestFirstIsOurs: no call has the first of the waiting files in hand. The worker takes it, and does not wait for what becomes of it: its own claim
// is alive when the file is stored.
func TestFirstIsOurs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, name := range []string{firstSegment, secondSegment, thirdSegment} {
		w.wait(name, fixture(t, name))
	}
	o := w.workerOptions()
	o.Store = slowPuts{w.store, firstSegment, func() bool {
		if c, ok := w.spool.Claim("push", firstSegment); ok {
			c.Release()
			t.Error("the worker has waited until its own claim counted no longer")
		}
		return true
	}}
	r, err := archive.RunWorker(t.Context(), o)
	if err != nil || r.Stored != 3 {
		t.Errorf("%+v, %v", r, err)
	}
}
