package catalog_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/fault"
	"pgstow/storage/object"
)

// putPacks stores packs 1 to n of a backup.
func putPacks(t testing.TB, r *catalog.Repository, id string, n int) {
	t.Helper()
	for i := 1; i <= n; i++ {
		putObject(t, r, mainRef.PackKey(id, i), object.Header{Kind: object.KindPack, Name: fmt.Sprintf("%s/%d", id, i)}, "pages")
	}
}

// useAll writes the manifest of id, which refers to packs of itself and others.
func useAll(t testing.TB, r *catalog.Repository, id string, packs ...catalog.PackEntry) *catalog.ManifestWriter {
	t.Helper()
	w := newManifest(t, r, id)
	for _, p := range packs {
		if _, err := w.AddPack(p); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

const (
	idA = "20261101T000000Z-aaaa"
	idB = "20261102T000000Z-bbbb"
	idC = "20261103T000000Z-cccc"
)

func exists(t testing.TB, s storage.Store, key string) bool {
	t.Helper()
	_, err := s.Stat(context.Background(), key)
	if err != nil && !errors.Is(err, storage.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

// twoBackups: B was built on A and still uses packs 1 and 3 of it.
func twoBackups(t testing.TB, s storage.Store) *catalog.Repository {
	t.Helper()
	r := initPlain(t, s)
	putPacks(t, r, idA, 3)
	commit(t, useAll(t, r, idA, pack(idA, 1, 1), pack(idA, 2, 1), pack(idA, 3, 1)), testHeader())
	putPacks(t, r, idB, 1)
	h := testHeader()
	h.Reference = idA
	commit(t, useAll(t, r, idB, pack(idA, 1, 1), pack(idB, 1, 1), pack(idA, 3, 1)), h)
	return r
}

func TestDeleteBackup(t *testing.T) {
	s := newStore(t)
	r := twoBackups(t, s)
	dry, err := r.DeleteBackup(t.Context(), mainRef, idA, catalog.DeleteOptions{DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	res, err := r.DeleteBackup(t.Context(), mainRef, idA, catalog.DeleteOptions{Host: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(res.Packs, []string{mainRef.PackKey(idA, 2)}) || res.Kept != 2 || res.Manifest != mainRef.BackupManifestKey(idA) || res.Bytes < 1002 {
		t.Errorf("%+v", res)
	}
	if !slices.Equal(dry.Packs, res.Packs) || dry.Bytes != res.Bytes || dry.Kept != res.Kept {
		t.Errorf("dry run %+v, done %+v", dry, res)
	}
	for n, want := range map[int]bool{1: true, 2: false, 3: true} {
		if exists(t, s, mainRef.PackKey(idA, n)) != want {
			t.Errorf("pack %d is there: %v", n, !want)
		}
	}
	if lists, err := r.SweepLists(t.Context(), "main"); err != nil || len(lists) != 0 {
		t.Errorf("sweep lists %v %v", lists, err)
	}
	_, err = r.DeleteBackup(t.Context(), mainRef, idA, catalog.DeleteOptions{})
	wantErr(t, err, catalog.ErrNoBackup)
	res, err = r.DeleteBackup(t.Context(), mainRef, idB, catalog.DeleteOptions{})
	if err != nil || len(res.Packs) != 3 || res.Kept != 0 {
		t.Errorf("%+v %v", res, err)
	}
	for info, err := range s.List(t.Context(), mainRef.Prefix(), "") {
		t.Errorf("left: %s %v", info.Key, err)
	}
}

func TestDeleteRefused(t *testing.T) {
	r := twoBackups(t, newStore(t))
	c := &manualClock{}
	o := catalog.DeleteOptions{Clock: c.clock()}
	lease, err := r.ClaimBackup(t.Context(), mainRef, catalog.LeaseOptions{TTL: ttl, Clock: c.clock(), Reference: idA, Host: "db1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.DeleteBackup(t.Context(), mainRef, idA, o)
	wantErr(t, err, catalog.ErrInUse)
	wantHint(t, err)
	if !exists(t, r.Store, mainRef.BackupManifestKey(idA)) {
		t.Fatal("it is gone all the same")
	}
	if _, err := r.DeleteBackup(t.Context(), mainRef, idB, catalog.DeleteOptions{Clock: c.clock(), DryRun: true}); err != nil {
		t.Errorf("a backup that nobody builds on: %v", err)
	}
	// Its holder lives: watching does not help.
	c.onSleep = func(time.Duration) {
		if err := lease.Renew(context.Background()); err != nil {
			t.Error(err)
		}
	}
	o.Wait = 5 * ttl
	_, err = r.DeleteBackup(t.Context(), mainRef, idA, o)
	wantErr(t, err, catalog.ErrInUse)
	if err := lease.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.onSleep = nil

	if err := r.PlaceHold(t.Context(), "main", catalog.Hold{Name: "restore-1", Backup: idA, Until: time.Now().Add(time.Hour), Reason: "restore"}); err != nil {
		t.Fatal(err)
	}
	_, err = r.DeleteBackup(t.Context(), mainRef, idA, catalog.DeleteOptions{})
	wantErr(t, err, catalog.ErrInUse)
	wantHint(t, err)
	if err := r.PlaceHold(t.Context(), "main", catalog.Hold{Name: "restore-1", Backup: idA, Until: time.Now().Add(-time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if _, err = r.DeleteBackup(t.Context(), mainRef, idA, catalog.DeleteOptions{}); err != nil {
		t.Errorf("a hold that has ended: %v", err)
	}
	if all, err := r.Holds(t.Context(), "main", time.Time{}); err != nil || len(all) != 1 {
		t.Errorf("%v %v", all, err)
	}
	if err := r.RemoveHold(t.Context(), "main", "restore-1"); err != nil {
		t.Error(err)
	}
}

// TestDeleteDeadLease: the lease of a backup that died is in the way until it was watched for its TTL.
func TestDeleteDeadLease(t *testing.T) {
	r := twoBackups(t, newStore(t))
	c := &manualClock{}
	if _, err := r.ClaimBackup(t.Context(), mainRef, catalog.LeaseOptions{TTL: ttl, Clock: c.clock(), Reference: idA}, nil); err != nil {
		t.Fatal(err)
	}
	_, err := r.DeleteBackup(t.Context(), mainRef, idA, catalog.DeleteOptions{Clock: c.clock(), Wait: ttl / 2})
	wantErr(t, err, catalog.ErrInUse)
	if _, err := r.DeleteBackup(t.Context(), mainRef, idA, catalog.DeleteOptions{Clock: c.clock(), Wait: 2 * ttl}); err != nil {
		t.Error(err)
	}
}

// TestDeleteAgainstCommit lets a backup that builds on A, whose lease the deletion has not seen, commit just before each
// store call of the deletion, and, the other way round, the deletion run just before each call of the commit. Never may a
// committed backup lose a pack.
func TestDeleteAgainstCommit(t *testing.T) {
	h := testHeader()
	h.Reference = idA
	check := func(t *testing.T, r *catalog.Repository, commitErr error, what string) (committed bool) {
		t.Helper()
		there := exists(t, r.Store, mainRef.BackupManifestKey(idC))
		if there != (commitErr == nil) {
			t.Fatalf("%s: the commit said %v and the manifest is there: %v", what, commitErr, there)
		}
		if commitErr != nil && !errors.Is(commitErr, catalog.ErrCondemned) {
			t.Fatalf("%s: %v", what, commitErr)
		}
		if there {
			for n := 1; n <= 3; n++ {
				if !exists(t, r.Store, mainRef.PackKey(idA, n)) {
					t.Fatalf("%s: committed, and pack %d is gone", what, n)
				}
			}
		}
		return there
	}
	outcomes := map[bool]int{}
	run := func(at int, deleteFirst bool) (done bool) {
		inner := newStore(t)
		s := fault.New(inner)
		r := twoBackups(t, s)
		w := useAll(t, r, idC, pack(idA, 1, 1), pack(idA, 2, 1), pack(idA, 3, 1))
		var commitErr, deleteErr error
		commits := func() { _, commitErr = w.Commit(context.Background(), h) }
		deletes := func() {
			_, deleteErr = r.DeleteBackup(context.Background(), mainRef, idA, catalog.DeleteOptions{IgnoreHolds: true})
		}
		first, second := deletes, commits
		if !deleteFirst {
			first, second = commits, deletes
		}
		s.Reset()
		n, hit := 0, false
		s.OnCall(func(fault.Call) error {
			if n++; n == at {
				hit = true
				s.OnCall(nil)
				second()
			}
			return nil
		})
		first()
		if !hit {
			return true
		}
		if deleteErr != nil {
			t.Fatalf("call %d: the deletion said %v", at, deleteErr)
		}
		outcomes[check(t, r, commitErr, fmt.Sprintf("call %d, deletion outside: %v", at, deleteFirst))]++
		return false
	}
	for _, deleteFirst := range []bool{true, false} {
		for at := 1; !run(at, deleteFirst); at++ {
			if at > 200 {
				t.Fatal("no end")
			}
		}
	}
	if outcomes[true] < 3 || outcomes[false] < 3 {
		t.Errorf("committed %d times, undone %d times: the interleavings do not test it", outcomes[true], outcomes[false])
	}
}

// TestDeleteInterrupted crashes the deletion at every call: B stays whole, and a second run, or the first, has done it.
func TestDeleteInterrupted(t *testing.T) {
	for n := 1; ; n++ {
		inner := newStore(t)
		r := twoBackups(t, inner)
		s := fault.New(inner)
		opened, err := catalog.Open(t.Context(), s, catalog.Pins{EncryptionNone: true})
		if err != nil {
			t.Fatal(err)
		}
		s.Crash(n, true, nil)
		_, err = opened.DeleteBackup(t.Context(), mainRef, idA, catalog.DeleteOptions{})
		if err == nil {
			if n < 8 {
				t.Fatalf("call %d failed and nobody noticed", n)
			}
			return
		}
		for _, key := range []string{mainRef.PackKey(idA, 1), mainRef.PackKey(idA, 3), mainRef.PackKey(idB, 1), mainRef.BackupManifestKey(idB)} {
			if !exists(t, inner, key) {
				t.Fatalf("crash at call %d: %s is gone", n, key)
			}
		}
		if _, err := r.ReadManifest(t.Context(), mainRef, idB); err != nil {
			t.Fatal(err)
		}
		if exists(t, inner, mainRef.BackupManifestKey(idA)) {
			if _, err := r.DeleteBackup(t.Context(), mainRef, idA, catalog.DeleteOptions{}); err != nil {
				t.Fatalf("crash at call %d, second run: %v", n, err)
			}
		}
	}
}

// TestDeleteNeedsAllManifests: if one cannot be read nothing is deleted.
func TestDeleteNeedsAllManifests(t *testing.T) {
	s := fault.New(newStore(t))
	r := twoBackups(t, s)
	s.Add(fault.Fault{Op: fault.Get, Key: "*" + idB + "*", Kind: fault.Flip, At: 700})
	if _, err := r.DeleteBackup(t.Context(), mainRef, idA, catalog.DeleteOptions{}); !errors.Is(err, object.ErrCorrupt) {
		t.Errorf("error %v", err)
	}
	s.VerifyAllHit(t)
	if !exists(t, s, mainRef.BackupManifestKey(idA)) || !exists(t, s, mainRef.PackKey(idA, 2)) {
		t.Error("something is gone")
	}
}

// TestCommitAfterReferenceWent: without its reference a commit looks at each pack.
func TestCommitAfterReferenceWent(t *testing.T) {
	for name, gone := range map[string]bool{"its packs are needed by others": false, "a pack is gone": true} {
		t.Run(name, func(t *testing.T) {
			r := twoBackups(t, newStore(t))
			if _, err := r.DeleteBackup(t.Context(), mainRef, idA, catalog.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			packs := []catalog.PackEntry{pack(idA, 1, 1), pack(idA, 3, 1)}
			if gone {
				packs = append(packs, pack(idA, 2, 1))
			}
			h := testHeader()
			h.Reference = idA
			_, err := useAll(t, r, idC, packs...).Commit(t.Context(), h)
			if gone {
				wantErr(t, err, catalog.ErrCondemned)
			} else if err != nil {
				t.Error(err)
			}
			if exists(t, r.Store, mainRef.BackupManifestKey(idC)) == gone {
				t.Errorf("manifest is there: %v", gone)
			}
		})
	}
}

// TestCommitCheckFails: not knowing whether the packs are safe, the backup does not exist.
func TestCommitCheckFails(t *testing.T) {
	s := fault.New(newStore(t))
	r := twoBackups(t, s)
	h := testHeader()
	h.Reference = idA
	s.Add(fault.Fault{Op: fault.List, Key: "main/sweep/*"})
	if _, err := useAll(t, r, idC, pack(idA, 1, 1)).Commit(t.Context(), h); !errors.Is(err, fault.ErrInjected) {
		t.Errorf("error %v", err)
	}
	s.VerifyAllHit(t)
	if exists(t, s, mainRef.BackupManifestKey(idC)) {
		t.Error("the manifest is there")
	}
}

func TestCondemned(t *testing.T) {
	r := initPlain(t, newStore(t))
	l := catalog.SweepList{Name: "expire-1", SystemID: mainRef.SystemID, Created: day, Condemned: []string{"a", "b"}}
	if err := r.Condemn(t.Context(), "main", l); err != nil {
		t.Fatal(err)
	}
	wantErr(t, r.Condemn(t.Context(), "main", l), storage.ErrExist)
	got, err := r.Condemned(t.Context(), "main")
	if err != nil || len(got) != 2 || !got["a"] {
		t.Errorf("%v %v", got, err)
	}
	lists, err := r.SweepLists(t.Context(), "main")
	if err != nil || len(lists) != 1 || lists[0].Stored.IsZero() || !lists[0].Created.Equal(day) {
		t.Errorf("%+v %v", lists, err)
	}
	if err := r.EndSweep(t.Context(), "main", "expire-1"); err != nil {
		t.Fatal(err)
	}
	if got, err := r.Condemned(t.Context(), "main"); err != nil || len(got) != 0 {
		t.Errorf("%v %v", got, err)
	}
}
