// Package fault wraps a store so that tests can make its calls fail in chosen ways, and count them.
//
// Faults are queued with Add, each for the calls it names; the first queued one that fits a call and is due acts on it.
// A test ends with VerifyAllHit, since a fault that never acted proves nothing.
package fault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"regexp"
	"strings"
	"sync"

	"pgstow/storage"
)

// Op is a method of storage.Store.
type Op string

// The methods. The empty Op stands for all of them.
const (
	Put    Op = "put"
	Get    Op = "get"
	Stat   Op = "stat"
	List   Op = "list"
	Delete Op = "delete"
)

// Kind is what a fault does.
type Kind int

const (
	// Before returns the error without doing anything.
	Before Kind = iota
	// After does the call and then returns the error, as if the reply had been lost.
	After
	// Short ends the body of a Get after At bytes, or a List after At objects, with the error.
	Short
	// Flip inverts all bits of the byte At of what a Get reads or a Put stores.
	Flip
	// Hang does nothing until the context of the call ends, and then returns its error.
	Hang
	// HangAfter does the call and then hangs.
	HangAfter
	// IgnoreCondition stores whatever the condition of a Put says, as a store does that does not know the header.
	IgnoreCondition
)

// ErrInjected is the error of a fault that names none. To storage/retry it is one of those that may go away.
var ErrInjected = errors.New("injected fault")

// Fault is one thing that shall happen.
type Fault struct {
	Op    Op
	Key   string // pattern in which * stands for any characters, slashes included; "" is any. For List the prefix.
	Nth   int    // act on the nth call that fits, from now on; 0 is 1
	Times int    // and on so many in a row; 0 is 1, -1 for ever
	Kind  Kind
	Err   error // nil is ErrInjected; for Short of a Get io.ErrUnexpectedEOF
	At    int64 // for Short and Flip
}

func (f Fault) err() error {
	if f.Err != nil {
		return f.Err
	}
	return ErrInjected
}

type queued struct {
	Fault
	key   *regexp.Regexp
	calls int // that fit
	hits  int

	optional bool // for VerifyAllHit
}

// Call is one call that arrived, for OnCall.
type Call struct {
	N   int // number of the call, over all methods, from 1 on
	Op  Op
	Key string // of Delete the first key, of List the prefix
}

// Store injects faults into the calls to another store. It implements storage.Store.
type Store struct {
	inner storage.Store

	mu     sync.Mutex
	faults []*queued
	calls  int
	counts map[Op]int
	onCall func(Call) error
}

var _ storage.Store = (*Store)(nil)

// New wraps s; without faults it changes nothing.
func New(s storage.Store) *Store { return &Store{inner: s, counts: make(map[Op]int)} }

// Unwrap returns the store beneath.
func (s *Store) Unwrap() storage.Store { return s.inner }

func (s *Store) String() string { return s.inner.String() }

// Add queues faults and returns s.
func (s *Store) Add(faults ...Fault) *Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range faults {
		pattern := ".*"
		if f.Key != "" {
			pattern = strings.ReplaceAll(regexp.QuoteMeta(f.Key), `\*`, ".*")
		}
		f.Nth = max(f.Nth, 1)
		if f.Times == 0 {
			f.Times = 1
		}
		s.faults = append(s.faults, &queued{Fault: f, key: regexp.MustCompile("^(?s:" + pattern + ")$")})
	}
	return s
}

// FailCall lets the nth call from now on fail, whichever it is, before it does anything.
func (s *Store) FailCall(n int, err error) *Store { return s.Add(Fault{Nth: n, Err: err}) }

// Crash lets the nth call from now on and all later ones fail, as a process sees them that dies then. done says whether
// the nth call itself still takes effect.
func (s *Store) Crash(n int, done bool, err error) *Store {
	if !done {
		return s.Add(Fault{Nth: n, Times: -1, Err: err})
	}
	s.Add(Fault{Nth: n, Kind: After, Err: err}, Fault{Nth: n, Times: -1, Err: err})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[len(s.faults)-1].optional = true // there may be no later call
	return s
}

// OnCall has f called at the beginning of each call; the call fails with what it returns. nil ends that.
func (s *Store) OnCall(f func(Call) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onCall = f
}

// Calls returns how many calls have arrived, over all methods.
func (s *Store) Calls() int { return s.Count("") }

// Count returns how many calls of a method have arrived.
func (s *Store) Count(op Op) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if op == "" {
		return s.calls
	}
	return s.counts[op]
}

// Reset forgets all queued faults and counts.
func (s *Store) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults, s.calls, s.counts = nil, 0, make(map[Op]int)
}

// VerifyAllHit fails the test for each fault that never acted.
func (s *Store) VerifyAllHit(t interface {
	Helper()
	Errorf(format string, args ...any)
},
) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.faults {
		if f.hits == 0 && !f.optional {
			t.Errorf("fault never hit (%d calls fit): %+v", f.calls, f.Fault)
		}
	}
}

// arrive counts a call and returns the fault that is due for it, or nil.
func (s *Store) arrive(op Op, key string) (*Fault, error) {
	s.mu.Lock()
	s.calls++
	s.counts[op]++
	call := Call{N: s.calls, Op: op, Key: key}
	var due *Fault
	for _, f := range s.faults {
		if f.Op != "" && f.Op != op || !f.key.MatchString(key) {
			continue
		}
		f.calls++
		if due == nil && f.calls >= f.Nth && (f.Times < 0 || f.calls < f.Nth+f.Times) {
			f.hits++
			due = &f.Fault
		}
	}
	hook := s.onCall
	s.mu.Unlock()
	if hook != nil {
		if err := hook(call); err != nil {
			return nil, err
		}
	}
	return due, nil
}

// do runs one call under the fault that is due. It handles the kinds that all methods share.
func (s *Store) do(ctx context.Context, op Op, key string, call func(f Fault) error) error {
	f, err := s.arrive(op, key)
	if err == nil && f == nil {
		return call(Fault{Kind: -1})
	}
	if err == nil {
		switch f.Kind {
		case Before:
			err = f.err()
		case After:
			if err = call(*f); err == nil {
				err = f.err()
			}
		case HangAfter:
			if err = call(*f); err == nil {
				<-ctx.Done()
				err = context.Cause(ctx)
			}
		case Hang:
			<-ctx.Done()
			err = context.Cause(ctx)
		default:
			return call(*f)
		}
	}
	return fmt.Errorf("%s %s: %w", op, key, err)
}

// Put is storage.Store's.
func (s *Store) Put(ctx context.Context, key string, body []byte, cond storage.Condition) (storage.Info, error) {
	var info storage.Info
	err := s.do(ctx, Put, key, func(f Fault) error {
		switch {
		case f.Kind == IgnoreCondition:
			cond = storage.Any
		case f.Kind == Flip && f.At < int64(len(body)):
			body = bytes.Clone(body)
			body[f.At] ^= 0xff
		}
		var err error
		info, err = s.inner.Put(ctx, key, body, cond)
		return err
	})
	if err != nil {
		return storage.Info{}, err
	}
	return info, nil
}

// Get is storage.Store's.
func (s *Store) Get(ctx context.Context, key string, r storage.Range) (io.ReadCloser, storage.Info, error) {
	var rc io.ReadCloser
	var info storage.Info
	err := s.do(ctx, Get, key, func(f Fault) error {
		var err error
		rc, info, err = s.inner.Get(ctx, key, r)
		if err == nil && (f.Kind == Short || f.Kind == Flip) {
			rc = &body{ReadCloser: rc, f: f}
		}
		return err
	})
	if err != nil {
		if rc != nil {
			_ = rc.Close()
		}
		return nil, storage.Info{}, err
	}
	return rc, info, nil
}

// body is cut short or has a wrong byte.
type body struct {
	io.ReadCloser
	f   Fault
	off int64
}

func (b *body) Read(p []byte) (int, error) {
	if b.f.Kind == Short {
		if b.off >= b.f.At {
			if b.f.Err == nil {
				return 0, fmt.Errorf("injected fault: %w", io.ErrUnexpectedEOF)
			}
			return 0, b.f.Err
		}
		p = p[:min(int64(len(p)), b.f.At-b.off)]
	}
	n, err := b.ReadCloser.Read(p)
	if i := b.f.At - b.off; b.f.Kind == Flip && i >= 0 && i < int64(n) {
		p[i] ^= 0xff
	}
	b.off += int64(n)
	return n, err
}

// Stat is storage.Store's.
func (s *Store) Stat(ctx context.Context, key string) (storage.Info, error) {
	var info storage.Info
	err := s.do(ctx, Stat, key, func(Fault) error {
		var err error
		info, err = s.inner.Stat(ctx, key)
		return err
	})
	if err != nil {
		return storage.Info{}, err
	}
	return info, nil
}

// List is storage.Store's. After gives all objects before the error.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		stopped := false
		err := s.do(ctx, List, prefix, func(f Fault) error {
			n := int64(0)
			for info, err := range s.inner.List(ctx, prefix, after) {
				switch {
				case err != nil:
					return err
				case f.Kind == Short && n == f.At:
					return fmt.Errorf("list %s: %w", prefix, f.err())
				}
				n++
				if !yield(info, nil) {
					stopped = true
					return nil
				}
			}
			return nil
		})
		if err != nil && !stopped {
			yield(storage.Info{}, err)
		}
	}
}

// Delete is storage.Store's.
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	key := ""
	if len(keys) > 0 {
		key = keys[0]
	}
	return s.do(ctx, Delete, key, func(Fault) error { return s.inner.Delete(ctx, keys...) })
}
