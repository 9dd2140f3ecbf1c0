package catalog_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgstow/catalog"
	"pgstow/storage/fault"
	"pgstow/storage/object"
	"pgstow/wal"
)

func TestBackupsList(t *testing.T) {
	k := newKey(t)
	s := newStore(t)
	r := initEncrypted(t, s, k)
	put := func(id string, tli wal.TimelineID, start, stop wal.LSN) {
		h := testHeader()
		h.Timeline, h.StopTimeline, h.Start, h.Stop = tli, tli, start, stop
		commit(t, newManifest(t, r, id), h)
	}
	put("20261124T154500Z-aaaa", 2, 6*mb, 7*mb) // the newest in spite of its id
	put("20261125T154500Z-bbbb", 1, 5*mb, 6*mb)
	put("20261126T154500Z-cccc", 1, 1*mb, 2*mb)
	if _, err := r.AbortBackup(t.Context(), mainRef, otherID, "x", "x", day); err != nil {
		t.Fatal(err)
	}
	want := []string{"20261126T154500Z-cccc", "20261125T154500Z-bbbb", "20261124T154500Z-aaaa"}
	blind, err := catalog.Open(t.Context(), s, catalog.Pins{Recipients: []string{k.recipient}})
	if err != nil {
		t.Fatal(err)
	}
	other := newKey(t)
	stranger, err := catalog.Open(t.Context(), s, catalog.Pins{Recipients: []string{k.recipient}, Identities: []object.Identity{other.identity}})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		r      *catalog.Repository
		opaque bool
	}{"identity": {r, false}, "no identity": {blind, true}, "wrong identity": {stranger, true}} {
		t.Run(name, func(t *testing.T) {
			list, err := tt.r.Backups(t.Context(), mainRef)
			if err != nil {
				t.Fatal(err)
			}
			var ids []string
			for _, b := range list {
				ids = append(ids, b.ID)
				if b.Opaque != tt.opaque || b.ManifestSize == 0 || b.Committed.IsZero() || b.Ref() != mainRef || !b.StoppedAt.Equal(day.Add(time.Minute)) || b.Host != "db1" {
					t.Errorf("%+v", b)
				}
				if (b.Label == "") != tt.opaque {
					t.Errorf("label %q", b.Label)
				}
			}
			if !slices.Equal(ids, want) {
				t.Errorf("order %v, want %v", ids, want)
			}
		})
	}
	_, err = blind.ReadManifest(t.Context(), mainRef, want[0])
	wantErr(t, err, object.ErrNoIdentity)
	wantHint(t, err)
	_, err = stranger.ReadManifest(t.Context(), mainRef, want[0])
	wantErr(t, err, object.ErrWrongIdentity)
}

// TestBackupsDamaged: a manifest that cannot be read is an error, and the others are listed all the same.
func TestBackupsDamaged(t *testing.T) {
	s := fault.New(newStore(t))
	r := initPlain(t, s)
	writeSample(t, r)
	w := newManifest(t, r, otherID)
	commit(t, w, testHeader())
	s.Add(fault.Fault{Op: fault.Get, Key: "*" + otherID + "*", Kind: fault.Flip, At: 600})
	list, err := r.Backups(t.Context(), mainRef)
	if err == nil || !strings.Contains(err.Error(), otherID) || len(list) != 1 || list[0].ID != testID {
		t.Errorf("%v %v", list, err)
	}
	s.VerifyAllHit(t)
}

// TestBackupsCost: one list and one small read for each backup, however big the manifests are.
func TestBackupsCost(t *testing.T) {
	inner := newStore(t)
	r := initPlain(t, inner)
	writeSample(t, r)
	s := fault.New(inner)
	opened, err := catalog.Open(t.Context(), s, catalog.Pins{EncryptionNone: true})
	if err != nil {
		t.Fatal(err)
	}
	before := s.Calls()
	if _, err := opened.Backups(t.Context(), mainRef); err != nil {
		t.Fatal(err)
	}
	if n := s.Calls() - before; n != 2 {
		t.Errorf("%d requests", n)
	}
}
