package backup

import (
	"bufio"
	"container/heap"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"pgstow/catalog"
)

// sorted keeps records that come in any order and gives them in the manifest's. What is
// too much for memory goes, in runs that are in order, into a nameless file.
type sorted struct {
	dir   string
	limit int // bytes of records in memory

	now   []record
	bytes int
	f     *os.File
	runs  []int64 // where each run ends
}

// sortMemory is the usual limit, in bytes.
const sortMemory = 24 << 20

// newSorted makes a sorter. The file lies in dir; "" is the folder for temporary files.
func newSorted(dir string, limit int) *sorted { return &sorted{dir: dir, limit: limit} }

// recordWeight is the memory of a record beside its names and its map, in bytes.
const recordWeight = 400

func (s *sorted) add(r record) error {
	s.now = append(s.now, r)
	s.bytes += recordWeight + len(r.Line.Path) + len(r.Map) + 40*len(r.Line.Blob) + 4*len(r.Line.Damaged)
	if s.bytes < s.limit {
		return nil
	}
	return s.spill()
}

func byPath(a, b record) int { return catalog.ComparePaths(a.Line.Path, b.Line.Path) }

// spill writes what is in memory as one more run.
func (s *sorted) spill() (err error) {
	if s.f == nil {
		if s.f, err = nameless(s.dir); err != nil {
			return err
		}
	}
	slices.SortFunc(s.now, byPath)
	w := bufio.NewWriterSize(s.f, 1<<20)
	enc := gob.NewEncoder(w)
	for _, r := range s.now {
		if err := enc.Encode(r); err != nil {
			return fmt.Errorf("keep the lines of the manifest: %w", err)
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("keep the lines of the manifest: %w", err)
	}
	end, err := s.f.Seek(0, io.SeekCurrent)
	if err != nil {
		return fmt.Errorf("keep the lines of the manifest: %w", err)
	}
	clear(s.now)
	s.now, s.bytes, s.runs = s.now[:0], 0, append(s.runs, end)
	return nil
}

// each gives the records in order. No more can be added. The same path twice is an error.
func (s *sorted) each(yield func(record, error) bool) {
	m, err := s.merge()
	last := ""
	for err == nil && len(m.runs) > 0 {
		r := m.runs[0].next
		if r.Line.Path == last {
			err = fmt.Errorf("%s came twice", r.Line.Path)
			break
		}
		last = r.Line.Path
		if !yield(r, nil) {
			return
		}
		err = m.advance()
	}
	if err != nil {
		yield(record{}, fmt.Errorf("read the lines of the manifest again: %w", err))
	}
}

// merge begins to read all runs; what is in memory is the last one.
func (s *sorted) merge() (*merger, error) {
	slices.SortFunc(s.now, byPath)
	m := &merger{}
	from := int64(0)
	for _, end := range s.runs {
		dec := gob.NewDecoder(bufio.NewReaderSize(io.NewSectionReader(s.f, from, end-from), 64<<10))
		m.runs = append(m.runs, &sortedRun{read: func() (r record, err error) {
			err = dec.Decode(&r)
			return r, err
		}})
		from = end
	}
	left := s.now
	m.runs = append(m.runs, &sortedRun{read: func() (r record, err error) {
		if len(left) == 0 {
			return r, io.EOF
		}
		r, left = left[0], left[1:]
		return r, nil
	}})
	for i := len(m.runs) - 1; i >= 0; i-- {
		ok, err := m.runs[i].step()
		if err != nil {
			return nil, err
		}
		if !ok {
			m.runs = slices.Delete(m.runs, i, i+1)
		}
	}
	heap.Init(m)
	return m, nil
}

func (s *sorted) close() error {
	if s.f == nil {
		return nil
	}
	return s.f.Close()
}

// sortedRun is a run that is being read.
type sortedRun struct {
	read func() (record, error)
	next record
}

// step reads the next record; ok is false at the end.
func (r *sortedRun) step() (ok bool, err error) {
	r.next, err = r.read()
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	return err == nil, err
}

// merger is a heap of runs by their next record.
type merger struct{ runs []*sortedRun }

func (m *merger) advance() error {
	ok, err := m.runs[0].step()
	switch {
	case err != nil:
		return err
	case ok:
		heap.Fix(m, 0)
	default:
		heap.Pop(m)
	}
	return nil
}

// Len, Less, Swap, Push and Pop are heap.Interface's.
func (m *merger) Len() int           { return len(m.runs) }
func (m *merger) Less(i, j int) bool { return byPath(m.runs[i].next, m.runs[j].next) < 0 }
func (m *merger) Swap(i, j int)      { m.runs[i], m.runs[j] = m.runs[j], m.runs[i] }
func (m *merger) Push(x any)         { m.runs = append(m.runs, x.(*sortedRun)) }
func (m *merger) Pop() any {
	last := m.runs[len(m.runs)-1]
	m.runs = m.runs[:len(m.runs)-1]
	return last
}
