package catalog

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"pgstow/wal"
)

const (
	// listSequential is how many keys of a timeline are listed before it is worth looking for its end.
	listSequential = 4000
	// listParallel is how many lists of a cluster are under way at a time.
	listParallel = 16
	// listParts is into how many parts a timeline is cut at most. More than are listed at a time, so that unequal ones even
	// out; each costs one request more than its share.
	listParts = 32
)

// ListWAL lists the archive of a cluster. The names are enough; no object is read. The store is listed flat per timeline,
// which costs one request per 1000 objects; a long timeline is cut at log ids and its parts are listed in parallel
// (RULES-archive D3), and so are the timelines. Memory grows with holes and incomplete segments, not with segments.
func (r *Repository) ListWAL(ctx context.Context, ref ClusterRef, size wal.SegmentSize) (*WALIndex, error) {
	if err := ref.Check(); err != nil {
		return nil, err
	}
	if err := size.Check(); err != nil {
		return nil, err
	}
	tlis, err := r.WALTimelines(ctx, ref)
	if err != nil {
		return nil, err
	}
	found := make([]TimelineWAL, len(tlis))
	slots := make(chan struct{}, listParallel)
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(listParallel)
	for i, tli := range tlis {
		l := walLister{r: r, ref: ref, tli: tli, size: size, slots: slots}
		group.Go(func() (err error) {
			if found[i], err = l.timeline(gctx); err != nil {
				return fmt.Errorf("list WAL of %s timeline %d: %w", ref, tli, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	x := &WALIndex{Ref: ref, SegmentSize: size}
	for _, t := range found {
		if t.Objects > 0 {
			x.Timelines = append(x.Timelines, t)
		}
	}
	return x, nil
}

// WALTimelines lists the timelines of which the archive has anything, ascending. It jumps from one to the next, which costs
// one short request each.
func (r *Repository) WALTimelines(ctx context.Context, ref ClusterRef) ([]wal.TimelineID, error) {
	var out []wal.TimelineID
	after := ""
	for {
		key, ok, err := firstKey(ctx, r.Store, ref.WALPrefix(), after)
		if err != nil {
			return nil, fmt.Errorf("list WAL of %s: %w", ref, err)
		}
		if !ok {
			return out, nil
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

// walLister lists one timeline.
type walLister struct {
	r     *Repository
	ref   ClusterRef
	tli   wal.TimelineID
	size  wal.SegmentSize
	slots chan struct{} // bounds the lists under way
}

// acquire waits for a slot. A goroutine that holds one waits for nothing but the store.
func (l *walLister) acquire(ctx context.Context) (release func(), err error) {
	select {
	case l.slots <- struct{}{}:
		return func() { <-l.slots }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (l *walLister) timeline(ctx context.Context) (TimelineWAL, error) {
	head, last, next, err := l.part(ctx, "", "", listSequential)
	if err != nil || next == "" {
		return head, err
	}
	from, ok := l.logOf(next)
	if !ok {
		return head, fmt.Errorf("key %s is in no folder of a log", next)
	}
	end, err := l.endOfLogs(ctx, from)
	if err != nil {
		return head, err
	}
	// The first part goes on behind the last key; the others begin at a log id of their own.
	bounds := []string{last}
	perLog := uint64(l.size.PerLog())
	count := min(listParts, (end-uint64(from))*perLog/listSequential)
	for i := uint64(1); i < count; i++ {
		if log := uint64(from) + (end-uint64(from))*i/count; log > uint64(from) {
			bounds = append(bounds, l.start(uint32(log)))
		}
	}
	bounds = slices.Compact(bounds)
	parts := make([]TimelineWAL, len(bounds))
	group, gctx := errgroup.WithContext(ctx)
	for i, after := range bounds {
		before := ""
		if i+1 < len(bounds) {
			before = bounds[i+1]
		}
		group.Go(func() (err error) {
			parts[i], _, _, err = l.part(gctx, after, before, 0)
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

// start is a List position: all keys of log ids below log are at or before it, all others behind. It is no key: a folder's
// name without its slash.
func (l *walLister) start(log uint32) string {
	return strings.TrimSuffix(l.ref.LogPrefix(l.tli, log), "/")
}

// part lists the keys behind after and up to before ("" for the end), some limit of them (0: all). last is the last key that
// it took; next, if the limit ended it, the one behind.
func (l *walLister) part(ctx context.Context, after, before string, limit int) (t TimelineWAL, last, next string, err error) {
	b := timelineBuilder{t: TimelineWAL{Timeline: l.tli}, size: l.size, ref: l.ref}
	release, err := l.acquire(ctx)
	if err != nil {
		return b.t, "", "", err
	}
	defer release()
	n := 0
	for info, err := range l.r.Store.List(ctx, l.ref.TimelinePrefix(l.tli), after) {
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
func (l *walLister) logOf(key string) (uint32, bool) {
	folder, _, _ := strings.Cut(strings.TrimPrefix(key, l.ref.TimelinePrefix(l.tli)), "/")
	n, err := strconv.ParseUint(folder, 16, 32)
	return uint32(n), err == nil && len(folder) == 8
}

// allLogs is one more than the greatest log id.
const allLogs = uint64(1) << 32

// endOfLogs finds a log id behind all keys of the timeline, which may be some percent too far: it serves to cut the rest
// into parts. Two rounds of parallel jumps, each of which asks for one key: by powers of four from a log id that has keys,
// then evenly in the gap.
func (l *walLister) endOfLogs(ctx context.Context, from uint32) (uint64, error) {
	var steps []uint64
	for step := uint64(16); uint64(from)+step < allLogs; step *= 4 {
		steps = append(steps, uint64(from)+step)
	}
	low, high, err := l.between(ctx, uint64(from), allLogs, steps)
	if err != nil {
		return 0, err
	}
	steps = nil
	const parts = 9
	for i := uint64(1); i < parts; i++ {
		if step := low + (high-low)*i/parts; step > low {
			steps = append(steps, step)
		}
	}
	_, high, err = l.between(ctx, low, high, slices.Compact(steps))
	return high, err
}

// between narrows the gap where the logs end: there are keys at low, none at or above high. steps ascend between the two.
func (l *walLister) between(ctx context.Context, low, high uint64, steps []uint64) (uint64, uint64, error) {
	found := make([]uint64, len(steps)) // the smallest log id at or above each step that has keys; 0: none
	group, gctx := errgroup.WithContext(ctx)
	for i, step := range steps {
		group.Go(func() error {
			log, ok, err := l.nextLog(gctx, step)
			if ok {
				found[i] = uint64(log)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return 0, 0, err
	}
	for i, log := range found {
		if log == 0 { // no key is asked for at log id 0
			return low, steps[i], nil
		}
		low = max(low, log)
	}
	return low, high, nil
}

// nextLog is the smallest log id at or above n that has keys.
func (l *walLister) nextLog(ctx context.Context, n uint64) (uint32, bool, error) {
	release, err := l.acquire(ctx)
	if err != nil {
		return 0, false, err
	}
	defer release()
	after := l.start(uint32(n))
	for {
		key, ok, err := firstKey(ctx, l.r.Store, l.ref.TimelinePrefix(l.tli), after)
		if err != nil || !ok {
			return 0, false, err
		}
		if log, ok := l.logOf(key); ok {
			return log, true, nil
		}
		after = key // the history file
	}
}
