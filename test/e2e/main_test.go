// Package e2e_test holds the scenarios: real servers, real stores, the real programs.
package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

func TestMain(m *testing.M) { os.Exit(world.Main(m)) }

// same fails the test unless a server holds exactly these tables.
func same(t *testing.T, what string, want pg.Sums, got *pg.Server) {
	t.Helper()
	if d := want.Diff(got.Sums()); d != "" {
		t.Errorf("%s:\n%s", what, d)
	}
}

// equal compares two values.
func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// missing fails the test if something is there.
func missing(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("%s should not be there (%v)", path, err)
	}
}

// readFile is a file of a data directory as text.
func readFile(t *testing.T, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// program runs one of PostgreSQL's client programs as the server's user and returns its output.
func program(t *testing.T, name string, args ...string) string {
	t.Helper()
	bin, err := pg.ClientBin(pg.DefaultMajor, name)
	if err != nil {
		t.Fatal(err)
	}
	out, err := pg.Command(t.Context(), bin, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// appendTo adds lines to a file of a data directory.
func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
