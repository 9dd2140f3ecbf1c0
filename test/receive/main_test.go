package receive_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// TestReceiveAlone is the practice of the field: a slot, a base backup whose WAL only the receiver archives, a new database and table, the
// server gone, and a restore that needs the segment that was not full.
func TestReceiveAlone(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		w := world.New(t, world.Options{Major: major, NoArchive: true, WALSegmentSizeMiB: 1})
		s := w.Server
		r := receive(t, w, "--create-slot")
		r.AwaitText("receiving timeline 1")
		w.Backup("--wal", "include")
		s.Exec("CREATE DATABASE shop")
		s.ExecIn("shop", "CREATE TABLE t AS SELECT generate_series(1, 10) AS i")
		s.SwitchWAL()
		s.ExecIn("shop", "INSERT INTO t SELECT generate_series(11, 20)")
		awaitStored(t, s)
		want := rows(s, "shop")
		if len(pieces(w)) == 0 {
			t.Error("the last segment is not in pieces")
		}
		s.Kill()
		r.Kill()

		restored := w.StartRestored(w.Restore())
		equal(t, "rows", rows(restored, "shop"), want)
		restored.Stop(pg.Fast)
	})
}

// TestResume: receivers are killed again and again; the next goes on from what the store holds, on a host that cannot decrypt. Each object
// costs one request, and a full segment one more for its pieces.
func TestResume(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{Store: world.MinIO, Encrypted: true, Count: true, NoArchive: true, WALSegmentSizeMiB: 1})
	s := w.Server
	s.Exec("CREATE TABLE t (i int)")
	r := receive(t, w, "--create-slot")
	r.AwaitText("receiving timeline 1")
	w.Backup("--wal", "include")
	for round := range 4 {
		s.Exec(fmt.Sprintf("INSERT INTO t SELECT %d + generate_series(1, 3000)", 10000*round))
		awaitStored(t, s)
		r.Kill()
		s.Exec(fmt.Sprintf("INSERT INTO t SELECT %d + generate_series(5001, 6000)", 10000*round))
		if round == 2 {
			s.SwitchWAL()
		}
		r = receive(t, w)
		r.AwaitText("receiving timeline 1")
		s.Exec(fmt.Sprintf("INSERT INTO t VALUES (%d)", 10000*round+9999))
		awaitStored(t, s)
	}
	s.SwitchWAL()
	s.Exec("INSERT INTO t VALUES (0)")
	awaitStored(t, s)

	puts := map[string]int{}
	for _, req := range w.RequestsFor("PUT", "/wal/") {
		if req.Status == 200 {
			puts[req.Path]++
		}
	}
	if len(puts) < 8 { // two in each round at the least
		t.Errorf("only %d objects were stored: %v", len(puts), puts)
	}
	for path, n := range puts {
		if n != 1 {
			t.Errorf("%s was stored %d times", path, n)
		}
	}
	if n, most := len(w.RequestsFor("POST", "")), len(segments(w)); n > most {
		t.Errorf("%d requests to delete for %d full segments", n, most)
	}
	for _, key := range pieces(w) {
		segment, _, _ := strings.Cut(key[strings.LastIndexByte(key, '/')+1:], ".")
		if slices.Contains(segments(w), segment) {
			t.Errorf("%s is stored, and its piece %s is still there", segment, key)
		}
	}
	want := s.Sums()
	s.Kill()
	r.Kill()
	restored := w.StartRestored(w.Restore())
	if d := want.Diff(restored.Sums()); d != "" {
		t.Error(d)
	}
}

// TestSegmentSizes: larger segments are assembled outside of memory.
func TestSegmentSizes(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{NoArchive: true, WALSegmentSizeMiB: 64})
	s := w.Server
	r := receive(t, w, "--create-slot", "--flush-interval", "1h")
	r.AwaitText("receiving timeline 1")
	w.Backup("--wal", "include")
	s.Exec("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i")
	s.Exec("CREATE TABLE filler AS SELECT repeat(md5(i::text), 50) FROM generate_series(1, 15000) AS i")
	pg.Await(t, "a piece because much waits", patience, func() (bool, error) { return len(pieces(w)) > 0, nil })
	first := s.SwitchWAL()
	s.Exec("INSERT INTO t SELECT generate_series(1001, 2000)")
	pg.Await(t, first+" to be stored", patience, func() (bool, error) { return slices.Contains(segments(w), first), nil })
	want := rows(s, "postgres")
	s.Stop(pg.Fast) // makes the receiver store all that there is
	r.AwaitText("the next try in")
	r.Stop()
	restored := w.StartRestored(w.Restore())
	equal(t, "rows", rows(restored, "postgres"), want)
}

// TestPushAndReceive: both at once make the same archive, and neither finds fault with the other.
func TestPushAndReceive(t *testing.T) {
	t.Parallel()
	world.EachStore(t, func(t *testing.T, store string) {
		w := world.New(t, world.Options{Store: store, WALSegmentSizeMiB: 1})
		s := w.Server
		r := receive(t, w, "--create-slot", "--flush-interval", "100ms")
		r.AwaitText("receiving timeline 1")
		w.Backup()
		s.Exec("CREATE TABLE t (i int)")
		var last string
		for i := range 6 {
			s.Exec(fmt.Sprintf("INSERT INTO t SELECT generate_series(%d, %d)", 1+8000*i, 8000*(i+1)))
			last = s.SwitchWAL()
		}
		s.WaitArchived(last)
		s.Exec("INSERT INTO t VALUES (0)")
		awaitStored(t, s)
		equal(t, "failures of the archiver", s.Value("SELECT failed_count FROM pg_stat_archiver"), "0")
		if out := r.Output(); strings.Contains(out, "refused") {
			t.Errorf("the receiver refused something:\n%s", out)
		}
		full := map[string]bool{}
		for _, name := range segments(w) {
			full[name] = true
		}
		if len(full) < 6 {
			t.Errorf("full segments: %v", full)
		}
		for _, key := range pieces(w) {
			if name, _, _ := strings.Cut(key[strings.LastIndexByte(key, '/')+1:], "."); full[name] {
				t.Errorf("%s is stored, and its piece %s is still there", name, key)
			}
		}
		want := s.Sums()
		s.Kill()
		r.Kill()
		restored := w.StartRestored(w.Restore())
		if d := want.Diff(restored.Sums()); d != "" {
			t.Error(d)
		}
	})
}
