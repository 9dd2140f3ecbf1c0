package catalog_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgstow/catalog"
	"pgstow/wal"
)

// The oracle replays a small world record by record as PostgreSQL does and so knows which backup reaches a target. It
// shares no code with the planner: it knows neither ranges nor headers, only records, and which segment files exist.

type recordKind int

const (
	plainRecord recordKind = iota
	commitRecord
	pointRecord
	switchRecord
)

type record struct {
	kind       recordKind
	start, end wal.LSN
	time       time.Time
	xid        uint32
	name       string
}

type worldBackup struct {
	catalog.BackupSummary
}

// world is some timelines of one cluster, its archive and its backups.
type world struct {
	records   map[wal.TimelineID][]record // of the timeline itself, from its fork on
	histories map[wal.TimelineID]wal.History
	stored    map[catalog.SegmentID]bool
	pieces    map[catalog.SegmentID]wal.LSN // end of the pieces of a segment that is not stored
	backups   []worldBackup
}

const oracleSize = wal.MinSegmentSize

// lineage is what the server of tli had in its log: the records of all its ancestors up to the forks, then its own.
func (w *world) lineage(tli wal.TimelineID) []record {
	var out []record
	for _, e := range w.histories[tli] {
		for _, r := range w.records[e.Timeline] {
			if r.start < e.End {
				out = append(out, r)
			}
		}
	}
	return out
}

// fileBytes says how much of a file for segment n recovery on history h is given, and the file's timeline: PostgreSQL
// asks for the newest timeline first that does not begin behind the segment.
func (w *world) fileBytes(h wal.History, n wal.SegmentNumber, hole bool) wal.LSN {
	start := oracleSize.Start(n)
	best := start
	for i := len(h) - 1; i >= 0; i-- {
		begin := wal.LSN(0)
		if i > 0 {
			begin = h[i-1].End
		}
		if begin >= oracleSize.End(n) {
			continue // the timeline begins behind the segment
		}
		id := catalog.SegmentID{Timeline: h[i].Timeline, Number: n}
		if w.stored[id] && (len(h)-1 == i || oracleSize.SegmentOf(h[i].End) > n) {
			return oracleSize.End(n)
		}
		if hole {
			break // it is asked for, is not there, and later segments are: an error, not an end
		}
		have := start
		if w.stored[id] {
			have = oracleSize.End(n)
		} else if p, ok := w.pieces[id]; ok {
			have = p
		}
		best = max(best, min(have, h[i].End))
		if begin <= start {
			break
		}
	}
	return best
}

// inForce is the timeline from which segment n is taken.
func inForce(h wal.History, n wal.SegmentNumber) wal.TimelineID {
	for i := len(h) - 1; i > 0; i-- {
		if oracleSize.SegmentOf(h[i-1].End) <= n {
			return h[i].Timeline
		}
	}
	return h[0].Timeline
}

const lastSegment = 40

// available is how far recovery from a place on reads along h, and whether a hole ends it.
func (w *world) available(h wal.History, from wal.LSN) (end wal.LSN, hole bool) {
	n := oracleSize.SegmentOf(from)
	for ; n <= lastSegment; n++ {
		id := catalog.SegmentID{Timeline: inForce(h, n), Number: n}
		if !w.stored[id] && w.pieces[id] != oracleSize.End(n) {
			break
		}
	}
	for m := n + 1; m <= lastSegment; m++ {
		id := catalog.SegmentID{Timeline: inForce(h, m), Number: m}
		if _, pieces := w.pieces[id]; pieces || w.stored[id] {
			return oracleSize.Start(n), true
		}
	}
	return w.fileBytes(h, n, false), false
}

type outcome int

const (
	reached outcome = iota
	unreachable
	gap
	noBackup
)

func (o outcome) String() string { return [...]string{"reached", "unreachable", "gap", "no backup"}[o] }

// replay recovers from one backup along h and says how it ends.
func (w *world) replay(b worldBackup, h wal.History, t catalog.Target) (outcome, wal.LSN) {
	from := b.Start
	if b.WALIncluded {
		from = b.Stop
	}
	end, hole := w.available(h, from)
	archived := end
	if b.WALIncluded {
		end = max(end, b.Stop)
	}
	short := unreachable
	if hole {
		short = gap
	}
	if end < b.Stop {
		return short, 0
	}
	switch t.Kind {
	case catalog.TargetImmediate:
		return reached, b.Stop
	case catalog.TargetLatest:
		if hole {
			return gap, 0
		}
		return reached, 0
	}
	for _, r := range w.lineage(h.Timeline()) {
		if r.start < b.Start || r.end > end {
			continue
		}
		before := r.end <= b.Stop
		if t.Kind == catalog.TargetName {
			before = r.end < b.Stop // PostgreSQL stops after it, and is consistent by then
		}
		if b.WALIncluded && r.end <= b.Stop && (oracleSize.SegmentOf(r.start) < oracleSize.SegmentOf(b.Stop) || r.end > archived) {
			continue // the planner does not look into WAL that is kept in a backup
		}
		stops := false
		switch t.Kind {
		case catalog.TargetLSN:
			stops = r.start >= t.LSN
		case catalog.TargetTime:
			stops = r.kind == commitRecord && (r.time.After(t.Time) || t.Exclusive && r.time.Equal(t.Time))
		case catalog.TargetXID:
			// What the headers can tell: some transaction at or behind the target.
			stops = r.xid != 0 && int32(r.xid-t.XID) >= 0
		case catalog.TargetName:
			stops = r.kind == pointRecord && r.name == t.Name
		}
		if !stops {
			continue
		}
		if before {
			return unreachable, 0 // PostgreSQL: requested recovery stop point is before consistent recovery point
		}
		if t.Kind == catalog.TargetName {
			return reached, r.end
		}
		return reached, 0
	}
	return short, 0
}

// eligible: the backup ended before the target.
func (b worldBackup) eligible(t catalog.Target) bool {
	switch t.Kind {
	case catalog.TargetLSN:
		return b.Stop <= t.LSN
	case catalog.TargetTime:
		return b.StoppedAt.Before(t.Time)
	case catalog.TargetXID:
		return int32(t.XID-uint32(b.NextXID)) >= 0
	default:
		return true
	}
}

// on reports whether b's end lies on h: the records before it are the same.
func (w *world) on(b worldBackup, h wal.History) bool {
	mine := w.lineage(b.StopTimeline)
	theirs := w.lineage(h.Timeline())
	found := false
	for _, e := range h {
		found = found || e.Timeline == b.StopTimeline
	}
	if !found {
		return false
	}
	cut := func(list []record) []record {
		return slices.DeleteFunc(slices.Clone(list), func(r record) bool { return r.start >= b.Stop })
	}
	return slices.Equal(cut(mine), cut(theirs)) && w.ends(h, b)
}

// ends: h had not left the backup's timeline before the backup's end, nor joined it after.
func (w *world) ends(h wal.History, b worldBackup) bool {
	begin := wal.LSN(0)
	for _, e := range h {
		if e.Timeline == b.StopTimeline {
			return b.Start >= begin && b.Stop <= e.End
		}
		begin = e.End
	}
	return false
}

// oracle chooses among all backups, newest first.
func (w *world) oracle(t catalog.Target, only string) (outcome, string, wal.TimelineID, wal.LSN) {
	list := slices.Clone(w.backups)
	slices.SortFunc(list, func(a, b worldBackup) int {
		if a.StopTimeline != b.StopTimeline {
			return int(b.StopTimeline) - int(a.StopTimeline)
		}
		if a.Stop != b.Stop {
			if a.Stop > b.Stop {
				return -1
			}
			return 1
		}
		return 0
	})
	if only != "" {
		list = slices.DeleteFunc(list, func(b worldBackup) bool { return b.ID != only })
	}
	if len(list) == 0 {
		return noBackup, "", 0, 0
	}
	var tlis []wal.TimelineID
	for tli := range w.histories {
		tlis = append(tlis, tli)
	}
	slices.Sort(tlis)
	slices.Reverse(tlis)
	follow := map[string]wal.TimelineID{}
	switch {
	case t.Timeline.Current:
		for _, b := range list {
			follow[b.ID] = b.StopTimeline
		}
	case t.Timeline.ID != 0:
		tlis = []wal.TimelineID{t.Timeline.ID}
		fallthrough
	default:
		for _, tli := range tlis {
			if h, ok := w.histories[tli]; ok {
				for _, b := range list {
					if w.on(b, h) {
						follow[b.ID] = tli
					}
				}
			}
			if len(follow) > 0 {
				break
			}
		}
	}
	first := unreachable
	seen := false
	for _, b := range list {
		tli, ok := follow[b.ID]
		if !ok || !b.eligible(t) {
			continue
		}
		o, lsn := w.replay(b, w.histories[tli], t)
		if o == reached {
			return reached, b.ID, tli, lsn
		}
		if !seen {
			first, seen = o, true
		}
	}
	return first, "", 0, 0
}

// TestPlanAgainstOracle compares the planner with the replay of tens of thousands of random worlds and targets.
func TestPlanAgainstOracle(t *testing.T) {
	worlds := 6000
	if testing.Short() {
		worlds = 600
	}
	counts := map[outcome]int{}
	for seed := range uint64(worlds) {
		w := randomWorld(seed)
		b := &builder{Rand: rand.New(rand.NewPCG(seed, 2)), w: w, xid: 130}
		for i := range 8 {
			target := b.target()
			only := ""
			if len(w.backups) > 0 && b.IntN(4) == 0 {
				only = w.backups[b.IntN(len(w.backups))].ID
			}
			got, plan, err := planOutcome(w, target, only)
			want, id, tli, lsn := w.oracle(target, only)
			counts[want]++
			if got != want || got == reached && (plan.Backup.ID != id || plan.Timeline != tli || lsn != 0 && plan.StopLSN != lsn) {
				t.Fatalf("seed %d target %d %v backup %q:\nplanner: %v from %s on %d at %s (%v)\noracle:  %v from %s on %d at %s\n%s",
					seed, i, target, only, got, plan.Backup.ID, plan.Timeline, plan.StopLSN, err, want, id, tli, lsn, w)
			}
			if got == reached {
				checkPath(t, w, plan)
			}
		}
	}
	for _, o := range []outcome{reached, unreachable, gap, noBackup} {
		if counts[o] < worlds/20 {
			t.Errorf("only %d of %d cases are %v: the worlds do not test it", counts[o], 8*worlds, o)
		}
	}
	t.Log(counts)
}

func planOutcome(w *world, t catalog.Target, only string) (outcome, catalog.Plan, error) {
	plan, err := catalog.PlanRestore(context.Background(), w.facts(), t, catalog.BackupSelector{ID: only})
	var u *catalog.UnreachableError
	var g *catalog.GapError
	switch {
	case err == nil:
		return reached, plan, nil
	case errors.As(err, &u):
		return unreachable, plan, err
	case errors.As(err, &g):
		return gap, plan, err
	case errors.Is(err, catalog.ErrNoBackup):
		return noBackup, plan, err
	}
	panic(err)
}

// checkPath: each part of a path is stored, and the parts follow each other.
func checkPath(t *testing.T, w *world, p catalog.Plan) {
	t.Helper()
	next := wal.SegmentNumber(0)
	for i, part := range p.Path {
		if i > 0 && part.First != next {
			t.Fatalf("part %d begins at %d, want %d", i, part.First, next)
		}
		next = part.Last + 1
		for n := part.First; n <= part.Last; n++ {
			id := catalog.SegmentID{Timeline: part.Timeline, Number: n}
			if !w.stored[id] && (!part.Pieces || w.pieces[id] == 0) {
				t.Fatalf("part %d needs segment %d of timeline %d, which is not stored", i, n, part.Timeline)
			}
		}
	}
	if p.NeedsArchive && !p.Backup.WALIncluded && len(p.Path) == 0 {
		t.Fatal("no path")
	}
}
