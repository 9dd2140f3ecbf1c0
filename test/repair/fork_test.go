package repair_test

import (
	"testing"
	"time"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// TestForkedSegment: the dead primary's segment in which the timelines part was stored whole, and of the new timeline the archive has the
// history only. Recovery to the new timeline must not replay what the old one has behind the fork.
func TestForkedSegment(t *testing.T) {
	w, a, b := cutOff(t, world.Options{})
	unarchived(a, "2", "3", "4")
	a.Kill()
	promote(t, b)
	pg.Await(t, "the history", time.Minute, func() (bool, error) { return len(w.WALKeys("00000002.history")) == 1, nil })
	b.Kill()
	repair(t, w, 0, nil, "--pgdata", a.Dir)
	for timeline, want := range map[string]string{"latest": "0 1", "1": "0 1 2 3 4"} {
		s := w.StartRestored(w.Restore("--timeline", timeline))
		equal(t, "rows of timeline "+timeline, []string{rows(s)}, []string{want})
		s.Kill()
	}
}
