package stream_test

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// TestRoundTrip: a full backup and incremental ones under load, with tablespaces, in both stores; each restores to its own moment, also when
// others have been deleted.
func TestRoundTrip(t *testing.T) {
	world.EachStore(t, func(t *testing.T, store string) {
		roundTrip(t, world.Options{Store: store, Checksums: true, WALSegmentSizeMiB: 1})
	})
}

// TestMajors: the same in short on every version.
func TestMajors(t *testing.T) {
	t.Parallel()
	for _, major := range []int{13, 14, 16, 17, 18} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			pg.Need(t, major)
			roundTrip(t, world.Options{Major: major, Checksums: major%2 == 0, WALSegmentSizeMiB: 1})
		})
	}
}

func roundTrip(t *testing.T, o world.Options) {
	w := newWorld(t, o)
	s := w.Server
	spaces := fill(t, s)
	first := stream(t, w, s, "--label", "it's the first")
	if first.Method != "full" || first.Reference != "" || first.BytesStored*2 > first.Bytes {
		t.Errorf("first: %+v", first)
	}
	change(s)
	var load sync.WaitGroup
	load.Go(func() { s.Pgbench("-n", "-c", "2", "-t", "300") })
	second := stream(t, w, s)
	load.Wait()
	if second.Method != "scan" || second.Reference != first.ID || second.PagesChanged == 0 || second.BytesStored*2 > first.BytesStored {
		t.Errorf("second: %+v, first: %+v", second, first)
	}
	last := second
	if o.Major == 0 {
		change(s)
		third := w.Backup() // by the data directory, on what was streamed
		change(s)
		if last = stream(t, w, s); last.Reference != third.ID {
			t.Errorf("last: %+v", last)
		}
		w.Must("backup", "delete", second.ID)
		w.Must("backup", "delete", third.ID)
	}
	s.Exec("INSERT INTO fresh VALUES (7)")
	want := sumsOf(s)
	ids := []string{last.ID}
	if w.Kind == world.MinIO {
		ids = append(ids, first.ID)
	}
	for _, id := range ids {
		r := restored(t, w, spaces, false, "--backup", id)
		holds(t, id, r, want)
		if rows := r.Value("SELECT count(*) FROM volatile"); rows != "0" {
			t.Errorf("unlogged table: %s rows", rows)
		}
		r.Stop(pg.Fast)
		if o.Checksums && (r.Install.Major == pg.DefaultMajor || r.Install.Has("pg_checksums")) {
			if out, err := pg.Command(t.Context(), r.Install.Bin("pg_checksums"), "--check", "-D", r.Dir).CombinedOutput(); err != nil {
				t.Errorf("pg_checksums: %v\n%s", err, out)
			}
		}
	}
	if show := w.Must("backup", "show", last.ID); !strings.Contains(show, "stream") {
		t.Errorf("show does not tell how it was taken:\n%s", show)
	}
}

// TestIncludedWAL: a backup with its own WAL needs no archive and no file of the server.
func TestIncludedWAL(t *testing.T) {
	t.Parallel()
	w := newWorld(t, world.Options{NoArchive: true, WALSegmentSizeMiB: 1})
	spaces := fill(t, w.Server)
	w.Server.Exec("VACUUM")
	want := w.Server.Sums()
	w.Server.Exec("CHECKPOINT") // with much to write, a spread one would take its time
	b := stream(t, w, w.Server, "--wal", "include", "--checkpoint", "spread")
	if !b.WALIncluded {
		t.Errorf("%+v", b)
	}
	if slots := w.Server.Value("SELECT count(*) FROM pg_replication_slots"); slots != "0" {
		t.Errorf("%s replication slots are left", slots)
	}
	holds(t, "restored", restored(t, w, spaces, true), want)
}

// TestReceived: archive_mode is off, and a receiver stores the WAL, which is compared with the server's own.
func TestReceived(t *testing.T) {
	t.Parallel()
	w := newWorld(t, world.Options{NoArchive: true, WALSegmentSizeMiB: 1})
	s := w.Server
	s.Exec("CREATE TABLE t AS SELECT 1 AS i; GRANT pg_monitor TO streamer")
	w.Check(w.RunOn(s, nil, "backup", "create", "--source", "stream"), 1, "archive_mode is off", "no receiver is connected")
	noLeft(t, w)
	w.Receive(nil, "--create-slot")
	s.AwaitValue("SELECT (count(*) > 0)::text FROM pg_stat_replication WHERE state = 'streaming'", "true")
	b := stream(t, w, s)
	if b.WALIncluded {
		t.Errorf("%+v", b)
	}
	want := s.Sums()
	holds(t, "restored", restored(t, w, nil, false, "--to-lsn", b.StopLSN, "--action", "promote"), want)
}

// TestEncrypted: a host that can write into the repository and not read from it proves the WAL by the server's own, and remembers what the
// next backup needs.
func TestEncrypted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, world.Options{Encrypted: true, WALSegmentSizeMiB: 1})
	s := w.Server
	spaces := fill(t, s)
	first := stream(t, w, s)
	change(s)
	second := stream(t, w, s)
	if second.Reference != first.ID || second.BytesStored*2 > first.BytesStored {
		t.Errorf("second: %+v, first: %+v", second, first)
	}
	holds(t, "restored", restored(t, w, spaces, false), sumsOf(s))
}

// TestDamaged: pages that do not agree with their checksum are named, and the backup is committed all the same; a later one takes them again.
func TestDamaged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, world.Options{Checksums: true, WALSegmentSizeMiB: 1})
	s := w.Server
	s.Exec("CREATE TABLE t WITH (autovacuum_enabled = false) AS SELECT g AS a, repeat('x', 500) AS b FROM generate_series(1, 2000) g")
	path := s.Dir + "/" + s.Value("SELECT pg_relation_filepath('t')")
	s.Stop(pg.Fast)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("damage"), 3*8192+4000); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	s.Start()
	for _, since := range []string{"full", "scan"} {
		r := w.RunOn(s, []string{streamer}, "backup", "create", "--source", "stream", "--json")
		w.Check(r, 3, "damaged page", "block 3")
		var b backup
		world.Decode(t, r.Stdout, &b)
		if b.DamagedPages != 1 || b.Method != since {
			t.Errorf("%+v", b)
		}
	}
}

// TestServerIncremental: a server that summarizes its WAL sends what changed; after the restore index-only scans see what the table holds
// (RULES-physical A1). Without summaries, and with packs that hold too little, everything is sent, and the backup says why.
func TestServerIncremental(t *testing.T) {
	t.Parallel()
	const major = 18
	pg.Need(t, major)
	w := newWorld(t, world.Options{Major: major, Checksums: true, WALSegmentSizeMiB: 1, Conf: map[string]string{"summarize_wal": "on", "autovacuum": "off"}})
	s := w.Server
	spaces := fill(t, s)
	s.Exec("CREATE TABLE seen (a int PRIMARY KEY, b int) WITH (fillfactor = 50); INSERT INTO seen SELECT g, 0 FROM generate_series(1, 5000) g")
	s.Exec("VACUUM (FREEZE, ANALYZE)")
	first := stream(t, w, s)
	s.Exec("DELETE FROM seen WHERE a % 50 = 0; UPDATE pgbench_accounts SET abalance = 5 WHERE aid = 7")
	second := stream(t, w, s)
	if second.Method != "stream" || second.Reference != first.ID || second.BytesRead*4 > first.BytesRead {
		t.Errorf("second: %+v, first: %+v", second, first)
	}
	s.Exec("DELETE FROM seen WHERE a % 50 = 1")
	third := stream(t, w, s)
	if third.Method != "stream" || third.Reference != second.ID {
		t.Errorf("third: %+v", third)
	}
	w.Must("backup", "delete", first.ID)
	r := restored(t, w, spaces, false, "--backup", third.ID)
	holds(t, "restored", r, sumsOf(s))
	r.Exec("SET enable_seqscan = off; SET enable_bitmapscan = off; CREATE TABLE counted AS SELECT count(a) AS n FROM seen")
	if got := r.Value("SELECT n FROM counted"); got != "4800" {
		t.Errorf("the index has %s rows", got)
	}
	r.Stop(pg.Fast)

	// A large part of what each backup stores is dead in the next one, but not all: in the end the packs hold too little.
	dense := true
	for range 10 {
		s.Exec("VACUUM FULL pgbench_accounts")
		out := w.RunOn(s, []string{streamer}, "backup", "create", "--source", "stream")
		if dense = strings.Contains(out.Stderr, "as the server sends them"); !dense {
			w.Check(out, 0, "less than half is in use", "by reading and comparing")
			break
		}
	}
	if dense {
		t.Error("packs of which little is in use are kept for ever")
	}
	if b := stream(t, w, s); b.Method != "stream" {
		t.Errorf("after everything was sent: %+v", b)
	}

	s.Exec("ALTER SYSTEM SET summarize_wal = off")
	s.Reload()
	s.AwaitValue("SHOW summarize_wal", "off")
	s.Exec("CREATE TABLE unseen AS SELECT 1 AS a")
	w.Check(w.RunOn(s, []string{streamer}, "backup", "create", "--source", "stream"), 0, "summarize_wal is off", "by reading and comparing")
	s.Exec("ALTER SYSTEM RESET summarize_wal")
	s.Reload()
	s.AwaitValue("SHOW summarize_wal", "on")
	w.Check(w.RunOn(s, []string{streamer}, "backup", "create", "--source", "stream"), 0, "changes since")
	holds(t, "at last", restored(t, w, spaces, false), sumsOf(s))
}
