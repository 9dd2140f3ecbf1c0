// Package receive_test runs the streaming archiver against real servers and stores: what it has stored must bring back every commit up to
// there, whatever dies.
package receive_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
	"pgstow/wal"
)

func TestMain(m *testing.M) { os.Exit(world.Main(m)) }

const patience = 2 * time.Minute

// receive starts a receiver from the world's server, which lives as long as this test.
func receive(t *testing.T, w *world.World, args ...string) *world.Receiver {
	t.Helper()
	return w.In(t).Receive(nil, args...)
}

// flushed is how far a server knows its WAL to be stored by a receiver; 0 without one.
func flushed(s *pg.Server, name string) (wal.LSN, error) {
	text, err := s.TryValue("postgres", "SELECT coalesce(max(flush_lsn)::text, '0/0') FROM pg_stat_replication WHERE application_name = $1", name)
	if err != nil {
		return 0, err
	}
	return wal.ParseLSN(text)
}

// awaitStored waits until all that a server has written by now is stored.
func awaitStored(t *testing.T, s *pg.Server) {
	t.Helper()
	awaitStoredBy(t, s, "pgstow")
}

func awaitStoredBy(t *testing.T, s *pg.Server, name string) {
	t.Helper()
	want, err := wal.ParseLSN(s.Value("SELECT pg_current_wal_lsn()::text"))
	if err != nil {
		t.Fatal(err)
	}
	s.Await("WAL to be stored up to "+want.String(), patience, func() (bool, error) {
		got, err := flushed(s, name)
		return got >= want, err
	})
}

// rows are the numbers in table t of a database, in order.
func rows(s *pg.Server, database string) string {
	return s.ValueIn(database, "SELECT coalesce(string_agg(i::text, ' ' ORDER BY i), '') FROM t")
}

// equal compares two values.
func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// pieces are the keys of pieces in the archive.
func pieces(w *world.World) (keys []string) {
	for _, key := range w.Keys(w.Prefix() + "wal/") {
		if strings.Count(key, ".") == 1 && strings.Contains(key, "-") {
			keys = append(keys, key)
		}
	}
	return keys
}

// segments are the names of the full segments in the archive.
func segments(w *world.World) (names []string) {
	for _, key := range w.Keys(w.Prefix() + "wal/") {
		if base := key[strings.LastIndexByte(key, '/')+1:]; len(base) == 24 {
			names = append(names, base)
		}
	}
	return names
}

// eachMajor runs a test on each version.
func eachMajor(t *testing.T, f func(t *testing.T, major int)) {
	t.Helper()
	world.EachMajor(t, pg.AllMajors(t), f)
}
