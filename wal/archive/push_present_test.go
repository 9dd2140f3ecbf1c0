package archive_test

import (
	"errors"
	"os"
	"testing"

	"pgstow/storage"
	"pgstow/storage/file"
	"pgstow/wal/archive"
)

// A folder on which nothing is mounted is there, and empty. What the spool remembers of the archive must not let a push put WAL into it:
// PostgreSQL would drop the segment, and mounting would hide it.
func TestPushIntoAFolderThatIsNotMounted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(plainSegment)
	real := w.root + ".real"
	must(t, os.Rename(w.root, real))
	must(t, os.Mkdir(w.root, 0o700))

	another := func() storage.Store { // as another process opens it
		s, err := file.Open(file.Options{Root: w.root})
		must(t, err)
		return s
	}
	o := w.pushOptions()
	o.Store = another()
	path := w.place(switchedSegment, fixture(t, switchedSegment))
	if _, err := archive.Push(t.Context(), o, path); archive.PushExit(err) != 1 {
		t.Fatalf("got %v, want a failure", err)
	}
	if entries, err := os.ReadDir(w.root); err != nil || len(entries) > 0 {
		t.Errorf("something was written into the empty folder: %v, %v", entries, err)
	}

	must(t, os.Remove(w.root))
	must(t, os.Rename(real, w.root))
	o.Store = another()
	if r, err := archive.Push(t.Context(), o, path); err != nil || r.Outcome != archive.Stored {
		t.Errorf("mounted again: %+v, %v", r, err)
	}

	// It goes between the look and the write.
	must(t, os.Rename(w.root, real))
	must(t, os.Mkdir(w.root, 0o700))
	if _, err := o.Store.Put(t.Context(), "a", nil, storage.IfAbsent); !errors.Is(err, storage.ErrNoStore) {
		t.Errorf("got %v, want ErrNoStore", err)
	}
}
