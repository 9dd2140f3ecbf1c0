package catalog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"pgstow/storage"
)

// leaseRead is a lease as one read found it.
type leaseRead struct {
	LeaseInfo
	key  string
	etag string
	now  time.Time // the store's clock at the read; zero if not known
}

func (r *Repository) readLease(ctx context.Context, key string) (leaseRead, error) {
	seen := leaseRead{key: key}
	info, err := readControl(ctx, r.Store, key, &seen.LeaseInfo)
	seen.etag, seen.now = info.ETag, info.Now
	return seen, err
}

// leaseWatch judges whether a lease is dead by watching its ETag (RULES-archive D11): it must not have changed for the
// lease's own TTL, by our monotonic clock or between two reads by the store's clock.
type leaseWatch struct {
	clock     Clock
	etag      string
	since     time.Duration
	sinceDate time.Time
}

// dead takes note of a read that has just returned. The moment counted from is after the first read, the moment counted
// to is after the last one, so a holder that wrote between the two was seen.
func (w *leaseWatch) dead(seen leaseRead) bool {
	now := w.clock.Monotonic()
	if w.etag != seen.etag || w.etag == "" {
		w.etag, w.since, w.sinceDate = seen.etag, now, seen.now
		return false
	}
	ttl := time.Duration(seen.TTL)
	if now-w.since > ttl {
		return true
	}
	return !w.sinceDate.IsZero() && !seen.now.IsZero() && seen.now.Sub(w.sinceDate) > ttl
}

// pause is how long to wait until the next look.
func (w *leaseWatch) pause(seen leaseRead) time.Duration {
	ttl := time.Duration(seen.TTL)
	rest := ttl - (w.clock.Monotonic() - w.since)
	return min(max(rest, 0)+time.Millisecond, max(ttl/4, time.Millisecond))
}

// Keep renews the lease every third of its TTL until stop is called, and returns a context for the work that the lease
// protects: it ends, with a cause that wraps ErrLeaseLost, when somebody else has the lease or when it could not be
// renewed for two thirds of its TTL, which is before anybody may take it. stop waits for the last renewal and returns what
// ended it early, if something did. Release comes after stop.
func (l *Lease) Keep(ctx context.Context) (work context.Context, stop func() error) {
	work, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	var failed error
	keeping, halt := context.WithCancel(ctx)
	go func() {
		defer close(done)
		if failed = l.renewUntil(keeping); failed != nil {
			cancel(failed)
		}
	}()
	return work, func() error {
		halt()
		<-done
		cancel(context.Canceled)
		return failed
	}
}

func (l *Lease) renewUntil(ctx context.Context) error {
	ttl := time.Duration(l.Info().TTL)
	for {
		if !l.pause(ctx, ttl/3) {
			return nil
		}
		deadline := ttl*2/3 - l.age()
		err := l.renewBefore(ctx, deadline)
		if errors.Is(err, ErrLeaseLost) {
			return err
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		if l.age() >= ttl*2/3 {
			return fmt.Errorf("lease %s could not be renewed: %w: %w", l.Info().Name, ErrLeaseLost, err)
		}
		if !l.pause(ctx, ttl/20) {
			return nil
		}
	}
}

// pause waits and reports whether to go on; false after stop.
func (l *Lease) pause(ctx context.Context, d time.Duration) bool { return l.clock.Sleep(ctx, d) == nil }

// age is the time since the lease was last known to be ours.
func (l *Lease) age() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.clock.Monotonic() - l.renewed
}

// renewBefore gives up at the deadline: a store that hangs must not let the work run on without a lease.
func (l *Lease) renewBefore(ctx context.Context, deadline time.Duration) error {
	if deadline <= 0 {
		return fmt.Errorf("too late by %s", -deadline)
	}
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	return l.Renew(ctx)
}

// Leases lists the leases of a cluster name that are not free. Whether a holder is alive only watching tells; see
// WatchLeases.
func (r *Repository) Leases(ctx context.Context, cluster string) ([]LeaseInfo, error) {
	seen, err := r.heldLeases(ctx, cluster)
	out := make([]LeaseInfo, len(seen))
	for i, s := range seen {
		out[i] = s.LeaseInfo
	}
	return out, err
}

func (r *Repository) heldLeases(ctx context.Context, cluster string) ([]leaseRead, error) {
	var out []leaseRead
	for info, err := range r.Store.List(ctx, LeasePrefix(cluster), "") {
		if err != nil {
			return nil, fmt.Errorf("list leases of %s: %w", cluster, err)
		}
		if !strings.HasSuffix(info.Key, ".json") {
			continue
		}
		seen, err := r.readLease(ctx, info.Key)
		switch {
		case errors.Is(err, storage.ErrNotExist):
			continue
		case err != nil:
			return nil, fmt.Errorf("list leases of %s: %w", cluster, err)
		case !seen.Free:
			out = append(out, seen)
		}
	}
	return out, nil
}

// WatchLeases looks at the held leases that match until each was released, or was dead for its TTL, or changed hands; it
// returns those that are still alive when patience is over. With patience 0 it looks once, and all that match count as alive.
func (r *Repository) WatchLeases(ctx context.Context, cluster string, clock Clock, patience time.Duration, match func(LeaseInfo) bool) ([]LeaseInfo, error) {
	clock = clock.withDefaults()
	begin := clock.Monotonic()
	watches := map[string]*leaseWatch{}
	for {
		seen, err := r.heldLeases(ctx, cluster)
		if err != nil {
			return nil, err
		}
		var alive []LeaseInfo
		pause := time.Duration(0)
		for _, s := range seen {
			if !match(s.LeaseInfo) {
				continue
			}
			w := watches[s.key]
			if w == nil {
				w = &leaseWatch{clock: clock}
				watches[s.key] = w
			}
			if w.dead(s) {
				continue
			}
			alive = append(alive, s.LeaseInfo)
			if p := w.pause(s); pause == 0 || p < pause {
				pause = p
			}
		}
		if len(alive) == 0 || clock.Monotonic()-begin >= patience {
			return alive, nil
		}
		if err := clock.Sleep(ctx, pause); err != nil {
			return alive, err
		}
	}
}
