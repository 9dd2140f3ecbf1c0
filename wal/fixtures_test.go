package wal_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgstow/wal"
)

// majors are the folders below testdata, each made by testdata/make.sh from servers of that PostgreSQL major.
var majors = map[string]int{"13": 13, "14": 14, "15": 15, "16": 16, "17": 17, "18": 18}

// eachMajor runs f once for every PostgreSQL major.
func eachMajor(t *testing.T, f func(t *testing.T, dir string, major int)) {
	t.Helper()
	for name, major := range majors {
		t.Run(name, func(t *testing.T) { f(t, filepath.Join("testdata", name), major) })
	}
}

type fixture struct {
	name wal.FileName
	seg  []byte
}

// segments reads all segments of one role, in order of their names.
func segments(t testing.TB, dir, role string) []fixture {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, role, "*.gz"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no fixtures in %s/%s: %v", dir, role, err)
	}
	var out []fixture
	for _, p := range paths {
		name, err := wal.ParseFileName(strings.TrimSuffix(filepath.Base(p), ".gz"))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fixture{name, gunzip(t, p)})
	}
	return out
}

func gunzip(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	b, err = io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readFile(t testing.TB, path ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// fork reads the history of timeline 2 of a major, which left timeline 1 in the middle of a segment.
func fork(t testing.TB, dir string) (wal.History, wal.LSN) {
	t.Helper()
	h, err := wal.ParseHistory(2, readFile(t, dir, "fork", "00000002.history"))
	if err != nil {
		t.Fatal(err)
	}
	_, at, ok := h.Parent()
	if !ok {
		t.Fatal("the history has no parent")
	}
	return h, at
}
