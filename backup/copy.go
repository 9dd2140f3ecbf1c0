package backup

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"pgstow/backup/pagemap"
	"pgstow/backup/source"
	"pgstow/catalog"
	"pgstow/storage/object"
	"pgstow/wal"
	"pgstow/wal/pgcontrol"
)

// copier copies the files of a data directory into packs.
type copier struct {
	o       CreateOptions
	report  *reporter
	source  source.Options
	control pgcontrol.Control
	// start LSN and limit are for telling torn pages from damaged ones.
	start wal.LSN
	limit func(context.Context) (wal.LSN, error)
	// ref is the backup to begin with; nil: a full backup, and why says why.
	ref *reference
	why string
	// streamed: files come from the server, once.
	streamed bool

	packs    *packStore
	collect  *collector
	manifest *catalog.ManifestWriter
	uploads  *errgroup.Group
}

// spareWriters is how many packs may be on their way to the store beyond those
// that workers fill.
const spareWriters = 2

// startCopy makes k, of which it is known what is copied and beside what, ready for use.
// copyCtx ends when an upload fails: the copy must run in it. After end nothing goes on
// behind our back.
func (c *creation) startCopy(ctx context.Context, k *copier) (copyCtx context.Context, end func(), err error) {
	k.o, k.report, k.control = c.o, c.report, c.control
	if k.manifest, err = c.repo.NewManifestWriter(c.ref, c.id); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	k.uploads, ctx = errgroup.WithContext(ctx)
	header := object.Header{
		Timeline: uint32(c.control.Timeline), Host: c.o.Host, DataDirectory: k.source.Root, Program: c.o.Program,
	}
	if k.packs, err = newPackStore(ctx, c.repo, c.ref, c.id, header, c.o.Level, c.o.Workers+spareWriters, k.uploads); err != nil {
		cancel()
		return nil, nil, err
	}
	k.collect = &collector{
		packs: k.packs, sink: k.manifest, emit: c.report.emit, live: make(map[pagemap.PackRef]int64),
		pageSize: int(c.control.BlockSize), hold: c.o.WAL == WALInclude,
		ref: k.ref, cache: c.cache, lentBy: make(map[int]bool), mapBytes: make(map[int]int64),
	}
	if k.ref != nil {
		for _, p := range k.ref.packs { // what changes is counted from here on
			k.collect.live[pagemap.PackRef{Backup: p.Backup, Pack: uint32(p.N)}] = p.LivePages
		}
	}
	c.report.stored = k.packs.stored.Load
	return ctx, func() {
		cancel()
		_ = k.uploads.Wait() // whatever it says: what counts was waited for before
	}, nil
}

// run reads everything but pg_control. When it returns without an error all lines
// are written but those that are held back; packs may still be on their way.
func (c *copier) run(ctx context.Context) error {
	if c.ref == nil {
		if err := c.pass(ctx, readAll(c.walk(ctx)), true); err != nil {
			return err
		}
		return c.collect.maps.close(c.collect)
	}
	return c.incremental(ctx)
}

// walk visits the data directory.
func (c *copier) walk(ctx context.Context) iter.Seq2[source.Entry, error] {
	return func(yield func(source.Entry, error) bool) {
		for e, err := range source.Walk(ctx, c.source) {
			if err != nil {
				err = fmt.Errorf("walk the data directory: %w", err)
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// incremental reads what changed since the reference, and then, when it is known what
// of the older packs is still used, the rest of those that are not worth being kept.
func (c *copier) incremental(ctx context.Context) (err error) {
	p, err := newPending(c.o.TempDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	c.collect.pending = p
	if err := c.pass(ctx, c.ref.join(ctx, c.walk(ctx)), true); err != nil {
		return err
	}
	c.collect.pending = nil
	if err := c.pass(ctx, c.ref.again(ctx, p.each, c.collect.notWorth()), false); err != nil {
		return err
	}
	return c.collect.maps.close(c.collect)
}

// pass does what the items say, with all workers, and collects it in their order.
func (c *copier) pass(ctx context.Context, items iter.Seq2[item, error], measure bool) error {
	ctx, cancel := context.WithCancel(ctx)
	var measured sync.WaitGroup
	defer measured.Wait()
	defer cancel()
	if measure {
		from := c.source
		measured.Go(func() { c.report.measure(ctx, from) })
	}
	plan := func(ctx context.Context, jobs, order chan<- *job, idle <-chan *job) error {
		return c.plan(ctx, items, jobs, order, idle)
	}
	return c.work(ctx, plan, func(*job) {})
}

// work does the jobs that plan hands out, with all workers, and collects them in the
// order of order. A worker calls done when it has done one.
func (c *copier) work(ctx context.Context, plan func(ctx context.Context, jobs, order chan<- *job, idle <-chan *job) error, done func(*job)) error {
	group, ctx := errgroup.WithContext(ctx)
	jobs := make(chan *job)
	order := make(chan *job, 2*c.o.Workers) // bounds the results that wait
	idle := make(chan *job, 4*c.o.Workers+2)
	group.Go(func() error {
		defer close(jobs)
		defer close(order)
		return plan(ctx, jobs, order, idle)
	})
	shared := c.reader()
	for range c.o.Workers {
		group.Go(func() error {
			w := newWorker(shared)
			for j := range jobs {
				if err := w.run(ctx, j); err != nil {
					return err
				}
				done(j)
				j.done <- struct{}{}
			}
			if err := context.Cause(ctx); err != nil {
				return err
			}
			return w.close()
		})
	}
	group.Go(func() error { return c.gather(ctx, order, idle) })
	return group.Wait()
}

func (c *copier) reader() *reader {
	size := int(c.control.BlockSize)
	r := &reader{
		fs: c.o.FS, packs: c.packs, onRead: c.report.read, onPass: c.report.pass,
		pageSize: size, relSeg: c.control.RelSegSize, zeroHash: pagemap.Hash(make([]byte, size)),
		check: &source.Checker{
			PageSize: size, Checksums: c.control.DataChecksumVersion != 0, Start: c.start, Limit: c.limit,
			Once: c.streamed,
		},
	}
	if c.o.RateLimit > 0 {
		r.limiter = rate.NewLimiter(rate.Limit(c.o.RateLimit), max(frameSize, size))
	}
	return r
}

// plan hands out jobs in the order of the items.
func (c *copier) plan(ctx context.Context, items iter.Seq2[item, error], jobs, order chan<- *job, idle <-chan *job) error {
	limits := planLimits{pageSize: int64(c.control.BlockSize), plain: jobPlain, least: frameSize, parts: maxParts}
	get := func() *job {
		select {
		case j := <-idle:
			return j
		default:
			return newJob()
		}
	}
	for j, err := range planJobs(items, limits, get) {
		if err != nil {
			return err
		}
		for _, to := range []chan<- *job{order, jobs} {
			select {
			case to <- j:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	return nil
}

// maxParts bounds the small files of one job.
const maxParts = 2048

// gather takes the results in the order of the walk.
func (c *copier) gather(ctx context.Context, order <-chan *job, idle chan<- *job) error {
	for j := range order {
		select {
		case <-j.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := c.collect.job(ctx, j); err != nil {
			return err
		}
		j.reset()
		select {
		case idle <- j:
		default:
		}
	}
	return nil
}

// storeControl reads pg_control, after every other file, and stores it.
func (c *copier) storeControl(ctx context.Context) (pgcontrol.Control, []byte, error) {
	control, b, err := readControl(ctx, c.o.FS, c.source.Root)
	if err != nil {
		return control, nil, err
	}
	if control.SystemID != c.control.SystemID {
		return control, nil, fmt.Errorf("pg_control is of another cluster than at the beginning")
	}
	c.report.read(int64(len(b)), 1)
	return control, b, c.collect.storeControl(ctx, b)
}

// finish waits for the uploads and completes the pack table.
func (c *copier) finish() error {
	if err := c.uploads.Wait(); err != nil {
		return err
	}
	return c.collect.finish()
}

// versionDir is the name of this server's folder inside tablespaces
// (TABLESPACE_VERSION_DIRECTORY).
func versionDir(major int, c pgcontrol.Control) string {
	return fmt.Sprintf("PG_%d_%d", major, c.CatalogVersion)
}

// tablespacesOf is the form in which the manifest names tablespaces.
func tablespacesOf(list []source.Tablespace) []catalog.Tablespace {
	var out []catalog.Tablespace
	for _, t := range list {
		out = append(out, catalog.Tablespace{
			OID: t.OID, Path: fmt.Sprintf("pg_tblspc/%d", t.OID), Location: t.Location, InPlace: t.InPlace,
		})
	}
	return out
}

func walDir(dir string) string { return filepath.Join(dir, "pg_wal") }
