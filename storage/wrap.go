package storage

import (
	"context"
)

// ChecksumProber is implemented by stores that can verify a checksum sent along with the body. A store without it (the
// file store has no other side that could verify anything) is asked nothing of the kind.
type ChecksumProber interface {
	// ProbeChecksum sends a small object with a checksum that is wrong on purpose and reports whether the store
	// refused it. If it did not, the object exists afterwards; the caller deletes it.
	ProbeChecksum(ctx context.Context, key string) (refused bool, err error)
}

// Presence is implemented by stores of which the address alone does not say that the right thing is there: a folder on which nothing is
// mounted is an empty one, and takes whatever is put into it.
type Presence interface {
	// CheckPresent returns nil if the store shows that it was in use before, without a request that costs anything; from then on
	// this Store does not mistake an empty folder for it either. ErrNoStore if it does not show that.
	CheckPresent(ctx context.Context) error
}

// Find returns s, or the store that it wraps at whatever depth, as a T: for optional interfaces such as ChecksumProber,
// which wrappers do not repeat. A wrapper says what it wraps with a method Unwrap() Store.
func Find[T any](s Store) (T, bool) {
	for s != nil {
		if t, ok := s.(T); ok {
			return t, true
		}
		w, ok := s.(interface{ Unwrap() Store })
		if !ok {
			break
		}
		s = w.Unwrap()
	}
	var none T
	return none, false
}

type progressKey struct{}

// WithProgress returns a context under which a store calls moved as the bytes of a Put leave this process, in pieces
// of at most [ProgressStep] bytes, on one goroutine at a time per Put. The call may block: that is how storage/limit
// slows a Put down. An error from it fails the Put. A moved of an outer context is not called by itself; see [Progress].
func WithProgress(ctx context.Context, moved func(n int) error) context.Context {
	return context.WithValue(ctx, progressKey{}, moved)
}

// ProgressStep is the largest n that a store reports at once, in bytes.
const ProgressStep = 64 << 10

// Progress reports n bytes to the function of WithProgress, if there is one. Stores and wrappers call it.
func Progress(ctx context.Context, n int) error {
	if moved, ok := ctx.Value(progressKey{}).(func(n int) error); ok {
		return moved(n)
	}
	return nil
}

type fewKey struct{}

// WithFew returns a context under which a List is asked for n objects at a time to begin with, since the caller will
// hardly look at more. It changes what a List costs, never what it gives.
func WithFew(ctx context.Context, n int) context.Context { return context.WithValue(ctx, fewKey{}, n) }

// Few is how many objects the first request of a List should ask for, at most limit. Stores call it.
func Few(ctx context.Context, limit int) int {
	if n, ok := ctx.Value(fewKey{}).(int); ok && n > 0 {
		return min(n, limit)
	}
	return limit
}
