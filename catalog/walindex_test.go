package catalog_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"sort"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/wal"
)

// listStore is a store of names that are computed: key(i) for i in [0, n), ascending. It counts pages of 1000 keys.
type listStore struct {
	n        int
	key      func(i int) string
	modified func(i int) time.Time
	pages    atomic.Int64
}

var errOnlyLists = errors.New("this store only lists")

func (s *listStore) Put(context.Context, string, []byte, storage.Condition) (storage.Info, error) {
	return storage.Info{}, errOnlyLists
}

func (s *listStore) Get(_ context.Context, key string, _ storage.Range) (io.ReadCloser, storage.Info, error) {
	// Just enough to be opened.
	body := map[string]string{
		"repo.json":   `{"format":1,"id":"x","encrypted":false}`,
		"repo/1.json": `{"format":1,"generation":1,"recipients":[],"probe":{"conditional_put":true}}`,
	}[key]
	if body == "" {
		return nil, storage.Info{}, errOnlyLists
	}
	return io.NopCloser(strings.NewReader(body)), storage.Info{Key: key, Size: int64(len(body))}, nil
}

func (s *listStore) Stat(context.Context, string) (storage.Info, error) {
	return storage.Info{}, errOnlyLists
}
func (s *listStore) Delete(context.Context, ...string) error { return errOnlyLists }
func (s *listStore) String() string                          { return "computed names" }

func (s *listStore) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		if prefix == "repo/" {
			yield(storage.Info{Key: "repo/1.json"}, nil)
			return
		}
		if err := storage.CheckPrefix(after); err != nil {
			yield(storage.Info{}, err)
			return
		}
		first := max(sort.Search(s.n, func(i int) bool { return s.key(i) >= prefix }), sort.Search(s.n, func(i int) bool { return s.key(i) > after }))
		s.pages.Add(1)
		for i := first; i < s.n; i++ {
			key := s.key(i)
			if !strings.HasPrefix(key, prefix) {
				return
			}
			if i > first && (i-first)%1000 == 0 {
				s.pages.Add(1)
			}
			info := storage.Info{Key: key, Size: 100}
			if s.modified != nil {
				info.Modified = s.modified(i)
			}
			if !yield(info, ctx.Err()) {
				return
			}
		}
	}
}

func openListed(t *testing.T, s *listStore) *catalog.Repository {
	t.Helper()
	r, err := catalog.Open(t.Context(), s, catalog.Pins{EncryptionNone: true})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestListWAL compares the index with a plain look at all names, for random archives large enough to be listed in parts.
func TestListWAL(t *testing.T) {
	const size = wal.DefaultSegmentSize
	for seed := range uint64(40) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		keys := randomArchive(rnd, size)
		at := func(i int) time.Time { return day.Add(time.Duration(i*7919%100_000) * time.Second) }
		s := &listStore{n: len(keys), key: func(i int) string { return keys[i] }, modified: at}
		got, err := openListed(t, s).ListWAL(t.Context(), mainRef, size)
		if err != nil {
			t.Fatal(err)
		}
		want := naiveIndex(keys, size, at)
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d, %d keys: %s", seed, len(keys), firstDifference(got, want))
		}
		if pages := s.pages.Load(); pages > int64(len(keys)/1000+100*len(want.Timelines)+20) {
			t.Errorf("seed %d: %d pages for %d keys", seed, pages, len(keys))
		}
	}
}

// firstDifference keeps the message short.
func firstDifference(got, want *catalog.WALIndex) string {
	if len(got.Timelines) != len(want.Timelines) {
		return fmt.Sprintf("%d timelines, want %d", len(got.Timelines), len(want.Timelines))
	}
	for i := range want.Timelines {
		g, w := reflect.ValueOf(got.Timelines[i]), reflect.ValueOf(want.Timelines[i])
		for f := range w.NumField() {
			gf, wf := g.Field(f), w.Field(f)
			if reflect.DeepEqual(gf.Interface(), wf.Interface()) {
				continue
			}
			name := fmt.Sprintf("timeline %d %s", want.Timelines[i].Timeline, w.Type().Field(f).Name)
			if wf.Kind() != reflect.Slice {
				return fmt.Sprintf("%s %v, want %v", name, gf, wf)
			}
			for n := range min(gf.Len(), wf.Len()) {
				if a, b := gf.Index(n).Interface(), wf.Index(n).Interface(); !reflect.DeepEqual(a, b) {
					return fmt.Sprintf("%s %d of %d, %d:\n%+v, want\n%+v", name, n, gf.Len(), wf.Len(), a, b)
				}
			}
			return fmt.Sprintf("%s: %d, want %d", name, gf.Len(), wf.Len())
		}
	}
	return "none"
}

func randomArchive(rnd *rand.Rand, size wal.SegmentSize) []string {
	set := map[string]bool{mainRef.InfoKey(): true, mainRef.BackupManifestKey(testID): true, mainRef.Prefix() + "wal/README": true, mainRef.Prefix() + "wal/x/y": true}
	n := wal.SegmentNumber(rnd.IntN(2000))
	for tli := wal.TimelineID(1); tli <= wal.TimelineID(1+rnd.IntN(3)); tli++ {
		if tli > 1 {
			set[mainRef.HistoryKey(tli)] = true
		}
		count := []int{0, 10, 900, 3999, 4000, 4001, 9000, 15000}[rnd.IntN(8)]
		for range count {
			name := wal.SegmentName(tli, n, size)
			set[mainRef.WALKey(name, "")] = true
			switch rnd.IntN(60) {
			case 0: // forgotten or, if the segment goes missing, needed
				start := size.Start(n)
				set[mainRef.PieceKey(name, start, start+100)] = true
				set[mainRef.PieceKey(name, start+100, start+250)] = true
				set[mainRef.PieceKey(name, start+90, start+200)] = true
				set[mainRef.PieceKey(name, start+300, start+400)] = true
				if rnd.IntN(2) == 0 {
					delete(set, mainRef.WALKey(name, ""))
				}
			case 1:
				set[mainRef.WALKey(wal.BackupHistoryName(tli, size.Start(n)+0x28, size), "")] = true
			case 2:
				set[mainRef.WALKey(wal.PartialName(tli, n, size), "0badcafe")] = true
				set[mainRef.WALKey(wal.PartialName(tli, n, size), "1badcafe")] = true
			case 3:
				set[mainRef.LogPrefix(tli, name.Log)+"garbage"] = true
				// A piece that reaches behind its segment is nobody's.
				set[mainRef.PieceKey(name, size.Start(n), size.End(n)+1)] = true
			case 4:
				delete(set, mainRef.WALKey(name, ""))
			case 5:
				if rnd.IntN(4) == 0 {
					n += wal.SegmentNumber(rnd.IntN(3000))
				}
			}
			n++
		}
		n -= wal.SegmentNumber(min(uint64(n), uint64(rnd.IntN(20))))
	}
	keys := make([]string, 0, len(set))
	for k := range set {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// naiveIndex has all segments in a map.
func naiveIndex(keys []string, size wal.SegmentSize, at func(int) time.Time) *catalog.WALIndex {
	x := &catalog.WALIndex{Ref: mainRef, SegmentSize: size}
	full := map[catalog.SegmentID]bool{}
	for _, k := range keys {
		if o, ok := catalog.ParseWALKey(mainRef, k); ok && o.Kind == catalog.WALSegment {
			full[catalog.SegmentID{Timeline: o.Name.Timeline, Number: o.Name.Number(size)}] = true
		}
	}
	var t *catalog.TimelineWAL
	for i, k := range keys {
		o, ok := catalog.ParseWALKey(mainRef, k)
		if !ok {
			continue
		}
		n := o.Name.Number(size)
		if o.Kind == catalog.WALPiece && (o.From < size.Start(n) || o.To > size.End(n)) {
			continue
		}
		if t == nil || t.Timeline != o.Name.Timeline {
			x.Timelines = append(x.Timelines, catalog.TimelineWAL{Timeline: o.Name.Timeline})
			t = &x.Timelines[len(x.Timelines)-1]
		}
		t.Objects++
		t.Bytes += 100
		if at(i).After(t.Newest) {
			t.Newest = at(i)
		}
		switch o.Kind {
		case catalog.WALSegment:
			if l := len(t.Ranges) - 1; l >= 0 && t.Ranges[l].Last+1 == n {
				r := &t.Ranges[l]
				r.Last, r.Bytes, r.LastModified = n, r.Bytes+100, at(i)
				if at(i).Before(r.Oldest) {
					r.Oldest = at(i)
				}
				if at(i).After(r.Newest) {
					r.Newest = at(i)
				}
			} else {
				t.Ranges = append(t.Ranges, catalog.SegmentRange{
					First: n, Last: n, Bytes: 100, FirstModified: at(i), LastModified: at(i), Oldest: at(i), Newest: at(i),
				})
			}
		case catalog.WALPiece:
			if full[catalog.SegmentID{Timeline: t.Timeline, Number: n}] {
				t.Forgotten++
			} else {
				takePiece(t, n, o, at(i))
			}
		case catalog.WALPartial:
			t.Partials = append(t.Partials, o)
		case catalog.WALBackup:
			t.Backups = append(t.Backups, o.Name)
		case catalog.WALHistory:
			t.HasHistory = true
		}
	}
	return x
}

// takePiece appends a piece to a run, or begins one.
func takePiece(t *catalog.TimelineWAL, n wal.SegmentNumber, o catalog.WALObject, at time.Time) {
	for i, p := range t.Pieces {
		if p.Segment == n && p.To >= o.From {
			p.To, p.Count, p.Bytes = max(p.To, o.To), p.Count+1, p.Bytes+100
			if at.After(p.Newest) {
				p.Newest = at
			}
			t.Pieces[i] = p
			return
		}
	}
	t.Pieces = append(t.Pieces, catalog.PieceRun{Segment: n, From: o.From, To: o.To, Count: 1, Bytes: 100, Newest: at})
}

// TestListMillion: a million segments with some holes take a thousand pages and no memory to speak of.
func TestListMillion(t *testing.T) {
	const n = 1_000_000
	number := func(i int) wal.SegmentNumber { return wal.SegmentNumber(5000 + i + i/250_000) } // three holes of one
	s := &listStore{n: n, key: func(i int) string { return mainRef.WALKey(wal.SegmentName(1, number(i), wal.DefaultSegmentSize), "") }}
	r := openListed(t, s)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	x, err := r.ListWAL(t.Context(), mainRef, wal.DefaultSegmentSize)
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	tl := x.Timeline(1)
	if len(tl.Ranges) != 4 || tl.Objects != n || tl.Bytes != 100*n || len(tl.Holes()) != 3 || tl.Holes()[0].First != 255_000 {
		t.Errorf("%+v", tl)
	}
	if kept := int64(after.HeapAlloc) - int64(before.HeapAlloc); kept > 1<<20 {
		t.Errorf("%d KiB are kept", kept>>10)
	}
	if pages := s.pages.Load(); pages > n/1000+100 {
		t.Errorf("%d pages", pages)
	}
}

func TestTimelineWAL(t *testing.T) {
	tl := &catalog.TimelineWAL{
		Timeline: 1,
		Ranges: []catalog.SegmentRange{
			{First: 2, Last: 5, LastModified: day.Add(-2 * time.Hour), Oldest: day.Add(-3 * time.Hour)},
			{First: 8, Last: 9, FirstModified: day, Oldest: day.Add(-time.Minute)},
		},
		Pieces: []catalog.PieceRun{{Segment: 10, From: 10 * mb, To: 10*mb + 200, Newest: day}, {Segment: 10, From: 10*mb + 300, To: 10*mb + 400}},
	}
	want := []catalog.Hole{{Timeline: 1, First: 6, Last: 7, Since: day.Add(-time.Minute), Before: day.Add(-2 * time.Hour), After: day}}
	if !reflect.DeepEqual(tl.Holes(), want) {
		t.Errorf("holes %+v, want %+v", tl.Holes(), want)
	}
	for _, tt := range []struct {
		n    wal.SegmentNumber
		has  bool
		want wal.LSN
	}{{1, false, 1 * mb}, {2, true, 6 * mb}, {5, true, 6 * mb}, {6, false, 6 * mb}, {8, true, 10*mb + 200}, {10, false, 10*mb + 200}, {11, false, 11 * mb}} {
		if got := tl.ContiguousEnd(tt.n, segmentSize); got != tt.want || tl.Has(tt.n) != tt.has {
			t.Errorf("from %d: end %s, stored %v; want %s, %v", tt.n, got, tl.Has(tt.n), tt.want, tt.has)
		}
	}
	x := &catalog.WALIndex{SegmentSize: segmentSize, Timelines: []catalog.TimelineWAL{*tl, {Timeline: 3, Bytes: 7, Newest: day}}}
	if x.Timeline(1).Timeline != 1 || x.Timeline(2).Timeline != 2 || len(x.Timeline(2).Ranges) != 0 || x.Bytes() != 7 || !x.Newest().Equal(day) {
		t.Error("index")
	}
}

// TestListWALError: an error in the middle of a list is not the end of the archive.
func TestListWALError(t *testing.T) {
	const n = 20_000
	s := &listStore{n: n, key: func(i int) string {
		return mainRef.WALKey(wal.SegmentName(1, wal.SegmentNumber(i), wal.DefaultSegmentSize), "")
	}}
	ctx, cancel := context.WithCancel(t.Context())
	seen := 0
	s.modified = func(int) time.Time {
		if seen++; seen == 3000 { // while one lister runs alone
			cancel()
		}
		return day
	}
	if x, err := openListed(t, s).ListWAL(ctx, mainRef, wal.DefaultSegmentSize); !errors.Is(err, context.Canceled) {
		t.Errorf("%v %v", x, err)
	}
	if _, err := openListed(t, s).ListWAL(t.Context(), catalog.ClusterRef{Name: "x"}, wal.DefaultSegmentSize); err == nil {
		t.Error("a cluster without system identifier")
	}
	if _, err := openListed(t, s).ListWAL(t.Context(), mainRef, 3); err == nil {
		t.Error("an impossible segment size")
	}
}

func ExampleGapError() {
	err := &catalog.GapError{
		Backup: "20261124T154500Z-k3f9", First: "000000010000000000000005", Last: "000000010000000000000006",
		Next: "000000010000000000000007", Reached: 0x5000000,
	}
	fmt.Println(err)
	// Output: segments 000000010000000000000005 to 000000010000000000000006 are missing in the archive, which goes on with 000000010000000000000007: from backup 20261124T154500Z-k3f9 only 0/5000000 can be reached
}

// TestListWALPartsKeepPieces: where the first part of a long list ends, a segment is not separated from its pieces, which
// would then look needed.
func TestListWALPartsKeepPieces(t *testing.T) {
	const size = wal.DefaultSegmentSize
	for extra := range 4 {
		var keys []string
		for n := range wal.SegmentNumber(5000) {
			name := wal.SegmentName(1, n, size)
			keys = append(keys, mainRef.WALKey(name, ""))
			if n >= 3990 && n < 4000+wal.SegmentNumber(extra) {
				keys = append(keys, mainRef.PieceKey(name, size.Start(n), size.Start(n)+10), mainRef.PieceKey(name, size.Start(n)+10, size.Start(n)+20))
			}
		}
		keys = keys[extra:]
		s := &listStore{n: len(keys), key: func(i int) string { return keys[i] }}
		x, err := openListed(t, s).ListWAL(t.Context(), mainRef, size)
		if err != nil {
			t.Fatal(err)
		}
		if tl := x.Timeline(1); len(tl.Pieces) != 0 || tl.Forgotten != 2*(10+extra) || len(tl.Ranges) != 1 {
			t.Errorf("%d pieces, %d forgotten, %d ranges", len(tl.Pieces), tl.Forgotten, len(tl.Ranges))
		}
	}
}
