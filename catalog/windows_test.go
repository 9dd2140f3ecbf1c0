package catalog_test

import (
	"context"
	"slices"
	"testing"

	"pgstow/catalog"
	"pgstow/wal"
)

// TestWindowsAgainstOracle: a backup is in a window of a timeline exactly if it can be restored there, and the window ends
// where the replay of that backup ends.
func TestWindowsAgainstOracle(t *testing.T) {
	holes, many := 0, 0
	for seed := range uint64(1500) {
		w := randomWorld(seed)
		windows, err := catalog.Windows(context.Background(), w.facts())
		if err != nil {
			t.Fatal(err)
		}
		perTimeline := map[wal.TimelineID]int{}
		for tli, h := range w.histories {
			for _, b := range w.backups {
				i := slices.IndexFunc(windows, func(win catalog.Window) bool {
					return win.Timeline == tli && slices.Contains(win.Backups, b.ID)
				})
				o, _ := w.replay(b, h, catalog.Target{Kind: catalog.TargetImmediate})
				if want := w.on(b, h) && o == reached; want != (i >= 0) {
					t.Fatalf("seed %d: backup %s on timeline %d: restorable %v, in a window %v\n%s", seed, b.ID, tli, want, i >= 0, w)
				}
				if i < 0 {
					continue
				}
				from := b.Start
				if b.WALIncluded {
					from = b.Stop
				}
				end, hole := w.available(h, from)
				if b.WALIncluded {
					end = max(end, b.Stop)
				}
				if windows[i].ToLSN != end || (windows[i].Hole != nil) != hole {
					t.Fatalf("seed %d: backup %s on timeline %d: window ends at %s (hole %v), replay at %s (hole %v)\n%s",
						seed, b.ID, tli, windows[i].ToLSN, windows[i].Hole, end, hole, w)
				}
				if windows[i].FromLSN > b.Stop {
					t.Fatalf("seed %d: window begins at %s, behind backup %s", seed, windows[i].FromLSN, b.ID)
				}
			}
		}
		for _, win := range windows {
			perTimeline[win.Timeline]++
			if win.Hole != nil {
				holes++
			}
		}
		for _, n := range perTimeline {
			if n > 1 {
				many++
			}
		}
	}
	if holes < 100 || many < 50 {
		t.Errorf("%d windows end at a hole, %d timelines have several: the worlds do not test it", holes, many)
	}
}
