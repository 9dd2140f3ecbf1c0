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
	change(s)
	third := w.Backup() // by the data directory, on what was streamed
	change(s)
	fourth := stream(t, w, s)
	if fourth.Reference != third.ID {
		t.Errorf("fourth: %+v", fourth)
	}
	w.Must("backup", "delete", second.ID)
	w.Must("backup", "delete", third.ID)
	s.Exec("INSERT INTO fresh VALUES (7)")
	want := sumsOf(s)
	for _, id := range []string{first.ID, fourth.ID} {
		r := restored(t, w, spaces, false, "--backup", id)
		holds(t, id, r, want)
		if rows := r.Value("SELECT count(*) FROM volatile"); rows != "0" {
			t.Errorf("unlogged table: %s rows", rows)
		}
		r.Stop(pg.Fast)
		if o.Checksums {
			if out, err := pg.Command(t.Context(), client(t, "pg_checksums"), "--check", "-D", r.Dir).CombinedOutput(); err != nil && r.Install.Major == pg.DefaultMajor {
				t.Errorf("pg_checksums: %v\n%s", err, out)
			}
		}
	}
	if show := w.Must("backup", "show", fourth.ID); !strings.Contains(show, "stream") {
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
	receive := w.Command("pgstow", "wal", "receive", "--create-slot")
	if err := receive.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = receive.Process.Kill()
		_ = receive.Wait()
	})
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
