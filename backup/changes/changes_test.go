package changes_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"pgstow/backup/changes"
	"pgstow/backup/source"
	"pgstow/wal"
)

func TestRelationOf(t *testing.T) {
	for path, want := range map[string]changes.Relation{
		"global/1260":                       {Tablespace: 1664, Node: 1260},
		"base/5/16384":                      {Tablespace: 1663, Database: 5, Node: 16384},
		"base/5/16384.2":                    {Tablespace: 1663, Database: 5, Node: 16384},
		"pg_tblspc/77/PG_17_202406281/5/99": {Tablespace: 77, Database: 5, Node: 99},
	} {
		name := path[len(path)-len(lastPart(path)):]
		f, ok := source.ParseRelationFile(name)
		if !ok {
			t.Fatal(path)
		}
		if got, ok := changes.RelationOf(path, f); !ok || got != want {
			t.Errorf("%s: %+v %v", path, got, ok)
		}
	}
	// A1: free space and visibility maps are never judged by summaries.
	for _, path := range []string{"base/5/16384_vm", "base/5/16384_fsm", "base/5/16384_init", "base/16384", "x/1/2"} {
		f, _ := source.ParseRelationFile(lastPart(path))
		if got, ok := changes.RelationOf(path, f); ok {
			t.Errorf("%s: %+v", path, got)
		}
	}
}

func lastPart(path string) string {
	for i := len(path); i > 0; i-- {
		if path[i-1] == '/' {
			return path[i:]
		}
	}
	return path
}

// Against a plain list of pages: limits are relation-wide minima, apply to later
// files of the relation, and nothing that was named is left out.
func TestSetAgainstPages(t *testing.T) {
	const perFile = 50
	rel := changes.Relation{Tablespace: 1663, Database: 5, Node: 7}
	for seed := range uint64(2000) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var s changes.Set
		changed := make([]bool, 4*perFile)
		limit := len(changed)
		for range rng.IntN(6) {
			var blocks []uint32
			for range rng.IntN(80) {
				b := rng.IntN(len(changed))
				changed[b] = true
				blocks = append(blocks, uint32(b))
			}
			if err := s.Add(rel, blocks); err != nil {
				t.Fatal(err)
			}
			if rng.IntN(3) == 0 {
				l := rng.IntN(len(changed))
				s.AddLimit(rel, uint32(l))
				limit = min(limit, l)
			}
		}
		for file := range 4 {
			base, pages := uint32(file*perFile), uint32(rng.IntN(perFile+1))
			runs, all := s.Of(rel, base, pages)
			if all != (limit <= int(base) && limit < len(changed)) {
				t.Fatalf("seed %d: file %d: all is %v, limit %d", seed, file, all, limit)
			}
			if all {
				continue
			}
			var got, want []uint32
			end := uint32(0)
			for _, r := range runs {
				if r.Pages == 0 || r.First < end || (end > 0 && r.First == end) || r.First+r.Pages > pages {
					t.Fatalf("seed %d: runs %v of %d pages", seed, runs, pages)
				}
				for i := range r.Pages {
					got = append(got, r.First+i)
				}
				end = r.First + r.Pages
			}
			for i := range pages {
				if b := int(base + i); changed[b] || b >= limit {
					want = append(want, i)
				}
			}
			if !slices.Equal(got, want) {
				t.Fatalf("seed %d: file %d: pages %v, want %v", seed, file, got, want)
			}
		}
	}
}

// A5: a row without a relation stands for the whole database.
func TestCreatedDatabase(t *testing.T) {
	var s changes.Set
	s.AddLimit(changes.Relation{Tablespace: 1663, Database: 9}, 0)
	if _, all := s.Of(changes.Relation{Tablespace: 1663, Database: 9, Node: 1259}, 0, 10); !all {
		t.Error("a file of a copied database is not new")
	}
	if runs, all := s.Of(changes.Relation{Tablespace: 1663, Database: 8, Node: 1259}, 0, 10); all || len(runs) > 0 {
		t.Error("another database is taken for new")
	}
}

func TestSetLimit(t *testing.T) {
	s := changes.Set{Limit: 100}
	if err := s.Add(changes.Relation{Node: 1}, make([]uint32, 200)); err != nil {
		t.Errorf("200 times one page: %v", err)
	}
	many := make([]uint32, 101)
	for i := range many {
		many[i] = uint32(i)
	}
	if err := s.Add(changes.Relation{Node: 2}, many); !errors.Is(err, changes.ErrTooMany) {
		t.Errorf("101 pages: %v", err)
	}
}

func TestMerge(t *testing.T) {
	for seed := range uint64(1000) {
		rng := rand.New(rand.NewPCG(seed, 2))
		want := make([]bool, 40)
		list := func() (runs []changes.Run) {
			for at := uint32(0); at < 40; {
				at += uint32(rng.IntN(9))
				n := uint32(1 + rng.IntN(5))
				if at+n > 40 {
					break
				}
				runs = changes.Join(runs, changes.Run{First: at, Pages: n})
				for i := range n {
					want[at+i] = true
				}
				at += n
			}
			return runs
		}
		merged := changes.Merge(list(), list())
		got := make([]bool, 40)
		n := 0
		for _, r := range merged {
			n += int(r.Pages)
			for i := range r.Pages {
				got[r.First+i] = true
			}
		}
		for _, w := range want {
			if w {
				n--
			}
		}
		if !slices.Equal(got, want) || n != 0 {
			t.Fatalf("seed %d: %v", seed, merged)
		}
	}
}

func TestCover(t *testing.T) {
	one := wal.NewHistory(1)
	two := wal.History{{Timeline: 1, End: 500}, {Timeline: 2, End: wal.MaxLSN}}
	three := wal.History{{Timeline: 1, End: 500}, {Timeline: 2, End: 700}, {Timeline: 3, End: wal.MaxLSN}}
	for name, c := range map[string]struct {
		have     []changes.Summary
		h        wal.History
		first    wal.TimelineID
		from, to wal.LSN
		want     int
		gap      *changes.GapError
		begin    bool
	}{
		"exact":             {[]changes.Summary{{1, 100, 200}, {1, 200, 300}}, one, 1, 100, 300, 2, nil, false},
		"more than wanted":  {[]changes.Summary{{1, 300, 400}, {1, 50, 100}, {1, 100, 350}}, one, 1, 100, 300, 1, nil, false},
		"nothing to cover":  {nil, one, 1, 100, 100, 0, nil, false},
		"none":              {nil, one, 1, 100, 200, 0, &changes.GapError{1, 100, 200}, false},
		"hole":              {[]changes.Summary{{1, 100, 200}, {1, 250, 300}}, one, 1, 100, 300, 0, &changes.GapError{1, 200, 250}, false},
		"too short":         {[]changes.Summary{{1, 100, 200}}, one, 1, 100, 300, 0, &changes.GapError{1, 200, 300}, false},
		"begins too late":   {[]changes.Summary{{1, 150, 300}}, one, 1, 100, 300, 0, &changes.GapError{1, 100, 150}, false},
		"other redo points": {[]changes.Summary{{1, 90, 200}, {1, 200, 300}}, one, 1, 100, 300, 0, nil, true},
		"other timeline":    {[]changes.Summary{{1, 100, 300}}, two, 2, 500, 600, 0, &changes.GapError{2, 500, 600}, false},
		"over a switch":     {[]changes.Summary{{1, 100, 500}, {2, 500, 600}}, two, 1, 100, 600, 2, nil, false},
		"dead branch":       {[]changes.Summary{{1, 100, 400}, {1, 400, 900}, {2, 500, 600}}, two, 1, 100, 600, 3, nil, false},
		"hole at a switch":  {[]changes.Summary{{1, 100, 450}, {2, 500, 600}}, two, 1, 100, 600, 0, &changes.GapError{1, 450, 500}, false},
		"a whole timeline":  {[]changes.Summary{{1, 100, 500}, {3, 700, 800}}, three, 1, 100, 800, 0, &changes.GapError{2, 500, 700}, false},
		"three timelines":   {[]changes.Summary{{1, 100, 500}, {2, 500, 700}, {3, 700, 800}}, three, 1, 100, 800, 3, nil, false},
		"to the switch":     {[]changes.Summary{{1, 100, 500}}, two, 1, 100, 500, 1, nil, false},
	} {
		got, err := changes.Cover(c.have, c.h, c.first, c.from, c.to)
		var gap *changes.GapError
		var begin *changes.BeginError
		switch {
		case c.gap != nil:
			if !errors.As(err, &gap) || *gap != *c.gap {
				t.Errorf("%s: %v, want %v", name, err, c.gap)
			}
		case c.begin:
			if !errors.As(err, &begin) {
				t.Errorf("%s: %v", name, err)
			}
		case err != nil || len(got) != c.want:
			t.Errorf("%s: %v, error %v", name, got, err)
		}
	}
}
