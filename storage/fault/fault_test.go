package fault_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"pgstow/storage"
	"pgstow/storage/fault"
	"pgstow/storage/file"
	"pgstow/storage/storetest"
)

func newStore(t *testing.T) *fault.Store {
	t.Helper()
	s, err := file.Open(file.Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return fault.New(s)
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storage.Store { return newStore(t) })
}

func put(t *testing.T, s storage.Store, key, body string, cond storage.Condition) error {
	t.Helper()
	_, err := s.Put(t.Context(), key, []byte(body), cond)
	return err
}

func read(t *testing.T, s storage.Store, key string) (string, error) {
	t.Helper()
	body, _, err := storage.ReadAll(t.Context(), s, key, 1<<20)
	return string(body), err
}

func TestBeforeAndAfter(t *testing.T) {
	s := newStore(t)
	mine := errors.New("mine")
	s.Add(fault.Fault{Op: fault.Put, Key: "*/manifest"}, fault.Fault{Op: fault.Put, Key: "a/*", Nth: 2, Kind: fault.After, Err: mine})
	if err := put(t, s, "b/c/manifest", "x", storage.IfAbsent); !errors.Is(err, fault.ErrInjected) {
		t.Errorf("before: %v", err)
	}
	if _, err := s.Stat(t.Context(), "b/c/manifest"); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("before: the object is there: %v", err)
	}
	if err := put(t, s, "a/1", "x", storage.IfAbsent); err != nil {
		t.Errorf("first of two: %v", err)
	}
	if err := put(t, s, "a/2", "stored", storage.IfAbsent); !errors.Is(err, mine) {
		t.Errorf("after: %v", err)
	}
	if got, err := read(t, s, "a/2"); got != "stored" || err != nil {
		t.Errorf("after: %q, %v", got, err)
	}
	if s.Count(fault.Put) != 3 || s.Count(fault.Stat) != 1 || s.Count(fault.Get) != 1 || s.Calls() != 5 {
		t.Errorf("counts: %d puts, %d stats, %d gets, %d calls", s.Count(fault.Put), s.Count(fault.Stat), s.Count(fault.Get), s.Calls())
	}
	s.VerifyAllHit(t)
}

func TestBodies(t *testing.T) {
	s := newStore(t)
	if err := put(t, s, "k", "hello", storage.Any); err != nil {
		t.Fatal(err)
	}
	s.Add(fault.Fault{Op: fault.Get, Kind: fault.Short, At: 2}, fault.Fault{Op: fault.Get, Kind: fault.Flip, At: 1})
	// Both fit the first call; the first queued acts, and the second has had its turn.
	if _, err := read(t, s, "k"); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("short: %v", err)
	}
	s.Reset()
	s.Add(fault.Fault{Op: fault.Get, Kind: fault.Flip, At: 1}, fault.Fault{Op: fault.Put, Kind: fault.Flip, At: 0})
	if got, err := read(t, s, "k"); got != "h\x9allo" || err != nil {
		t.Errorf("flip on get: %q, %v", got, err)
	}
	body := []byte("hello")
	if _, err := s.Put(t.Context(), "k", body, storage.Any); err != nil {
		t.Fatal(err)
	}
	if got, err := read(t, s, "k"); got != "\x97ello" || err != nil || string(body) != "hello" {
		t.Errorf("flip on put: %q, %v, caller's body %q", got, err, body)
	}
	s.VerifyAllHit(t)
}

func TestIgnoreCondition(t *testing.T) {
	s := newStore(t).Add(fault.Fault{Op: fault.Put, Kind: fault.IgnoreCondition, Times: -1})
	for _, cond := range []storage.Condition{storage.IfAbsent, storage.IfAbsent, storage.IfMatch("stale")} {
		if err := put(t, s, "k", "x", cond); err != nil {
			t.Errorf("%v: %v", cond, err)
		}
	}
}

func TestHang(t *testing.T) {
	s := newStore(t).Add(fault.Fault{Kind: fault.Hang}, fault.Fault{Op: fault.Put, Key: "after", Kind: fault.HangAfter, Nth: 1})
	ctx, cancel := context.WithCancel(t.Context())
	s.OnCall(func(fault.Call) error { cancel(); return nil })
	if _, err := s.Put(ctx, "before", nil, storage.Any); !errors.Is(err, context.Canceled) {
		t.Errorf("hang: %v", err)
	}
	s.OnCall(nil)
	if _, err := s.Stat(t.Context(), "before"); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("hang: object is there: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error)
	go func() {
		_, err := s.Put(ctx, "after", nil, storage.Any)
		done <- err
	}()
	for {
		if _, err := s.Stat(t.Context(), "after"); err == nil {
			break
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("hang after: %v", err)
	}
	s.VerifyAllHit(t)
}

func TestCrash(t *testing.T) {
	for _, done := range []bool{false, true} {
		s := newStore(t).Crash(3, done, nil)
		var results []bool
		for i := range 5 {
			results = append(results, put(t, s, fmt.Sprint("k", i), "x", storage.Any) == nil)
		}
		if fmt.Sprint(results) != "[true true false false false]" {
			t.Errorf("done %v: %v", done, results)
		}
		s.VerifyAllHit(t)
		s.Reset()
		n := 0
		for _, err := range s.List(t.Context(), "", "") {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if want := map[bool]int{false: 2, true: 3}[done]; n != want {
			t.Errorf("done %v: %d objects, want %d", done, n, want)
		}
	}
}

func TestListFaults(t *testing.T) {
	s := newStore(t)
	for _, k := range []string{"a", "b", "c"} {
		if err := put(t, s, k, k, storage.Any); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		f    fault.Fault
		want int
	}{{fault.Fault{Kind: fault.Before}, 0}, {fault.Fault{Kind: fault.Short, At: 2}, 2}, {fault.Fault{Kind: fault.After}, 3}} {
		s.Add(c.f)
		n := 0
		var last error
		for _, err := range s.List(t.Context(), "", "") {
			if last = err; err == nil {
				n++
			}
		}
		if n != c.want || !errors.Is(last, fault.ErrInjected) {
			t.Errorf("%+v: %d objects, then %v", c.f, n, last)
		}
	}
	s.VerifyAllHit(t)
}

// recorder stands in for a testing.T.
type recorder struct{ errors int }

func (r *recorder) Helper()               {}
func (r *recorder) Errorf(string, ...any) { r.errors++ }

func TestVerifyAllHit(t *testing.T) {
	s := newStore(t).Add(fault.Fault{Op: fault.Put}, fault.Fault{Op: fault.Delete}).FailCall(9, nil)
	_ = put(t, s, "k", "x", storage.Any)
	r := new(recorder)
	if s.VerifyAllHit(r); r.errors != 2 {
		t.Errorf("%d faults reported, want 2", r.errors)
	}
}
