package retry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"pgstow/storage"
)

// errTotal is the cause with which the context of a call ends after Policy.Total.
var errTotal = errors.New("out of time")

// errStalled is the cause with which a try is broken off.
var errStalled = errors.New("stalled")

// call is one call with its tries.
type call struct {
	s       *Store
	op, key string
	started time.Time
	tries   int
	waits   *backoff.ExponentialBackOff
	last    error // of the last try that had time to fail by itself

	mu       sync.Mutex
	progress time.Time // when something last moved that had not moved before
	reached  int       // most bytes of a Put that any try moved
}

func (s *Store) newCall(op, key string) *call {
	now := time.Now()
	return &call{s: s, op: op, key: key, started: now, progress: now, waits: s.newBackoff()}
}

// run makes tries until one succeeds or next says that it is enough. The context it hands out ends after Policy.Total.
func (c *call) run(ctx context.Context, try func(context.Context) error) error {
	total, cancel := context.WithDeadlineCause(ctx, c.started.Add(c.s.policy.Total), errTotal)
	defer cancel()
	for {
		err := try(total)
		if err == nil {
			return nil
		}
		if err := c.next(ctx, err); err != nil {
			return err
		}
	}
}

// next is called after a failed try. It waits and returns nil if there is to be another one, else the error of the call.
func (c *call) next(ctx context.Context, err error) error {
	c.tries++
	now := time.Now()
	if errors.Is(err, errTotal) && c.last != nil {
		err = c.last
	}
	c.last = err
	if cause := context.Cause(ctx); cause != nil {
		return c.fail(now, "stopped: "+cause.Error(), err, cause)
	}
	p := c.s.policy
	if now.Sub(c.started) < p.Total && !Retryable(err) { // at the end of Total err only says that the context ended
		if c.tries == 1 {
			return err
		}
		return c.fail(now, "", err, nil)
	}
	wait := c.waits.NextBackOff()
	c.mu.Lock()
	progress := c.progress
	c.mu.Unlock()
	switch then := now.Add(wait); {
	case then.Sub(c.started) >= p.Total:
		return c.fail(now, fmt.Sprintf("gave up: %v are all it may take", p.Total), err, nil)
	case then.Sub(progress) >= p.Stall:
		return c.fail(now, fmt.Sprintf("gave up: no progress for %v", p.Stall), err, nil)
	}
	c.s.onRetry(Event{Op: c.op, Key: c.key, Try: c.tries, Err: err, Wait: wait, Elapsed: now.Sub(c.started)})
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		cause := context.Cause(ctx)
		return c.fail(time.Now(), "stopped: "+cause.Error(), err, cause)
	}
}

func (c *call) fail(now time.Time, reason string, err, cause error) error {
	return &Error{Op: c.op, Key: c.key, Tries: c.tries, Elapsed: now.Sub(c.started), Reason: reason, Err: err, cause: cause}
}

// moved notes that n more bytes left in the present try, which has moved sum so far. Only what no earlier try had moved
// is progress, else a store that takes bytes and never answers would be one that makes progress. n = 0 means that the
// call is held back on purpose.
func (c *call) moved(n, sum int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n == 0 || sum > c.reached {
		c.progress = time.Now()
		c.reached = max(c.reached, sum)
	}
}

// watch breaks a try off when nothing moves for Policy.Attempt, or, while a body is read, hardly anything.
type watch struct {
	cancel context.CancelCauseFunc
	cause  func() error // why the context that it gave ended, if it did
	limit  time.Duration
	timer  *time.Timer

	mu      sync.Mutex
	running bool

	// Of a body: how long was waited for it, and how much came of it, since enough of it came last.
	waited time.Duration
	came   int
}

// minRate is the fewest bytes a second, over Policy.Attempt, at which a body counts as one that moves. Whoever sends a byte now and then could
// hold up a reader for ever; on another connection there may be somebody who sends the rest.
const minRate = 1 << 10

// beforeRead lets the time run while a body is read; afterRead says how much came since then.
func (w *watch) beforeRead() (begin time.Time) {
	w.start(w.limit - w.waited)
	return time.Now()
}

func (w *watch) afterRead(begin time.Time, n int) {
	w.stop()
	w.waited += time.Since(begin)
	w.came += n
	if float64(w.came) >= w.limit.Seconds()*minRate {
		w.waited, w.came = 0, 0
	}
}

// watch starts one for a try of c, which uses the context that comes with it.
func (c *call) watch(ctx context.Context) (context.Context, *watch) {
	sum := 0
	return c.s.newWatch(ctx, func(n int) { sum += n; c.moved(n, sum) })
}

func (s *Store) newWatch(ctx context.Context, moved func(n int)) (context.Context, *watch) {
	w := &watch{limit: s.policy.Attempt}
	inner, cancel := context.WithCancelCause(ctx)
	w.cancel, w.cause = cancel, func() error { return context.Cause(inner) }
	w.timer = time.AfterFunc(w.limit, func() { cancel(errStalled) })
	w.running = true
	return storage.WithProgress(inner, func(n int) error {
		w.timer.Stop() // whoever measures or slows down from above takes his own time
		moved(n)
		err := storage.Progress(ctx, n)
		w.again()
		return err
	}), w
}

// again lets the time run from now on, unless the watch is stopped.
func (w *watch) again() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running {
		w.timer.Reset(w.limit)
	}
}

// start lets the time run; the first time that it runs out in is left.
func (w *watch) start(left time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running = true
	w.timer.Reset(left)
}

func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running = false
	w.timer.Stop()
}

// end releases the watch and its context.
func (w *watch) end() {
	w.stop()
	w.cancel(context.Canceled)
}

// explain returns err, or what happened if the watch broke the try off.
func (w *watch) explain(err error) error {
	if err == nil {
		return nil
	}
	switch cause := w.cause(); {
	case errors.Is(cause, errStalled):
		if w.came > 0 {
			return fmt.Errorf("only %d bytes came in %v", w.came, w.limit)
		}
		return fmt.Errorf("nothing moved for %v", w.limit)
	case errors.Is(cause, errTotal):
		return errTotal
	default:
		return err
	}
}
