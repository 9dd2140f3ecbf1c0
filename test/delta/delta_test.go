package delta_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// packBytes is what the store sent of packs since the requests were forgotten, and in how many requests.
func packBytes(w *world.World) (bytes int64, requests int) {
	for _, r := range w.RequestsFor("GET", "/pack/") {
		bytes += r.Sent
		requests++
	}
	return bytes, requests
}

// TestDelta brings a directory back to what its server was, over copies that are old and damaged: what the store sends follows
// what differs. The tablespace stays where the directory has it.
func TestDelta(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		w := world.New(t, world.Options{Major: major, Store: world.MinIO, Count: true, Checksums: true, WALSegmentSizeMiB: 1})
		s := w.Server
		space := pg.TempDir(t)
		s.Exec("CREATE TABLESPACE one LOCATION '" + space + "'")
		s.PgbenchInit(4)
		s.Exec("CREATE TABLE spaced TABLESPACE one AS SELECT i, md5(i::text) FROM generate_series(1, 50000) i")
		accounts, spaced := s.Value("SELECT pg_relation_filepath('pgbench_accounts')"), s.Value("SELECT pg_relation_filepath('spaced')")
		w.Backup()
		s.Exec("INSERT INTO spaced SELECT i, 'later' FROM generate_series(1, 100) i")
		s.ArchiveAll()
		want := s.Sums()
		s.Stop(pg.Fast)

		dir, moved := w.NewDir("restored"), w.NewDir("moved")
		w.ForgetRequests()
		restore(t, w, dir, "--tablespace", space+"="+moved)
		whole, _ := packBytes(w)

		// A server has worked there since: a recovery, new tables, a database, a slot, WAL of its own.
		r := w.StartRestored(dir)
		r.WaitPrimary()
		same(t, "restored", want, r)
		r.Exec("CREATE DATABASE stray")
		r.Exec("CREATE TABLE stray AS SELECT generate_series(1, 10000) i; UPDATE pgbench_tellers SET tbalance = 1")
		r.Exec("SELECT pg_create_physical_replication_slot('stray', true)")
		w.Check(w.RunRestore(dir, "--delta"), 1, "a PostgreSQL server, works there")
		r.Stop(pg.Fast)
		w.Check(w.RunRestore(dir, "--delta"), 1, "WAL that the archive lacks", "wal repair --pgdata "+dir, "--discard-wal")
		w.Check(w.RunRestore(dir), 1, "it is not empty", "--delta")

		p := dryRun(t, w, dir, "--delta", "--discard-wal")
		w.ForgetRequests()
		o := restore(t, w, dir, "--delta", "--discard-wal")
		if sent, _ := packBytes(w); sent > whole*3/4 || o.Result.BytesKept == 0 || o.Result.FilesRemoved < 100 {
			t.Errorf("%d bytes of packs, %d for all; %+v", sent, whole, o.Result)
		}
		if !p.Compared || p.BytesKept != o.Result.BytesKept || p.BytesFetch != o.Result.BytesWritten || p.RemoveFiles != o.Result.FilesRemoved {
			t.Errorf("the dry run said %+v, the result is %+v", p, o.Result)
		}
		verify(w, dir, major)

		// What is read follows what differs: nothing, a page here and there, more of them.
		var sent [3]int64
		for i, n := range []int{0, 2, 20} {
			damage(t, filepath.Join(dir, accounts), n)
			damage(t, filepath.Join(dir, spaced), min(n, 1))
			w.ForgetRequests()
			o := restore(t, w, dir, "--delta")
			var requests int
			sent[i], requests = packBytes(w)
			if most := int64(n+1)*8192 + 64<<10; o.Result.BytesWritten > most {
				t.Errorf("%d pages differed, %d bytes were written", n, o.Result.BytesWritten)
			}
			t.Logf("%d pages differ: %d bytes of packs in %d requests, %d for all", n, sent[i], requests, whole)
			verify(w, dir, major)
		}
		if sent[0] > whole/10 || sent[1]-sent[0] > whole/10 || sent[2] <= sent[1] || sent[2] >= whole {
			t.Errorf("bytes sent for 0, 2 and 20 pages: %v, %d for all", sent, whole)
		}

		// Files are cut, lost and longer than they were.
		for path, size := range map[string]int64{accounts: 5<<20 + 100, accounts + "_vm": 0, spaced: 8 << 20} {
			if err := os.Truncate(filepath.Join(dir, path), size); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range []string{"global/1262", "global/pg_control", "PG_VERSION", "pg_wal"} {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		w.Check(w.RunRestore(dir, "--delta"), 1, "neither global/pg_control nor WAL in it shows") // it could be anybody's
		if err := world.CopyDir(t.Context(), filepath.Join(s.Dir, "global/pg_control"), filepath.Join(dir, "global/pg_control")); err != nil {
			t.Fatal(err)
		}
		restore(t, w, dir, "--delta")
		verify(w, dir, major)
		r = w.StartRestored(dir)
		r.WaitPrimary()
		same(t, "restored over a damaged copy", want, r)
		if at := r.Value("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'one'"); at != moved {
			t.Errorf("the tablespace lies at %s", at)
		}
		if n := r.Value("SELECT count(*) FROM pg_replication_slots"); n != "0" {
			t.Errorf("%s slots", n)
		}
		sound(t, r)
	})
}

// damage changes a byte in each of n pages of a file.
func damage(t *testing.T, path string, n int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	for i := range n {
		if err == nil {
			_, err = f.WriteAt([]byte("DAMAGE"), info.Size()/int64(n)*int64(i)+4000)
		}
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestDeltaOverAnOldPrimary: after a failover the old primary, which has WAL that nobody else has, becomes the standby of the new
// one. Its WAL is not thrown away unasked, and a running server in another directory keeps its tablespace.
func TestDeltaOverAnOldPrimary(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{WALSegmentSizeMiB: 1})
	first := w.Server
	first.Exec("CREATE TABLE log (n int); INSERT INTO log VALUES (1)")
	w.Backup()
	at := first.CurrentLSN()
	first.ArchiveAll()

	dir := w.NewDir("second")
	restore(t, w, dir, "--take-over", "--action", "promote", "--to-lsn", at)
	second := w.StartRestored(dir)
	second.WaitPrimary()
	second.Exec("INSERT INTO log VALUES (2)")
	second.ArchiveAll()

	first.Exec("INSERT INTO log VALUES (100)") // on the dead branch, and not archived
	first.Kill()
	args := []string{"--delta", "--standby", "--primary-conninfo", second.DSN("postgres")}
	w.Check(w.RunRestore(first.Dir, args...), 1, "has a postmaster.pid", "--force")
	args = append(args, "--force")
	w.Check(w.RunRestore(first.Dir, args...), 1, "WAL that the archive lacks", "wal repair")
	w.Expect(0, nil, "wal", "repair", "--pgdata", first.Dir)
	o := restore(t, w, first.Dir, args...)
	if o.Result.BytesKept < o.Result.Bytes/2 {
		t.Errorf("%+v", o.Result)
	}
	second.Exec("INSERT INTO log VALUES (3)")
	first.Start()
	first.AwaitValue("SELECT string_agg(n::text, ' ' ORDER BY n) FROM log", "1 2 3")
	first.AwaitValue("SELECT status FROM pg_stat_wal_receiver", "streaming")

	// What the dead branch had is still there.
	rescued := w.NewDir("rescued")
	restore(t, w, rescued, "--timeline", "1", "--action", "promote")
	r := w.StartRestored(rescued)
	r.WaitPrimary()
	if got := r.Value("SELECT string_agg(n::text, ' ' ORDER BY n) FROM log"); got != "1 100" {
		t.Errorf("rescued rows %s", got)
	}
}
