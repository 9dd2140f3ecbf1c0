package huge_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/limit"
	"pgstow/storage/object"
	"pgstow/storage/retry"
	"pgstow/storage/s3"
	"pgstow/test/huge"
	"pgstow/test/pg"
	"pgstow/wal"
)

const segmentSize = wal.DefaultSegmentSize

var ref = catalog.ClusterRef{Name: "main", SystemID: 7300123456789012345}

// segments is how many the archives of the tests have: a hundred thousand times PGSTOW_TEST_ROUNDS, at most a million.
func segments(t *testing.T) int { return 100_000 * min(pg.Rounds(t, 1), 10) }

// scene is an archive of two timelines. The first has an old hole of one segment, and one of 300; the second begins in its last segment and
// has a young hole at its head, behind which are four segments and three pieces. Three backups lie between.
type scene struct {
	one, two, head *huge.Archive
	hole, wide     huge.Gap
	backups        []catalog.BackupHeader
}

func newScene(n int) *scene {
	old := time.Now().Add(-time.Duration(n)*time.Second - 2*time.Hour).Truncate(time.Second)
	s := &scene{hole: huge.Gap{First: 1000, Count: 1}, wide: huge.Gap{First: wal.SegmentNumber(n / 3), Count: 300}}
	s.one = &huge.Archive{
		Ref: ref, Timeline: 1, SegmentSize: segmentSize, First: 1, Count: n * 6 / 10, Holes: []huge.Gap{s.hole, s.wide}, Begin: old, Step: time.Second,
	}
	last := s.one.Number(s.one.Count - 1)
	s.two = &huge.Archive{
		Ref: ref, Timeline: 2, SegmentSize: segmentSize, First: last, Count: n - s.one.Count - 4, Begin: s.one.Modified(s.one.Count), Step: time.Second,
	}
	s.head = &huge.Archive{
		Ref: ref, Timeline: 2, SegmentSize: segmentSize, First: s.two.Number(s.two.Count-1) + 3, Count: 4, Pieces: 3,
		Begin: time.Now().Add(-time.Minute).Truncate(time.Second),
	}
	s.backups = []catalog.BackupHeader{
		s.backup("20260101T010000Z-aaaa", 1, s.hole.First+1),                 // between the holes of timeline 1
		s.backup("20260101T020000Z-aaaa", 1, s.wide.First+300),               // behind them
		s.backup("20260101T030000Z-aaaa", 2, s.two.Number(s.two.Count-1)-10), // near the end of timeline 2
	}
	return s
}

func (s *scene) names() huge.Names { return huge.Join(s.one, s.two, s.head) }

// fork is where timeline 1 ends.
func (s *scene) fork() wal.LSN { return segmentSize.Start(s.two.First) + 0x1000 }

func (s *scene) backup(id string, tli wal.TimelineID, n wal.SegmentNumber) catalog.BackupHeader {
	start := segmentSize.Start(n)
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(n) * time.Second)
	h := catalog.BackupHeader{
		ID: id, Method: catalog.MethodFull, Source: catalog.SourceLocal, PostgresVersion: 150018, PostgresMajor: 15,
		Start: start + 0x28, Stop: start + 0x158, CheckpointLSN: start + 0x80, ControlRedo: start + 0x28, Timeline: tli, StopTimeline: tli, ControlTimeline: tli,
		StartedAt: at, StoppedAt: at.Add(time.Second), NextXID: 1000, CatalogVersion: 202209061, ControlVersion: 1300, BlockSize: 8192, RelSegSize: 131072,
		WALSegmentSize: segmentSize, WALLevel: "replica", BackupLabel: []byte("START WAL LOCATION\n"), Host: "db1", DataDirectory: "/data", DataDirectoryMode: 0o700,
		Program: "test",
	}
	if tli == 2 {
		h.History = []catalog.TimelineSwitch{{Timeline: 1, End: s.fork(), Reason: "promoted"}}
	}
	return h
}

// put stores what is no WAL: the repository, the cluster, the history of timeline 2 and the backups.
func (s *scene) put(ctx context.Context, store storage.Store) (*catalog.Repository, error) {
	r, err := catalog.Init(ctx, store, catalog.InitOptions{EncryptionNone: true})
	if err != nil {
		return nil, err
	}
	if _, err := r.EnsureCluster(ctx, catalog.ClusterInfo{Name: ref.Name, SystemID: ref.SystemID, PostgresMajor: 15, SegmentSize: segmentSize}); err != nil {
		return nil, err
	}
	history, err := object.EncodeAll(r.WriterOptions(), object.Header{Kind: object.KindHistory, Name: wal.HistoryName(2).String(), SystemID: ref.SystemID, Timeline: 2},
		fmt.Appendf(nil, "1\t%s\tpromoted\n", s.fork()))
	if err != nil {
		return nil, err
	}
	if _, err := r.Put(ctx, ref.HistoryKey(2), history, storage.IfAbsent); err != nil {
		return nil, err
	}
	for i := range s.backups {
		m, err := r.NewManifestWriter(ref, s.backups[i].ID)
		if err != nil {
			return nil, err
		}
		if s.backups[i], err = m.Commit(ctx, s.backups[i]); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// bucket serves the scene as S3 does.
func (s *scene) bucket(t *testing.T, latency time.Duration) (*huge.Bucket, string) {
	t.Helper()
	b := &huge.Bucket{Names: s.names(), Latency: latency}
	server := httptest.NewServer(b)
	t.Cleanup(server.Close)
	return b, server.URL
}

// open opens a store as the programs do.
func open(t *testing.T, endpoint string) storage.Store {
	t.Helper()
	inner, err := s3.Open(t.Context(), s3.Options{Bucket: "bucket", Endpoint: endpoint, Credentials: &s3.Credentials{AccessKey: "a", SecretKey: "b"}})
	if err != nil {
		t.Fatal(err)
	}
	return retry.New(limit.New(inner, limit.Options{}), retry.Policy{}, nil)
}

// checkIndex compares with what the scene was made of.
func (s *scene) checkIndex(t *testing.T, x *catalog.WALIndex) {
	t.Helper()
	if len(x.Timelines) != 2 {
		t.Fatalf("%d timelines", len(x.Timelines))
	}
	one, two := x.Timeline(1), x.Timeline(2)
	var holes []huge.Gap
	for _, tl := range []*catalog.TimelineWAL{one, two} {
		for _, h := range tl.Holes() {
			holes = append(holes, huge.Gap{First: h.First, Count: int(h.Count())})
			if young := tl == two; h.Overdue(time.Now()) == young {
				t.Errorf("hole of timeline %d: %+v", tl.Timeline, h)
			}
		}
	}
	young := huge.Gap{First: s.head.First - 2, Count: 2}
	if want := []huge.Gap{s.hole, s.wide, young}; !slices.Equal(holes, want) {
		t.Errorf("holes %v, want %v", holes, want)
	}
	if one.Objects != s.one.Count || two.Objects != s.two.Count+s.head.Len()+1 || !two.HasHistory || len(two.Ranges) != 2 {
		t.Errorf("%d and %d objects, history %v, %d ranges", one.Objects, two.Objects, two.HasHistory, len(two.Ranges))
	}
	if len(two.Pieces) != 1 || two.Pieces[0].Count != 3 || two.Pieces[0].To != s.head.End() {
		t.Errorf("pieces %+v", two.Pieces)
	}
	if _, end := two.Head(segmentSize, time.Now()); end != s.two.End() {
		t.Errorf("the archive ends at %s, want %s, before the young hole", end, s.two.End())
	}
	if _, end := one.Head(segmentSize, time.Now()); end != s.one.End() {
		t.Errorf("timeline 1 ends at %s, want %s", end, s.one.End())
	}
}

// checkWindows: backup 0 is cut off by the wide hole on both timelines, the others reach the end of each.
func (s *scene) checkWindows(t *testing.T, list []catalog.Window) {
	t.Helper()
	type window struct {
		tli     wal.TimelineID
		to      wal.LSN
		backups []string
		hole    bool
	}
	var got []window
	for _, w := range list {
		got = append(got, window{w.Timeline, w.ToLSN, w.Backups, w.Hole != nil})
		if w.ToTime.IsZero() {
			t.Errorf("no time at the end of %+v", w)
		}
	}
	ids := []string{s.backups[0].ID, s.backups[1].ID, s.backups[2].ID}
	want := []window{
		{1, segmentSize.Start(s.wide.First), ids[:1], true},
		{1, s.one.End(), ids[1:2], false},
		{2, segmentSize.Start(s.wide.First), ids[:1], true},
		{2, s.two.End(), ids[1:3], true},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("windows %v, want %v", got, want)
	}
}

// memory measures what a function takes from the system at its peak, garbage included, and what it keeps.
func memory(f func()) (peak, kept int64) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	peak = int64(after.HeapSys) - int64(before.HeapInuse)
	runtime.GC()
	runtime.ReadMemStats(&after)
	return peak, int64(after.HeapAlloc) - int64(before.HeapAlloc)
}

// What listing may take, whatever the size of the archive.
const (
	maxPeak = 128 << 20 // the server of the test is in it
	maxKept = 1 << 20
)

// constantLists is how many requests a listing may take beside those that the number of segments makes necessary.
const constantLists = 90
