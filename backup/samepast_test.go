package backup_test

import (
	"path/filepath"
	"strings"
	"testing"

	"pgstow/backup"
	"pgstow/catalog"
	"pgstow/test/pg"
	"pgstow/wal"
)

// A4: a directory that was set back goes over the same LSNs again, and where little is
// written its backups begin at the very redo points that those of its lost future did.
// Its WAL summaries fit then, and name nothing of what that future changed.
func TestSetBackInTime(t *testing.T) {
	t.Parallel()
	const major = 18
	s := newIncrementalServer(t, major, true)
	repo, _ := newRepo(t)
	create := func(s *pg.Server, reference string, want catalog.Method, why string) catalog.BackupHeader {
		t.Helper()
		h, err := backup.Create(t.Context(), repo, backup.CreateOptions{Cluster: "main", Conn: s.DSN("postgres"), WAL: backup.WALInclude})
		if err != nil {
			t.Fatal(err)
		}
		if h.Reference != reference || h.Method != want || !strings.Contains(h.Why, why) {
			t.Errorf("%s since %q: %q; want %s since %q: %q", h.Method, h.Reference, h.Why, want, reference, why)
		}
		samePages(t, rebuild(t, repo, h), s.Dir)
		return h
	}
	forget := func(h catalog.BackupHeader) {
		t.Helper()
		if _, err := repo.DeleteBackup(t.Context(), h.Ref(), h.ID, catalog.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	recycle := func(s *pg.Server) {
		for range 4 {
			s.Exec("UPDATE quiet SET a = a + 1 WHERE a = 1")
			s.Exec("SELECT pg_switch_wal()")
			s.Exec("CHECKPOINT")
		}
	}
	s.Exec("CREATE TABLE quiet AS SELECT generate_series(1, 100) a")
	s.Exec("CREATE TABLE lost AS SELECT generate_series(1, 30000) a")
	first := create(s, "", catalog.MethodFull, "")
	s.Stop(pg.Fast)
	dir := filepath.Join(pg.TempDir(t), "data")
	run(t, "cp", "-a", s.Dir, dir)
	pg.Chown(t, dir)
	s.Start()
	s.Exec("UPDATE lost SET a = a + 1 WHERE a % 300 = 0")
	second := create(s, first.ID, catalog.MethodSummaries, "")
	s.Stop(pg.Fast)

	x := pg.Attach(t, dir, pg.Options{Major: major})
	x.Start()
	for at := wal.LSN(0); at != second.Start; {
		x.Exec("UPDATE quiet SET a = a + 1 WHERE a = 1")
		var err error
		if at, err = wal.ParseLSN(x.Value("SELECT pg_backup_start('x', true)::text")); err != nil || at > second.Start {
			t.Fatalf("redo points at %s, and the other server's at %s; %v", at, second.Start, err)
		}
	}
	forget(create(x, second.ID, catalog.MethodScan, "its past is another one"))
	recycle(x)
	forget(create(x, second.ID, catalog.MethodScan, "has removed the WAL"))
	x.Stop(pg.Fast)

	// The server itself knows its past also when the WAL is gone.
	s.Start()
	recycle(s)
	create(s, second.ID, catalog.MethodSummaries, "")
}
