package receive_test

import (
	"fmt"
	"strings"
	"testing"

	"pgstow/storage"
	"pgstow/wal"
	"pgstow/wal/receive"
)

// TestPlan: where a receiver goes on, for what the archive holds. Names alone decide, so the objects are empty. A name is a timeline and a
// segment; "1:5" is full, "1:5+" has a piece.
func TestPlan(t *testing.T) {
	t.Parallel()
	forked := wal.History{{Timeline: 1, End: segmentSize.Start(5) + 100}, {Timeline: 2, End: wal.MaxLSN}}
	later := wal.History{{Timeline: 1, End: segmentSize.Start(5) + 100}, {Timeline: 2, End: segmentSize.Start(8)}, {Timeline: 3, End: wal.MaxLSN}}
	first := wal.NewHistory(1)
	for _, c := range []struct {
		archive     string
		history     wal.History
		base, floor wal.SegmentNumber
		want        string // timeline:segment, with the number of its pieces
		leftover    int
	}{
		{"", first, 4, 0, "1:4+0", 0},
		{"1:1 1:2 1:3", first, 4, 0, "1:4+0", 0},
		{"1:1 1:2 1:3 1:4+", first, 4, 0, "1:4+1", 0},
		{"1:1 1:2 1:3 1:4 1:5+", first, 4, 0, "1:5+1", 0},         // push was ahead of the slot
		{"1:1 1:2", first, 4, 0, "1:3+0", 0},                      // the server may have more than the slot holds
		{"1:1 1:2 1:3+", first, 5, 0, "1:3+1", 0},                 // and pieces of it may be there
		{"1:1 1:2", first, 9, 5, "1:5+0", 0},                      // it has been said that all before 5 is missing
		{"1:1 1:5 1:6", first, 9, 5, "1:7+0", 0},                  // and some of it was pushed since
		{"1:3 1:4 1:6 1:7", first, 4, 0, "1:5+0", 0},              // a hole at the head: parallel pushes
		{"1:3 1:3+ 1:4 1:4+ 1:5+", first, 4, 0, "1:5+1", 2},       // forgotten pieces
		{"1:1 1:2 1:3 1:4 1:5+", forked, 5, 0, "2:5+0", 0},        // a promotion: the segment with the fork begins anew
		{"1:1 1:2 1:3 1:4 1:5 1:6 1:7", forked, 6, 0, "2:5+0", 0}, // the old primary went on: that is another history
		{"1:1 1:2 1:3", forked, 6, 0, "1:4+0", 0},                 // what is missing before the fork is still due
		{"1:1 1:2 1:3 1:4 2:5 2:6+", forked, 6, 0, "2:6+1", 0},
		{"1:4 2:5 2:6 2:7", later, 9, 0, "3:8+0", 0}, // the fork lies between two segments
		{"1:4 2:5 2:6 2:7 3:8 3:9+", later, 8, 0, "3:9+1", 0},
		{"2:5 2:6", first, 4, 0, "1:4+0", 0}, // of a timeline that this server does not know
	} {
		a := newArchived(t, nil, nil)
		for _, word := range strings.Fields(c.archive) {
			var tli, n uint32
			if _, err := fmt.Sscanf(word, "%d:%d", &tli, &n); err != nil {
				t.Fatal(err)
			}
			name := wal.SegmentName(wal.TimelineID(tli), wal.SegmentNumber(n), segmentSize)
			key := a.ref.WALKey(name, "")
			if strings.HasSuffix(word, "+") {
				key = a.ref.PieceKey(name, name.Start(segmentSize), name.Start(segmentSize)+100)
			}
			_, err := a.below.Put(t.Context(), key, nil, storage.Any)
			must(t, err)
		}
		got, err := receive.PlanFrom(t.Context(), a.repo, a.ref, segmentSize, c.history, c.base, c.floor)
		must(t, err)
		if text := fmt.Sprintf("%d:%d+%d", got.Timeline(), got.Segment(), got.Pieces()); text != c.want || len(got.Leftover()) != c.leftover {
			t.Errorf("%q from %d, floor %d: %s, %d left over, want %s, %d", c.archive, c.base, c.floor, text, len(got.Leftover()), c.want, c.leftover)
		}
	}
}

// TestWaitsFor: which settings of synchronous_standby_names may wait for a standby of that name.
func TestWaitsFor(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		setting string
		want    bool
	}{
		{"", false},
		{"pgstow", true},
		{"PGSTOW", true},
		{"*", true},
		{"a, b", false},
		{"a,pgstow", true},
		{"ANY 1 (pgstow, standby)", true},
		{"FIRST 2(a,b,c)", false},
		{"2 (a, *)", true},
		{`"pgstow"`, true},
		{`"pg""stow", "x"`, false},
		{`ANY 1 ("a b", "pgstow")`, true},
		{`"unterminated`, false},
	} {
		if got := receive.WaitsFor(c.setting, "pgstow"); got != c.want {
			t.Errorf("%q: %v", c.setting, got)
		}
	}
}

// TestOptions: what cannot work is said before anybody is asked.
func TestOptions(t *testing.T) {
	t.Parallel()
	a := newArchived(t, nil, nil)
	for _, c := range []struct {
		o    receive.Options
		want string
	}{
		{receive.Options{Cluster: "main", Slot: "s"}, "no store"},
		{receive.Options{Store: a.store, Cluster: "main"}, "needs a replication slot"},
		{receive.Options{Store: a.store, Cluster: "main", Slot: "S-1"}, "lower case"},
		{receive.Options{Store: a.store, Cluster: "repo", Slot: "s"}, "reserved"},
		{receive.Options{Store: a.store, Cluster: "main", Slot: "s", DSN: "port=x"}, "connection string"},
		{receive.Options{Store: a.store, Cluster: "main", Slot: "s"}, ""},
	} {
		err := c.o.Check()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.o, err, c.want)
		}
	}
}
