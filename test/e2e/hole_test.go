package e2e_test

import (
	"strings"
	"testing"

	"pgstow/test/e2e/world"
)

// TestRestoreToAHole: a machine that is lost while segments are stored side by side leaves a hole near the archive's end. No restore crosses it or
// ends at it unasked; asked, it recovers all before it, and the cluster goes on from there on a timeline without a hole.
func TestRestoreToAHole(t *testing.T) {
	world.EachStore(t, func(t *testing.T, store string) {
		w := world.New(t, world.Options{Store: store, WALSegmentSizeMiB: 1})
		a := w.Server
		a.Exec("CREATE TABLE t AS SELECT 0 AS i")
		w.Backup()
		insert(a, "1", "one")
		a.ArchiveAll()
		insert(a, "2", "two")
		missing := a.ArchiveAll()
		insert(a, "3", "three")
		next := a.ArchiveAll()
		w.Delete(w.WALKeys(missing)...)
		a.Kill()

		dir := w.NewDir("refused")
		w.Check(w.RunRestore(dir), 13, missing, next, "--stop-at-hole")
		w.Check(w.RunRestore(dir, "--to-name", "three"), 13, missing)
		w.Check(w.RunRestore(dir, "--stop-at-hole", "--to-name", "one"), 64, "--stop-at-hole")
		r := w.RunRestore(dir, "--stop-at-hole", "--take-over")
		w.Check(r, 0, "warning", missing, next)
		b := w.StartRestored(dir)
		b.WaitPrimary()
		equal(t, "rows before the hole", rows(b), "0 1")
		if log := b.Log(); strings.Contains(log, "restored log file \""+next) {
			t.Errorf("%s from behind the hole was restored", next)
		}
		insert(b, "20", "")
		b.ArchiveAll()
		// The hole stays, behind where the new timeline has left the old one: nobody has to be called for it.
		check(t, w, b, "--no-switch").want(t, "warning", "wal", missing+" to "+missing+" is missing on timeline 1")
		b.Kill()
		// The new timeline does not go through the hole.
		c := w.StartRestored(w.Restore())
		c.WaitPrimary()
		equal(t, "rows on the new timeline", rows(c), "0 1 20")
	})
}
