package delta_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// TestOnlyDatabases restores some of a server's databases, by name and by OID, with a tablespace that the others use too.
// WAL of those that are left out, of every kind, comes before and after the backup's end, while autovacuum tries to connect
// to them; they can be dropped when recovery is over, and then nothing is left of them.
func TestOnlyDatabases(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		w := world.New(t, world.Options{
			Major: major, WALSegmentSizeMiB: 1, // no checksums: then VACUUM marks pages without an image of them in WAL
			ServerArgs: []string{"-c", "autovacuum_naptime=1"},
		})
		s := w.Server
		space := pg.TempDir(t)
		s.Exec("CREATE TABLESPACE shared LOCATION '" + space + "'")
		const fill = `CREATE TABLE t (i int PRIMARY KEY, pad text);
			INSERT INTO t SELECT i, repeat(md5(i::text), 5) FROM generate_series(1, 20000) i;
			CREATE TABLE spaced TABLESPACE shared AS SELECT i FROM generate_series(1, 5000) i;
			CREATE INDEX brin ON t USING brin (i); CREATE INDEX hash ON t USING hash (pad);
			CREATE TABLE quiet WITH (autovacuum_enabled = off) AS SELECT generate_series(1, 5000) AS i;
			CREATE UNLOGGED TABLE u AS SELECT 1 AS i`
		for _, db := range []string{"wanted", "by_oid", "Left-One", "left_two"} {
			s.Exec(fmt.Sprintf(`CREATE DATABASE "%s"`, db))
			s.ExecIn(db, fill)
		}
		s.Exec("ALTER DATABASE left_two IS_TEMPLATE true")
		oid := s.Value("SELECT oid FROM pg_database WHERE datname = 'by_oid'")
		w.Backup()
		const change = `UPDATE t SET pad = pad || 'x' WHERE i % 3 = 0; DELETE FROM t WHERE i % 5 = 0; INSERT INTO spaced SELECT generate_series(1, 10);
			CREATE TABLE later AS SELECT * FROM t; DELETE FROM later WHERE i % 2 = 0`
		for _, db := range []string{"wanted", "by_oid", "Left-One", "left_two"} {
			s.ExecIn(db, change)
			for _, vacuum := range []string{"VACUUM (FREEZE) t", "VACUUM later", "VACUUM quiet", "VACUUM FULL spaced", "REINDEX TABLE t"} {
				s.ExecIn(db, vacuum)
			}
			s.ExecIn(db, "DELETE FROM t WHERE i > 10000; INSERT INTO t SELECT i, 'again' FROM generate_series(30000, 31000) i")
			s.ExecIn(db, "VACUUM t") // truncates
		}
		s.ExecIn("Left-One", "REINDEX TABLE pg_class") // WAL brings its relation map back
		s.ArchiveAll()
		want := s.Sums("postgres", "wanted", "by_oid")

		w.Check(w.RunRestore(w.NewDir("wrong"), "--only-databases", "wanted,lost"), 64, "database lost", "wanted (", "Left-One (", "by_oid ("+oid+")")
		w.Check(w.RunRestore(w.NewDir("wrong"), "--only-databases", "wanted", "--standby"), 64, "a standby has all databases")

		dir, moved := w.NewDir("restored"), w.NewDir("moved")
		o := restore(t, w, dir, "--only-databases", "wanted,"+oid, "--tablespace", space+"="+moved)
		if len(o.Plan.LeftOut) != 2 || o.Result.BytesWritten > o.Result.Bytes*3/4 {
			t.Errorf("%+v", o)
		}
		verify(w, dir, major)
		r := w.StartRestored(dir)
		r.WaitPrimary()
		if d := want.Diff(r.Sums("postgres", "wanted", "by_oid")); d != "" {
			t.Errorf("restored:\n%s", d)
		}
		pid := r.PID()
		for _, d := range o.Plan.LeftOut {
			if err := r.TryExec(d.Name, "SELECT 1"); err == nil {
				t.Errorf("%s was left out and takes connections", d.Name)
			}
		}
		// Autovacuum has tried them as well, without harm.
		r.Await("autovacuum of what was left out", patient, func() (bool, error) { return strings.Count(r.Log(), "/pg_filenode.map") > len(o.Plan.LeftOut), nil })
		if strings.Contains(r.Log(), "PANIC") || r.PID() != pid {
			t.Errorf("the server crashed:\n%s", r.LogTail())
		}
		for _, d := range o.Plan.LeftOut {
			for sql := range strings.SplitSeq(d.Drop, "; ") {
				r.Exec(sql)
			}
			for _, pattern := range []string{filepath.Join(dir, "base", fmt.Sprint(d.OID)), filepath.Join(moved, "*", fmt.Sprint(d.OID))} {
				if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
					t.Errorf("of %s there is %v, %v", d.Name, left, err)
				}
			}
		}
		if left, err := filepath.Glob(filepath.Join(dir, "pgstow.*")); err != nil || len(left) > 0 {
			t.Errorf("%v is left, %v", left, err)
		}
		r.Restart()
		if on := r.Value("SHOW ignore_invalid_pages"); on != "off" {
			t.Errorf("ignore_invalid_pages is %s after recovery", on)
		}
		sound(t, r)
	})
}
