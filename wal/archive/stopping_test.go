package archive_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"pgstow/storage/fault"
	"pgstow/wal/archive"
)

// A server that is being stopped waits for its archiver, so a push into a store that hangs gives up early; a server that runs is not hurried.
func TestPushDoesNotHoldUpAStop(t *testing.T) {
	t.Parallel()
	for status, hurried := range map[string]bool{"stopping": true, "ready   ": false, "": false} {
		t.Run("status "+status, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.push(plainSegment)
			w.store.Add(fault.Fault{Op: fault.Put, Kind: fault.Hang})
			o := w.pushOptions()
			o.Stall = 6 * time.Second
			pid := "1\n" + o.PGData + "\n1700000000\n5432\n/tmp\n\n     1         2\n" + status + "\n"
			must(t, os.WriteFile(filepath.Join(o.PGData, "postmaster.pid"), []byte(pid), 0o600))
			begin := time.Now()
			_, err := archive.Push(t.Context(), o, w.place(switchedSegment, fixture(t, switchedSegment)))
			if archive.PushExit(err) != 1 {
				t.Fatalf("got %v", err)
			}
			if took := time.Since(begin); (took < o.Stall) != hurried {
				t.Errorf("it took %s", took)
			}
		})
	}
}
