package catalog

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"pgstow/wal"
)

const (
	// listSequential is how many keys of a timeline are listed before it is worth looking for its end.
	listSequential = 4000
	// listParallel is how many parts of a timeline are then listed at a time.
	listParallel = 8
)

// ListWAL lists the archive of a cluster. The names are enough; no object is read. The store is listed flat per timeline,
// which costs one request per 1000 objects; a long timeline is split at log ids and its parts are listed in parallel
// (RULES-archive D3). Memory grows with holes and pieces, not with segments.
func (r *Repository) ListWAL(ctx context.Context, ref ClusterRef, size wal.SegmentSize) (*WALIndex, error) {
	if err := ref.Check(); err != nil {
		return nil, err
	}
	if err := size.Check(); err != nil {
		return nil, err
	}
	x := &WALIndex{Ref: ref, SegmentSize: size}
	tlis, err := r.walTimelines(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("list WAL of %s: %w", ref, err)
	}
	for _, tli := range tlis {
		t, err := r.listTimeline(ctx, ref, tli, size)
		if err != nil {
			return nil, fmt.Errorf("list WAL of %s timeline %d: %w", ref, tli, err)
		}
		if t.Objects > 0 {
			x.Timelines = append(x.Timelines, t)
		}
	}
	return x, nil
}

// walTimelines jumps from one timeline's folder to the next.
func (r *Repository) walTimelines(ctx context.Context, ref ClusterRef) ([]wal.TimelineID, error) {
	var out []wal.TimelineID
	after := ""
	for {
		key, ok, err := firstKey(ctx, r.Store, ref.WALPrefix(), after)
		if err != nil || !ok {
			return out, err
		}
		folder, _, ok := strings.Cut(strings.TrimPrefix(key, ref.WALPrefix()), "/")
		if !ok {
			after = key
			continue
		}
		after = afterFolder(ref.WALPrefix() + folder + "/")
		if n, err := strconv.ParseUint(folder, 16, 32); err == nil && n > 0 && ref.TimelinePrefix(wal.TimelineID(n)) == ref.WALPrefix()+folder+"/" {
			out = append(out, wal.TimelineID(n))
		}
	}
}

func (r *Repository) listTimeline(ctx context.Context, ref ClusterRef, tli wal.TimelineID, size wal.SegmentSize) (TimelineWAL, error) {
	head, last, next, err := r.listPart(ctx, ref, tli, size, "", "", listSequential)
	if err != nil || next == "" {
		return head, err
	}
	from, ok := logOf(ref, tli, next)
	if !ok {
		return head, fmt.Errorf("key %s is in no folder of a log", next)
	}
	end, err := r.lastLog(ctx, ref, tli, from)
	if err != nil {
		return head, err
	}
	// The first part goes on behind the last key; the others begin at a log id of their own.
	bounds := []string{last}
	for i := uint64(1); i < listParallel; i++ {
		log := uint64(from) + (uint64(end)-uint64(from)+1)*i/listParallel
		if b := partStart(ref, tli, uint32(log)); log > uint64(from) && b != bounds[len(bounds)-1] {
			bounds = append(bounds, b)
		}
	}
	parts := make([]TimelineWAL, len(bounds))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(listParallel)
	for i, after := range bounds {
		before := ""
		if i+1 < len(bounds) {
			before = bounds[i+1]
		}
		group.Go(func() error {
			var err error
			parts[i], _, _, err = r.listPart(gctx, ref, tli, size, after, before, 0)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return head, err
	}
	for _, p := range parts {
		head.join(p)
	}
	return head, nil
}

// partStart is a List position: all keys of log ids below log are at or before it, all others behind. It is no key: a
// folder's name without its slash.
func partStart(ref ClusterRef, tli wal.TimelineID, log uint32) string {
	return strings.TrimSuffix(ref.LogPrefix(tli, log), "/")
}

// listPart lists the keys behind after and up to before ("" for the end), some limit of them (0: all). last is the last
// key that it took; next, if the limit ended it, the one behind.
func (r *Repository) listPart(ctx context.Context, ref ClusterRef, tli wal.TimelineID, size wal.SegmentSize, after, before string, limit int) (t TimelineWAL, last, next string, err error) {
	b := timelineBuilder{t: TimelineWAL{Timeline: tli}, size: size, ref: ref}
	n := 0
	for info, err := range r.Store.List(ctx, ref.TimelinePrefix(tli), after) {
		if err != nil {
			return b.t, last, "", err
		}
		if before != "" && info.Key > before {
			break
		}
		// A limit may not separate a segment from its pieces, which follow it.
		if limit > 0 && n >= limit && isSegmentKey(info.Key) {
			return b.t, last, info.Key, nil
		}
		b.add(info.Key, info.Size, info.Modified)
		last = info.Key
		n++
	}
	return b.t, last, "", nil
}

func isSegmentKey(key string) bool {
	return len(key)-strings.LastIndexByte(key, '/')-1 == segmentNameLength
}

// logOf is the log id in whose folder a key lies.
func logOf(ref ClusterRef, tli wal.TimelineID, key string) (uint32, bool) {
	folder, _, _ := strings.Cut(strings.TrimPrefix(key, ref.TimelinePrefix(tli)), "/")
	n, err := strconv.ParseUint(folder, 16, 32)
	return uint32(n), err == nil && len(folder) == 8
}

// lastLog finds the greatest log id of a timeline, by doubling steps and then halving them: some twenty jumps.
func (r *Repository) lastLog(ctx context.Context, ref ClusterRef, tli wal.TimelineID, from uint32) (uint32, error) {
	const top = uint64(1) << 32
	// next is the smallest log id at or above n that has keys.
	next := func(n uint64) (uint32, bool, error) {
		if n >= top {
			return 0, false, nil
		}
		after := partStart(ref, tli, uint32(n))
		for {
			key, ok, err := firstKey(ctx, r.Store, ref.TimelinePrefix(tli), after)
			if err != nil || !ok {
				return 0, false, err
			}
			if log, ok := logOf(ref, tli, key); ok {
				return log, true, nil
			}
			after = key // the history file
		}
	}
	low, high := uint64(from), top // there are keys at low, none at or above high
	for step := uint64(16); low+step < high; step *= 2 {
		log, ok, err := next(low + step)
		if err != nil {
			return 0, err
		}
		if !ok {
			high = low + step
			break
		}
		low = uint64(log)
	}
	for low+1 < high {
		mid := low + (high-low)/2
		log, ok, err := next(mid)
		if err != nil {
			return 0, err
		}
		if ok {
			low = uint64(log)
		} else {
			high = mid
		}
	}
	return uint32(low), nil
}
