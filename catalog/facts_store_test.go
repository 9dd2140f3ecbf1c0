package catalog_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/fault"
	"pgstow/storage/object"
	"pgstow/wal"
)

// realSegment reads a segment that a PostgreSQL server wrote (wal/testdata).
func realSegment(t *testing.T, major, role string) (wal.FileName, []byte, wal.SegmentInfo) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("..", "wal", "testdata", major, role, "*.gz"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no fixture %s of %s: %v", role, major, err)
	}
	name, err := wal.ParseFileName(strings.TrimSuffix(filepath.Base(paths[0]), ".gz"))
	if err != nil {
		t.Fatal(err)
	}
	packed, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	seg, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	info, err := wal.InspectSegment(seg, name)
	if err != nil {
		t.Fatal(err)
	}
	return name, seg, info
}

// segmentHeader is what push writes of a segment.
func segmentHeader(name wal.FileName, info wal.SegmentInfo) object.Header {
	h := object.Header{
		Kind: object.KindWAL, Name: name.String(), SystemID: info.Header.SystemID, Timeline: uint32(name.Timeline),
		From: uint64(name.Start(info.Header.SegmentSize)), LastRecord: uint64(info.LastRecord), MaxXID: info.MaxXID,
	}
	if !info.FirstCommit.IsZero() {
		h.FirstCommit, h.LastCommit = info.FirstCommit.UnixMicro(), info.LastCommit.UnixMicro()
	}
	if info.Switch {
		h.Flags |= object.FlagSwitch
	}
	if len(info.RestorePoints) > 0 {
		h.Flags |= object.FlagRestorePoint
	}
	return h
}

func putRaw(t *testing.T, r *catalog.Repository, key string, h object.Header, plain []byte) {
	t.Helper()
	b, err := object.EncodeAll(r.WriterOptions(), h, plain)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Put(t.Context(), key, b, storage.IfAbsent); err != nil {
		t.Fatal(err)
	}
}

func factsOn(t *testing.T, r *catalog.Repository, ref catalog.ClusterRef, size wal.SegmentSize) *catalog.StoredSegments {
	t.Helper()
	x, err := r.ListWAL(t.Context(), ref, size)
	if err != nil {
		t.Fatal(err)
	}
	return catalog.NewStoredSegments(r, x)
}

// TestStoredSegments: header, whole segment and pieces of it tell the same of real WAL.
func TestStoredSegments(t *testing.T) {
	for _, major := range []string{"13", "15", "18"} {
		t.Run(major, func(t *testing.T) {
			name, seg, info := realSegment(t, major, "plain")
			ref := catalog.ClusterRef{Name: "main", SystemID: info.Header.SystemID}
			size := info.Header.SegmentSize
			n, start := name.Number(size), name.Start(size)
			whole := initEncrypted(t, newStore(t), newKey(t))
			putRaw(t, whole, ref.WALKey(name, ""), segmentHeader(name, info), seg)
			facts := factsOn(t, whole, ref, size)
			h, err := facts.Header(t.Context(), name.Timeline, n)
			if err != nil {
				t.Fatal(err)
			}
			if h.LastRecord != info.LastRecord || !h.FirstCommit.Equal(info.FirstCommit) || !h.LastCommit.Equal(info.LastCommit) || h.MaxXID != info.MaxXID || h.Exact || h.LastCommit.IsZero() {
				t.Errorf("header %+v, segment %+v", h, info)
			}
			d, err := facts.Decode(t.Context(), name.Timeline, n, wal.MaxLSN)
			if err != nil {
				t.Fatal(err)
			}
			if !d.Exact || d.Begins != info.LastRecord || d.LastRecord > d.Begins || !d.LastCommit.Equal(info.LastCommit) || !d.FirstCommit.Equal(info.FirstCommit) || len(d.RestorePoints) != len(info.RestorePoints) {
				t.Errorf("records %+v, segment %+v", d, info)
			}

			// The same in overlapping pieces up to the middle of the segment.
			half := initEncrypted(t, newStore(t), newKey(t))
			for _, p := range [][2]wal.LSN{{0, 1000}, {500, 40_000}, {40_000, wal.LSN(size) / 2}, {wal.LSN(size)/2 + 8, wal.LSN(size)/2 + 16}} {
				ph := object.Header{Kind: object.KindPiece, SystemID: ref.SystemID, From: uint64(start + p[0]), To: uint64(start + p[1])}
				key := ref.PieceKey(name, start+p[0], start+p[1])
				ph.Name = filepath.Base(key)
				putRaw(t, half, key, ph, seg[p[0]:p[1]])
			}
			until := start + wal.LSN(size)/2
			want, err := facts.Decode(t.Context(), name.Timeline, n, until)
			if err != nil {
				t.Fatal(err)
			}
			got, err := factsOn(t, half, ref, size).Decode(t.Context(), name.Timeline, n, wal.MaxLSN)
			if err != nil {
				t.Fatal(err)
			}
			if got.LastRecord != want.LastRecord || !got.LastCommit.Equal(want.LastCommit) || got.MaxXID != want.MaxXID || got.LastRecord == 0 || got.LastRecord >= until {
				t.Errorf("pieces %+v, cut segment %+v", got, want)
			}
		})
	}
}

func TestStoredSegmentsSwitch(t *testing.T) {
	name, seg, info := realSegment(t, "17", "switched")
	ref := catalog.ClusterRef{Name: "main", SystemID: info.Header.SystemID}
	r := initPlain(t, newStore(t))
	putRaw(t, r, ref.WALKey(name, ""), segmentHeader(name, info), seg)
	facts := factsOn(t, r, ref, info.Header.SegmentSize)
	d, err := facts.Decode(t.Context(), name.Timeline, name.Number(info.Header.SegmentSize), wal.MaxLSN)
	if err != nil || !d.Switch || d.LastRecord != d.Begins {
		t.Errorf("%+v %v", d, err)
	}
}

// TestStoredSegmentsErrors: what is stored under a key must be what the key says, and pieces must agree.
func TestStoredSegmentsErrors(t *testing.T) {
	name, seg, info := realSegment(t, "17", "plain")
	ref := catalog.ClusterRef{Name: "main", SystemID: info.Header.SystemID}
	size := info.Header.SegmentSize
	n, start := name.Number(size), name.Start(size)
	other := segmentHeader(name, info)
	other.Name = wal.SegmentName(name.Timeline, n+1, size).String()
	foreign := segmentHeader(name, info)
	foreign.SystemID++
	for label, h := range map[string]object.Header{"another name": other, "another system": foreign} {
		r := initPlain(t, newStore(t))
		putRaw(t, r, ref.WALKey(name, ""), h, seg)
		facts := factsOn(t, r, ref, size)
		if f, err := facts.Header(t.Context(), name.Timeline, n); err == nil {
			t.Errorf("%s: header %+v", label, f)
		}
		if f, err := facts.Decode(t.Context(), name.Timeline, n, wal.MaxLSN); err == nil {
			t.Errorf("%s: records %+v", label, f)
		}
		if err := facts.Prefetch(t.Context(), []catalog.SegmentID{{Timeline: name.Timeline, Number: n}}); err == nil {
			t.Errorf("%s: prefetched", label)
		}
	}
	r := initPlain(t, newStore(t))
	piece := func(from, to wal.LSN, plain []byte) {
		key := ref.PieceKey(name, start+from, start+to)
		putRaw(t, r, key, object.Header{Kind: object.KindPiece, Name: filepath.Base(key), SystemID: ref.SystemID, From: uint64(start + from), To: uint64(start + to)}, plain)
	}
	piece(0, 9000, seg[:9000])
	bad := bytes.Clone(seg[8000:10_000])
	bad[500]++
	piece(8000, 10_000, bad)
	_, err := factsOn(t, r, ref, size).Decode(t.Context(), name.Timeline, n, wal.MaxLSN)
	if err == nil || !strings.Contains(err.Error(), "disagrees") {
		t.Errorf("pieces that differ: %v", err)
	}
	damaged := bytes.Clone(seg)
	damaged[size/2]++
	r = initPlain(t, newStore(t))
	putRaw(t, r, ref.WALKey(name, ""), segmentHeader(name, info), damaged)
	_, err = factsOn(t, r, ref, size).Decode(t.Context(), name.Timeline, n, wal.MaxLSN)
	var se *wal.SegmentError
	if !errors.As(err, &se) {
		t.Errorf("a damaged segment: %v", err)
	}
}

// TestFacts gathers everything and plans; headers are read once and without an identity.
func TestFacts(t *testing.T) {
	k := newKey(t)
	inner := newStore(t)
	r := initEncrypted(t, inner, k)
	if _, err := r.EnsureCluster(t.Context(), clusterInfo(mainRef)); err != nil {
		t.Fatal(err)
	}
	for n := wal.SegmentNumber(1); n <= 6; n++ {
		name := wal.SegmentName(1, n, segmentSize)
		at := day.Add(time.Duration(n) * time.Minute).UnixMicro()
		putObject(t, r, mainRef.WALKey(name, ""), object.Header{Kind: object.KindWAL, Name: name.String(), LastRecord: uint64(segmentSize.Start(n)) + 100, FirstCommit: at, LastCommit: at}, "x")
	}
	for n := wal.SegmentNumber(4); n <= 5; n++ {
		name := wal.SegmentName(2, n, segmentSize)
		putObject(t, r, mainRef.WALKey(name, ""), object.Header{Kind: object.KindWAL, Name: name.String()}, "x")
	}
	history := wal.History{{Timeline: 1, End: 4*mb + 500}, {Timeline: 2, End: wal.MaxLSN}}
	putObject(t, r, mainRef.HistoryKey(2), object.Header{Kind: object.KindHistory, Name: "00000002.history"}, string(history.Format()))
	h := testHeader()
	h.Start, h.Stop, h.Timeline, h.StopTimeline, h.History = 1*mb+40, 1*mb+400, 1, 1, nil
	commit(t, newManifest(t, r, testID), h)

	f, err := r.Facts(t.Context(), mainRef)
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Backups) != 1 || len(f.WAL.Timelines) != 2 || !f.Histories[2].Equal(history) || len(f.Unread) != 0 {
		t.Errorf("%+v", f)
	}
	p, err := catalog.PlanRestore(t.Context(), f, catalog.Target{}, catalog.BackupSelector{})
	if err != nil || p.Timeline != 2 || pathString(p) != "1:1-3 2:4-5" {
		t.Errorf("%v %v", p, err)
	}
	windows, err := catalog.Windows(t.Context(), f)
	if err != nil || len(windows) != 2 || windows[0].ToLSN != 7*mb || windows[1].ToLSN != 6*mb || !windows[0].ToTime.Equal(day.Add(6*time.Minute)) {
		t.Errorf("%+v %v", windows, err)
	}

	s := fault.New(inner)
	blind, err := catalog.Open(t.Context(), s, catalog.Pins{Recipients: []string{k.recipient}})
	if err != nil {
		t.Fatal(err)
	}
	f, err = blind.Facts(t.Context(), mainRef)
	if err != nil || len(f.Unread) != 1 || f.Unread[0] != 2 || !f.Backups[0].Opaque {
		t.Fatalf("%+v %v", f, err)
	}
	before := s.Count(fault.Get)
	for range 3 {
		if fact, err := f.Segments.Header(t.Context(), 1, 3); err != nil || !fact.LastCommit.Equal(day.Add(3*time.Minute)) {
			t.Errorf("%+v %v", fact, err)
		}
	}
	if n := s.Count(fault.Get) - before; n != 1 {
		t.Errorf("%d reads of one header", n)
	}
	if w, err := catalog.Windows(context.Background(), f); err != nil || len(w) != 1 {
		t.Errorf("%+v %v", w, err)
	}
}
