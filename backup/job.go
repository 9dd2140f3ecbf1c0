package backup

import (
	"iter"

	"pgstow/backup/changes"
	"pgstow/backup/pagemap"
	"pgstow/backup/source"
	"pgstow/catalog"
	"pgstow/wal"
)

// doing says what becomes of a file of which an earlier map is known, and of others.
type doing uint8

const (
	doRead    doing = iota // all of it is read and stored
	doCompare              // all of it is read; pages that did not change stay where they are
	doWanted               // only the wanted pages are read and stored, the others stay where they are
	doRefresh              // likewise; what the file does not have any more stays where it is, too
	doKeep                 // nothing is read: the file is what it was
	doForget               // the file is gone: what it had is used no more
)

// item is a file, folder or link, and what is to be done with it.
type item struct {
	entry  source.Entry
	do     doing
	old    *prior
	wanted []changes.Run // ascending
}

// prior is what an earlier backup, or an earlier pass over the files, knows of one.
type prior struct {
	line catalog.FileEntry
	m    *pagemap.Map // may be nil if do is doKeep
	// lent: line.Map is a place in the reference's pack table.
	lent bool
	// start is the start of the reference: a page with a later LSN has changed.
	start wal.LSN
	// again are pages that are stored again though they did not change, where the
	// whole file is read; ascending.
	again []changes.Run
}

// weight is what the map adds to the plan of a job, in bytes read: maps are held as
// long as the job is under way.
func (p *prior) weight() int64 {
	if p == nil || p.m == nil {
		return 0
	}
	return 64 * int64(len(p.m.Hashes))
}

// A job is what one worker does at a time: a run of consecutive entries, or parts
// of relations, in the manifest's order. Results lie in slabs of the job, which is
// used again, so that small files cost no allocations.
type job struct {
	parts []part
	plain int64 // planned bytes

	hashes []uint64   // of all pages read, in order
	runs   []run      // of pages, in order
	slices []slice    // of blobs, in order
	frames []frameRef // where each frame of the job went, by the job's own number
	buf    []byte     // what the parts that are held in memory lie in; nil: there are none
	err    error
	done   chan struct{}
}

func newJob() *job { return &job{done: make(chan struct{}, 1)} }

func (j *job) reset() {
	clear(j.parts) // let go of names
	j.parts, j.plain = j.parts[:0], 0
	j.hashes, j.runs, j.slices, j.frames, j.err = j.hashes[:0], j.runs[:0], j.slices[:0], j.frames[:0], nil
}

// run is a run of pages that lie side by side in a frame, or of zero pages, or of
// pages that stay where the earlier map says.
type run struct {
	pages uint32
	frame int32  // the job's number of the frame; noFrame: zero pages; oldPages: kept
	first uint32 // page in the frame; of kept pages, their number in the file
}

const (
	noFrame  = -1
	oldPages = -2
)

// slice is a run of a blob's bytes in a frame.
type slice struct {
	frame          int32 // the job's number of the frame
	offset, length int
}

// frameRef is a frame's place: number in pack n of this backup.
type frameRef struct{ pack, frame uint32 }

// partKind says what a part asks for.
type partKind uint8

const (
	partEntry   partKind = iota // folder or link: nothing to read
	partLine                    // a file of which nothing is read
	partBlob                    // a whole file
	partPages                   // pages of a relation's file
	partControl                 // pg_control: its place is kept, it is read at the end
)

// part is one entry of a job, or a piece of a large relation, and what came of it.
type part struct {
	item
	kind partKind
	// held is the contents if they are in memory; nil: the file is opened.
	held source.File
	// first page and number of pages as planned; the last part reads on to the
	// end of the file.
	first, pages uint32
	last         bool

	// Results: the range of the job's slabs, for blobs size and digest.
	vanished     bool  // the file is gone
	same         bool  // a blob with the bytes that it had
	again        int64 // pages stored again, see prior
	short        bool  // the file ends here, whatever later parts found
	hashes, runs slab
	slices       slab
	size         int64
	digest       catalog.Digest
	damaged      []uint32 // blocks
	damage       []string // what is wrong with them, the first few
	torn         int      // pages that the WAL repairs
	trailing     int64    // bytes behind the last whole page
}

// slab is a range of one of the job's slices.
type slab struct{ from, to int }

// planLimits say how entries are cut into jobs.
type planLimits struct {
	pageSize int64
	// plain is the number of bytes that a job is filled to.
	plain int64
	// least is the smallest piece that is cut off a relation.
	least int64
	// parts is the number of entries that a job may have.
	parts int
}

// planJobs cuts the items into jobs. get provides empty jobs.
func planJobs(items iter.Seq2[item, error], l planLimits, get func() *job) iter.Seq2[*job, error] {
	return func(yield func(*job, error) bool) {
		p := planner{planLimits: l, get: get, yield: yield, job: get()}
		for it, err := range items {
			if err != nil {
				yield(nil, err)
				return
			}
			if !p.add(it) {
				return
			}
		}
		if len(p.job.parts) > 0 {
			yield(p.job, nil)
		}
	}
}

type planner struct {
	planLimits
	get   func() *job
	yield func(*job, error) bool
	job   *job
}

func (p *planner) add(it item) bool {
	e := it.entry
	switch {
	case it.do == doKeep || it.do == doForget:
		p.job.plain += it.old.weight()
		return p.put(part{item: it, kind: partLine})
	case e.Class == source.Dir || e.Class == source.Link:
		return p.put(part{item: it, kind: partEntry})
	case e.Path == source.ControlPath:
		return p.put(part{item: it, kind: partControl})
	case e.Class == source.Blob:
		p.job.plain += e.Size
		return p.put(part{item: it, kind: partBlob})
	case it.do == doWanted || it.do == doRefresh:
		return p.wanted(it)
	}
	return p.relation(it)
}

// relation cuts a file of pages at the borders of jobs.
func (p *planner) relation(it item) bool {
	total := uint32(it.entry.Size / p.pageSize)
	first := uint32(0)
	for {
		left := total - first
		room := max(p.plain-p.job.plain, p.least) / p.pageSize
		n := uint32(min(int64(left), room))
		if left-n < uint32(p.least/p.pageSize) {
			n = left // no crumbs
		}
		p.job.plain += int64(n) * p.pageSize
		last := n == left
		if !p.put(part{item: it, kind: partPages, first: first, pages: n, last: last}) {
			return false
		}
		if last {
			return true
		}
		first += n
	}
}

// wanted cuts a file of pages so that no job has too many of the wanted ones.
func (p *planner) wanted(it item) bool {
	p.job.plain += it.old.weight()
	total, first, left := uint32(it.entry.Size/p.pageSize), uint32(0), it.wanted
	for {
		room := uint32(max(p.plain-p.job.plain, p.least) / p.pageSize)
		it.wanted = nil
		for len(left) > 0 && room > 0 {
			r := left[0]
			if r.Pages > room {
				left[0] = changes.Run{First: r.First + room, Pages: r.Pages - room}
				r.Pages = room
			} else {
				left = left[1:]
			}
			it.wanted = append(it.wanted, r)
			room -= r.Pages
			p.job.plain += int64(r.Pages) * p.pageSize
		}
		end := total
		if len(left) > 0 {
			end = left[0].First
		}
		last := len(left) == 0
		if !p.put(part{item: it, kind: partPages, first: first, pages: end - first, last: last}) {
			return false
		}
		if last {
			return true
		}
		first = end
	}
}

// put adds a part and hands the job on when it is full.
func (p *planner) put(x part) bool {
	p.job.parts = append(p.job.parts, x)
	if p.job.plain < p.plain && len(p.job.parts) < p.parts {
		return true
	}
	full := p.job
	p.job = p.get()
	return p.yield(full, nil)
}
