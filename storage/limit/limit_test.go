package limit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgstow/storage"
	"pgstow/storage/file"
	"pgstow/storage/limit"
	"pgstow/storage/retry"
	"pgstow/storage/storetest"
)

func newFile(t *testing.T) *file.Store {
	t.Helper()
	s, err := file.Open(file.Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	for name, o := range map[string]limit.Options{
		"Unlimited": {}, "Rate": {BytesPerSecond: 1 << 30}, "One": {InFlight: 1}, "Both": {BytesPerSecond: 1 << 30, InFlight: 3},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) storage.Store { return limit.New(newFile(t), o) })
		})
	}
}

func wantTook(t *testing.T, what string, since time.Time, want time.Duration) {
	t.Helper()
	if e := time.Since(since); e < want*9/10 || e > want*11/10 {
		t.Errorf("%s took %v, want about %v", what, e, want)
	}
}

func TestRate(t *testing.T) {
	for _, perSecond := range []int64{5, 1000, 1 << 20} {
		synctest.Test(t, func(t *testing.T) {
			s := limit.New(newFile(t), limit.Options{BytesPerSecond: perSecond})
			body := make([]byte, 10*perSecond)
			start := time.Now()
			if _, err := s.Put(t.Context(), "k", body, storage.Any); err != nil {
				t.Fatal(err)
			}
			wantTook(t, "put", start, 10*time.Second)
			start = time.Now()
			if _, _, err := storage.ReadAll(t.Context(), s, "k", 1<<30); err != nil {
				t.Fatal(err)
			}
			wantTook(t, "get", start, 10*time.Second)
			// Both directions and all calls share the rate.
			start = time.Now()
			var wg sync.WaitGroup
			for i := range 3 {
				wg.Go(func() {
					if _, err := s.Put(t.Context(), fmt.Sprint("k", i), body, storage.Any); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			wantTook(t, "three puts", start, 30*time.Second)
		})
	}
}

// silent reports no progress.
type silent struct{ storage.Store }

func (s *silent) Put(_ context.Context, key string, body []byte, cond storage.Condition) (storage.Info, error) {
	return s.Store.Put(context.Background(), key, body, cond)
}

func TestRateOfAStoreThatReportsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := limit.New(&silent{newFile(t)}, limit.Options{BytesPerSecond: 1000})
		start := time.Now()
		for range 5 {
			if _, err := s.Put(t.Context(), "k", make([]byte, 1000), storage.Any); err != nil {
				t.Fatal(err)
			}
		}
		wantTook(t, "five puts", start, 5*time.Second)
		// A put that is done stays a success, though its context ends while it pays.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Put(ctx, "k", make([]byte, 1<<20), storage.Any); err != nil {
			t.Error(err)
		}
	})
}

func TestContextEndsAWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := limit.New(newFile(t), limit.Options{BytesPerSecond: 10})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(3*time.Second, cancel)
		start := time.Now()
		if _, err := s.Put(ctx, "k", make([]byte, 1000), storage.Any); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		wantTook(t, "put", start, 3*time.Second)
	})
}

// A wait for the rate is not a stall.
func TestUnderRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []retry.Event
		slow := limit.New(newFile(t), limit.Options{BytesPerSecond: 10, InFlight: 1})
		s := retry.New(slow, retry.Policy{Total: time.Hour, Stall: 4 * time.Second}, func(e retry.Event) { events = append(events, e) })
		body := bytes.Repeat([]byte("x"), 600)
		var wg sync.WaitGroup
		for i := range 3 { // those that wait for the one slot do so for minutes
			wg.Go(func() {
				if _, err := s.Put(t.Context(), fmt.Sprint("k", i), body, storage.Any); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got, _, err := storage.ReadAll(t.Context(), s, "k0", 1000); err != nil || !bytes.Equal(got, body) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if len(events) != 0 {
			t.Errorf("retried: %+v", events)
		}
	})
}

// gauge counts the calls that are inside at once.
type gauge struct {
	storage.Store
	now, most atomic.Int64
}

func (g *gauge) enter() func() {
	n := g.now.Add(1)
	for m := g.most.Load(); n > m && !g.most.CompareAndSwap(m, n); m = g.most.Load() {
	}
	<-time.After(time.Second) // of the bubble's clock
	return func() { g.now.Add(-1) }
}

func (g *gauge) Put(ctx context.Context, key string, body []byte, cond storage.Condition) (storage.Info, error) {
	defer g.enter()()
	return g.Store.Put(ctx, key, body, cond)
}

func (g *gauge) Get(ctx context.Context, key string, r storage.Range) (io.ReadCloser, storage.Info, error) {
	defer g.enter()()
	return g.Store.Get(ctx, key, r)
}

func (g *gauge) Stat(ctx context.Context, key string) (storage.Info, error) {
	defer g.enter()()
	return g.Store.Stat(ctx, key)
}

func (g *gauge) Delete(ctx context.Context, keys ...string) error {
	defer g.enter()()
	return g.Store.Delete(ctx, keys...)
}

func (g *gauge) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		leave := g.enter()
		for info, err := range g.Store.List(ctx, prefix, after) {
			leave()
			if !yield(info, err) {
				return
			}
			leave = g.enter()
		}
		leave()
	}
}

func TestInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gauge{Store: newFile(t)}
		s := limit.New(g, limit.Options{InFlight: 3})
		start := time.Now()
		var wg sync.WaitGroup
		for i := range 12 {
			key := fmt.Sprintf("k%02d", i)
			wg.Go(func() {
				if _, err := s.Put(t.Context(), key, []byte(key), storage.Any); err != nil {
					t.Error(err)
				}
				if _, err := s.Stat(t.Context(), key); err != nil {
					t.Error(err)
				}
				if _, _, err := storage.ReadAll(t.Context(), s, key, 10); err != nil {
					t.Error(err)
				}
				for info, err := range s.List(t.Context(), key, "") {
					// A call inside of a list finds a slot.
					if _, serr := s.Stat(t.Context(), info.Key); err != nil || serr != nil {
						t.Error(err, serr)
					}
				}
				if err := s.Delete(t.Context(), key); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if g.most.Load() != 3 {
			t.Errorf("%d calls at once, want 3", g.most.Load())
		}
		// 12 × (put, stat, get, two steps of a list with a stat between, delete), three at a time.
		if e := time.Since(start); e < 28*time.Second || e > 32*time.Second {
			t.Errorf("took %v", e)
		}
	})
}

func TestContextEndsTheWaitForASlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := limit.New(&gauge{Store: newFile(t)}, limit.Options{InFlight: 1})
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = s.Stat(t.Context(), "k") })
		synctest.Wait() // it sits in the slot
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		if _, err := s.Stat(ctx, "k"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		wg.Wait()
	})
}
