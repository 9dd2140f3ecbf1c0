package catalog_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"pgstow/catalog"
	"pgstow/wal"
)

// worldFacts is the planner's view of a world: headers made of the records of each file.
type worldFacts struct{ w *world }

// fileRecords are the records that begin in a file: those of its timeline's lineage.
func (f worldFacts) fileRecords(tli wal.TimelineID, n wal.SegmentNumber) []record {
	var out []record
	for _, r := range f.w.lineage(tli) {
		if r.start >= oracleSize.Start(n) && r.start < oracleSize.End(n) {
			out = append(out, r)
		}
	}
	return out
}

func (f worldFacts) Header(_ context.Context, tli wal.TimelineID, n wal.SegmentNumber) (catalog.SegmentFact, error) {
	if !f.w.stored[catalog.SegmentID{Timeline: tli, Number: n}] {
		return catalog.SegmentFact{}, fmt.Errorf("header of a segment that is not stored: %d on %d", n, tli)
	}
	return factsOf(f.fileRecords(tli, n), oracleSize.End(n), false), nil
}

func (f worldFacts) Decode(_ context.Context, tli wal.TimelineID, n wal.SegmentNumber, until wal.LSN) (catalog.SegmentFact, error) {
	id := catalog.SegmentID{Timeline: tli, Number: n}
	have := f.w.pieces[id]
	if f.w.stored[id] {
		have = oracleSize.End(n)
	}
	return factsOf(f.fileRecords(tli, n), min(until, have), true), nil
}

func factsOf(list []record, until wal.LSN, exact bool) catalog.SegmentFact {
	f := catalog.SegmentFact{Exact: exact}
	for _, r := range list {
		if exact {
			if r.start >= until {
				break
			}
			if f.Begins = r.start; r.end > until {
				break
			}
		}
		f.LastRecord = r.start
		if r.end > until {
			break // of a record that goes on elsewhere the header has the start only
		}
		if r.xid != 0 && (f.MaxXID == 0 || int32(r.xid-f.MaxXID) > 0) {
			f.MaxXID = r.xid
		}
		switch r.kind {
		case commitRecord:
			if f.FirstCommit.IsZero() || r.time.Before(f.FirstCommit) {
				f.FirstCommit = r.time
			}
			if r.time.After(f.LastCommit) {
				f.LastCommit = r.time
			}
		case pointRecord:
			f.HasRestorePoints = true
			if exact {
				f.RestorePoints = append(f.RestorePoints, wal.RestorePoint{Name: r.name, LSN: r.end, Time: r.time})
			}
		case switchRecord:
			f.Switch = true
		}
	}
	return f
}

func (w *world) facts() catalog.Facts {
	f := catalog.Facts{Histories: map[wal.TimelineID]wal.History{}, Segments: worldFacts{w}, ClockSlack: -1, WAL: w.index()}
	for tli, h := range w.histories {
		if tli != 1 {
			f.Histories[tli] = h
		}
	}
	for _, b := range w.backups {
		f.Backups = append(f.Backups, b.BackupSummary)
	}
	return f
}

func (w *world) index() *catalog.WALIndex {
	x := &catalog.WALIndex{Ref: mainRef, SegmentSize: oracleSize}
	for tli := wal.TimelineID(1); tli <= 9; tli++ {
		t := catalog.TimelineWAL{Timeline: tli}
		for n := range wal.SegmentNumber(lastSegment + 1) {
			id := catalog.SegmentID{Timeline: tli, Number: n}
			if w.stored[id] {
				if l := len(t.Ranges); l > 0 && t.Ranges[l-1].Last+1 == n {
					t.Ranges[l-1].Last = n
				} else {
					t.Ranges = append(t.Ranges, catalog.SegmentRange{First: n, Last: n})
				}
			} else if end, ok := w.pieces[id]; ok {
				t.Pieces = append(t.Pieces, catalog.PieceRun{Segment: n, From: oracleSize.Start(n), To: end})
			}
		}
		if len(t.Ranges)+len(t.Pieces) > 0 {
			x.Timelines = append(x.Timelines, t)
		}
	}
	return x
}

// builder makes a random world.
type builder struct {
	*rand.Rand
	w     *world
	clock time.Time
	xid   uint32
}

func randomWorld(seed uint64) *world {
	b := &builder{Rand: rand.New(rand.NewPCG(seed, 1)), clock: day, xid: 100}
	if b.IntN(4) == 0 {
		b.xid = 1<<32 - 20 // wraps
	}
	b.w = &world{
		records: map[wal.TimelineID][]record{}, histories: map[wal.TimelineID]wal.History{1: wal.NewHistory(1)},
		stored: map[catalog.SegmentID]bool{}, pieces: map[catalog.SegmentID]wal.LSN{},
	}
	b.write(1, oracleSize.Start(1)+40, 2+b.IntN(6))
	for tli := wal.TimelineID(2); tli <= wal.TimelineID(1+b.IntN(4)); tli++ {
		b.fork(tli)
	}
	b.archive()
	for range b.IntN(5) {
		b.backup()
	}
	return b.w
}

// write appends records that fill about so many segments.
func (b *builder) write(tli wal.TimelineID, at wal.LSN, segments int) {
	limit := at + wal.LSN(segments)*wal.LSN(oracleSize)
	for at < limit {
		r := record{start: at}
		length := wal.LSN(1+b.IntN(40)) * wal.LSN(oracleSize) / 64
		switch b.IntN(12) {
		case 0, 1, 2, 3:
			r.kind, length = commitRecord, 48
			b.clock = b.clock.Add(time.Duration(b.IntN(5)) * time.Second)
			b.xid++
			if b.xid < 3 {
				b.xid = 3
			}
			r.time, r.xid = b.clock, b.xid
		case 4:
			r.kind, length, r.name, r.time = pointRecord, 112, string(rune('a'+b.IntN(3))), b.clock
		case 5:
			r.kind, length = switchRecord, 24
		case 6:
			length = wal.LSN(oracleSize) * 3 / 2 // spans a whole segment
		}
		if r.kind != plainRecord && oracleSize.SegmentOf(at) != oracleSize.SegmentOf(at+length-1) {
			r = record{start: at} // records with a meaning do not cross here: headers would not have it
		}
		r.end = at + length
		if r.kind == switchRecord {
			r.end = oracleSize.End(oracleSize.SegmentOf(at))
		}
		b.w.records[tli] = append(b.w.records[tli], r)
		at = r.end
		if oracleSize.Offset(at) == 0 {
			at += 40 // page header
		}
	}
}

// fork makes a new timeline that leaves another one behind some record.
func (b *builder) fork(tli wal.TimelineID) {
	parent := wal.TimelineID(1 + b.IntN(int(tli)-1))
	if b.IntN(2) == 0 {
		parent = tli - 1
	}
	own := b.w.records[parent]
	at := own[b.IntN(len(own))].end
	if b.IntN(3) == 0 {
		at = own[len(own)-1].end
	}
	if b.IntN(6) == 0 {
		at = own[0].start // forked where its parent began: within one segment perhaps
	}
	h := slices.Clone(b.w.histories[parent])
	h[len(h)-1].End = at
	b.w.histories[tli] = append(h, wal.HistoryEntry{Timeline: tli, End: wal.MaxLSN})
	if b.IntN(5) != 0 {
		b.write(tli, at, 1+b.IntN(4))
	} else {
		b.write(tli, at, 0)
		b.w.records[tli] = append(b.w.records[tli], record{start: at, end: at + 50})
	}
}

// archive stores the files of each timeline, but for some.
func (b *builder) archive() {
	for tli := range wal.TimelineID(10) {
		own := b.w.records[tli]
		if len(own) == 0 {
			continue
		}
		first := oracleSize.SegmentOf(own[0].start)
		last := oracleSize.SegmentOf(own[len(own)-1].end) // not full
		for n := first; n < last; n++ {
			if b.IntN(12) != 0 {
				b.w.stored[catalog.SegmentID{Timeline: tli, Number: n}] = true
			}
		}
		for n := first; n <= last; n++ {
			id := catalog.SegmentID{Timeline: tli, Number: n}
			if !b.w.stored[id] && b.IntN(2) == 0 {
				end := min(own[len(own)-1].end, oracleSize.End(n))
				from := oracleSize.Start(n)
				if end > from {
					b.w.pieces[id] = from + wal.LSN(b.Int64N(int64(end-from))) + 1
				}
			}
		}
		if b.IntN(8) == 0 { // nothing of it yet
			for n := first; n <= last; n++ {
				delete(b.w.stored, catalog.SegmentID{Timeline: tli, Number: n})
				delete(b.w.pieces, catalog.SegmentID{Timeline: tli, Number: n})
			}
		}
	}
}

// backup takes one between two records of some timeline.
func (b *builder) backup() {
	var tlis []wal.TimelineID
	for tli := range b.w.histories {
		if len(b.w.records[tli]) > 2 {
			tlis = append(tlis, tli)
		}
	}
	if len(tlis) == 0 {
		return
	}
	slices.Sort(tlis)
	tli := tlis[b.IntN(len(tlis))]
	own := b.w.records[tli]
	i := b.IntN(len(own) - 1)
	j := i + 1 + b.IntN(min(len(own)-i-1, 6))
	s := worldBackup{}
	s.ID = fmt.Sprintf("20261124T1545%02dZ-aaaa", len(b.w.backups))
	s.Start, s.Stop = own[i].start, own[j-1].end
	s.Timeline, s.StopTimeline = tli, tli
	s.History = catalog.SwitchesOf(b.w.histories[tli])
	s.WALIncluded = b.IntN(4) == 0
	s.StoppedAt = day.Add(-time.Second)
	s.NextXID = 100
	for _, r := range b.w.lineage(tli) {
		if r.end > s.Stop {
			break
		}
		if r.kind == commitRecord {
			s.StoppedAt = r.time // equal: a target must be later
			s.NextXID = uint64(r.xid) + 1
		}
	}
	for _, other := range b.w.backups {
		if other.Stop == s.Stop && other.StopTimeline == s.StopTimeline {
			return // the order of equals is the planner's own
		}
	}
	b.w.backups = append(b.w.backups, s)
}

func (b *builder) target() catalog.Target {
	t := catalog.Target{Kind: catalog.TargetKind(b.IntN(6)), Exclusive: b.IntN(2) == 0}
	var all []record
	for tli := range wal.TimelineID(10) {
		all = append(all, b.w.records[tli]...)
	}
	r := all[b.IntN(len(all))]
	switch t.Kind {
	case catalog.TargetLSN:
		t.LSN = r.start + wal.LSN(b.IntN(3)) - 1
	case catalog.TargetTime:
		t.Time = day.Add(time.Duration(b.IntN(60)) * time.Second)
		if !r.time.IsZero() {
			t.Time = r.time.Add(time.Duration(b.IntN(3)-1) * time.Second)
		}
	case catalog.TargetXID:
		t.XID = b.xid - uint32(b.IntN(20)) + 2
		if r.xid != 0 {
			t.XID = r.xid
		}
	case catalog.TargetName:
		t.Name = string(rune('a' + b.IntN(4)))
	}
	switch b.IntN(4) {
	case 0:
		t.Timeline.Current = true
	case 1:
		t.Timeline.ID = wal.TimelineID(1 + b.IntN(5))
	}
	return t
}

func (w *world) String() string {
	s := ""
	for tli := range wal.TimelineID(10) {
		h, ok := w.histories[tli]
		if !ok {
			continue
		}
		s += fmt.Sprintf("timeline %d history %v\n", tli, h)
		for _, r := range w.records[tli] {
			s += fmt.Sprintf("  %s-%s kind %d %s xid %d %q\n", r.start, r.end, r.kind, r.time.Format("15:04:05"), r.xid, r.name)
		}
		for n := range wal.SegmentNumber(lastSegment + 1) {
			id := catalog.SegmentID{Timeline: tli, Number: n}
			if w.stored[id] {
				s += fmt.Sprintf("  stored %d\n", n)
			} else if p, ok := w.pieces[id]; ok {
				s += fmt.Sprintf("  pieces %d to %s\n", n, p)
			}
		}
	}
	for _, b := range w.backups {
		s += fmt.Sprintf("backup %s timeline %d %s-%s at %s next %d included %v\n", b.ID, b.StopTimeline, b.Start, b.Stop, b.StoppedAt.Format("15:04:05"), b.NextXID, b.WALIncluded)
	}
	return s
}
