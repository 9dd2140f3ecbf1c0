package retry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgstow/storage"
	"pgstow/storage/fault"
	"pgstow/storage/retry"
)

// bubble runs a test with a clock that jumps, and wraps a file store with faults in a retrying one.
func bubble(t *testing.T, p retry.Policy, test func(t *testing.T, s *retry.Store, f *fault.Store, events *[]retry.Event)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := fault.New(newFile(t))
		var events []retry.Event
		test(t, retry.New(f, p, func(e retry.Event) { events = append(events, e) }), f, &events)
	})
}

func TestRetriesUntilItWorks(t *testing.T) {
	bubble(t, retry.Policy{}, func(t *testing.T, s *retry.Store, f *fault.Store, events *[]retry.Event) {
		for _, op := range []fault.Op{fault.Put, fault.Get, fault.Stat, fault.List, fault.Delete} {
			f.Add(fault.Fault{Op: op, Times: 3})
		}
		if _, err := s.Put(t.Context(), "k", []byte("body"), storage.IfAbsent); err != nil {
			t.Error(err)
		}
		if body, _, err := storage.ReadAll(t.Context(), s, "k", 10); string(body) != "body" || err != nil {
			t.Errorf("%q, %v", body, err)
		}
		if info, err := s.Stat(t.Context(), "k"); info.Size != 4 || err != nil {
			t.Errorf("%+v, %v", info, err)
		}
		n := 0
		for _, err := range s.List(t.Context(), "", "") {
			if err != nil {
				t.Error(err)
			}
			n++
		}
		if err := s.Delete(t.Context(), "k"); n != 1 || err != nil {
			t.Errorf("%d objects; %v", n, err)
		}
		if len(*events) != 15 {
			t.Fatalf("%d events, want 3 of each of 5 calls", len(*events))
		}
		for i, e := range *events {
			if e.Try != i%3+1 || !errors.Is(e.Err, fault.ErrInjected) || e.Op != []string{"put", "get", "stat", "list", "delete"}[i/3] {
				t.Errorf("event %d: %+v", i, e)
			}
			if most := 200 * time.Millisecond << (i % 3); e.Wait < 0 || e.Wait > most+1 { // twice the mean
				t.Errorf("event %d: waits %v, at most %v", i, e.Wait, most)
			}
		}
		f.VerifyAllHit(t)
	})
}

func TestFinalErrorsAreNotRetried(t *testing.T) {
	for _, err := range []error{
		storage.ErrNotExist, storage.ErrExist, storage.ErrPermission, storage.ErrUnsupported, storage.ErrNoStore, storage.ErrInvalidKey,
		storage.ErrRange, storage.ErrRejected, storage.ErrArchived, storage.ErrFull, storage.ErrUntrusted,
	} {
		bubble(t, retry.Policy{}, func(t *testing.T, s *retry.Store, f *fault.Store, _ *[]retry.Event) {
			f.Add(fault.Fault{Times: -1, Err: err})
			_, perr := s.Put(t.Context(), "k", nil, storage.IfAbsent)
			_, _, gerr := s.Get(t.Context(), "k", storage.Range{})
			_, serr := s.Stat(t.Context(), "k")
			derr := s.Delete(t.Context(), "k")
			for _, got := range []error{perr, gerr, serr, derr} {
				if !errors.Is(got, err) {
					t.Errorf("%v: got %v", err, got)
				}
			}
			if f.Calls() != 4 {
				t.Errorf("%v: %d calls for 4", err, f.Calls())
			}
		})
	}
	if retry.Retryable(nil) || !retry.Retryable(storage.ErrConflict) || !retry.Retryable(io.ErrUnexpectedEOF) ||
		!retry.Retryable(fmt.Errorf("timeout: %w", context.DeadlineExceeded)) || retry.Retryable(context.Canceled) {
		t.Error("Retryable")
	}
}

func TestTotalDeadline(t *testing.T) {
	bubble(t, retry.Policy{Total: 10 * time.Second}, func(t *testing.T, s *retry.Store, f *fault.Store, events *[]retry.Event) {
		f.Add(fault.Fault{Times: -1})
		start := time.Now()
		_, err := s.Stat(t.Context(), "k")
		if e := time.Since(start); e > 10*time.Second {
			t.Errorf("took %v", e)
		}
		var re *retry.Error
		if !errors.As(err, &re) || re.Tries != len(*events)+1 || re.Tries < 3 || re.Elapsed > 10*time.Second || !errors.Is(err, fault.ErrInjected) {
			t.Fatalf("%v", err)
		}
		want := fmt.Sprintf("stat k: failed after %d tries in %v (gave up: 10s are all it may take): ", re.Tries, re.Elapsed.Round(time.Millisecond))
		if !strings.HasPrefix(err.Error(), want) {
			t.Errorf("text %q, want %q…", err, want)
		}
	})
	// One try that hangs is broken off at the end of the whole, and the error before it is what is reported.
	bubble(t, retry.Policy{Total: 10 * time.Second, Stall: time.Hour}, func(t *testing.T, s *retry.Store, f *fault.Store, _ *[]retry.Event) {
		f.Add(fault.Fault{Err: errors.New("first error")}, fault.Fault{Nth: 2, Kind: fault.Hang})
		start := time.Now()
		_, err := s.Put(t.Context(), "k", nil, storage.Any)
		if e := time.Since(start); e != 10*time.Second || err == nil || !strings.Contains(err.Error(), "first error") {
			t.Errorf("%v after %v", err, e)
		}
		f.VerifyAllHit(t)
	})
}

func TestStall(t *testing.T) {
	// Each try is broken off after Attempt, and the call after Stall.
	bubble(t, retry.Policy{Total: time.Hour, Stall: 15 * time.Second}, func(t *testing.T, s *retry.Store, f *fault.Store, events *[]retry.Event) {
		f.Add(fault.Fault{Op: fault.Put, Kind: fault.Hang, Times: -1})
		start := time.Now()
		_, err := s.Put(t.Context(), "k", nil, storage.IfAbsent)
		e := time.Since(start)
		if err == nil || !strings.Contains(err.Error(), "no progress for 15s") || !strings.Contains(err.Error(), "nothing moved for 7.5s") {
			t.Errorf("%v", err)
		}
		if e < 7500*time.Millisecond || e > 16*time.Second || f.Count(fault.Put) < 2 {
			t.Errorf("%d tries in %v", f.Count(fault.Put), e)
		}
		if len(*events) == 0 || (*events)[0].Elapsed != 7500*time.Millisecond {
			t.Errorf("events %+v", *events)
		}
	})
}

// slow is a store whose puts move a piece a second.
type slow struct {
	storage.Store
	stopAt int // pieces after which a put hangs; 0: never
}

func (s *slow) Put(ctx context.Context, key string, body []byte, cond storage.Condition) (storage.Info, error) {
	for i := range len(body) {
		if i > 0 && i == s.stopAt {
			<-ctx.Done()
			return storage.Info{}, context.Cause(ctx)
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return storage.Info{}, context.Cause(ctx)
		}
		if err := storage.Progress(ctx, 1); err != nil {
			return storage.Info{}, err
		}
	}
	return s.Store.Put(context.Background(), key, body, cond) // which would report its own progress
}

func TestProgressKeepsAPutAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := retry.New(&slow{Store: newFile(t)}, retry.Policy{Total: time.Hour, Stall: 4 * time.Second}, nil)
		seen := 0
		ctx := storage.WithProgress(t.Context(), func(n int) error { seen += n; return nil })
		if _, err := s.Put(ctx, "k", make([]byte, 60), storage.Any); err != nil || seen != 60 {
			t.Errorf("a slow put: %v, %d bytes reported", err, seen)
		}
	})
	// A store that takes the same bytes again and again makes no progress.
	synctest.Test(t, func(t *testing.T) {
		s := retry.New(&slow{Store: newFile(t), stopAt: 5}, retry.Policy{Total: time.Hour, Stall: 20 * time.Second}, nil)
		start := time.Now()
		_, err := s.Put(t.Context(), "k", make([]byte, 60), storage.Any)
		if e := time.Since(start); err == nil || !strings.Contains(err.Error(), "no progress for 20s") || e > time.Minute {
			t.Errorf("%v after %v", err, e)
		}
	})
}

func TestContextEndsTheWait(t *testing.T) {
	bubble(t, retry.Policy{FirstWait: time.Hour, MaxWait: time.Hour, Total: 100 * time.Hour, Stall: 100 * time.Hour},
		func(t *testing.T, s *retry.Store, f *fault.Store, _ *[]retry.Event) {
			f.Add(fault.Fault{Times: -1})
			mine := errors.New("operator stopped it")
			ctx, cancel := context.WithCancelCause(t.Context())
			go func() {
				synctest.Wait()
				cancel(mine)
			}()
			start := time.Now()
			_, err := s.Stat(ctx, "k")
			if !errors.Is(err, mine) || !errors.Is(err, fault.ErrInjected) || time.Since(start) != 0 {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		})
}

func TestConditionNotMetAtOnce(t *testing.T) {
	bubble(t, retry.Policy{}, func(t *testing.T, s *retry.Store, f *fault.Store, _ *[]retry.Event) {
		if _, err := s.Put(t.Context(), "k", []byte("body"), storage.IfAbsent); err != nil {
			t.Fatal(err)
		}
		f.Reset()
		// Equal bytes are there, but this call did not store them; no other request is made.
		if _, err := s.Put(t.Context(), "k", []byte("body"), storage.IfAbsent); !errors.Is(err, storage.ErrExist) || f.Calls() != 1 {
			t.Errorf("%v after %d calls", err, f.Calls())
		}
	})
}

// Lost replies, in every combination with what somebody else did meanwhile.
func TestLostReply(t *testing.T) {
	for _, lost := range []error{fault.ErrInjected, storage.ErrConflict, io.ErrUnexpectedEOF} {
		for _, size := range []int{10, 100_000} { // below and above what Stat gives a hash for
			bubble(t, retry.Policy{}, func(t *testing.T, s *retry.Store, f *fault.Store, _ *[]retry.Event) {
				ours, other := bytes.Repeat([]byte("o"), size), bytes.Repeat([]byte("x"), size)
				f.Add(fault.Fault{Op: fault.Put, Kind: fault.After, Err: lost})
				info, err := s.Put(t.Context(), "created", ours, storage.IfAbsent)
				if err != nil || info.Size != int64(size) || info.SHA256 == nil || info.Key != "created" {
					t.Errorf("create: %+v, %v", info, err)
				}
				if f.Count(fault.Put) != 2 {
					t.Errorf("create: %d puts, want the same twice", f.Count(fault.Put))
				}

				first, err := s.Put(t.Context(), "swapped", []byte("first"), storage.Any)
				if err != nil {
					t.Fatal(err)
				}
				f.Add(fault.Fault{Op: fault.Put, Kind: fault.After, Err: lost})
				if _, err := s.Put(t.Context(), "swapped", ours, storage.IfMatch(first.ETag)); err != nil {
					t.Errorf("swap: %v", err)
				}

				// Our try failed without effect, and somebody else created the object before the next one.
				f.Add(fault.Fault{Op: fault.Put, Key: "taken", Kind: fault.Before, Err: lost})
				f.OnCall(func(c fault.Call) error {
					if c.Op == fault.Put && c.Key == "taken" {
						f.OnCall(nil)
						_, err := f.Unwrap().Put(t.Context(), "taken", other, storage.IfAbsent)
						if err != nil {
							t.Error(err)
						}
					}
					return nil
				})
				if _, err := s.Put(t.Context(), "taken", ours, storage.IfAbsent); !errors.Is(err, storage.ErrExist) {
					t.Errorf("taken by another: %v, want ErrExist", err)
				}
				f.VerifyAllHit(t)
			})
		}
	}
}

// The comparison itself may fail, and the object may be gone when it looks.
func TestLostReplyThenTrouble(t *testing.T) {
	bubble(t, retry.Policy{}, func(t *testing.T, s *retry.Store, f *fault.Store, _ *[]retry.Event) {
		f.Add(fault.Fault{Op: fault.Put, Kind: fault.After}, fault.Fault{Op: fault.Stat, Times: 2})
		if _, err := s.Put(t.Context(), "k", []byte("body"), storage.IfAbsent); err != nil || f.Count(fault.Put) != 4 {
			t.Errorf("%v after %d puts", err, f.Count(fault.Put))
		}
		f.VerifyAllHit(t)
		f.Reset()
		f.Add(fault.Fault{Op: fault.Put, Kind: fault.After}, fault.Fault{Op: fault.Stat, Err: storage.ErrNotExist})
		if _, err := s.Put(t.Context(), "k2", []byte("body"), storage.IfAbsent); err != nil || f.Count(fault.Put) != 3 {
			t.Errorf("gone at the comparison: %v after %d puts", err, f.Count(fault.Put))
		}
		f.VerifyAllHit(t)
	})
}

func TestBodyIsResumed(t *testing.T) {
	body := bytes.Repeat([]byte("0123456789abcdef"), 10_000)
	for _, r := range []storage.Range{{}, {Offset: 100}, {Offset: 100, Length: 90_000}, {Offset: -90_001}} {
		bubble(t, retry.Policy{}, func(t *testing.T, s *retry.Store, f *fault.Store, events *[]retry.Event) {
			if _, err := s.Put(t.Context(), "k", body, storage.IfAbsent); err != nil {
				t.Fatal(err)
			}
			f.Add(
				fault.Fault{Op: fault.Get, Kind: fault.Short, At: 70_001}, // in the middle
				fault.Fault{Op: fault.Get, Nth: 2, Kind: fault.Before},    // the resumption fails
				fault.Fault{Op: fault.Get, Nth: 3, Kind: fault.Short},     // or gives nothing
				fault.Fault{Op: fault.Get, Nth: 4, Kind: fault.Short, At: 1},
				fault.Fault{Op: fault.Get, Nth: 5, Kind: fault.Hang},
			)
			got, info, err := storage.ReadRange(t.Context(), s, "k", r, 1<<20)
			offset, length, _ := r.Resolve(int64(len(body)))
			if err != nil || !bytes.Equal(got, body[offset:offset+length]) || info.Size != int64(len(body)) {
				t.Errorf("%+v: %d bytes, %+v, %v", r, len(got), info, err)
			}
			if len(*events) != 5 || f.Count(fault.Get) != 6 {
				t.Errorf("%+v: %d events, %d gets", r, len(*events), f.Count(fault.Get))
			}
			f.VerifyAllHit(t)
		})
	}
}

func TestBodyOfAReplacedObject(t *testing.T) {
	for _, size := range []int{1000, 100_000} {
		bubble(t, retry.Policy{}, func(t *testing.T, s *retry.Store, f *fault.Store, _ *[]retry.Event) {
			if _, err := s.Put(t.Context(), "k", bytes.Repeat([]byte("a"), size), storage.Any); err != nil {
				t.Fatal(err)
			}
			f.Add(fault.Fault{Op: fault.Get, Kind: fault.Short, At: 10})
			rc, _, err := s.Get(t.Context(), "k", storage.Range{})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = rc.Close() }()
			if _, err := io.ReadFull(rc, make([]byte, 10)); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Put(t.Context(), "k", bytes.Repeat([]byte("b"), size), storage.Any); err != nil {
				t.Fatal(err)
			}
			if rest, err := io.ReadAll(rc); err == nil || len(rest) > 0 || !strings.Contains(err.Error(), "replaced") {
				t.Errorf("read %d bytes of another object, %v", len(rest), err)
			}
		})
	}
}

func TestBodyGivesUp(t *testing.T) {
	bubble(t, retry.Policy{Stall: 10 * time.Second}, func(t *testing.T, s *retry.Store, f *fault.Store, _ *[]retry.Event) {
		if _, err := s.Put(t.Context(), "k", make([]byte, 1000), storage.Any); err != nil {
			t.Fatal(err)
		}
		f.Add(fault.Fault{Op: fault.Get, Kind: fault.Short, At: 500}, fault.Fault{Op: fault.Get, Nth: 2, Times: -1})
		start := time.Now()
		_, _, err := storage.ReadAll(t.Context(), s, "k", 1000)
		var re *retry.Error
		if !errors.As(err, &re) || time.Since(start) > 11*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// loris is a store whose first answers come a byte now and then.
type loris struct {
	storage.Store
	slow  int // answers that do
	asked []storage.Range
}

func (s *loris) Get(ctx context.Context, key string, r storage.Range) (io.ReadCloser, storage.Info, error) {
	s.asked = append(s.asked, r)
	body, info, err := s.Store.Get(ctx, key, r)
	if err == nil && len(s.asked) <= s.slow {
		body = &lorisBody{ctx, body}
	}
	return body, info, err
}

type lorisBody struct {
	ctx context.Context
	io.ReadCloser
}

func (b *lorisBody) Read(p []byte) (int, error) {
	select {
	case <-time.After(1500 * time.Millisecond):
	case <-b.ctx.Done():
		return 0, context.Cause(b.ctx)
	}
	return b.ReadCloser.Read(p[:1])
}

// A body that comes a byte now and then is gone on with on another connection.
func TestSlowLoris(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := &loris{Store: newFile(t), slow: 2}
		body := bytes.Repeat([]byte("0123456789abcdef"), 10_000)
		if _, err := inner.Put(t.Context(), "k", body, storage.Any); err != nil {
			t.Fatal(err)
		}
		var events []retry.Event
		s := retry.New(inner, retry.Policy{Attempt: 10 * time.Second}, func(e retry.Event) { events = append(events, e) })
		start := time.Now()
		got, _, err := storage.ReadAll(t.Context(), s, "k", 1<<20)
		if err != nil || !bytes.Equal(got, body) || time.Since(start) > 25*time.Second {
			t.Errorf("%d bytes, %v after %v", len(got), err, time.Since(start))
		}
		if len(events) != 2 || !strings.Contains(events[0].Err.Error(), "only 6 bytes came in 10s") {
			t.Errorf("%+v", events)
		}
		// What came is not asked for again. The second connection's first byte belongs to its opening.
		if len(inner.asked) != 3 || inner.asked[1].Offset != 6 || inner.asked[2].Offset < 12 {
			t.Errorf("asked for %+v", inner.asked)
		}
	})
}

// A reader that takes its time is not stalled, however long it pauses.
func TestSlowReader(t *testing.T) {
	bubble(t, retry.Policy{Total: time.Minute, Stall: time.Second}, func(t *testing.T, s *retry.Store, f *fault.Store, events *[]retry.Event) {
		if _, err := s.Put(t.Context(), "k", make([]byte, 100), storage.Any); err != nil {
			t.Fatal(err)
		}
		rc, _, err := s.Get(t.Context(), "k", storage.Range{})
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			<-time.After(time.Hour) // of the bubble's clock
			if _, err := io.ReadFull(rc, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		if err := rc.Close(); err != nil || len(*events) != 0 || f.Count(fault.Get) != 1 {
			t.Errorf("%v, %+v", err, *events)
		}
		if _, err := rc.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("read after close: %v", err)
		}
	})
}

func TestListGoesOn(t *testing.T) {
	bubble(t, retry.Policy{Total: time.Minute}, func(t *testing.T, s *retry.Store, f *fault.Store, events *[]retry.Event) {
		var want []string
		for i := range 50 {
			key := fmt.Sprintf("list/%02d", i)
			want = append(want, key)
			if _, err := s.Put(t.Context(), key, nil, storage.IfAbsent); err != nil {
				t.Fatal(err)
			}
		}
		f.Reset()
		f.Add(
			fault.Fault{Op: fault.List, Kind: fault.Short, At: 20}, fault.Fault{Op: fault.List, Nth: 2, Times: 2},
			fault.Fault{Op: fault.List, Nth: 4, Kind: fault.Short, At: 29}, fault.Fault{Op: fault.List, Nth: 5, Kind: fault.After},
		)
		var got []string
		for info, err := range s.List(t.Context(), "list/", "") {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, info.Key)
			<-time.After(time.Hour) // the caller's time does not count
		}
		if !slices.Equal(got, want) || len(*events) != 5 {
			t.Errorf("got %q, %d events", got, len(*events))
		}
		f.VerifyAllHit(t)
	})
}

// hangingList stops after its first object.
type hangingList struct{ storage.Store }

func (s *hangingList) List(ctx context.Context, _, _ string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		<-ctx.Done()
		yield(storage.Info{}, context.Cause(ctx))
	}
}

func TestListStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := retry.New(&hangingList{newFile(t)}, retry.Policy{Stall: 10 * time.Second}, nil)
		start := time.Now()
		for _, err := range s.List(t.Context(), "", "") {
			if err == nil || !strings.Contains(err.Error(), "no progress for 10s") || time.Since(start) > 11*time.Second {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		}
	})
}
