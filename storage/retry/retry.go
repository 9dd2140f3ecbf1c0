// Package retry wraps a store so that calls which failed are tried again. It is the only place in pgstow that retries a
// call to a store.
//
// A call ends with success, with an error that another try would not change ([Retryable]), or when it has taken
// Policy.Total in all or Policy.Stall without progress. Waits between tries are random around a mean that doubles. Within
// a call the same bytes are sent under the same condition each time.
//
// # Conditional puts and lost replies
//
// A try of which nobody knows how it ended (broken connection, 5xx, 409, no progress) may have stored the object. If a
// later try of the same call finds the condition not met, what is stored is compared: equal bytes mean that this call
// stored them, and it succeeds. A condition that is not met at the first try is returned at once, without any other
// request, also when equal bytes are there: then this call did not store them.
//
// So an object over which several writers compete carries something of its writer (a nonce) in its body: otherwise one
// could take the equal bytes of another for his own. And ErrExist after a lost reply may also mean that our bytes were
// stored and replaced since; a writer to whom that matters looks at what is there.
//
// # Reading
//
// A body that breaks off is continued where it ended, if the object is still the same, so its reader does not notice. Time
// in which the reader itself does not read counts for nothing. A list goes on behind the last object that it gave.
package retry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"

	"pgstow/storage"
)

// Policy says how long to try. Zero fields have the defaults that are given with them.
type Policy struct {
	Total time.Duration // for one call with all its tries, or one interruption of a body; 5 min
	Stall time.Duration // without progress: no byte of a Put beyond those of earlier tries, no answer; 1 min

	// Attempt is how long one try may be without any movement before it is broken off and made again on another
	// connection; Stall/2.
	Attempt time.Duration

	FirstWait time.Duration // mean wait before the second try; 100 ms
	MaxWait   time.Duration // mean wait at most; 5 s
}

func (p Policy) withDefaults() Policy {
	set := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	set(&p.Total, 5*time.Minute)
	set(&p.Stall, time.Minute)
	set(&p.Attempt, p.Stall/2)
	set(&p.FirstWait, 100*time.Millisecond)
	set(&p.MaxWait, 5*time.Second)
	return p
}

// Event tells of a try that failed and will be made again.
type Event struct {
	Op      string // "put", "get", "stat", "list", "delete"
	Key     string
	Try     int // that failed, from 1 on
	Err     error
	Wait    time.Duration // before the next try
	Elapsed time.Duration // since the call began
}

// Error is the end of a call that was tried more than once, or broken off. It wraps the error of the last try.
type Error struct {
	Op, Key string
	Tries   int
	Elapsed time.Duration
	Reason  string // why it was not tried again; "" if the last error said enough
	Err     error  // of the last try

	cause error // of the context's end, if that is the reason
}

func (e *Error) Error() string {
	tries := fmt.Sprintf("%d tries", e.Tries)
	if e.Tries == 1 {
		tries = "1 try"
	}
	text := fmt.Sprintf("%s %s: failed after %s in %v", e.Op, e.Key, tries, e.Elapsed.Round(time.Millisecond))
	if e.Reason != "" {
		text += " (" + e.Reason + ")"
	}
	return text + ": " + e.Err.Error()
}

// Unwrap returns the last error and, if a context ended the call, its cause.
func (e *Error) Unwrap() []error {
	if e.cause != nil {
		return []error{e.cause, e.Err}
	}
	return []error{e.Err}
}

// Retryable reports whether another try may end differently. It is the one place that decides this: whatever wraps no
// sentinel of storage is retryable, and so is ErrConflict. The end of the caller's context is not an error of the store;
// whoever calls Retryable looks at the context first, because a timeout of a connection also is context.DeadlineExceeded.
func Retryable(err error) bool {
	if err == nil {
		return false
	}
	for _, final := range []error{
		context.Canceled, storage.ErrNotExist, storage.ErrExist, storage.ErrPermission, storage.ErrUnsupported,
		storage.ErrNoStore, storage.ErrInvalidKey, storage.ErrRange, storage.ErrRejected, storage.ErrArchived, storage.ErrFull, storage.ErrUntrusted,
		errChanged,
	} {
		if errors.Is(err, final) {
			return false
		}
	}
	return true
}

// definite reports whether a Put that returned err has certainly not stored anything; see storage.Store.
func definite(err error) bool {
	for _, e := range []error{
		storage.ErrExist, storage.ErrPermission, storage.ErrUnsupported, storage.ErrNoStore, storage.ErrInvalidKey, storage.ErrRejected,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Store retries the calls to another store. It implements storage.Store.
type Store struct {
	inner   storage.Store
	policy  Policy
	onRetry func(Event)
}

var _ storage.Store = (*Store)(nil)

// New wraps s. onRetry, which may be nil, is called before each wait, on the goroutine of the call; it must not block.
func New(s storage.Store, p Policy, onRetry func(Event)) *Store {
	if onRetry == nil {
		onRetry = func(Event) {}
	}
	return &Store{inner: s, policy: p.withDefaults(), onRetry: onRetry}
}

// Unwrap returns the store beneath.
func (s *Store) Unwrap() storage.Store { return s.inner }

func (s *Store) String() string { return s.inner.String() }

// Stat is storage.Store's.
func (s *Store) Stat(ctx context.Context, key string) (storage.Info, error) {
	var info storage.Info
	c := s.newCall("stat", key)
	err := c.run(ctx, func(ctx context.Context) error {
		ctx, w := c.watch(ctx)
		defer w.end()
		var err error
		info, err = s.inner.Stat(ctx, key)
		return w.explain(err)
	})
	return info, err
}

// Delete is storage.Store's. A try that left some keys is made again with all of them.
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	if len(keys) == 0 {
		return nil
	}
	name := keys[0]
	if len(keys) > 1 {
		name += fmt.Sprintf(" and %d others", len(keys)-1)
	}
	c := s.newCall("delete", name)
	return c.run(ctx, func(ctx context.Context) error {
		ctx, w := c.watch(ctx)
		defer w.end()
		return w.explain(s.inner.Delete(ctx, keys...))
	})
}

func (s *Store) newBackoff() *backoff.ExponentialBackOff {
	return &backoff.ExponentialBackOff{
		InitialInterval: s.policy.FirstWait, MaxInterval: s.policy.MaxWait, Multiplier: 2,
		RandomizationFactor: 1, // from 0 to twice the mean: clients that failed together come back apart
	}
}
