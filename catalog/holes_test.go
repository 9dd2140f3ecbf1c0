package catalog_test

import (
	"testing"
	"time"

	"pgstow/catalog"
	"pgstow/wal"
)

// TestHead: where the archive ends, with holes that are being filled and holes that stay.
func TestHead(t *testing.T) {
	now := day
	at := func(ago time.Duration, first, last wal.SegmentNumber) catalog.SegmentRange {
		m := now.Add(-ago)
		return catalog.SegmentRange{First: first, Last: last, FirstModified: m, LastModified: m, Oldest: m, Newest: m}
	}
	piece := func(n wal.SegmentNumber, from, to wal.LSN) catalog.PieceRun {
		return catalog.PieceRun{Segment: n, From: segmentSize.Start(n) + from, To: segmentSize.Start(n) + to}
	}
	for name, tt := range map[string]struct {
		ranges       []catalog.SegmentRange
		pieces       []catalog.PieceRun
		segments, to wal.LSN
	}{
		"nothing":           {},
		"segments":          {ranges: []catalog.SegmentRange{at(time.Hour, 3, 9)}, segments: 10 * mb, to: 10 * mb},
		"pieces behind":     {ranges: []catalog.SegmentRange{at(time.Hour, 3, 9)}, pieces: []catalog.PieceRun{piece(10, 0, 700)}, segments: 10 * mb, to: 10*mb + 700},
		"pieces elsewhere":  {ranges: []catalog.SegmentRange{at(time.Hour, 3, 9)}, pieces: []catalog.PieceRun{piece(11, 0, 700)}, segments: 10 * mb, to: 10 * mb},
		"a gap in pieces":   {ranges: []catalog.SegmentRange{at(time.Hour, 3, 9)}, pieces: []catalog.PieceRun{piece(10, 0, 700), piece(10, 800, 900)}, segments: 10 * mb, to: 10*mb + 700},
		"pieces alone":      {pieces: []catalog.PieceRun{piece(4, 0, 5)}, segments: 4 * mb, to: 4*mb + 5},
		"a young hole":      {ranges: []catalog.SegmentRange{at(time.Hour, 3, 9), at(time.Minute, 12, 13)}, segments: 10 * mb, to: 10 * mb},
		"an old hole":       {ranges: []catalog.SegmentRange{at(time.Hour, 3, 9), at(time.Hour, 12, 13)}, segments: 14 * mb, to: 14 * mb},
		"an old, two young": {ranges: []catalog.SegmentRange{at(time.Hour, 3, 9), at(time.Hour, 12, 13), at(time.Minute, 15, 15), at(time.Minute, 17, 17)}, segments: 14 * mb, to: 14 * mb},
	} {
		tl := &catalog.TimelineWAL{Timeline: 1, Ranges: tt.ranges, Pieces: tt.pieces}
		if segments, to := tl.Head(segmentSize, now); segments != tt.segments || to != tt.to {
			t.Errorf("%s: segments end at %s, all at %s; want %s and %s", name, segments, to, tt.segments, tt.to)
		}
	}
	// Whoever fills a hole from its end does not make what is left of it younger.
	tl := &catalog.TimelineWAL{Timeline: 1, Ranges: []catalog.SegmentRange{at(time.Hour, 3, 9), at(time.Second, 12, 12), at(time.Hour, 14, 15)}}
	holes := tl.Holes()
	if len(holes) != 2 || !holes[0].Overdue(now) || !holes[0].After.Equal(now.Add(-time.Second)) || holes[0].Count() != 2 {
		t.Errorf("%+v", holes)
	}
}

// TestLeftBefore: a hole is of no account to a restore to the latest when the newest timeline has left its timeline before it.
func TestLeftBefore(t *testing.T) {
	forked := wal.History{{Timeline: 1, End: 5*mb + 100}, {Timeline: 3, End: wal.MaxLSN}}
	facts := func(newest wal.History, unread ...wal.TimelineID) catalog.Facts {
		f := catalog.Facts{WAL: &catalog.WALIndex{SegmentSize: segmentSize}, Histories: map[wal.TimelineID]wal.History{}, Unread: unread}
		for _, tli := range []wal.TimelineID{1, 2, 3} {
			f.WAL.Timelines = append(f.WAL.Timelines, catalog.TimelineWAL{Timeline: tli})
		}
		if newest != nil {
			f.Histories[3] = newest
		}
		return f
	}
	for name, tt := range map[string]struct {
		facts catalog.Facts
		tli   wal.TimelineID
		first wal.SegmentNumber
		want  bool
	}{
		"before the fork":               {facts(forked), 1, 4, false},
		"the segment of the fork":       {facts(forked), 1, 5, true}, // it is taken from the newer timeline
		"behind the fork":               {facts(forked), 1, 6, true},
		"on a timeline beside":          {facts(forked), 2, 1, true},
		"on the newest":                 {facts(forked), 3, 7, false},
		"the history has not arrived":   {facts(nil), 1, 6, false},
		"a history that cannot be read": {facts(forked, 2), 1, 6, false},
		"an archive that is empty":      {catalog.Facts{WAL: &catalog.WALIndex{SegmentSize: segmentSize}}, 1, 6, false},
	} {
		if got := tt.facts.LeftBefore(catalog.Hole{Timeline: tt.tli, First: tt.first, Last: tt.first}); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}
