package archive_test

import (
	"path/filepath"
	"testing"

	"pgstow/storage/object"
	"pgstow/wal/archive"
)

// TestPushNamesTheDataDirectory: PostgreSQL runs archive_command in the data directory, so that the call knows it as ".".
func TestPushNamesTheDataDirectory(t *testing.T) {
	w := newWorld(t)
	path := w.place(plainSegment, fixture(t, plainSegment))
	want, err := filepath.EvalSymlinks(w.data)
	must(t, err)
	t.Chdir(want)
	o := w.pushOptions()
	o.PGData = "."
	_, err = archive.Push(t.Context(), o, path)
	must(t, err)
	h, err := object.ParseHeader(w.stored(w.key(plainSegment)))
	must(t, err)
	if h.DataDirectory != want {
		t.Errorf("the object says that it is from %q, want %q", h.DataDirectory, want)
	}
}
