package e2e_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// TestRelationOverOneGiB: a table of two files, the second one being one that a reader could take for the first.
func TestRelationOverOneGiB(t *testing.T) {
	pg.Long(t, "writes 2 GiB")
	t.Parallel()
	w := world.New(t, world.Options{NoArchive: true, Conf: map[string]string{"max_wal_size": "4GB"}})
	const rows = 135_000 // one to a page
	w.Server.Exec("CREATE TABLE big (i int, pad text) WITH (fillfactor = 10); ALTER TABLE big ALTER COLUMN pad SET STORAGE PLAIN")
	w.Server.Exec(fmt.Sprintf("INSERT INTO big SELECT i, repeat(chr(97 + i %% 26), 800) FROM generate_series(1, %d) AS i", rows))
	const check = "SELECT count(*) || ' ' || sum(i) || ' ' || sum(hashtextextended(pad, i)::numeric) || ' ' || pg_relation_size('big') FROM big"
	want := w.Server.Value(check)
	if size := w.Server.Value("SELECT pg_relation_size('big') > 1024 * 1024 * 1024"); size != "t" {
		t.Fatalf("the table is too small: %s", want)
	}
	path := w.Server.Value("SELECT pg_relation_filepath('big')")
	b := w.Backup("--wal", "include")
	if b.Bytes < 1<<30 {
		t.Errorf("the backup has %d bytes", b.Bytes)
	}
	w.Server.Kill()
	if err := os.RemoveAll(w.Server.Dir); err != nil { // make room
		t.Fatal(err)
	}
	dir := w.Restore()
	if fi, err := os.Stat(filepath.Join(dir, path+".1")); err != nil || fi.Size() == 0 {
		t.Errorf("second file of the table: %v", err)
	}
	s := w.StartRestored(dir)
	s.WaitPrimary()
	equal(t, "table", s.Value(check), want)
}

// TestManyTables: 20,000 small tables.
func TestManyTables(t *testing.T) {
	pg.Long(t, "makes 20,000 tables")
	t.Parallel()
	const tables = 20_000
	w := world.New(t, world.Options{NoArchive: true, Conf: map[string]string{"synchronous_commit": "off", "max_wal_size": "4GB", "autovacuum": "off", "max_locks_per_transaction": "1000"}})
	w.Server.Exec(fmt.Sprintf(`DO $$ BEGIN FOR n IN 1..%d LOOP
		EXECUTE format('CREATE TABLE t%%s AS SELECT %%s AS i', n, n);
		IF n %% 500 = 0 THEN COMMIT; END IF; END LOOP; END $$`, tables))
	w.Server.Exec(`CREATE FUNCTION total() RETURNS numeric LANGUAGE plpgsql AS $$ DECLARE sum numeric := 0; one numeric; name text; BEGIN
		FOR name IN SELECT relname FROM pg_class WHERE relname ~ '^t[0-9]+$' LOOP
			EXECUTE format('SELECT i FROM %I', name) INTO STRICT one; sum := sum + one; END LOOP; RETURN sum; END $$`)
	b := w.Backup("--wal", "include")
	if b.Files < tables {
		t.Errorf("the backup has %d files", b.Files)
	}
	if keys := w.Keys(""); len(keys) > 100 {
		t.Errorf("%d objects: small files should share packs", len(keys))
	}
	dir := w.Restore()
	w.VerifyBackup(dir, true)
	s := w.StartRestored(dir)
	s.WaitPrimary()
	equal(t, "tables", s.Value("SELECT count(*) FROM pg_class WHERE relname ~ '^t[0-9]+$'"), fmt.Sprint(tables))
	equal(t, "sum over all tables", s.Value("SELECT total()"), fmt.Sprint(tables*(tables+1)/2))
}

// TestDamagedPage: a page that does not agree with its checksum is named, ends the backup with exit status 3, and comes back as it was.
func TestDamagedPage(t *testing.T) {
	world.EachStore(t, func(t *testing.T, store string) {
		w := world.New(t, world.Options{Store: store, Checksums: true})
		w.Server.Exec(`CREATE TABLE sound AS SELECT i, md5(i::text) FROM generate_series(1, 5000) AS i;
			CREATE TABLE hurt AS SELECT i, md5(i::text) FROM generate_series(1, 5000) AS i`)
		path := w.Server.Value("SELECT pg_relation_filepath('hurt')")
		w.Server.Stop(pg.Fast)
		file := filepath.Join(w.Server.Dir, path)
		body, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		const page = 7
		body[page*8192+5000] ^= 0x01
		if err := os.WriteFile(file, body, 0o600); err != nil {
			t.Fatal(err)
		}
		w.Server.Start()

		r := w.Run("backup", "create", "--json")
		w.Check(r, 3, path)
		var b world.Backup
		world.Decode(t, r.Stdout, &b)
		equal(t, "damaged pages", b.DamagedPages, 1)
		var shown struct {
			Damaged []struct {
				Path string
				Page int
			}
		}
		world.Decode(t, w.Must("backup", "show", "latest", "--json"), &shown)
		if len(shown.Damaged) != 1 || shown.Damaged[0].Path != path || shown.Damaged[0].Page != page {
			t.Errorf("backup show names %+v, want page %d of %s", shown.Damaged, page, path)
		}
		w.Expect(0, []string{path, fmt.Sprintf("page %d", page)}, "backup", "show", b.ID)
		w.Expect(0, []string{"DAMAGED"}, "backup", "list")

		dir := w.NewDir("restored")
		w.Check(w.RunRestore(dir), 0, "damaged")
		w.VerifyBackup(dir, false)
		got, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("the damaged file is not as it was (%v)", err)
		}
		s := w.StartRestored(dir)
		s.WaitPrimary()
		equal(t, "sound table", s.Value("SELECT count(*) FROM sound"), "5000")
		_, err = s.TryValue("postgres", "SELECT count(*) FROM hurt")
		if err == nil || !strings.Contains(err.Error(), "invalid page in block 7") {
			t.Errorf("reading the damaged table: %v", err)
		}
	})
}
