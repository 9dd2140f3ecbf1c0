package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgstow/cmd/internal/hotpath"
)

func TestNoPlaceForASpool(t *testing.T) {
	if _, err := os.Lstat(hotpath.DefaultSpool); err == nil {
		t.Skip("there is a place: " + hotpath.DefaultSpool)
	}
	data := t.TempDir()
	if err := os.Mkdir(filepath.Join(data, "global"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "global", "pg_control"), make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	e := &environment{stderr: &out}
	if s := openSpool(e, hotpath.Call{Command: hotpath.Push, Path: filepath.Join(data, "pg_wal", "x"), File: "x"}); s != nil {
		t.Errorf("a spool at %s", s.Dir())
	}
	if !strings.Contains(out.String(), "PGSTOW_SPOOL") {
		t.Errorf("%q does not say what to set", out.String())
	}
}
