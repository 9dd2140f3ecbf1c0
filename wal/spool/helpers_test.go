package spool_test

import (
	"os"
	"path/filepath"
	"testing"

	"pgstow/wal/spool"
)

const segmentName = "000000010000000000000042"

// name is a valid name of a spool folder.
const name = "0123456789abcdef0123456789abcdef"

func create(t *testing.T) (*spool.Spool, string) {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	s, err := spool.Create(name, root)
	if err != nil {
		t.Fatal(err)
	}
	return s, root
}

func write(t *testing.T, path string, content []byte) spool.FileID {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	id, err := spool.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

// damage is one way to hurt a file; the spool must then answer "not there", never wrongly.
type damage struct {
	name string
	do   func(t *testing.T, path string)
}

func damages() []damage {
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	return []damage{
		{"removed", func(t *testing.T, path string) { must(t, os.Remove(path)) }},
		{"emptied", func(t *testing.T, path string) { must(t, os.Truncate(path, 0)) }},
		{"one byte short", func(t *testing.T, path string) {
			info, err := os.Stat(path)
			must(t, err)
			must(t, os.Truncate(path, info.Size()-1))
		}},
		{"zeros of the right length", func(t *testing.T, path string) {
			info, err := os.Stat(path)
			must(t, err)
			must(t, os.WriteFile(path, make([]byte, info.Size()), 0o600))
		}},
		{"random bytes", func(t *testing.T, path string) {
			info, err := os.Stat(path)
			must(t, err)
			must(t, os.WriteFile(path, pattern(int(info.Size())), 0o600))
		}},
		{"a directory", func(t *testing.T, path string) {
			must(t, os.Remove(path))
			must(t, os.Mkdir(path, 0o700))
		}},
		{"a link to an honest copy", func(t *testing.T, path string) {
			must(t, os.Rename(path, path+".elsewhere"))
			must(t, os.Symlink(path+".elsewhere", path))
		}},
	}
}
