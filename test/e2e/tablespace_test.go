package e2e_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// inodes lists all that is below a folder with its inode, so that what was replaced shows.
func inodes(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(&b, "%s %v %d\n", path, fi.Mode(), fi.Sys().(*syscall.Stat_t).Ino)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestTablespaces: restored elsewhere while the original runs, by path and by OID, with unlogged tables in and outside of them.
func TestTablespaces(t *testing.T) {
	world.EachStore(t, func(t *testing.T, store string) {
		w := world.New(t, world.Options{Store: store})
		one, two := pg.TempDir(t), pg.TempDir(t)
		w.Server.Exec("CREATE TABLESPACE one LOCATION '" + one + "'")
		w.Server.Exec("CREATE TABLESPACE two LOCATION '" + two + "'")
		w.Server.Exec(`CREATE TABLE a TABLESPACE one AS SELECT i, md5(i::text) FROM generate_series(1, 5000) AS i;
			CREATE TABLE b TABLESPACE two AS SELECT i FROM generate_series(1, 500) AS i;
			CREATE UNLOGGED TABLE u1 TABLESPACE one AS SELECT i FROM generate_series(1, 5000) AS i;
			CREATE UNLOGGED TABLE u2 (i int PRIMARY KEY, s serial); INSERT INTO u2 SELECT generate_series(1, 5000)`)
		w.Backup()
		w.Server.Exec("INSERT INTO a SELECT i, 'later' FROM generate_series(1, 10) AS i; DELETE FROM b WHERE i < 100")
		w.Server.ArchiveAll()
		want := w.Server.Sums()
		w.Server.Exec("CHECKPOINT")
		before := inodes(t, one) + inodes(t, two)

		// Without a mapping the original's folders are in the way.
		refused := w.NewDir("refused")
		w.Expect(1, []string{one}, "restore", refused)
		missing(t, refused)

		newOne, newTwo := w.NewDir("one"), w.NewDir("two")
		oidTwo := w.Server.Value("SELECT oid FROM pg_tablespace WHERE spcname = 'two'")
		dir := w.Restore("--tablespace", one+"="+newOne, "--tablespace", oidTwo+"="+newTwo)
		w.VerifyBackup(dir, false)
		s := w.StartRestored(dir)
		s.WaitPrimary()
		same(t, "restored", want, s)
		for name, to := range map[string]string{"one": newOne, "two": newTwo} {
			oid := s.Value("SELECT oid FROM pg_tablespace WHERE spcname = '" + name + "'")
			link, err := os.Readlink(filepath.Join(dir, "pg_tblspc", oid))
			if err != nil || link != to {
				t.Errorf("tablespace %s lies at %s (%v), want %s", name, link, err, to)
			}
			equal(t, "location as the server says it", s.Value("SELECT pg_tablespace_location("+oid+")"), to)
		}
		unlogged(t, s)

		equal(t, "files of the original", inodes(t, one)+inodes(t, two), before)
		equal(t, "unlogged rows of the original", w.Server.Value("SELECT count(*) FROM u1"), "5000")
		s.Exec("CREATE TABLE c TABLESPACE one AS SELECT 1 AS i; UPDATE a SET md5 = 'changed'; CHECKPOINT")
		same(t, "original", want, w.Server)
		w.Server.Restart()
		same(t, "original after a restart", want, w.Server)
	})
}

// unlogged checks that unlogged tables are there, empty, and take rows.
func unlogged(t *testing.T, s *pg.Server) {
	t.Helper()
	for _, table := range []string{"u1", "u2"} {
		equal(t, "rows of "+table, s.Value("SELECT count(*) FROM "+table), "0")
		s.Exec("INSERT INTO " + table + "(i) VALUES (1), (2)")
		equal(t, "rows of "+table, s.Value("SELECT sum(i) FROM "+table), "3")
	}
	if err := s.TryExec("postgres", "INSERT INTO u2(i) VALUES (1)"); err == nil {
		t.Error("the index of an unlogged table takes a duplicate")
	}
}
