package file_test

import (
	"testing"

	"pgstow/storage"
	"pgstow/storage/file"
	"pgstow/storage/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storage.Store { return open(t, t.TempDir()) })
}

func open(t *testing.T, dir string) *file.Store {
	t.Helper()
	s, err := file.Open(file.Options{Root: dir})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
