package catalog_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"pgstow/catalog"
	"pgstow/storage/fault"
)

var errDied = errors.New("the process is dead")

// TestDeleteAgainstDyingBackup: a backup names its reference, looks at what is condemned, and dies right behind its
// commit, before it looks again whether its packs are there. Whatever call of a deletion the one and the other fall
// between, and whether its lease is alive or has been dead for long: if it is committed it has its packs.
func TestDeleteAgainstDyingBackup(t *testing.T) {
	h := testHeader()
	h.Reference = idA
	outcomes := map[bool]int{}
	calls := 0
	run := func(join, commit int, lives bool) {
		what := fmt.Sprintf("joined at call %d, committed at call %d, lives: %v", join, commit, lives)
		inner := newStore(t)
		deleter, dying := fault.New(inner), fault.New(inner)
		r := twoBackups(t, deleter)
		mine, err := catalog.Open(t.Context(), dying, catalog.Pins{EncryptionNone: true})
		if err != nil {
			t.Fatal(err)
		}
		builds := false
		var id string
		joins := func() {
			lease, err := mine.ClaimBackup(context.Background(), mainRef, catalog.LeaseOptions{TTL: time.Minute}, nil)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			id = lease.Backup()
			if err := lease.SetReference(context.Background(), idA); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			_, merr := mine.ReadManifest(context.Background(), mainRef, idA)
			condemned, err := mine.Condemned(context.Background(), "main")
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			builds = merr == nil && !condemned[mainRef.PackKey(idA, 2)]
		}
		commits := func() {
			if !builds {
				return
			}
			w := useAll(t, mine, id, pack(idA, 1, 1), pack(idA, 2, 1), pack(idA, 3, 1))
			dead := false
			dying.OnCall(func(c fault.Call) error {
				if dead {
					return errDied
				}
				dead = c.Op == fault.Put
				return nil
			})
			if _, err := w.Commit(context.Background(), h); err == nil {
				t.Fatalf("%s: it did not die", what)
			}
		}
		n := 0
		deleter.Reset()
		deleter.OnCall(func(fault.Call) error {
			if n++; n == join {
				joins()
			}
			if n == commit {
				commits()
			}
			return nil
		})
		o := catalog.DeleteOptions{IgnoreHolds: true}
		if !lives { // watched for longer than the lease lives
			now := time.Duration(0)
			o.Wait = time.Hour
			o.Clock = catalog.Clock{Monotonic: func() time.Duration { return now }, Sleep: func(_ context.Context, d time.Duration) error { now += d; return nil }}
		}
		_, derr := r.DeleteBackup(context.Background(), mainRef, idA, o)
		deleter.OnCall(nil)
		calls = max(calls, n)
		if commit > n {
			commits()
		}
		if derr != nil && !errors.Is(derr, catalog.ErrInUse) {
			t.Fatalf("%s: the deletion said %v", what, derr)
		}
		if id == "" {
			return
		}
		_, err = r.Backup(t.Context(), mainRef, id)
		if err != nil && !errors.Is(err, catalog.ErrNoBackup) {
			t.Fatalf("%s: %v", what, err)
		}
		committed := err == nil
		outcomes[committed]++
		for k := 1; committed && k <= 3; k++ {
			if !exists(t, inner, mainRef.PackKey(idA, k)) {
				t.Fatalf("%s: committed, and pack %d is gone", what, k)
			}
		}
	}
	for _, lives := range []bool{true, false} {
		run(1000, 1000, lives)
		for join := 1; join <= calls; join++ {
			for _, after := range []int{0, 1, 3, 6, 1000} {
				run(join, join+after, lives)
			}
		}
	}
	if outcomes[true] < 3 || outcomes[false] < 3 {
		t.Errorf("committed %d times, not committed %d times: the interleavings do not test it", outcomes[true], outcomes[false])
	}
}
