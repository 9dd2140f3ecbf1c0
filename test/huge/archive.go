package huge

import (
	"path"
	"slices"
	"sort"
	"strings"
	"time"

	"pgstow/catalog"
	"pgstow/storage/object"
	"pgstow/wal"
)

// Archive is the WAL of one timeline: Count segments from First on, but for the Holes. It is Names.
type Archive struct {
	Ref         catalog.ClusterRef
	Timeline    wal.TimelineID
	SegmentSize wal.SegmentSize
	First       wal.SegmentNumber
	Count       int // of segments that are there
	Holes       []Gap
	Pieces      int       // of the segment behind the last one
	Begin       time.Time // when the first was stored; the others follow at Step
	Step        time.Duration
}

// Gap is a run of segments that are not there. Gaps are ascending and apart.
type Gap struct {
	First wal.SegmentNumber
	Count int
}

// PieceBytes is how much of its segment each piece has.
const PieceBytes = 8192

// Number of the segment at place i.
func (a *Archive) Number(i int) wal.SegmentNumber {
	n := a.First + wal.SegmentNumber(i)
	for _, h := range a.Holes {
		if n >= h.First {
			n += wal.SegmentNumber(h.Count)
		}
	}
	return n
}

// Len is Names.
func (a *Archive) Len() int { return a.Count + a.Pieces }

// Key is Names.
func (a *Archive) Key(i int) string {
	if i < a.Count {
		return a.Ref.WALKey(wal.SegmentName(a.Timeline, a.Number(i), a.SegmentSize), "")
	}
	n := a.Number(a.Count-1) + 1
	from := a.SegmentSize.Start(n) + wal.LSN(i-a.Count)*PieceBytes
	return a.Ref.PieceKey(wal.SegmentName(a.Timeline, n, a.SegmentSize), from, from+PieceBytes)
}

// Modified is Names.
func (a *Archive) Modified(i int) time.Time { return a.Begin.Add(time.Duration(i) * a.Step) }

// Body is Names: a small object whose header tells of a segment in which a transaction committed when it was stored.
func (a *Archive) Body(i int) []byte {
	name := path.Base(a.Key(i))
	h := object.Header{Kind: object.KindWAL, Name: name, SystemID: a.Ref.SystemID, Timeline: uint32(a.Timeline), LastCommit: a.Modified(i).UnixMicro()}
	h.FirstCommit = h.LastCommit
	if i >= a.Count {
		h.Kind = object.KindPiece
	}
	body, err := object.EncodeAll(object.WriterOptions{}, h, []byte(name))
	if err != nil {
		panic(err) // a mistake in this function
	}
	return body
}

// End is the end of the last piece, or of the last segment.
func (a *Archive) End() wal.LSN {
	return a.SegmentSize.Start(a.Number(a.Count-1)+1) + wal.LSN(a.Pieces)*PieceBytes
}

// Joined are the names of several archives in the order of their keys. The archives do not overlap.
type Joined struct {
	parts []Names
	ends  []int
}

// Join puts archives together; those of a later timeline come last.
func Join(parts ...Names) *Joined {
	slices.SortFunc(parts, func(a, b Names) int { return strings.Compare(a.Key(0), b.Key(0)) })
	j := &Joined{parts: parts}
	n := 0
	for _, p := range parts {
		n += p.Len()
		j.ends = append(j.ends, n)
	}
	return j
}

func (j *Joined) part(i int) (Names, int) {
	p := sort.Search(len(j.ends), func(p int) bool { return j.ends[p] > i })
	if p > 0 {
		i -= j.ends[p-1]
	}
	return j.parts[p], i
}

// Len is Names.
func (j *Joined) Len() int { return j.ends[len(j.ends)-1] }

// Key is Names.
func (j *Joined) Key(i int) string { p, n := j.part(i); return p.Key(n) }

// Modified is Names.
func (j *Joined) Modified(i int) time.Time { p, n := j.part(i); return p.Modified(n) }

// Body is Names.
func (j *Joined) Body(i int) []byte { p, n := j.part(i); return p.Body(n) }
