package receive_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/fault"
	"pgstow/storage/file"
	"pgstow/storage/object"
	"pgstow/wal"
	"pgstow/wal/receive"
)

// segmentSize of the fixtures in ../testdata.
const segmentSize = wal.MinSegmentSize

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// archived is a repository and the WAL that is to come into it: three segments of PostgreSQL 15 that one record goes through.
type archived struct {
	t      *testing.T
	below  storage.Store
	store  *fault.Store
	repo   *catalog.Repository
	ref    catalog.ClusterRef
	ids    []object.Identity
	start  wal.LSN
	tli    wal.TimelineID
	stream []byte
	names  []string
}

func newArchived(t *testing.T, recipients []string, ids []object.Identity) *archived {
	t.Helper()
	below, err := file.Open(file.Options{Root: t.TempDir()})
	must(t, err)
	a := &archived{t: t, below: below, store: fault.New(below), ids: ids}
	if _, err := catalog.Init(t.Context(), below, catalog.InitOptions{EncryptionNone: recipients == nil, Recipients: recipients}); err != nil {
		t.Fatal(err)
	}
	pins := catalog.Pins{EncryptionNone: recipients == nil, Recipients: recipients}
	a.repo, err = catalog.Open(t.Context(), a.store, pins)
	must(t, err)
	paths, err := filepath.Glob(filepath.Join("..", "testdata", "15", "huge", "*.gz"))
	must(t, err)
	slices.Sort(paths)
	for _, path := range paths {
		a.stream = append(a.stream, gunzip(t, path)...)
		a.names = append(a.names, filepath.Base(path[:len(path)-len(".gz")]))
	}
	h, err := wal.ParseSegmentHeader(a.stream)
	must(t, err)
	if h.SegmentSize != segmentSize || len(a.names) != 3 {
		t.Fatalf("the fixtures are others: %d segments of %d bytes", len(a.names), h.SegmentSize)
	}
	a.ref = catalog.ClusterRef{Name: "main", SystemID: h.SystemID}
	a.start, a.tli = h.Addr, h.Timeline
	_, err = a.repo.EnsureCluster(t.Context(), catalog.ClusterInfo{Name: "main", SystemID: h.SystemID, SegmentSize: segmentSize})
	must(t, err)
	return a
}

func gunzip(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	z, err := gzip.NewReader(bytes.NewReader(b))
	must(t, err)
	b, err = io.ReadAll(z)
	must(t, err)
	return b
}

// keys of the archive, histories and all.
func (a *archived) keys() (keys []string) {
	a.t.Helper()
	for info, err := range a.below.List(a.t.Context(), a.ref.WALPrefix(), "") {
		must(a.t, err)
		keys = append(keys, info.Key)
	}
	return keys
}

// objects of the archive by what their keys say.
func (a *archived) objects() (full map[string]bool, pieces []catalog.WALObject) {
	a.t.Helper()
	full = map[string]bool{}
	for _, key := range a.keys() {
		o, ok := catalog.ParseWALKey(a.ref, key)
		if !ok {
			a.t.Fatalf("foreign key %s", key)
		}
		switch o.Kind {
		case catalog.WALSegment:
			full[o.Name.String()] = true
		case catalog.WALPiece:
			pieces = append(pieces, o)
		}
	}
	return full, pieces
}

// plain decodes an object.
func (a *archived) plain(key string) (object.Header, []byte) {
	a.t.Helper()
	b, _, err := storage.ReadAll(a.t.Context(), a.below, key, 1<<30)
	must(a.t, err)
	o, err := object.Open(b, a.ids)
	must(a.t, err)
	plain, err := o.Plain()
	must(a.t, err)
	return o.Header(), plain
}

// at is the stream from an LSN on.
func (a *archived) at(l wal.LSN) []byte { return a.stream[l-a.start:] }

func (a *archived) end() wal.LSN { return a.start + wal.LSN(len(a.stream)) }

// sink goes on where the archive ends.
func (a *archived) sink(o *receive.Options) (*receive.Sink, wal.LSN) {
	a.t.Helper()
	o.Store, o.Cluster, o.Host = a.store, "main", "db1"
	at, err := receive.PlanFrom(a.t.Context(), a.repo, a.ref, segmentSize, wal.NewHistory(a.tli), segmentSize.SegmentOf(a.start), 0)
	must(a.t, err)
	s, err := receive.NewSink(a.t.Context(), o, a.repo, a.ref, segmentSize, at)
	must(a.t, err)
	return s, segmentSize.Start(at.Segment())
}

// sweep deletes what receivers have left behind that died between storing a segment and deleting its pieces.
func (a *archived) sweep() {
	a.t.Helper()
	at, err := receive.PlanFrom(a.t.Context(), a.repo, a.ref, segmentSize, wal.NewHistory(a.tli), segmentSize.SegmentOf(a.start), 0)
	must(a.t, err)
	receive.Sweep(a.t.Context(), a.repo, "db1", at.Leftover(), func(receive.Event) {})
}

// checkWhole fails the test unless a segment is stored as its bytes are, and its pieces are gone.
func (a *archived) checkWhole(n int) {
	a.t.Helper()
	name, err := wal.ParseFileName(a.names[n])
	must(a.t, err)
	h, plain := a.plain(a.ref.WALKey(name, ""))
	want := a.stream[n*int(segmentSize) : (n+1)*int(segmentSize)]
	if !bytes.Equal(plain, want) {
		a.t.Errorf("%s has other bytes than the stream", name)
	}
	if h.From != uint64(a.start)+uint64(n)*uint64(segmentSize) || h.To != h.From+uint64(segmentSize) || h.Kind != object.KindWAL {
		a.t.Errorf("%s has the header %+v", name, h)
	}
	_, pieces := a.objects()
	for _, p := range pieces {
		if p.Name == name {
			a.t.Errorf("%s is stored, and its piece %s to %s is still there", name, p.From, p.To)
		}
	}
}

// checkPieces fails the test unless pieces give exactly the bytes from the beginning of segment n up to end, without a gap.
func (a *archived) checkPieces(n int, end wal.LSN) {
	a.t.Helper()
	at := a.start + wal.LSN(n)*wal.LSN(segmentSize)
	_, pieces := a.objects()
	for _, p := range pieces {
		if p.Name.String() != a.names[n] {
			continue
		}
		if p.From > at {
			a.t.Fatalf("a gap from %s to %s", at, p.From)
		}
		h, plain := a.plain(a.ref.PieceKey(p.Name, p.From, p.To))
		if !bytes.Equal(plain, a.at(p.From)[:p.To-p.From]) || h.From != uint64(p.From) || h.To != uint64(p.To) {
			a.t.Errorf("piece %s to %s has other bytes than the stream", p.From, p.To)
		}
		at = max(at, p.To)
	}
	if at != end {
		a.t.Errorf("pieces end at %s, want %s", at, end)
	}
}
