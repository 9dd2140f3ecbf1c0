package catalog_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/fault"
)

// manualClock moves only when somebody sleeps by it.
type manualClock struct {
	now     time.Duration
	onSleep func(d time.Duration) // before the time has passed
}

func (c *manualClock) clock() catalog.Clock {
	return catalog.Clock{
		Monotonic: func() time.Duration { return c.now },
		Wall:      func() time.Time { return day.Add(c.now) },
		Sleep: func(ctx context.Context, d time.Duration) error {
			if c.onSleep != nil {
				c.onSleep(d)
			}
			c.now += d
			return ctx.Err()
		},
	}
}

const ttl = time.Minute

func acquire(r *catalog.Repository, c *manualClock, host string, wait bool) (*catalog.Lease, error) {
	return r.AcquireLease(context.Background(), "main", "expire", catalog.LeaseOptions{Purpose: "expire", TTL: ttl, Host: host, PID: 1, Clock: c.clock(), Wait: wait})
}

func TestLease(t *testing.T) {
	r := initPlain(t, newStore(t))
	c := &manualClock{}
	a, err := acquire(r, c, "a", false)
	if err != nil {
		t.Fatal(err)
	}
	_, err = acquire(r, c, "b", false)
	wantErr(t, err, catalog.ErrLeaseHeld)
	var held *catalog.LeaseHeldError
	if !errors.As(err, &held) || held.Info.Host != "a" {
		t.Errorf("error %v does not name the holder", err)
	}
	c.now += 100 * ttl // nobody watched: time alone does not make it dead
	_, err = acquire(r, c, "b", false)
	wantErr(t, err, catalog.ErrLeaseHeld)
	if list, err := r.Leases(t.Context(), "main"); err != nil || len(list) != 1 || list[0].Holder != a.Info().Holder {
		t.Errorf("%v %v", list, err)
	}
	if err := a.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := a.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantErr(t, a.Renew(t.Context()), catalog.ErrLeaseLost)
	if list, err := r.Leases(t.Context(), "main"); err != nil || len(list) != 0 {
		t.Errorf("%v %v", list, err)
	}
	b, err := acquire(r, c, "b", false)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Release(t.Context()); err != nil { // again: does nothing
		t.Fatal(err)
	}
	if err := b.Renew(t.Context()); err != nil {
		t.Errorf("the old holder's release took it: %v", err)
	}
}

// TestLeaseTakeOver: a contender takes a lease after exactly the TTL without change, and the old holder notices.
func TestLeaseTakeOver(t *testing.T) {
	r := initPlain(t, newStore(t))
	holder := &manualClock{}
	a, err := acquire(r, holder, "a", false)
	if err != nil {
		t.Fatal(err)
	}
	renewals := 5
	var lastRenewal time.Duration
	c := &manualClock{}
	c.onSleep = func(time.Duration) {
		if renewals > 0 {
			renewals--
			if err := a.Renew(context.Background()); err != nil {
				t.Errorf("renewal while it was alive: %v", err)
			}
			lastRenewal = c.now
		}
	}
	b, err := acquire(r, c, "b", true)
	if err != nil {
		t.Fatal(err)
	}
	if waited := c.now - lastRenewal; renewals != 0 || waited <= ttl || waited > ttl*3/2 {
		t.Errorf("taken %s after the last renewal, TTL is %s; %d renewals to go", waited, ttl, renewals)
	}
	wantErr(t, a.Renew(t.Context()), catalog.ErrLeaseLost)
	if err := a.Release(t.Context()); err != nil {
		t.Errorf("release of a lost lease: %v", err)
	}
	if err := b.Renew(t.Context()); err != nil {
		t.Errorf("the new holder lost it: %v", err)
	}
}

// TestLeaseBodyDecidesNothing: neither a time of long ago nor one of the future in the body matters.
func TestLeaseBodyDecidesNothing(t *testing.T) {
	for _, at := range []string{"1999-01-01T00:00:00Z", "2999-01-01T00:00:00Z"} {
		s := newStore(t)
		r := initPlain(t, s)
		body := `{"format":1,"name":"expire","purpose":"expire","nonce":"x","ttl_seconds":60,"acquired":"` + at + `","renewed":"` + at + `"}`
		if _, err := s.Put(t.Context(), catalog.LeaseKey("main", "expire"), []byte(body), storage.Any); err != nil {
			t.Fatal(err)
		}
		c := &manualClock{}
		_, err := acquire(r, c, "b", false)
		wantErr(t, err, catalog.ErrLeaseHeld)
		if _, err := acquire(r, c, "b", true); err != nil || c.now <= ttl {
			t.Errorf("%v after %s", err, c.now)
		}
	}
}

// dated gives each read a store clock of its own.
type dated struct {
	storage.Store
	now func() time.Time
}

func (d dated) Get(ctx context.Context, key string, r storage.Range) (io.ReadCloser, storage.Info, error) {
	body, info, err := d.Store.Get(ctx, key, r)
	info.Now = d.now()
	return body, info, err
}

// TestLeaseStoreClock: a host that was suspended, whose monotonic clock stood still, sees by the store's clock that a
// lease is dead.
func TestLeaseStoreClock(t *testing.T) {
	s := newStore(t)
	initPlain(t, s)
	at := day
	r, err := catalog.Open(t.Context(), dated{s, func() time.Time { return at }}, catalog.Pins{EncryptionNone: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := acquire(r, &manualClock{}, "a", false); err != nil {
		t.Fatal(err)
	}
	sleeps := 0
	frozen := catalog.Clock{
		Monotonic: func() time.Duration { return 0 },
		Wall:      func() time.Time { return day },
		Sleep: func(context.Context, time.Duration) error {
			sleeps++
			at = at.Add(ttl*2/3 + 1)
			return nil
		},
	}
	if _, err := r.AcquireLease(t.Context(), "main", "expire", catalog.LeaseOptions{TTL: ttl, Clock: frozen, Wait: true}); err != nil || sleeps != 2 {
		t.Errorf("%v after %d looks", err, sleeps)
	}
}

// TestLeaseContenders: of many that see a lease die at the same moment one gets it.
func TestLeaseContenders(t *testing.T) {
	for range 5 {
		synctest.Test(t, func(t *testing.T) {
			r := initPlain(t, newStore(t))
			o := catalog.LeaseOptions{TTL: ttl}
			if _, err := r.AcquireLease(t.Context(), "main", "expire", o); err != nil {
				t.Fatal(err)
			}
			o.Wait = true
			// Long enough to see the first holder dead, too short for whoever beats the others.
			ctx, cancel := context.WithTimeout(t.Context(), ttl*3/2)
			defer cancel()
			var won atomic.Int32
			var group sync.WaitGroup
			for range 6 {
				group.Go(func() {
					_, err := r.AcquireLease(ctx, "main", "expire", o)
					switch {
					case err == nil:
						won.Add(1)
					case !errors.Is(err, catalog.ErrLeaseHeld) && !errors.Is(err, context.DeadlineExceeded):
						t.Errorf("a loser: %v", err)
					}
				})
			}
			group.Wait()
			if won.Load() != 1 {
				t.Errorf("%d winners", won.Load())
			}
		})
	}
}

// TestKeep runs in fake time: the lease lives as long as it is renewed, and the work ends when it cannot be.
func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fault.New(newStore(t))
		r := initPlain(t, s)
		l, err := r.AcquireLease(t.Context(), "main", "expire", catalog.LeaseOptions{TTL: ttl})
		if err != nil {
			t.Fatal(err)
		}
		work, stop := l.Keep(t.Context())
		before := l.Info().Nonce
		<-time.After(10 * ttl)
		if work.Err() != nil {
			t.Fatalf("the work ended: %v", context.Cause(work))
		}
		if l.Info().Nonce == before {
			t.Error("the lease was not renewed")
		}
		s.Add(fault.Fault{Op: fault.Put, Times: -1})
		begin := time.Now()
		<-work.Done()
		if took := time.Since(begin); took > ttl*2/3+ttl/20 {
			t.Errorf("the work went on for %s without a lease", took)
		}
		wantErr(t, context.Cause(work), catalog.ErrLeaseLost)
		wantErr(t, stop(), catalog.ErrLeaseLost)
	})
}

func TestKeepStoreHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fault.New(newStore(t))
		r := initPlain(t, s)
		l, err := r.AcquireLease(t.Context(), "main", "expire", catalog.LeaseOptions{TTL: ttl})
		if err != nil {
			t.Fatal(err)
		}
		s.Add(fault.Fault{Op: fault.Put, Kind: fault.Hang, Times: -1})
		begin := time.Now()
		work, stop := l.Keep(t.Context())
		<-work.Done()
		if took := time.Since(begin); took > ttl*2/3+ttl/20 {
			t.Errorf("the work went on for %s without a lease", took)
		}
		wantErr(t, stop(), catalog.ErrLeaseLost)
	})
}

// TestKeepWriteHangs: a write of the work itself that hangs does not keep the end of the lease from being noticed.
func TestKeepWriteHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fault.New(newStore(t))
		r := initPlain(t, s)
		l, err := r.AcquireLease(t.Context(), "main", "expire", catalog.LeaseOptions{TTL: ttl})
		if err != nil {
			t.Fatal(err)
		}
		s.Add(fault.Fault{Op: fault.Put, Kind: fault.Hang, Times: -1})
		work, stop := l.Keep(t.Context())
		begin := time.Now()
		if err := l.SetReference(work, idA); err == nil {
			t.Error("a store that hangs took the reference")
		}
		if took := time.Since(begin); took > ttl*2/3+ttl/20 {
			t.Errorf("the work went on for %s without a lease", took)
		}
		wantErr(t, stop(), catalog.ErrLeaseLost)
		if l.Info().Reference != "" {
			t.Error("a reference that was not stored is believed")
		}
	})
}

func TestKeepTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		r := initPlain(t, s)
		l, err := r.AcquireLease(t.Context(), "main", "expire", catalog.LeaseOptions{TTL: ttl})
		if err != nil {
			t.Fatal(err)
		}
		work, stop := l.Keep(t.Context())
		if err := s.Delete(t.Context(), catalog.LeaseKey("main", "expire")); err != nil {
			t.Fatal(err)
		}
		if _, err := r.AcquireLease(t.Context(), "main", "expire", catalog.LeaseOptions{TTL: ttl}); err != nil {
			t.Fatal(err)
		}
		<-work.Done()
		wantErr(t, context.Cause(work), catalog.ErrLeaseLost)
		wantErr(t, stop(), catalog.ErrLeaseLost)
		if err := l.Release(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestKeepStop ends without an error, and the lease can be released then.
func TestKeepStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := initPlain(t, newStore(t))
		l, err := r.AcquireLease(t.Context(), "main", "expire", catalog.LeaseOptions{TTL: ttl})
		if err != nil {
			t.Fatal(err)
		}
		work, stop := l.Keep(t.Context())
		if err := stop(); err != nil {
			t.Error(err)
		}
		if work.Err() == nil {
			t.Error("the work's context lives on")
		}
		if err := l.Release(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestClaimBackup(t *testing.T) {
	r := initPlain(t, newStore(t))
	c := &manualClock{}
	zeros := func(n int) io.Reader { return bytes.NewReader(make([]byte, n)) }
	first, err := r.ClaimBackup(t.Context(), mainRef, catalog.LeaseOptions{TTL: ttl, Clock: c.clock(), Reference: "20261101T000000Z-aaaa"}, zeros(4))
	if err != nil {
		t.Fatal(err)
	}
	if first.Backup() != "20261124T154500Z-0000" || catalog.CheckBackupID(first.Backup()) != nil {
		t.Errorf("id %s", first.Backup())
	}
	// The same second and the same random characters: the next four decide.
	second, err := r.ClaimBackup(t.Context(), mainRef, catalog.LeaseOptions{TTL: ttl, Clock: c.clock()}, io.MultiReader(zeros(4), bytes.NewReader([]byte{9, 31, 32, 10})))
	if err != nil {
		t.Fatal(err)
	}
	if second.Backup() != "20261124T154500Z-9z0a" {
		t.Errorf("id %s", second.Backup())
	}
	if err := first.SetReference(t.Context(), "20261102T000000Z-bbbb"); err != nil {
		t.Fatal(err)
	}
	list, err := r.Leases(t.Context(), "main")
	if err != nil || len(list) != 2 || list[0].Reference != "20261102T000000Z-bbbb" || list[0].SystemID != mainRef.SystemID || list[0].Purpose != "backup" {
		t.Errorf("%+v %v", list, err)
	}
	if err := first.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Store.Stat(t.Context(), catalog.LeaseKey("main", first.Backup())); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("the lease of a finished backup stays: %v", err)
	}
	// An id that has a manifest is not given again although its lease is gone.
	w := newManifest(t, r, first.Backup())
	commit(t, w, testHeader())
	_, err = r.ClaimBackup(t.Context(), mainRef, catalog.LeaseOptions{TTL: ttl, Clock: c.clock()}, zeros(80))
	wantErr(t, err, catalog.ErrLeaseHeld)
}

func TestClaimRace(t *testing.T) {
	r := initPlain(t, newStore(t))
	var mu sync.Mutex
	ids := map[string]bool{}
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() {
			c := &manualClock{}
			// All begin with the same characters.
			random := io.MultiReader(bytes.NewReader(make([]byte, 4)), bytes.NewReader(bytes.Repeat([]byte{byte(i + 1)}, 80)))
			l, err := r.ClaimBackup(context.Background(), mainRef, catalog.LeaseOptions{Clock: c.clock()}, random)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if ids[l.Backup()] {
				t.Errorf("%s was given twice", l.Backup())
			}
			ids[l.Backup()] = true
		})
	}
	group.Wait()
}

func TestCheckBackupID(t *testing.T) {
	for _, id := range []string{"", "x", "20261124T154500Z", "20261324T154500Z-k3f9", "20261124T154500Z-K3F9", "20261124T154500Z-k3f", "20261124T154500Z-../x", "20261124T154500Z_k3f9"} {
		if catalog.CheckBackupID(id) == nil {
			t.Errorf("%q is taken", id)
		}
	}
}
