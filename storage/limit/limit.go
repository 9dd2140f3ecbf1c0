// Package limit wraps a store so that it is used only so fast: a rate of bytes and a number of requests at a time.
//
// The rate counts the bytes of bodies in both directions together. A Put is slowed down while its bytes leave, not held
// back and then sent at full speed, if the store reports its progress (storage.Progress); whatever a store did not report
// is paid for after the Put. While a call waits here it reports progress of no bytes, so that a storage/retry around this
// wrapper does not take the wait for a stall: put retry outside, limit inside.
package limit

import (
	"context"
	"io"
	"iter"
	"time"

	"golang.org/x/time/rate"

	"pgstow/storage"
)

// Options of a wrapper; a field that is not positive does not limit.
type Options struct {
	BytesPerSecond int64
	InFlight       int // requests at a time: calls, pages of a list, reads of a body
}

// Store limits another store. It implements storage.Store.
type Store struct {
	inner storage.Store
	rate  *rate.Limiter // nil: none
	piece int           // most bytes to ask rate for at once
	slots chan struct{} // nil: none
}

var _ storage.Store = (*Store)(nil)

// aliveEvery is how often a waiting call says that it is alive.
const aliveEvery = time.Second

// New wraps s.
func New(s storage.Store, o Options) *Store {
	l := &Store{inner: s}
	if o.BytesPerSecond > 0 {
		// A tenth of a second's worth, so that the flow is even, and a wait never longer than about that. Requests to
		// the limiter must not be greater than its burst.
		l.piece = int(max(1, min(o.BytesPerSecond/10, 4*storage.ProgressStep)))
		l.rate = rate.NewLimiter(rate.Limit(o.BytesPerSecond), l.piece)
	}
	if o.InFlight > 0 {
		l.slots = make(chan struct{}, o.InFlight)
	}
	return l
}

// Unwrap returns the store beneath.
func (l *Store) Unwrap() storage.Store { return l.inner }

func (l *Store) String() string { return l.inner.String() }

// acquire waits for a slot.
func (l *Store) acquire(ctx context.Context) error {
	if l.slots == nil {
		return context.Cause(ctx)
	}
	select {
	case l.slots <- struct{}{}:
		return nil
	default:
	}
	alive := time.NewTicker(aliveEvery)
	defer alive.Stop()
	for {
		select {
		case l.slots <- struct{}{}:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-alive.C:
			if err := storage.Progress(ctx, 0); err != nil {
				return err
			}
		}
	}
}

func (l *Store) release() {
	if l.slots != nil {
		<-l.slots
	}
}

// pay waits until n bytes may have moved.
func (l *Store) pay(ctx context.Context, n int) error {
	if l.rate == nil {
		return nil
	}
	for n > 0 {
		k := min(n, l.piece)
		if err := l.rate.WaitN(ctx, k); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return err // the context's deadline comes before the bytes may
		}
		if err := storage.Progress(ctx, 0); err != nil {
			return err
		}
		n -= k
	}
	return nil
}

// Put is storage.Store's.
func (l *Store) Put(ctx context.Context, key string, body []byte, cond storage.Condition) (storage.Info, error) {
	if err := l.acquire(ctx); err != nil {
		return storage.Info{}, err
	}
	defer l.release()
	if l.rate == nil {
		return l.inner.Put(ctx, key, body, cond)
	}
	paid := 0
	metered := storage.WithProgress(ctx, func(n int) error {
		paid += n
		if err := l.pay(ctx, n); err != nil {
			return err
		}
		return storage.Progress(ctx, n)
	})
	info, err := l.inner.Put(metered, key, body, cond)
	if err != nil {
		return storage.Info{}, err
	}
	if rest := len(body) - paid; rest > 0 {
		_ = l.pay(ctx, rest) // the object is stored: the end of ctx does not change that
	}
	return info, nil
}

// Get is storage.Store's. An open body holds a slot only while it is read, so any number may be open.
func (l *Store) Get(ctx context.Context, key string, r storage.Range) (io.ReadCloser, storage.Info, error) {
	if err := l.acquire(ctx); err != nil {
		return nil, storage.Info{}, err
	}
	defer l.release()
	rc, info, err := l.inner.Get(ctx, key, r)
	if err != nil {
		return nil, storage.Info{}, err
	}
	return &body{ReadCloser: rc, l: l, ctx: ctx}, info, nil
}

type body struct {
	io.ReadCloser
	l   *Store
	ctx context.Context
}

func (b *body) Read(p []byte) (int, error) {
	if err := b.l.acquire(b.ctx); err != nil {
		return 0, err
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), storage.ProgressStep)])
	b.l.release()
	if perr := b.l.pay(b.ctx, n); perr != nil {
		return 0, perr
	}
	return n, err
}

// Stat is storage.Store's.
func (l *Store) Stat(ctx context.Context, key string) (storage.Info, error) {
	if err := l.acquire(ctx); err != nil {
		return storage.Info{}, err
	}
	defer l.release()
	return l.inner.Stat(ctx, key)
}

// List is storage.Store's. It holds a slot only while it fetches, never while the caller looks at an object.
func (l *Store) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Info, error] {
	seq := l.inner.List(ctx, prefix, after)
	if l.slots == nil {
		return seq
	}
	return func(yield func(storage.Info, error) bool) {
		next, stop := iter.Pull2(seq)
		defer stop()
		for {
			if err := l.acquire(ctx); err != nil {
				yield(storage.Info{}, err)
				return
			}
			info, err, ok := next()
			l.release()
			if !ok || !yield(info, err) {
				return
			}
		}
	}
}

// Delete is storage.Store's.
func (l *Store) Delete(ctx context.Context, keys ...string) error {
	if err := l.acquire(ctx); err != nil {
		return err
	}
	defer l.release()
	return l.inner.Delete(ctx, keys...)
}
