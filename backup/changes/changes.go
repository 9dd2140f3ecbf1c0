// Package changes knows which pages of which relations changed between two LSNs,
// as PostgreSQL's WAL summaries (17 and newer) tell it. It does no I/O.
//
// The rules follow GetFileBackupMethod in backend/backup/basebackup_incremental.c,
// and differ from it where that is too trusting: only main forks are judged, since
// free space and visibility maps change without WAL that names them.
package changes

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"pgstow/backup/source"
)

// Relation names the main fork of a relation, as a WAL record does (RelFileLocator).
type Relation struct {
	Tablespace, Database, Node uint32
}

// The tablespaces that have no folder in pg_tblspc (catalog/pg_tablespace.dat).
const (
	defaultTablespace = 1663
	globalTablespace  = 1664
)

// RelationOf is the relation that a file of pages belongs to; path is its path below
// the data directory. ok is false for forks that summaries do not judge, and for
// paths that hold no relations.
func RelationOf(path string, f source.RelationFile) (r Relation, ok bool) {
	if f.Fork != source.ForkMain {
		return r, false
	}
	node, err := strconv.ParseUint(f.Node, 10, 32)
	if err != nil {
		return r, false
	}
	r.Node = uint32(node)
	parts := strings.Split(path, "/")
	switch {
	case len(parts) == 2 && parts[0] == "global":
		r.Tablespace = globalTablespace
	case len(parts) == 3 && parts[0] == "base":
		r.Tablespace = defaultTablespace
		r.Database, ok = number(parts[1])
		return r, ok
	case len(parts) == 5 && parts[0] == "pg_tblspc":
		var ok1, ok2 bool
		r.Tablespace, ok1 = number(parts[1])
		r.Database, ok2 = number(parts[3])
		return r, ok1 && ok2
	default:
		return r, false
	}
	return r, true
}

func number(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil
}

// ErrTooMany says that so much changed that reading everything is the better way.
var ErrTooMany = errors.New("too many changed pages to remember")

// Set holds the changes. The zero Set is empty.
type Set struct {
	// Limit bounds the number of pages that are remembered, four bytes each; 0: no limit.
	Limit int

	relations map[Relation]*relation
	created   map[[2]uint32]bool
	rows      int
}

type relation struct {
	limit   uint32 // blocks from here on are new
	limited bool
	blocks  []uint32
	sorted  int // so many of them are sorted and unique
}

// Add takes the changed blocks of a main fork, in any order, as one summary names
// them. The blocks are copied.
func (s *Set) Add(r Relation, blocks []uint32) error {
	if len(blocks) == 0 {
		return nil
	}
	e := s.relation(r)
	before := len(e.blocks)
	e.blocks = append(e.blocks, blocks...)
	if len(e.blocks) > 2*e.sorted+64 {
		e.sort() // the same pages change again and again
	}
	if s.rows += len(e.blocks) - before; s.Limit > 0 && s.rows > s.Limit {
		return ErrTooMany
	}
	return nil
}

// AddLimit takes a limit block: the fork was cut, or made, to that length, and what
// lies at or behind it is new. With node 0 it stands for a database that was made
// by copying files: all of its files are new.
func (s *Set) AddLimit(r Relation, block uint32) {
	if r.Node == 0 {
		if s.created == nil {
			s.created = make(map[[2]uint32]bool)
		}
		s.created[[2]uint32{r.Tablespace, r.Database}] = true
		return
	}
	e := s.relation(r)
	if !e.limited || block < e.limit {
		e.limit, e.limited = block, true
	}
}

func (s *Set) relation(r Relation) *relation {
	e := s.relations[r]
	if e == nil {
		if s.relations == nil {
			s.relations = make(map[Relation]*relation)
		}
		e = new(relation)
		s.relations[r] = e
	}
	return e
}

func (e *relation) sort() {
	slices.Sort(e.blocks)
	e.blocks = slices.Compact(e.blocks)
	e.sorted = len(e.blocks)
}

// Run is a run of pages of one file.
type Run struct{ First, Pages uint32 }

// Of gives the runs of pages, ascending, that may have changed in the file that
// begins with block base of the relation and has so many pages. all: every page is
// to be taken for new, whatever the length.
func (s *Set) Of(r Relation, base, pages uint32) (runs []Run, all bool) {
	if s.created[[2]uint32{r.Tablespace, r.Database}] {
		return nil, true
	}
	e := s.relations[r]
	if e == nil {
		return nil, false
	}
	if e.limited && e.limit <= base {
		return nil, true
	}
	if e.sorted != len(e.blocks) {
		e.sort()
	}
	end := uint64(base) + uint64(pages)
	for i, _ := slices.BinarySearch(e.blocks, base); i < len(e.blocks) && uint64(e.blocks[i]) < end; i++ {
		runs = Join(runs, Run{e.blocks[i] - base, 1})
	}
	if e.limited && uint64(e.limit) < end {
		runs = Join(cut(runs, e.limit-base), Run{e.limit - base, pages - (e.limit - base)})
	}
	return runs, false
}

// cut removes what lies at or behind page.
func cut(runs []Run, page uint32) []Run {
	for n := len(runs); n > 0; n-- {
		r := &runs[n-1]
		if r.First < page {
			r.Pages = min(r.Pages, page-r.First)
			return runs[:n]
		}
	}
	return runs[:0]
}

// Join adds a run that does not begin before the last one; where they meet they
// become one.
func Join(runs []Run, r Run) []Run {
	if r.Pages == 0 {
		return runs
	}
	if n := len(runs); n > 0 {
		last := &runs[n-1]
		if end := last.First + last.Pages; r.First <= end {
			last.Pages = max(end, r.First+r.Pages) - last.First
			return runs
		}
	}
	return append(runs, r)
}

// Merge unites two ascending lists of runs.
func Merge(a, b []Run) []Run {
	if len(a) == 0 {
		return b
	}
	if len(b) == 0 {
		return a
	}
	out := make([]Run, 0, len(a)+len(b))
	for len(a) > 0 || len(b) > 0 {
		if len(b) == 0 || len(a) > 0 && a[0].First <= b[0].First {
			out, a = Join(out, a[0]), a[1:]
		} else {
			out, b = Join(out, b[0]), b[1:]
		}
	}
	return out
}
