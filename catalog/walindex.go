package catalog

import (
	"cmp"
	"slices"
	"sort"
	"time"

	"pgstow/wal"
)

// SegmentRange is a run of full segments of one timeline without a hole.
type SegmentRange struct {
	First, Last wal.SegmentNumber
	Bytes       int64 // stored

	// When they were stored, by the store's clock: the first, the last, the earliest and the latest of all.
	FirstModified, LastModified, Oldest, Newest time.Time
}

// Count is the number of segments.
func (r SegmentRange) Count() uint64 { return uint64(r.Last-r.First) + 1 }

// PieceRun is what streamed pieces give of a segment that is not in the archive as a whole: bytes without a gap.
type PieceRun struct {
	Segment  wal.SegmentNumber
	From, To wal.LSN
	Count    int       // of pieces
	Bytes    int64     // stored
	Newest   time.Time // when the latest of them was stored
}

// TimelineWAL is what the archive holds of one timeline. It is compact: its size grows with the number of holes and of
// incomplete segments, not with that of segments or pieces.
type TimelineWAL struct {
	Timeline   wal.TimelineID
	Ranges     []SegmentRange // ascending, apart from each other
	Pieces     []PieceRun     // of segments that are in no range, by segment and From
	Partials   []WALObject    // kept, listed, never part of a path
	Backups    []wal.FileName // .backup files
	HasHistory bool
	Forgotten  int // pieces of segments that are stored in full
	Objects    int
	Bytes      int64
	Newest     time.Time
}

// WALIndex is what the names below wal/ show. Names alone: a gap is derived from them, never recorded.
type WALIndex struct {
	Ref         ClusterRef
	SegmentSize wal.SegmentSize
	Timelines   []TimelineWAL // ascending
}

// Timeline returns the WAL of one timeline; empty if the archive has none.
func (x *WALIndex) Timeline(tli wal.TimelineID) *TimelineWAL {
	i, ok := slices.BinarySearchFunc(x.Timelines, tli, func(t TimelineWAL, id wal.TimelineID) int { return cmp.Compare(t.Timeline, id) })
	if !ok {
		return &TimelineWAL{Timeline: tli}
	}
	return &x.Timelines[i]
}

// Bytes is the stored size of all WAL.
func (x *WALIndex) Bytes() int64 {
	var n int64
	for _, t := range x.Timelines {
		n += t.Bytes
	}
	return n
}

// Newest is when the latest WAL object was stored; zero if there is none.
func (x *WALIndex) Newest() time.Time {
	var newest time.Time
	for _, t := range x.Timelines {
		if t.Newest.After(newest) {
			newest = t.Newest
		}
	}
	return newest
}

// rangeAt returns the range that holds n, else the first one behind it; ok says which. nil if there is neither.
func (t *TimelineWAL) rangeAt(n wal.SegmentNumber) (r *SegmentRange, ok bool) {
	i := t.rangeIndex(n)
	if i == len(t.Ranges) {
		return nil, false
	}
	return &t.Ranges[i], t.Ranges[i].First <= n
}

// rangeIndex is the first range that ends at or behind n; the number of ranges if there is none.
func (t *TimelineWAL) rangeIndex(n wal.SegmentNumber) int {
	return sort.Search(len(t.Ranges), func(i int) bool { return t.Ranges[i].Last >= n })
}

// Has reports whether segment n is stored in full.
func (t *TimelineWAL) Has(n wal.SegmentNumber) bool {
	_, ok := t.rangeAt(n)
	return ok
}

// timelineBuilder takes the objects of one timeline in key order.
type timelineBuilder struct {
	t    TimelineWAL
	size wal.SegmentSize
	ref  ClusterRef
}

// add takes one object; a key that is none of ours is left out.
func (b *timelineBuilder) add(key string, size int64, modified time.Time) {
	o, ok := ParseWALKey(b.ref, key)
	if !ok || o.Name.Timeline != b.t.Timeline || o.Name.CheckSize(b.size) != nil {
		return
	}
	n := o.Name.Number(b.size)
	if o.Kind == WALPiece && (o.From < b.size.Start(n) || o.To > b.size.End(n)) {
		return
	}
	b.t.Objects++
	b.t.Bytes += size
	if modified.After(b.t.Newest) {
		b.t.Newest = modified
	}
	switch o.Kind {
	case WALSegment:
		b.segment(n, size, modified)
	case WALPiece:
		b.piece(n, o, size, modified)
	case WALPartial:
		b.t.Partials = append(b.t.Partials, o)
	case WALBackup:
		b.t.Backups = append(b.t.Backups, o.Name)
	case WALHistory:
		b.t.HasHistory = true
	}
}

func (b *timelineBuilder) segment(n wal.SegmentNumber, size int64, modified time.Time) {
	if last := len(b.t.Ranges) - 1; last >= 0 && b.t.Ranges[last].Last+1 == n {
		b.t.Ranges[last].join(SegmentRange{Last: n, Bytes: size, LastModified: modified, Oldest: modified, Newest: modified})
		return
	}
	b.t.Ranges = append(b.t.Ranges, SegmentRange{
		First: n, Last: n, Bytes: size, FirstModified: modified, LastModified: modified, Oldest: modified, Newest: modified,
	})
}

// piece keeps a piece unless its segment, whose key comes first, is there in full.
func (b *timelineBuilder) piece(n wal.SegmentNumber, o WALObject, size int64, modified time.Time) {
	if last := len(b.t.Ranges) - 1; last >= 0 && b.t.Ranges[last].Last == n {
		b.t.Forgotten++
		return
	}
	if last := len(b.t.Pieces) - 1; last >= 0 && b.t.Pieces[last].Segment == n && o.From <= b.t.Pieces[last].To {
		r := &b.t.Pieces[last]
		r.To = max(r.To, o.To)
		r.Count++
		r.Bytes += size
		if modified.After(r.Newest) {
			r.Newest = modified
		}
		return
	}
	b.t.Pieces = append(b.t.Pieces, PieceRun{Segment: n, From: o.From, To: o.To, Count: 1, Bytes: size, Newest: modified})
}

// join appends the range that follows r at once.
func (r *SegmentRange) join(o SegmentRange) {
	r.Last, r.LastModified = o.Last, o.LastModified
	r.Bytes += o.Bytes
	if o.Oldest.Before(r.Oldest) {
		r.Oldest = o.Oldest
	}
	if o.Newest.After(r.Newest) {
		r.Newest = o.Newest
	}
}

// join appends what was listed behind t, by another lister.
func (t *TimelineWAL) join(o TimelineWAL) {
	rest := o.Ranges
	if last := len(t.Ranges) - 1; last >= 0 && len(rest) > 0 && t.Ranges[last].Last+1 == rest[0].First {
		t.Ranges[last].join(rest[0])
		rest = rest[1:]
	}
	t.Ranges = append(t.Ranges, rest...)
	t.Pieces = append(t.Pieces, o.Pieces...)
	t.Partials = append(t.Partials, o.Partials...)
	t.Backups = append(t.Backups, o.Backups...)
	t.HasHistory = t.HasHistory || o.HasHistory
	t.Forgotten += o.Forgotten
	t.Objects += o.Objects
	t.Bytes += o.Bytes
	if o.Newest.After(t.Newest) {
		t.Newest = o.Newest
	}
}
