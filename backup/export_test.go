package backup

import (
	"bufio"
	"errors"
	"iter"
	"time"

	"github.com/zeebo/xxh3"

	"pgstow/backup/changes"
	"pgstow/backup/pagemap"
	"pgstow/backup/source"
	"pgstow/catalog"
	"pgstow/wal"
	"pgstow/wal/pgcontrol"
)

// PlannedPart is a part of a job as tests see it.
type PlannedPart struct {
	Path         string
	Entry        bool
	First, Pages uint32
	Last         bool
}

// PlanJobs is planJobs with the real limits.
func PlanJobs(entries iter.Seq2[source.Entry, error], pageSize int64, parts int) iter.Seq2[[]PlannedPart, error] {
	return func(yield func([]PlannedPart, error) bool) {
		l := planLimits{pageSize: pageSize, plain: jobPlain, least: frameSize, parts: parts}
		for j, err := range planJobs(readAll(entries), l, newJob) {
			if err != nil {
				yield(nil, err)
				return
			}
			var out []PlannedPart
			for _, p := range j.parts {
				out = append(out, PlannedPart{
					Path: p.entry.Path, Entry: p.kind == partEntry, First: p.first, Pages: p.pages, Last: p.last,
				})
			}
			if !yield(out, nil) {
				return
			}
		}
	}
}

// JobPlain is the size that jobs are filled to.
const JobPlain = jobPlain

// CheckDirectory is checkDirectory for a server that says this of itself.
func CheckDirectory(dir, dataDirectory string, port int, started time.Time) error {
	return checkDirectory(dir, facts{dataDirectory: dataDirectory, port: port, started: started})
}

// WithChanges makes Create ask for what changed since a reference, as if WAL
// summaries told it.
func WithChanges(o CreateOptions, since func(id string) *changes.Set) CreateOptions {
	o.changed = since
	return o
}

// ChooseReference is chooseReference.
func ChooseReference(list []catalog.BackupSummary, start wal.LSN, h wal.History, c pgcontrol.Control) (id, why string) {
	b, why := chooseReference(list, beginning{start: start, history: h, control: c})
	if b != nil {
		id = b.ID
	}
	return id, why
}

// SortedLines is sorted, with records of a path and a map.
type SortedLines struct{ s *sorted }

// NewSortedLines is newSorted.
func NewSortedLines(dir string, limit int) SortedLines { return SortedLines{newSorted(dir, limit)} }

// Add is add.
func (s SortedLines) Add(path string, m []byte) error {
	return s.s.add(record{Line: catalog.FileEntry{Path: path}, Map: m})
}

// Each is each, and closes it.
func (s SortedLines) Each(f func(path string, m []byte)) error {
	for r, err := range s.s.each {
		if err != nil {
			return err
		}
		f(r.Line.Path, r.Map)
	}
	return s.s.close()
}

// Lookup is lookup.
type Lookup struct{ l *lookup }

// NewLookup makes one of lines, of which those of pages have one zero page; with collide
// the paths' hashes are all the same.
func NewLookup(dir string, collide bool, lines ...catalog.FileEntry) (Lookup, error) {
	f, err := nameless(dir)
	if err != nil {
		return Lookup{}, err
	}
	l := &lookup{f: f, buf: bufio.NewWriter(f), hash: xxh3.HashString, at: make(map[uint64]int64), twins: make(map[string]int64)}
	if collide {
		l.hash = func(string) uint64 { return 1 }
	}
	var m pagemap.Map
	m.AppendZero([]uint64{1})
	b, err := m.AppendEncode(nil)
	for _, line := range lines {
		if err == nil {
			err = l.put(line, b)
		}
	}
	return Lookup{l}, errors.Join(err, l.buf.Flush())
}

// Take is take.
func (l Lookup) Take(path string) (*catalog.FileEntry, error) {
	p, err := l.l.take(path)
	if p == nil {
		return nil, err
	}
	return &p.line, err
}
