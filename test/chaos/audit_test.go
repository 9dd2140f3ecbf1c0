package chaos_test

import (
	"cmp"
	"fmt"
	"slices"

	"pgstow/catalog"
	"pgstow/storage/object"
	"pgstow/wal"
)

// archived is the WAL in the archive by its names.
type archived struct {
	segments  map[wal.FileName]string // key
	pieces    map[wal.FileName][]catalog.WALObject
	histories map[wal.TimelineID]bool
	names     map[string]bool // of all that is no piece
	keys      map[string]bool
}

func (st *stage) list() archived {
	st.t.Helper()
	a := archived{
		segments: map[wal.FileName]string{}, pieces: map[wal.FileName][]catalog.WALObject{},
		histories: map[wal.TimelineID]bool{}, names: map[string]bool{}, keys: map[string]bool{},
	}
	for _, key := range st.Keys(st.ref.WALPrefix()) {
		o, ok := catalog.ParseWALKey(st.ref, key)
		if !ok {
			st.fatalf("%s is in the archive and has no name of WAL", key)
		}
		a.keys[key] = true
		switch o.Kind {
		case catalog.WALPiece:
			a.pieces[o.Name] = append(a.pieces[o.Name], o)
			continue
		case catalog.WALSegment:
			a.segments[o.Name] = key
		case catalog.WALHistory:
			a.histories[o.Name.Timeline] = true
		}
		a.names[o.Name.String()] = true
	}
	return a
}

// audit looks at all that has been stored since it last did: each object is whole and what its name says, and nothing that was there is gone but
// pieces. It returns what is wrong.
func (st *stage) audit(a archived) (problems []string) {
	st.t.Helper()
	for key := range st.audited {
		if !a.keys[key] {
			problems = append(problems, key+" is not in the archive any more")
		}
	}
	for key := range a.keys {
		o, _ := catalog.ParseWALKey(st.ref, key)
		if o.Kind == catalog.WALPiece || st.audited[key] {
			continue
		}
		st.audited[key] = true
		plain, err := st.content(key)
		switch {
		case err != nil:
		case o.Kind == catalog.WALSegment || o.Kind == catalog.WALPartial:
			_, err = wal.InspectSegment(plain, o.Name)
		case o.Kind == catalog.WALHistory:
			_, err = wal.ParseHistory(o.Name.Timeline, plain)
		}
		if err != nil {
			problems = append(problems, fmt.Sprintf("%s: %v", key, err))
		}
		if tli := o.Name.Timeline; o.Kind == catalog.WALSegment && tli > 1 && !a.histories[tli] {
			problems = append(problems, fmt.Sprintf("%s is stored, and the history of timeline %d is not", key, tli))
		}
	}
	for name, list := range a.pieces {
		problems = append(problems, st.auditPieces(a, name, list)...)
	}
	return problems
}

// content is the content of an object.
func (st *stage) content(key string) ([]byte, error) {
	o, err := object.Open(st.Read(key), st.ids)
	if err != nil {
		return nil, err
	}
	return o.Plain()
}

// auditPieces compares the pieces of a segment with each other, and with the whole if that is there.
func (st *stage) auditPieces(a archived, name wal.FileName, list []catalog.WALObject) (problems []string) {
	start := name.Start(st.size)
	all := make([]byte, st.size)
	known := make([]bool, st.size)
	if key, ok := a.segments[name]; ok {
		whole, err := st.content(key)
		if err != nil || len(whole) != len(all) {
			return []string{fmt.Sprintf("%s: %d bytes, %v", key, len(whole), err)}
		}
		copy(all, whole)
		for i := range known {
			known[i] = true
		}
	}
	for _, p := range list {
		key := st.ref.PieceKey(p.Name, p.From, p.To)
		plain, err := st.content(key)
		if err != nil || p.From < start || p.To > start+wal.LSN(st.size) || len(plain) != int(p.To-p.From) {
			problems = append(problems, fmt.Sprintf("%s: %d bytes, %v", key, len(plain), err))
			continue
		}
		for i, b := range plain {
			at := int(p.From-start) + i
			if known[at] && all[at] != b {
				problems = append(problems, fmt.Sprintf("%s disagrees at %s with what else is stored of the segment", key, start+wal.LSN(at)))
				break
			}
			all[at], known[at] = b, true
		}
	}
	return problems
}

// storedTo is the end of the WAL of the server's timeline that is stored without a hole: of whole segments, and of pieces behind them.
func (st *stage) storedTo(a archived) wal.LSN {
	n := st.size.SegmentOf(st.branch.begin)
	for ; ; n++ {
		if _, ok := a.segments[wal.SegmentName(st.branch.timeline, n, st.size)]; !ok {
			break
		}
	}
	end := st.size.Start(n)
	pieces := a.pieces[wal.SegmentName(st.branch.timeline, n, st.size)]
	slices.SortFunc(pieces, func(x, y catalog.WALObject) int { return cmp.Compare(x.From, y.From) })
	for _, p := range pieces {
		if p.From <= end {
			end = max(end, p.To)
		}
	}
	return max(end, st.branch.begin)
}

// toldTo is the end of the last segment of its timeline of which the server was told that it is archived.
func (st *stage) toldTo() wal.LSN {
	end := st.branch.begin
	for name := range st.told {
		f, err := wal.ParseFileName(name)
		if err == nil && f.Kind == wal.Segment && f.Timeline == st.branch.timeline {
			end = max(end, f.Start(st.size)+wal.LSN(st.size))
		}
	}
	return end
}

// broken lists the files of which the server was told that they are archived, and which are not there.
func (st *stage) broken(a archived) (problems []string) {
	for name := range st.told {
		if !a.names[name] {
			problems = append(problems, fmt.Sprintf("the server was told that %s is archived, and it is not there", name))
		}
	}
	slices.Sort(problems)
	return problems
}
