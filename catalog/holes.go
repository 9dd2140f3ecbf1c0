package catalog

import (
	"time"

	"pgstow/wal"
)

// HoleGrace is how long a hole at the head of the archive is normal: parallel pushes finish out of order (RULES-archive D6).
const HoleGrace = 10 * time.Minute

// Hole is a run of missing segments with later ones behind it.
type Hole struct {
	Timeline    wal.TimelineID
	First, Last wal.SegmentNumber

	// Since is when the archive first went past the hole: the earliest that a segment behind it was stored. Filling a hole
	// from its end does not make it younger.
	Since         time.Time
	Before, After time.Time // when the segments beside it were stored
}

// Count is the number of missing segments.
func (h Hole) Count() uint64 { return uint64(h.Last-h.First) + 1 }

// Overdue tells a hole that recovery will find from one that a push is about to fill.
func (h Hole) Overdue(now time.Time) bool { return now.Sub(h.Since) > HoleGrace }

// Holes lists the holes between the first and the last full segment.
func (t *TimelineWAL) Holes() []Hole {
	if len(t.Ranges) < 2 {
		return nil
	}
	out := make([]Hole, len(t.Ranges)-1)
	since := t.Ranges[len(t.Ranges)-1].Oldest
	for i := len(out) - 1; i >= 0; i-- {
		before, after := t.Ranges[i], t.Ranges[i+1]
		if after.Oldest.Before(since) {
			since = after.Oldest
		}
		out[i] = Hole{
			Timeline: t.Timeline, First: before.Last + 1, Last: after.First - 1, Since: since, Before: before.LastModified, After: after.FirstModified,
		}
	}
	return out
}

// LeftBefore tells whether the way to the newest timeline left h's timeline before the hole, or never was on it: then no restore to the
// latest comes by. A restore that ended at the hole leaves it so.
func (f Facts) LeftBefore(h Hole) bool {
	known := knownTimelines(f)
	if len(known) == 0 {
		return false
	}
	newest := known[len(known)-1]
	history, ok := f.Histories[newest]
	if !ok || len(f.Unread) > 0 || newest == h.Timeline {
		return false
	}
	end, ok := history.Ancestor(h.Timeline)
	return !ok || f.WAL.SegmentSize.SegmentOf(end) <= h.First
}

// PiecesEnd is the end of the gapless prefix of segment n that pieces give; the segment's start if they give none.
func (t *TimelineWAL) PiecesEnd(n wal.SegmentNumber, size wal.SegmentSize) wal.LSN {
	end := size.Start(n)
	for _, p := range t.Pieces {
		if p.Segment == n && p.From <= end {
			end = max(end, p.To)
		}
	}
	return end
}

// ContiguousEnd is the end of the WAL that goes on without a hole from segment n: where the archive ends for somebody who
// reads from there. It is n's start if n is not stored. Pieces behind the last full segment count.
func (t *TimelineWAL) ContiguousEnd(n wal.SegmentNumber, size wal.SegmentSize) wal.LSN {
	if r, ok := t.rangeAt(n); ok {
		n = r.Last + 1
	}
	return t.PiecesEnd(n, size)
}

// Head is where the timeline's archive ends for whoever comes after its last overdue hole: a hole that is still being
// filled ends it, since what lies behind cannot be reached yet (RULES-archive D6). segments is the end of the full
// segments, end that of the pieces which follow them. Both are 0 if there is neither.
func (t *TimelineWAL) Head(size wal.SegmentSize, now time.Time) (segments, end wal.LSN) {
	if len(t.Ranges) == 0 {
		if len(t.Pieces) == 0 {
			return 0, 0
		}
		n := t.Pieces[len(t.Pieces)-1].Segment
		return size.Start(n), t.PiecesEnd(n, size)
	}
	r := t.Ranges[len(t.Ranges)-1]
	holes := t.Holes()
	for i := len(holes) - 1; i >= 0 && !holes[i].Overdue(now); i-- {
		r = t.Ranges[i]
	}
	return size.End(r.Last), t.PiecesEnd(r.Last+1, size)
}

// NewestPiece is when the latest piece of an incomplete segment was stored; zero if there is none.
func (t *TimelineWAL) NewestPiece() time.Time {
	var newest time.Time
	for _, p := range t.Pieces {
		if p.Newest.After(newest) {
			newest = p.Newest
		}
	}
	return newest
}
