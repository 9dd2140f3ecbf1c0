package receive_test

import (
	"testing"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// TestReceiveAlone is the practice of the field: a slot, a base backup whose WAL only the receiver archives, a new database and table, the
// server gone, and a restore that needs the segment that was not full.
func TestReceiveAlone(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		w := world.New(t, world.Options{Major: major, NoArchive: true, WALSegmentSizeMiB: 1})
		s := w.Server
		r := receive(t, w, "--create-slot")
		r.awaitText("receiving timeline 1")
		w.Backup("--wal", "include")
		s.Exec("CREATE DATABASE shop")
		s.ExecIn("shop", "CREATE TABLE t AS SELECT generate_series(1, 10) AS i")
		s.SwitchWAL()
		s.ExecIn("shop", "INSERT INTO t SELECT generate_series(11, 20)")
		awaitStored(t, s)
		want := rows(s, "shop")
		if len(pieces(w)) == 0 {
			t.Error("the last segment is not in pieces")
		}
		s.Kill()
		r.kill()

		restored := w.StartRestored(w.Restore())
		equal(t, "rows", rows(restored, "shop"), want)
		restored.Stop(pg.Fast)
	})
}
