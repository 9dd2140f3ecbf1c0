package backup

import (
	"iter"

	"pgstow/backup/source"
	"pgstow/catalog"
)

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
	err    error
	done   chan struct{}
}

func newJob() *job { return &job{done: make(chan struct{}, 1)} }

func (j *job) reset() {
	clear(j.parts) // let go of names
	j.parts, j.plain = j.parts[:0], 0
	j.hashes, j.runs, j.slices, j.frames, j.err = j.hashes[:0], j.runs[:0], j.slices[:0], j.frames[:0], nil
}

// run is a run of pages that lie side by side in a frame, or of zero pages.
type run struct {
	pages uint32
	frame int32 // the job's number of the frame; noFrame: zero pages
	first uint32
}

const noFrame = -1

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
	partBlob                    // a whole file
	partPages                   // pages of a relation's file
	partControl                 // pg_control: its place is kept, it is read at the end
)

// part is one entry of a job, or a piece of a large relation, and what came of it.
type part struct {
	entry source.Entry
	kind  partKind
	// first page and number of pages as planned; the last part reads on to the
	// end of the file.
	first, pages uint32
	last         bool

	// Results: the range of the job's slabs, for blobs size and digest.
	vanished     bool // the file is gone
	short        bool // the file ends here, whatever later parts found
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

// planJobs cuts the entries into jobs. get provides empty jobs.
func planJobs(entries iter.Seq2[source.Entry, error], l planLimits, get func() *job) iter.Seq2[*job, error] {
	return func(yield func(*job, error) bool) {
		p := planner{planLimits: l, get: get, yield: yield, job: get()}
		for e, err := range entries {
			if err != nil {
				yield(nil, err)
				return
			}
			if !p.add(e) {
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

func (p *planner) add(e source.Entry) bool {
	switch {
	case e.Class == source.Dir || e.Class == source.Link:
		return p.put(part{entry: e, kind: partEntry})
	case e.Path == source.ControlPath:
		return p.put(part{entry: e, kind: partControl})
	case e.Class == source.Blob:
		p.job.plain += e.Size
		return p.put(part{entry: e, kind: partBlob})
	}
	return p.relation(e)
}

// relation cuts a file of pages at the borders of jobs.
func (p *planner) relation(e source.Entry) bool {
	total := uint32(e.Size / p.pageSize)
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
		if !p.put(part{entry: e, kind: partPages, first: first, pages: n, last: last}) {
			return false
		}
		if last {
			return true
		}
		first += n
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
