package catalog

import (
	"iter"
	"time"

	"pgstow/wal"
)

// pathPart is a run of segments of one timeline on a path.
type pathPart struct {
	tli         wal.TimelineID
	first, last wal.SegmentNumber
	until       wal.LSN // usable up to here: the last segment's end, a fork, or the end of what pieces give
	pieces      bool    // one segment of which only pieces are stored; at the end of the path, or all of it
	fork        bool    // one segment of an older timeline, usable up to the fork only
}

// walPath is the WAL that recovery finds from some place on along a history.
type walPath struct {
	h     wal.History
	size  wal.SegmentSize
	parts []pathPart
	end   wal.LSN   // no WAL behind this is reached
	hole  *Hole     // what ends it although later WAL of the path is stored
	next  SegmentID // with hole: the segment with which the archive goes on
}

// followWAL walks from the segment of from along h. Each segment is taken from the newest timeline that begins in or
// before it (RULES-physical D2; XLogFileReadAnyTLI in backend/access/transam/xlogrecovery.c), which is how PostgreSQL
// will ask for it. Pieces that give all of a segment are as good as the segment. At the very end, and never before a hole
// (RULES-archive A6), two things stand in for a segment that is not stored: some pieces of it, and an older timeline's
// segment up to the fork.
func followWAL(x *WALIndex, h wal.History, from wal.LSN) walPath {
	p := walPath{h: h, size: x.SegmentSize}
	n := p.size.SegmentOf(from)
	p.end = p.size.Start(n)
	for {
		tli := h.TimelineOfSegment(n, p.size)
		t := x.Timeline(tli)
		r, ok := t.rangeAt(n)
		if !ok && t.PiecesEnd(n, p.size) == p.size.End(n) {
			p.end = p.size.End(n)
			p.parts = append(p.parts, pathPart{tli: tli, first: n, last: n, until: p.end, pieces: true})
			n++
			continue
		}
		if !ok {
			break
		}
		last := min(r.Last, p.lastOf(tli))
		p.end = p.size.End(last)
		p.parts = append(p.parts, pathPart{tli: tli, first: n, last: last, until: p.end})
		n = last + 1
	}
	if next, ok := p.nextStored(x, n); ok {
		p.next = next
		tli := h.TimelineOfSegment(n, p.size)
		p.hole = &Hole{Timeline: tli, First: n, Last: next.Number - 1}
		return p
	}
	p.addTail(x, n)
	return p
}

// datedHole is the hole at which the path ends, with its times. It looks at all that is behind the hole.
func (p *walPath) datedHole(x *WALIndex) Hole {
	h := *p.hole
	t := x.Timeline(p.next.Timeline)
	seen := func(first wal.SegmentNumber, oldest, modified time.Time) {
		if h.Since.IsZero() || oldest.Before(h.Since) {
			h.Since = oldest
		}
		if first == p.next.Number {
			h.After = modified
		}
	}
	for _, r := range t.Ranges[t.rangeIndex(p.next.Number):] {
		seen(max(r.First, p.next.Number), r.Oldest, r.FirstModified)
	}
	for _, r := range t.Pieces {
		if r.Segment >= p.next.Number {
			seen(r.Segment, r.Newest, r.Newest)
		}
	}
	if n := len(p.parts) - 1; n >= 0 {
		last := p.parts[n]
		if r, ok := x.Timeline(last.tli).rangeAt(last.last); ok && r.Last == last.last {
			h.Before = r.LastModified
		}
	}
	return h
}

// segmentsEnd is where the full segments of the path end; behind it are pieces, or the part of an older timeline's segment.
func (p *walPath) segmentsEnd() wal.LSN {
	if n := len(p.parts) - 1; n >= 0 && (p.parts[n].pieces || p.parts[n].fork) {
		return p.size.Start(p.parts[n].first)
	}
	return p.end
}

// lastOf is the last segment that is taken from tli: a newer timeline's first one is not.
func (p *walPath) lastOf(tli wal.TimelineID) wal.SegmentNumber {
	for i, e := range p.h {
		if e.Timeline == tli && i+1 < len(p.h) {
			begin := p.size.SegmentOf(e.End)
			if begin == 0 {
				return 0
			}
			return begin - 1
		}
	}
	return wal.SegmentNumber(uint64(wal.MaxLSN)/uint64(p.size)) - 1
}

// nextStored finds the first segment of the path behind n, which itself is not stored, of which there is anything.
func (p *walPath) nextStored(x *WALIndex, n wal.SegmentNumber) (SegmentID, bool) {
	for i, e := range p.h {
		first := n + 1
		if begin, _ := p.h.Begin(e.Timeline); p.size.SegmentOf(begin) > first {
			first = p.size.SegmentOf(begin)
		}
		last := p.lastOf(e.Timeline)
		if i+1 < len(p.h) && p.size.SegmentOf(e.End) == 0 || first > last {
			continue
		}
		t := x.Timeline(e.Timeline)
		next := last + 1
		if r, _ := t.rangeAt(first); r != nil {
			next = max(r.First, first)
		}
		// A receiver stores pieces of the next segment beside the last full one: a disaster may leave them alone.
		for _, r := range t.Pieces {
			if r.Segment >= first {
				next = min(next, r.Segment)
			}
		}
		if next <= last {
			return SegmentID{e.Timeline, next}, true
		}
	}
	return SegmentID{}, false
}

// upToHole lets the path end before its hole as if nothing was stored behind it.
func (p *walPath) upToHole(x *WALIndex) {
	if p.hole != nil {
		p.addTail(x, p.hole.First)
	}
}

// addTail looks for what is there of segment n, with which the path ends.
func (p *walPath) addTail(x *WALIndex, n wal.SegmentNumber) {
	best := pathPart{until: p.size.Start(n)}
	newest := true
	for i := len(p.h) - 1; i >= 0; i-- {
		e := p.h[i]
		begin, _ := p.h.Begin(e.Timeline)
		if p.size.SegmentOf(begin) > n {
			continue
		}
		t := x.Timeline(e.Timeline)
		part := pathPart{tli: e.Timeline, first: n, last: n, until: t.PiecesEnd(n, p.size), pieces: true, fork: !newest}
		if t.Has(n) { // only an older timeline's; the newest one's is not stored
			part.until, part.pieces = p.size.End(n), false
		}
		part.until = min(part.until, e.End)
		if part.until > best.until {
			best = part
		}
		newest = false
		if begin <= p.size.Start(n) { // segment n begins on this timeline: older ones have nothing of it
			break
		}
	}
	if best.first == n && best.tli != 0 {
		p.parts = append(p.parts, best)
		p.end = best.until
	}
}

// pathSegment is one segment of a path.
type pathSegment struct {
	SegmentID
	until  wal.LSN
	header bool // its header tells about all of it; else it must be decoded
	last   bool // the path ends with it
}

// segments yields the path's segments from segment number low on, in order.
func (p *walPath) segments(low wal.SegmentNumber) iter.Seq[pathSegment] {
	return func(yield func(pathSegment) bool) {
		for i, part := range p.parts {
			for n := max(part.first, low); n <= part.last; n++ {
				if !yield(p.segment(i, n)) {
					return
				}
			}
		}
	}
}

// backward yields the path's segments down to number low, last one first.
func (p *walPath) backward(low wal.SegmentNumber) iter.Seq[pathSegment] {
	return func(yield func(pathSegment) bool) {
		for i := len(p.parts) - 1; i >= 0; i-- {
			part := p.parts[i]
			for n := part.last; n >= max(part.first, low); n-- {
				if !yield(p.segment(i, n)) {
					return
				}
				if n == 0 {
					break
				}
			}
		}
	}
}

func (p *walPath) segment(i int, n wal.SegmentNumber) pathSegment {
	part := p.parts[i]
	return pathSegment{
		SegmentID: SegmentID{part.tli, n},
		until:     min(p.size.End(n), part.until),
		header:    !part.pieces && !part.fork,
		last:      i == len(p.parts)-1 && n == part.last,
	}
}

// walParts is the path as a Plan shows it, up to the segment of the byte before to; 0: all of it.
func (p *walPath) walParts(to wal.LSN) []WALPart {
	var out []WALPart
	for _, part := range p.parts {
		last := part.last
		if to != 0 {
			limit := p.size.PrevSegmentOf(to)
			if part.first > limit {
				break
			}
			last = min(last, limit)
		}
		out = append(out, WALPart{
			Timeline: part.tli, First: part.first, Last: last, Pieces: part.pieces,
			FirstName: wal.SegmentName(part.tli, part.first, p.size).String(),
			LastName:  wal.SegmentName(part.tli, last, p.size).String(),
		})
	}
	return out
}

// gapError says what the hole means for a backup.
func (p *walPath) gapError(x *WALIndex, backup string) *GapError {
	h := p.datedHole(x)
	return &GapError{
		Backup: backup, Hole: h, Reached: p.end,
		First: wal.SegmentName(p.h.TimelineOfSegment(h.First, p.size), h.First, p.size).String(),
		Last:  wal.SegmentName(p.h.TimelineOfSegment(h.Last, p.size), h.Last, p.size).String(),
		Next:  wal.SegmentName(p.next.Timeline, p.next.Number, p.size).String(),
	}
}
