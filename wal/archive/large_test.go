package archive_test

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"pgstow/storage/fault"
	"pgstow/test/pg"
	"pgstow/wal/archive"
)

// largeMiB is above the size from which segments are mapped instead of read.
const largeMiB = 64

// TestLargeSegments has a real server write large segments, noise that compresses badly, and a switched one.
func TestLargeSegments(t *testing.T) {
	pg.Long(t, "writes some 150 MiB of WAL")
	server := pg.New(t, pg.Options{WALSegmentSizeMiB: largeMiB, Conf: map[string]string{
		"max_wal_size": "2GB", "min_wal_size": "1GB", "wal_keep_size": "1GB", "autovacuum": "off", "full_page_writes": "off",
	}})
	full := server.Value("select pg_walfile_name(pg_current_wal_lsn())")
	server.Exec(`do $$
		declare
			segment text := pg_walfile_name(pg_current_wal_insert_lsn());
			noise bytea; -- longer than what is compressed at a time
		begin
			select string_agg(decode(md5(i::text), 'hex'), '') into noise from generate_series(1, 200000) i;
			while pg_walfile_name(pg_current_wal_insert_lsn()) = segment loop
				perform pg_logical_emit_message(false, 'noise', noise);
			end loop;
		end $$`)
	switched := server.SwitchWAL()
	server.Stop(pg.Fast)

	w := newWorld(t)
	w.data = server.Dir
	w.ref.SystemID = 0
	for _, name := range []string{full, switched} {
		path := filepath.Join(server.Dir, "pg_wal", name)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		r, err := archive.Push(t.Context(), w.pushOptions(), path)
		if err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		// All that was ever allocated bounds what was in use at any moment.
		if grown := (after.TotalAlloc - before.TotalAlloc) >> 20; grown > 100 {
			t.Errorf("%s: a push of %d MiB allocated %d MiB", name, largeMiB, grown)
		}
		t.Logf("%s: %d bytes stored as %d", name, r.PlainSize, r.StoredSize)
		w.spool.Forget("archive")
		dst := filepath.Join(t.TempDir(), name)
		o := w.fetchOptions()
		o.Stall = time.Minute
		must(t, archive.Fetch(t.Context(), o, name, dst))
		if sum(t, dst) != sum(t, path) {
			t.Errorf("%s: other bytes came back", name)
		}
	}
	// The same file again, without the mark: encoded anew, compared by its header.
	o := w.pushOptions()
	o.Spool = nil
	w.store.Reset()
	r, err := archive.Push(t.Context(), o, filepath.Join(server.Dir, "pg_wal", switched))
	if err != nil || r.Outcome != archive.Existed || w.store.Count(fault.Put) < 1 {
		t.Errorf("again: %+v, %v", r, err)
	}
	left, err := os.ReadDir(w.spool.Dir())
	must(t, err)
	for _, entry := range left {
		if entry.Name() != "marks" && entry.Name() != "archive.record" {
			t.Errorf("left in the spool: %s", entry.Name())
		}
	}
}

func sum(t *testing.T, path string) [32]byte {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return sha256.Sum256(b)
}
