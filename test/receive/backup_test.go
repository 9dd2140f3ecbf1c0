package receive_test

import (
	"testing"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// TestBackupByReceive: archive_mode is off; a backup waits for the receiver, proves its WAL and is restored, to the last commit that was
// stored. Without a receiver it is refused at once. What the receiver had not stored when the server died comes from pg_wal.
func TestBackupByReceive(t *testing.T) {
	w := world.New(t, world.Options{NoArchive: true, WALSegmentSizeMiB: 1, Conf: map[string]string{"wal_keep_size": "64MB"}})
	s := w.Server
	w.Expect(1, []string{"archive_mode is off", "no receiver is connected", "pgstow wal receive", "--wal include"}, "backup", "create")
	r := receive(t, w, "--create-slot")
	r.AwaitText("receiving timeline 1")
	s.Exec("CREATE TABLE t AS SELECT 1 AS i")
	if b := w.Backup(); b.WALIncluded {
		t.Error("the WAL was included")
	}
	s.Exec("INSERT INTO t VALUES (2)")
	awaitStored(t, s)
	r.Kill()
	s.Exec("INSERT INTO t VALUES (3)")
	s.Exec("SELECT pg_switch_wal()")
	s.Exec("INSERT INTO t VALUES (4)")
	s.Kill()

	received := w.StartRestored(w.Restore())
	equal(t, "rows that were received", rows(received, "postgres"), "1 2")
	received.Stop(pg.Fast)
	w.Must("wal", "repair", "--pgdata", s.Dir)
	repaired := w.StartRestored(w.Restore())
	equal(t, "rows after the repair", rows(repaired, "postgres"), "1 2 3 4")
	repaired.Stop(pg.Fast)
}
