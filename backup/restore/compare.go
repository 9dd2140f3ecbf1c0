package restore

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"pgstow/backup/pagemap"
	"pgstow/catalog"
)

// differ compares files with what the manifest says of them, several at a time, and collects what must be fetched.
type differ struct {
	e       *engine
	maps    sync.Pool
	group   *errgroup.Group
	ctx     context.Context
	compare bool // the directory may hold some of it
	dry     bool // only count

	mu      sync.Mutex
	runs    []run
	packs   map[uint32]bool // that would be read; in a dry run
	pending int64           // bytes that runs stand for
	kept    int64           // bytes that are there
	seen    int64           // bytes compared
}

func (e *engine) newDiffer(ctx context.Context, dry bool) *differ {
	d := &differ{e: e, compare: e.compare, dry: dry, packs: make(map[uint32]bool)}
	d.maps.New = func() any { return new(pagemap.Map) }
	d.begin(ctx)
	return d
}

// begin starts a batch; group.Wait ends it.
func (d *differ) begin(ctx context.Context) {
	d.group, d.ctx = errgroup.WithContext(ctx)
	d.group.SetLimit(runtime.GOMAXPROCS(0))
}

// blobs drops the runs of files that are there already. The others come first.
func (d *differ) blobs(ctx context.Context, runs []run) error {
	same := make(map[fileID]bool)
	if d.compare {
		for id, sum := range d.e.digests {
			if err := ctx.Err(); err != nil {
				return err
			}
			if d.e.w.isControl(id) {
				continue
			}
			ok, err := d.e.w.keepBlob(id, sum)
			if err != nil {
				return fmt.Errorf("%s: %w", d.e.table.path(id), err)
			}
			if ok {
				state := d.e.table.state(id)
				same[id] = true
				d.kept += state.size
				state.pending.Store(0)
			}
		}
	}
	for _, r := range runs {
		if !same[r.file] {
			d.add([]run{r})
		}
	}
	return nil
}

// add takes runs in. The caller holds mu, or is alone.
func (d *differ) add(runs []run) {
	for _, r := range runs {
		d.pending += int64(r.length)
		if d.dry {
			d.packs[r.pack] = true
		}
	}
	if !d.dry {
		d.runs = append(d.runs, runs...)
	}
}

// file takes a relation's file with its map, which it owns from now on.
func (d *differ) file(id fileID, m *pagemap.Map) error {
	if !d.compare {
		defer d.maps.Put(m)
		return d.finish(id, m, comparison{}, nil)
	}
	d.group.Go(func() error {
		defer d.maps.Put(m)
		if err := d.ctx.Err(); err != nil {
			return err
		}
		c, err := d.e.w.comparePages(id, m, d.e.pageSize)
		if err == nil && !d.dry {
			err = d.e.w.mend(id, c, d.e.pageSize)
		}
		if err = d.finish(id, m, c, err); err != nil {
			return fmt.Errorf("%s: %w", d.e.table.path(id), err)
		}
		return nil
	})
	return nil
}

func (d *differ) finish(id fileID, m *pagemap.Map, c comparison, err error) error {
	if err != nil {
		return err
	}
	runs, err := mapRuns(id, m, uint32(d.e.pageSize), c.kept, d.e.lookup, nil)
	if err != nil {
		return err
	}
	var pending int64
	for _, r := range runs {
		pending += int64(r.length)
	}
	d.e.table.state(id).pending.Store(pending)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.add(runs)
	d.kept += c.bytes
	d.seen += int64(len(c.kept)) * int64(d.e.pageSize)
	if d.compare {
		d.e.emit(CompareEvent{Bytes: d.seen})
	}
	return nil
}

// Compare finds out what of the data is already in the directory of a plan, and puts it into the plan's Delta. It reads all of
// the directory, and the page maps from the store, and writes nothing. A plan without --delta is not changed.
func Compare(ctx context.Context, repo *catalog.Repository, p *Planned, o RunOptions) error {
	if p.Delta == nil {
		return nil
	}
	r := &runner{repo: repo, plan: *p, options: o}
	if err := r.open(ctx); err != nil {
		return err
	}
	e, err := r.engine()
	if err != nil {
		return err
	}
	d := e.newDiffer(ctx, true)
	if err := d.blobs(ctx, e.blobs); err != nil {
		return err
	}
	if err := errors.Join(e.eachMap(ctx, d, func() error { return nil }), d.group.Wait()); err != nil {
		return err
	}
	delta := *p.Delta
	delta.Compared, delta.BytesKept, delta.BytesFetch, delta.Packs = true, d.kept, d.pending, len(d.packs)
	p.Delta = &delta
	return nil
}

// full reports whether there is enough for a round.
func (d *differ) full() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.runs) >= d.e.pieces
}

// take ends the batch, returns its runs and begins another one.
func (d *differ) take(ctx context.Context) ([]run, error) {
	err := d.group.Wait()
	runs := d.runs
	d.runs = nil
	d.begin(ctx)
	return runs, err
}
