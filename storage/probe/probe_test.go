package probe_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"pgstow/storage"
	"pgstow/storage/fault"
	"pgstow/storage/file"
	"pgstow/storage/probe"
)

func newStore(t *testing.T) *fault.Store {
	t.Helper()
	s, err := file.Open(file.Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return fault.New(s)
}

func run(t *testing.T, s *fault.Store) probe.Capabilities {
	t.Helper()
	caps, err := probe.Run(t.Context(), s, "probe")
	if err != nil {
		t.Fatal(err)
	}
	wantEmpty(t, s)
	return caps
}

func wantEmpty(t *testing.T, s *fault.Store) {
	t.Helper()
	s.VerifyAllHit(t)
	s.Reset()
	for info, err := range s.List(t.Context(), "", "") {
		t.Errorf("left behind: %s %v", info.Key, err)
	}
}

func TestGoodStore(t *testing.T) {
	s := newStore(t)
	caps := run(t, s)
	if !caps.ConditionalPut || !caps.CompareAndSwap || !caps.ReadAfterWrite || !caps.ListAfterWrite || len(caps.Missing()) != 0 {
		t.Errorf("%+v", caps)
	}
	if caps.ChecksumVerified {
		t.Error("a folder verifies no checksums")
	}
	if caps.Store != s.String() || time.Since(caps.Date) > time.Minute || caps.ClockDifference.Abs() > time.Minute {
		t.Errorf("%+v", caps)
	}
	b, err := json.Marshal(caps)
	if err != nil || !strings.HasPrefix(string(b), `{"conditional_put":true,"compare_and_swap":true,`) {
		t.Errorf("%s, %v", b, err)
	}
}

func TestStoreThatIgnoresConditions(t *testing.T) {
	caps := run(t, newStore(t).Add(fault.Fault{Op: fault.Put, Kind: fault.IgnoreCondition, Times: -1}))
	if caps.ConditionalPut || caps.CompareAndSwap {
		t.Errorf("%+v", caps)
	}
	if !caps.ReadAfterWrite || !caps.ListAfterWrite || len(caps.Missing()) != 2 {
		t.Errorf("%+v, missing %q", caps, caps.Missing())
	}
}

func TestStoreThatRefusesConditions(t *testing.T) {
	for _, err := range []error{storage.ErrUnsupported, storage.ErrRejected} {
		caps := run(t, newStore(t).Add(
			fault.Fault{Op: fault.Put, Key: "*/create", Err: err, Times: -1},
			fault.Fault{Op: fault.Put, Key: "*/swap", Nth: 2, Err: err, Times: -1}, // the first has no condition
		))
		if caps.ConditionalPut || caps.CompareAndSwap || !caps.ReadAfterWrite {
			t.Errorf("%v: %+v", err, caps)
		}
	}
}

// A store that refuses the second create, but replaced the object nevertheless.
func TestStoreThatRefusesTooLate(t *testing.T) {
	s := newStore(t)
	late := &lateRefusal{Store: s}
	caps, err := probe.Run(t.Context(), late, "probe")
	if err != nil || caps.ConditionalPut {
		t.Errorf("%+v, %v", caps, err)
	}
	wantEmpty(t, s)
}

func TestStaleReads(t *testing.T) {
	caps := run(t, newStore(t).Add(fault.Fault{Op: fault.Get, Key: "*/read-1", Nth: 2, Err: storage.ErrNotExist}))
	if caps.ReadAfterWrite || !caps.ListAfterWrite || !caps.ConditionalPut {
		t.Errorf("%+v", caps)
	}
}

func TestStaleLists(t *testing.T) {
	s := newStore(t)
	hidden := &hidingList{Store: s}
	caps, err := probe.Run(t.Context(), hidden, "probe")
	if err != nil || caps.ListAfterWrite || !caps.ReadAfterWrite {
		t.Errorf("%+v, %v", caps, err)
	}
	wantEmpty(t, s)
}

// A store that cannot be used is an error, and nothing is left where something was written.
func TestErrors(t *testing.T) {
	calls := newStore(t)
	run(t, calls) // one that works tells how many calls there are
	total := func() int {
		s := newStore(t)
		if _, err := probe.Run(t.Context(), s, "probe"); err != nil {
			t.Fatal(err)
		}
		return s.Calls()
	}()
	for n := 1; n < total; n++ { // the last is the Delete that cleans up
		s := newStore(t).FailCall(n, storage.ErrPermission)
		if _, err := probe.Run(t.Context(), s, "probe"); !errors.Is(err, storage.ErrPermission) {
			t.Errorf("call %d of %d: %v, want ErrPermission", n, total, err)
		}
		wantEmpty(t, s)
	}
}

// prober is a store whose answers about checksums get lost at first.
type prober struct {
	*fault.Store
	lost int
}

func (s *prober) ProbeChecksum(context.Context, string) (bool, error) {
	if s.lost--; s.lost >= 0 {
		return false, fault.ErrInjected
	}
	return true, nil
}

func TestChecksumAnswersThatGetLost(t *testing.T) {
	s := newStore(t)
	caps, err := probe.Run(t.Context(), &prober{Store: s, lost: 3}, "probe")
	if err != nil || !caps.ChecksumVerified {
		t.Errorf("%+v, %v", caps, err)
	}
	if _, err := probe.Run(t.Context(), &prober{Store: s, lost: 1000}, "probe"); !errors.Is(err, fault.ErrInjected) {
		t.Errorf("%v", err)
	}
	wantEmpty(t, s)
}
