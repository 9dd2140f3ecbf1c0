package file_test

import (
	"errors"
	"os"
	"testing"

	"pgstow/storage"
)

func TestCheckPresent(t *testing.T) {
	dir := t.TempDir()
	if err := open(t, dir).CheckPresent(t.Context()); !errors.Is(err, storage.ErrNoStore) {
		t.Errorf("an empty folder: %v", err)
	}
	put(t, open(t, dir), "a", "x")
	s := open(t, dir)
	if err := s.CheckPresent(t.Context()); err != nil {
		t.Errorf("a folder that was in use: %v", err)
	}
	if err := os.Rename(dir, dir+".real"); err != nil {
		t.Fatal(err)
	}
	if err := s.CheckPresent(t.Context()); !errors.Is(err, storage.ErrNoStore) {
		t.Errorf("no folder: %v", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.CheckPresent(t.Context()); !errors.Is(err, storage.ErrNoStore) {
		t.Errorf("another folder in its place: %v", err)
	}
	if _, err := s.Put(t.Context(), "b", nil, storage.Any); !errors.Is(err, storage.ErrNoStore) {
		t.Errorf("put into another folder: %v", err)
	}
}
