package e2e_test

import (
	"strings"
	"testing"
	"time"

	"pgstow/storage/object"
	"pgstow/test/e2e/world"
)

// TestDamagedWALStopsRecovery: the server stops at a damaged segment, and does not open with what it has so far.
func TestDamagedWALStopsRecovery(t *testing.T) {
	world.EachStore(t, func(t *testing.T, store string) {
		w := world.New(t, world.Options{Store: store, WALSegmentSizeMiB: 1})
		w.Server.Exec("CREATE TABLE t AS SELECT 0 AS i")
		w.Backup()
		insert(w.Server, "1", "")
		w.Server.ArchiveAll()
		insert(w.Server, "2", "")
		damaged := w.WALKeys(w.Server.ArchiveAll())[0]
		insert(w.Server, "3", "")
		w.Server.ArchiveAll()
		w.Server.Kill()
		undo := w.FlipByte(damaged, (object.HeaderSize+len(w.Read(damaged)))/2) // behind the header, which already the planner reads

		s := w.Attach(w.Restore())
		if err := s.Launch(); err != nil {
			t.Fatal(err)
		}
		state, err := s.Wait(time.Minute)
		if err != nil || state.Success() {
			t.Fatalf("the server should have failed: %v, %v\n%s", state, err, s.LogTail())
		}
		if !strings.Contains(s.Log(), damaged) || !strings.Contains(s.Log(), "corrupt") {
			t.Errorf("the log does not name %s:\n%s", damaged, s.LogTail())
		}
		if log := s.Log(); strings.Contains(log, "archive recovery complete") {
			t.Errorf("recovery ended early:\n%s", log)
		}

		undo() // the object is repaired: the same directory recovers to the end
		s.Start()
		s.WaitPrimary()
		equal(t, "rows", rows(s), "0 1 2 3")
	})
}
