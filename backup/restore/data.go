package restore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"pgstow/backup/pagemap"
	"pgstow/catalog"
)

// defaultMemory bounds the buffers of all workers, in bytes.
const defaultMemory = 96 << 20

// engine writes the contents of all files.
type engine struct {
	*content
	w        *writer
	reader   func() *packReader
	pageSize int
	compare  bool // the directory may hold some of it already
	workers  int
	memory   int64
	pieces   int
	emit     func(Event)

	received atomic.Int64
	written  atomic.Int64
	done     atomic.Int64 // packs
	kept     int64
	total    int64
}

// run restores all files in rounds of at most about e.pieces pieces.
func (e *engine) run(ctx context.Context) error {
	if e.pieces <= 0 {
		e.pieces = maxRuns
	}
	d := e.newDiffer(ctx, false)
	rounds := 0
	flush := func() error {
		runs, err := d.take(ctx)
		if err != nil {
			return err
		}
		if e.total, e.kept = d.pending, d.kept; rounds == 0 && e.compare {
			e.emit(ResumeEvent{KeptBytes: d.kept, FetchBytes: d.pending})
		}
		rounds++
		return e.round(ctx, runs)
	}
	if err := d.blobs(ctx, e.blobs); err != nil {
		return err
	}
	e.blobs = nil
	err := e.eachMap(ctx, d, func() error {
		if !d.full() {
			return nil
		}
		return flush()
	})
	if err != nil {
		return errors.Join(err, ignoreCancelled(d.group.Wait()))
	}
	if err := flush(); err != nil {
		return err
	}
	return e.rest(ctx)
}

// ignoreCancelled drops an error that only follows from another one.
func ignoreCancelled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (e *engine) lookup(ref pagemap.PackRef) (uint32, bool) {
	i, ok := e.byRef[ref]
	return i, ok
}

// eachMap decodes the page maps, pack by pack, and hands them to d; after each it calls next.
func (e *engine) eachMap(ctx context.Context, d *differ, next func() error) error {
	maps := e.maps
	e.maps = nil
	slices.SortFunc(maps, func(a, b mapOf) int {
		return compareRuns(run{pack: uint32(a.ref.Pack), frame: uint32(a.ref.Frame), offset: int64(a.ref.Offset)},
			run{pack: uint32(b.ref.Pack), frame: uint32(b.ref.Frame), offset: int64(b.ref.Offset)})
	})
	reader := e.reader()
	for len(maps) > 0 {
		n := 1
		for n < len(maps) && maps[n].ref.Pack == maps[0].ref.Pack {
			n++
		}
		pack, here := e.packs[maps[0].ref.Pack], maps[:n]
		var wanted []uint32
		for _, at := range here {
			if f := uint32(at.ref.Frame); len(wanted) == 0 || wanted[len(wanted)-1] != f {
				wanted = append(wanted, f)
			}
		}
		err := reader.frames(ctx, pack, wanted, func(frame uint32, plain []byte) error {
			for len(here) > 0 && uint32(here[0].ref.Frame) == frame {
				at := here[0]
				here = here[1:]
				m := d.maps.Get().(*pagemap.Map)
				if err := e.decodeMap(m, at, pack, plain); err != nil {
					return err
				}
				if err := d.file(at.file, m); err != nil {
					return fmt.Errorf("%s: %w", e.table.path(at.file), err)
				}
				if err := next(); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		maps = maps[n:]
	}
	return nil
}

func (e *engine) decodeMap(m *pagemap.Map, at mapOf, pack catalog.PackEntry, plain []byte) error {
	file := e.table.path(at.file)
	if at.ref.Offset > len(plain) || at.ref.Length > len(plain)-at.ref.Offset {
		return &CorruptError{Key: pack.Key(e.header.Ref()), Err: fmt.Errorf("the page map of %s lies beyond its frame", file)}
	}
	if err := m.Decode(plain[at.ref.Offset : at.ref.Offset+at.ref.Length]); err != nil {
		return &CorruptError{Key: pack.Key(e.header.Ref()), Err: fmt.Errorf("page map of %s: %w", file, err)}
	}
	if size := e.table.state(at.file).size; int64(m.Pages())*int64(e.pageSize) != size {
		return &CorruptError{Key: pack.Key(e.header.Ref()), Err: fmt.Errorf("page map of %s has %d pages, the file %d bytes", file, m.Pages(), size)}
	}
	return nil
}

// round restores these runs. It sorts them in place.
func (e *engine) round(ctx context.Context, runs []run) error {
	jobs := byPack(runs)
	e.emit(TotalsEvent{Files: e.table.len(), BytesWrite: e.total, Packs: int(e.done.Load()) + len(jobs)})
	var largest int64 = 1
	for _, j := range jobs {
		size := e.packs[j.pack].Size
		largest = max(largest, size)
	}
	group, gctx := errgroup.WithContext(ctx)
	queue := make(chan packRuns)
	group.Go(func() error {
		defer close(queue)
		for _, j := range jobs {
			select {
			case queue <- j:
			case <-gctx.Done():
				return gctx.Err()
			}
		}
		return nil
	})
	for range min(e.parallel(largest), max(len(jobs), 1)) {
		group.Go(func() error { return e.worker(gctx, queue) })
	}
	return group.Wait()
}

// parallel is how many packs are worked on at a time: while some are on their way from the store others are decoded, so
// it is twice the number of processors, if the buffers allow.
func (e *engine) parallel(largest int64) int {
	perPack := largest + 2<<20
	if e.reader().encrypted {
		perPack += largest
	}
	n := e.workers
	if n <= 0 {
		n = 2 * runtime.GOMAXPROCS(0)
	}
	memory := e.memory
	if memory <= 0 {
		memory = defaultMemory
	}
	return int(max(1, min(int64(n), memory/perPack)))
}

func (e *engine) worker(ctx context.Context, queue <-chan packRuns) (err error) {
	files, reader := e.w.openFiles(), e.reader()
	defer func() { err = errors.Join(err, files.close()) }()
	for job := range queue {
		if err := e.pack(ctx, job, reader, files); err != nil {
			return err
		}
		if err := files.close(); err != nil {
			return err
		}
		e.done.Add(1)
		e.progress()
	}
	return nil
}

func (e *engine) pack(ctx context.Context, job packRuns, reader *packReader, files *openFiles) error {
	pack := e.packs[job.pack]
	return reader.frames(ctx, pack, job.frames(), func(frame uint32, plain []byte) error {
		var written int64
		for _, r := range job.takeFrame(frame) {
			if uint64(r.start)+uint64(r.length) > uint64(len(plain)) {
				return &CorruptError{Key: pack.Key(e.header.Ref()), Err: fmt.Errorf("%s wants bytes beyond frame %d", e.table.path(r.file), frame)}
			}
			part := plain[r.start : r.start+r.length]
			whole := r.offset == 0 && int64(r.length) == e.table.state(r.file).size
			if sum, ok := e.digests[r.file]; ok && whole && catalog.Digest(sha256.Sum256(part)) != sum {
				return &CorruptError{Key: pack.Key(e.header.Ref()), Err: fmt.Errorf("%s: its SHA-256 is not what the manifest says", e.table.path(r.file))}
			}
			if _, err := files.writeAt(r.file, r.offset, part); err != nil {
				return fmt.Errorf("restore %s: %w", e.table.path(r.file), err)
			}
			written += int64(len(part))
		}
		e.written.Add(written)
		e.progress()
		return nil
	})
}

func (e *engine) progress() {
	e.emit(ProgressEvent{BytesWritten: e.written.Load(), BytesRead: e.received.Load(), Packs: int(e.done.Load())})
}

// rest makes the files to which nothing was written and finds those that are not complete, which would be a fault of the
// manifest or of this program.
func (e *engine) rest(ctx context.Context) error {
	for i := range e.table.len() {
		id := fileID(i)
		if err := ctx.Err(); err != nil {
			return err
		}
		if left := e.table.state(id).pending.Load(); left != 0 {
			return fmt.Errorf("restore %s: %d bytes of it were not found in any pack", e.table.path(id), left)
		}
		if err := e.w.ensure(id); err != nil {
			return fmt.Errorf("restore %s: %w", e.table.path(id), err)
		}
	}
	return nil
}
