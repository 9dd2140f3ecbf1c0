package catalog_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/fault"
	"pgstow/storage/object"
	"pgstow/wal"
)

func clusterInfo(ref catalog.ClusterRef) catalog.ClusterInfo {
	return catalog.ClusterInfo{Name: ref.Name, SystemID: ref.SystemID, PostgresMajor: 17, SegmentSize: segmentSize, Created: day}
}

func TestEnsureCluster(t *testing.T) {
	r := initPlain(t, newStore(t))
	_, err := r.Cluster(t.Context(), mainRef)
	wantErr(t, err, catalog.ErrNoCluster)
	created, err := r.EnsureCluster(t.Context(), clusterInfo(mainRef))
	if err != nil || !created {
		t.Fatalf("created %v: %v", created, err)
	}
	more := clusterInfo(mainRef)
	more.PageSize = 8192 // was not known before
	if created, err = r.EnsureCluster(t.Context(), more); err != nil || created {
		t.Errorf("created %v: %v", created, err)
	}
	other := clusterInfo(mainRef)
	other.SegmentSize = wal.DefaultSegmentSize
	_, err = r.EnsureCluster(t.Context(), other)
	wantErr(t, err, catalog.ErrClusterMismatch)
	wantHint(t, err)
	got, err := r.Cluster(t.Context(), mainRef)
	if err != nil || got.Ref() != mainRef || got.SegmentSize != segmentSize || !got.Created.Equal(day) {
		t.Errorf("%+v: %v", got, err)
	}
	for _, bad := range []catalog.ClusterInfo{{Name: "main", SegmentSize: segmentSize}, {Name: "repo", SystemID: 1, SegmentSize: segmentSize}, {Name: "main", SystemID: 1}} {
		if _, err := r.EnsureCluster(t.Context(), bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

// TestClusters jumps over the objects of each cluster: its cost does not grow with them.
func TestClusters(t *testing.T) {
	inner := newStore(t)
	r := initPlain(t, inner)
	refs := []catalog.ClusterRef{{Name: "a", SystemID: 5}, {Name: "a", SystemID: 10}, {Name: "a-b", SystemID: 1}, {Name: "main", SystemID: mainRef.SystemID}, {Name: "zz", SystemID: 1 << 63}}
	for _, ref := range refs {
		if _, err := r.EnsureCluster(t.Context(), clusterInfo(ref)); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 30 {
		putObject(t, r, mainRef.WALKey(wal.SegmentName(1, wal.SegmentNumber(n), segmentSize), ""), object.Header{Kind: object.KindWAL}, "x"+strconv.Itoa(n))
	}
	if _, err := r.AcquireLease(t.Context(), "main", "x", catalog.LeaseOptions{}); err != nil {
		t.Fatal(err)
	}
	s := fault.New(inner)
	opened, err := catalog.Open(t.Context(), s, catalog.Pins{EncryptionNone: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Reset()
	got, err := opened.Clusters(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := map[catalog.ClusterRef]bool{}
	for _, ref := range refs {
		want[ref] = true
	}
	for _, c := range got {
		if !want[c.Ref()] {
			t.Errorf("%s is listed twice or not there", c.Ref())
		}
		delete(want, c.Ref())
	}
	if len(want) > 0 {
		t.Errorf("not listed: %v", want)
	}
	if n := s.Calls(); n > 20 {
		t.Errorf("%d requests", n)
	}
	if two, err := opened.SystemIDs(t.Context(), "a"); err != nil || len(two) != 2 {
		t.Errorf("%v %v", two, err)
	}
}

func TestChooseSystemID(t *testing.T) {
	a, b := catalog.ClusterRef{Name: "main", SystemID: 1}, catalog.ClusterRef{Name: "main", SystemID: 2}
	old, since, now := day.Add(-48*time.Hour), day.Add(-24*time.Hour), day
	for _, tt := range []struct {
		name string
		all  []catalog.SystemActivity
		want catalog.ClusterRef
		err  error
	}{
		{"none", nil, catalog.ClusterRef{}, catalog.ErrNoCluster},
		{"one", []catalog.SystemActivity{{a, old}}, a, nil},
		{"one without WAL", []catalog.SystemActivity{{a, time.Time{}}}, a, nil},
		{"upgraded long ago", []catalog.SystemActivity{{a, old}, {b, now}}, b, nil},
		{"both alive", []catalog.SystemActivity{{a, now}, {b, now}}, catalog.ClusterRef{}, catalog.ErrClusterMismatch},
		{"both dead", []catalog.SystemActivity{{a, old}, {b, old}}, catalog.ClusterRef{}, catalog.ErrClusterMismatch},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := catalog.ChooseSystemID("main", tt.all, since)
			if tt.err != nil {
				wantErr(t, err, tt.err)
				wantHint(t, err)
				return
			}
			if err != nil || got != tt.want {
				t.Errorf("%v %v, want %v", got, err, tt.want)
			}
		})
	}
}

// TestForeignInfo: cluster.json of another cluster under our key is not believed.
func TestForeignInfo(t *testing.T) {
	r := initPlain(t, newStore(t))
	if _, err := r.Store.Put(context.Background(), mainRef.InfoKey(), []byte(`{"format":1,"name":"main","system_id":"8","wal_segment_size":1048576}`), storage.Any); err != nil {
		t.Fatal(err)
	}
	_, err := r.Cluster(t.Context(), mainRef)
	wantErr(t, err, catalog.ErrClusterMismatch)
}
