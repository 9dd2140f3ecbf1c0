package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"pgstow/storage"
)

// errStalled and errDeadline are why a call to the store was given up.
var (
	errStalled  = errors.New("no progress")
	errDeadline = errors.New("the deadline has passed")
)

// watch ends a context when nothing moved for a while: bytes of a Put (through storage.WithProgress), bytes of a body (through
// reader), or whatever else calls moved.
type watch struct {
	mu     sync.Mutex
	timer  *time.Timer
	stall  time.Duration
	cancel context.CancelCauseFunc
	beat   func() // is told too; nil: nobody is
}

// watched returns a context that ends with errStalled after stall without progress. stop must be called.
func watched(outer context.Context, stall time.Duration) (ctx context.Context, w *watch, stop func()) {
	ctx, cancel := context.WithCancelCause(outer)
	w = &watch{stall: stall, cancel: cancel}
	w.timer = time.AfterFunc(stall, func() { cancel(fmt.Errorf("%w for %s", errStalled, stall)) })
	ctx = storage.WithProgress(ctx, func(n int) error {
		w.moved()
		return storage.Progress(outer, n)
	})
	return ctx, w, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.timer.Stop()
		cancel(nil)
	}
}

// moved says that something moved.
func (w *watch) moved() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer.Reset(w.stall)
	if w.beat != nil {
		w.beat()
	}
}

// lives says that there is something, though not enough to be waited for any longer.
func (w *watch) lives() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.beat != nil {
		w.beat()
	}
}

// minRate is the fewest bytes a second, over the time that a watch allows, at which a body counts as one that moves: a store that sends a byte now
// and then would hold up recovery, or the promotion of a standby, for ever.
const minRate = 1 << 10

// reader watches a body.
func (w *watch) reader(r io.Reader) io.Reader { return &watchedReader{w: w, r: r} }

// Write takes no bytes, only notice: a slow disk is not a store that does not answer.
func (w *watch) Write(p []byte) (int, error) {
	w.moved()
	return len(p), nil
}

type watchedReader struct {
	w    *watch
	r    io.Reader
	came int // bytes that have not counted yet
}

func (r *watchedReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.came += n
	switch {
	case float64(r.came) >= r.w.stall.Seconds()*minRate:
		r.came = 0
		r.w.moved()
	case n > 0:
		r.w.lives()
	}
	return n, err
}

// explain adds to an error that came of an ended context why the context ended.
func explain(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	if cause := context.Cause(ctx); !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}
