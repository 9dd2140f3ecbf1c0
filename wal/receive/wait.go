package receive

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// newBackoff are the waits between tries: of a connection, of an object that could not be stored.
func newBackoff() *backoff.ExponentialBackOff {
	return &backoff.ExponentialBackOff{InitialInterval: 250 * time.Millisecond, MaxInterval: 10 * time.Second, Multiplier: 2, RandomizationFactor: 0.5}
}

// idleEvery is how often whoever watches is told that Run is alive while it waits.
const idleEvery = 2 * time.Second

// pause waits, unless ctx ends before, and calls idle now and then.
func pause(ctx context.Context, d time.Duration, idle func()) bool {
	end := time.NewTimer(d)
	defer end.Stop()
	tick := time.NewTicker(idleEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-end.C:
			return true
		case <-tick.C:
			idle()
		}
	}
}

// outlasting is a context that ends d after ctx has ended: what is under way then may still come to its end.
func outlasting(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		time.AfterFunc(d, func() { cancel(errStopTimeout) })
	})
	return longer, func() {
		stop()
		cancel(nil)
	}
}
