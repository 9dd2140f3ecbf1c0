package e2e_test

import (
	"path/filepath"
	"testing"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// TestStandalone: a backup that brings its own WAL becomes a second cluster beside the first, with archiving on and off.
func TestStandalone(t *testing.T) {
	for _, archiving := range []bool{true, false} {
		name := "archive_mode off"
		if archiving {
			name = "archive_mode on"
		}
		t.Run(name, func(t *testing.T) {
			world.EachStore(t, func(t *testing.T, store string) { standalone(t, store, archiving) })
		})
	}
}

func standalone(t *testing.T, store string, archiving bool) {
	w := world.New(t, world.Options{Store: store, NoArchive: !archiving})
	w.Server.PgbenchInit(1)
	b := w.Backup("--wal", "include")
	equal(t, "wal_included", b.WALIncluded, true)
	want := w.Server.Sums()

	w.Server.Exec("UPDATE pgbench_tellers SET tbalance = 42; CREATE TABLE later(); DELETE FROM pgbench_accounts WHERE aid % 2 = 0")
	args := []string{}
	if archiving {
		w.Server.ArchiveAll() // the later changes are in the archive, and must not be replayed
		args = append(args, "--immediate", "--action", "promote")
	} else if keys := w.KeysWith("/wal/"); len(keys) > 0 {
		t.Errorf("a server that does not archive has WAL in the archive: %v", keys)
	}
	changed := w.Server.Sums()
	if want.Diff(changed) == "" {
		t.Fatal("the changes do not show in the sums: the test would prove nothing")
	}

	dir := w.Restore(args...)
	w.VerifyBackup(dir, true)
	restored := w.StartRestored(dir)
	restored.WaitPrimary()
	same(t, "restored", want, restored)
	same(t, "original", changed, w.Server)
	if restored.Port == w.Server.Port {
		t.Error("both servers have one port")
	}
	equal(t, "archive_mode of the copy", restored.Value("SHOW archive_mode"), "off")

	// Both live on, each with its own changes.
	restored.Exec("CREATE TABLE mine AS SELECT 1 AS i")
	w.Server.Exec("CREATE TABLE yours AS SELECT 2 AS i")
	equal(t, "mine in the original", w.Server.Value("SELECT to_regclass('mine') IS NULL"), "t")
	equal(t, "yours in the copy", restored.Value("SELECT to_regclass('yours') IS NULL"), "t")
}

// TestStandaloneNeedsNoArchive removes all archived WAL before the restore.
func TestStandaloneNeedsNoArchive(t *testing.T) {
	pg.Long(t, "restores once more than TestStandalone")
	t.Parallel()
	w := world.New(t, world.Options{})
	w.Server.Exec("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i")
	want := w.Server.Sums()
	w.Backup("--wal", "include")
	w.Server.ArchiveAll()
	wal := w.KeysWith("/wal/")
	if len(wal) == 0 {
		t.Fatal("nothing was archived")
	}
	w.Delete(wal...)
	dir := w.Restore("--immediate", "--action", "promote")
	same(t, "restored", want, w.StartRestored(dir))
}

// TestContinuous: what is created after the backup comes back from the archive.
func TestContinuous(t *testing.T) {
	world.EachStore(t, func(t *testing.T, store string) {
		w := world.New(t, world.Options{Store: store})
		w.Server.PgbenchInit(1)
		w.Backup()
		w.Server.Exec("CREATE DATABASE later")
		w.Server.ExecIn("later", "CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 10000) AS i")
		w.Server.Exec("CREATE TABLE also AS SELECT generate_series(1, 1000) AS i; DROP TABLE pgbench_history")
		want := w.Server.Sums()
		w.Server.ArchiveAll()
		w.Server.Kill() // the disaster

		dir := w.Restore()
		w.VerifyBackup(dir, false)
		restored := w.StartRestored(dir)
		restored.WaitPrimary()
		same(t, "restored", want, restored)
		for _, table := range []string{"later.public.t", "postgres.public.also"} {
			if want[table].Rows == 0 {
				t.Errorf("%s is not among the tables that were compared", table)
			}
		}
		missing(t, filepath.Join(dir, "recovery.signal"))
	})
}
