package receive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/object"
	"pgstow/wal"
)

// plan says where a stream begins: always at the beginning of a segment, since a full segment needs all of its bytes.
type plan struct {
	timeline wal.TimelineID
	segment  wal.SegmentNumber
	pieces   []catalog.WALObject // of that segment, which the archive has
	leftover []string            // keys of pieces of segments that are stored in full
	// fork is where the timeline begins, if that is within the segment, else 0. What is before is the WAL of its parent, of which the
	// archive may have more than a part that ends before the fork; recovery would read that part and end in it.
	fork wal.LSN
	// before is the segment before, if the archive has it in full: what comes must go on from it.
	before wal.FileName
	joins  bool // there is one
}

// planner finds the end of the archive on the way to the server's timeline.
type planner struct {
	repo    *catalog.Repository
	ref     catalog.ClusterRef
	size    wal.SegmentSize
	history wal.History // of the server's timeline
}

// timelineOf is the timeline under whose name a segment is on that way.
func (p *planner) timelineOf(n wal.SegmentNumber) wal.TimelineID {
	return p.history.TimelineOfSegment(n, p.size)
}

// plan decides where to go on. base is the first segment that the server is bound to have (by the slot); floor is one before which it is
// known to have none.
//
// That is the end of what is stored without a gap: the first segment at or behind base that is not stored; or, if not even the one before
// base is, the first one behind the last that is, in the hope that the server still has it. An empty archive begins at base.
func (p *planner) plan(ctx context.Context, base, floor wal.SegmentNumber) (plan, error) {
	base = max(base, floor)
	near, err := p.near(ctx, base)
	if err != nil {
		return plan{}, err
	}
	n := base
	for near.full[n] {
		n++
	}
	joins := n > 0 && near.full[n-1]
	if n == base && base > floor && !near.full[base-1] {
		last, ok, err := p.lastBefore(ctx, base)
		if err != nil {
			return plan{}, err
		}
		if ok && last+1 < base {
			n = max(last+1, floor)
			joins = n == last+1
		}
	}
	out := plan{timeline: p.timelineOf(n), segment: n, joins: joins}
	if joins {
		out.before = wal.SegmentName(p.timelineOf(n-1), n-1, p.size)
	}
	if begin, ok := p.history.Begin(out.timeline); ok && begin > p.size.Start(n) {
		out.fork = begin
	}
	if n < base {
		// What lies between is not stored as a whole; pieces of this one may be.
		if near, err = p.near(ctx, n); err != nil {
			return plan{}, err
		}
	}
	for _, o := range near.pieces {
		switch m := o.Name.Number(p.size); {
		case m == n:
			out.pieces = append(out.pieces, o)
		case near.full[m]:
			out.leftover = append(out.leftover, p.ref.PieceKey(o.Name, o.From, o.To))
		}
	}
	return out, nil
}

// listed is what the archive has from one segment on, on the way to the server's timeline.
type listed struct {
	full   map[wal.SegmentNumber]bool
	pieces []catalog.WALObject
}

// near lists the archive from the segment before n on: a segment's pieces that were forgotten lie there.
func (p *planner) near(ctx context.Context, n wal.SegmentNumber) (listed, error) {
	out := listed{full: map[wal.SegmentNumber]bool{}}
	from := n
	if from > 0 {
		from--
	}
	for _, e := range p.history {
		if e.Timeline < p.timelineOf(from) {
			continue
		}
		after := ""
		if p.timelineOf(from) == e.Timeline {
			after = p.ref.WALKey(wal.SegmentName(e.Timeline, from, p.size), "")
			after = after[:len(after)-1] // before the key itself
		}
		for info, err := range p.repo.Store.List(ctx, p.ref.TimelinePrefix(e.Timeline), after) {
			if err != nil {
				return out, fmt.Errorf("list the archive: %w", err)
			}
			o, ok := catalog.ParseWALKey(p.ref, info.Key)
			if !ok || o.Name.CheckSize(p.size) != nil {
				continue
			}
			m := o.Name.Number(p.size)
			if m < from || p.timelineOf(m) != e.Timeline {
				continue
			}
			switch o.Kind {
			case catalog.WALSegment:
				out.full[m] = true
			case catalog.WALPiece:
				out.pieces = append(out.pieces, o)
			}
		}
	}
	return out, nil
}

// lastBefore is the last full segment before n on the way. It lists the whole archive, once: nothing near n is stored.
func (p *planner) lastBefore(ctx context.Context, n wal.SegmentNumber) (last wal.SegmentNumber, ok bool, err error) {
	index, err := p.repo.ListWAL(ctx, p.ref, p.size)
	if err != nil {
		return 0, false, err
	}
	for i := len(p.history) - 1; i >= 0 && !ok; i-- {
		e := p.history[i]
		begin, _ := p.history.Begin(e.Timeline)
		first := p.size.SegmentOf(begin)
		end := n // exclusive
		if i+1 < len(p.history) {
			end = min(end, p.size.SegmentOf(e.End))
		}
		for _, r := range index.Timeline(e.Timeline).Ranges {
			if r.First >= end || r.Last < first {
				continue
			}
			last, ok = max(last, min(r.Last, end-1)), true
		}
	}
	return last, ok, nil
}

// headers reads the headers of pieces, to compare their bytes with what arrives. One that has gone meanwhile is left out, and one that is
// no sound object is none.
func headers(ctx context.Context, repo *catalog.Repository, ref catalog.ClusterRef, pieces []catalog.WALObject, tell func(Event)) ([]storedPiece, error) {
	var mu sync.Mutex
	var out []storedPiece
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for _, o := range pieces {
		key := ref.PieceKey(o.Name, o.From, o.To)
		group.Go(func() error {
			b, info, err := storage.ReadRange(ctx, repo.Store, key, storage.Range{Length: object.HeaderSize}, object.HeaderSize)
			if errors.Is(err, storage.ErrNotExist) {
				return nil
			}
			if err != nil && !errors.Is(err, storage.ErrRange) {
				return fmt.Errorf("look at a stored piece: %w", err)
			}
			h, err := object.ParseHeader(b)
			if err != nil || h.Kind != object.KindPiece || h.From != uint64(o.From) || h.To != uint64(o.To) || h.PlainSize != int64(o.To-o.From) ||
				h.StoredSize != info.Size {
				tell(NoteEvent{Text: fmt.Sprintf("%s is no sound piece, and does not count", key)})
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			out = append(out, storedPiece{key: key, from: o.From, to: o.To, header: h})
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(out, func(a, b storedPiece) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to)) })
	return out, nil
}

// sweep deletes pieces that an earlier receiver of this host has left behind when it died between storing the segment and deleting them.
// Others' are left: they may be the only trace of a split brain.
func sweep(ctx context.Context, repo *catalog.Repository, host string, keys []string, tell func(Event)) {
	var own []string
	for _, key := range keys {
		b, _, err := storage.ReadRange(ctx, repo.Store, key, storage.Range{Length: object.HeaderSize}, object.HeaderSize)
		if err != nil {
			continue // the next receiver finds it
		}
		if h, err := object.ParseHeader(b); err == nil && h.Host == host {
			own = append(own, key)
		}
	}
	if len(own) == 0 {
		return
	}
	if err := repo.Store.Delete(ctx, own...); err != nil {
		tell(NoteEvent{Text: "pieces of a stored segment could not be deleted, and stay: " + err.Error()})
		return
	}
	tell(DeletedEvent{Pieces: len(own)})
}
