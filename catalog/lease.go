package catalog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"pgstow/storage"
)

// DefaultLeaseTTL is how long a lease lives without being renewed.
const DefaultLeaseTTL = 5 * time.Minute

// Clock is the time that leases go by. The zero value is the real one.
type Clock struct {
	// Monotonic is the time since some fixed moment; it never jumps. nil: since the process began to use it.
	Monotonic func() time.Duration
	// Wall is the host's clock. It is written into bodies for people and decides nothing. nil: time.Now.
	Wall func() time.Time
	// Sleep waits, or returns the context's error. nil: a timer.
	Sleep func(ctx context.Context, d time.Duration) error
}

func (c Clock) withDefaults() Clock {
	if c.Wall == nil {
		c.Wall = time.Now
	}
	if c.Monotonic == nil {
		begin := time.Now()
		c.Monotonic = func() time.Duration { return time.Since(begin) }
	}
	if c.Sleep == nil {
		c.Sleep = func(ctx context.Context, d time.Duration) error {
			t := time.NewTimer(d)
			defer t.Stop()
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-t.C:
				return nil
			}
		}
	}
	return c
}

// LeaseInfo is the body of a lease: <cluster>/lease/<name>.json. No time in it decides anything (RULES-archive D11).
type LeaseInfo struct {
	Format    int       `json:"format"`
	Name      string    `json:"name"`
	Purpose   string    `json:"purpose"` // "backup", "expire", …
	Free      bool      `json:"free"`    // released
	Nonce     string    `json:"nonce"`   // of this writing: two writings never have the same bytes, nor the same ETag
	Holder    string    `json:"holder"`  // random, one per acquisition
	TTL       Seconds   `json:"ttl_seconds"`
	SystemID  uint64    `json:"system_id,string,omitempty"`
	Backup    string    `json:"backup,omitempty"`    // id of the backup that is being made
	Reference string    `json:"reference,omitempty"` // id of the backup it builds on: must not go meanwhile
	Host      string    `json:"host,omitempty"`
	Program   string    `json:"program,omitempty"`
	PID       int       `json:"pid,omitempty"`
	Acquired  time.Time `json:"acquired"` // by the holder's clock, for people
	Renewed   time.Time `json:"renewed"`  // by the holder's clock, for people
}

// Seconds is a duration that JSON shows as a number of seconds.
type Seconds time.Duration

// MarshalJSON writes seconds.
func (s Seconds) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, "%g", time.Duration(s).Seconds()), nil
}

// UnmarshalJSON reads seconds.
func (s *Seconds) UnmarshalJSON(b []byte) error {
	var f float64
	if _, err := fmt.Sscanf(string(b), "%g", &f); err != nil || f < 0 || f > 1e9 {
		return fmt.Errorf("%s is not a number of seconds", b)
	}
	*s = Seconds(f * float64(time.Second))
	return nil
}

// LeaseOptions describe a lease to be taken.
type LeaseOptions struct {
	Purpose   string
	TTL       time.Duration // 0: DefaultLeaseTTL
	SystemID  uint64
	Backup    string
	Reference string
	Host      string
	Program   string
	PID       int
	Clock     Clock

	// Wait says that a held lease is watched until it is released or dead; then it is taken. Otherwise a held lease
	// is ErrLeaseHeld at once, also if its holder died long ago: only watching tells.
	Wait bool
	// Ephemeral leases are deleted after their release. For names that nobody takes twice.
	Ephemeral bool
}

// Lease is held by this process. Safe for concurrent use.
type Lease struct {
	repo      *Repository
	key       string
	clock     Clock
	ephemeral bool

	writing chan struct{} // holds one value during a write: writes of one holder do not overtake each other

	mu       sync.Mutex // guards what follows, and is never held for long
	info     LeaseInfo
	etag     string
	renewed  time.Duration // monotonic time before the last successful write began
	released bool
}

// LeaseHeldError is ErrLeaseHeld and says by whom.
type LeaseHeldError struct{ Info LeaseInfo }

func (e *LeaseHeldError) Error() string {
	return fmt.Sprintf("%s %q: %v by %s process %d since %s", e.Info.Purpose, e.Info.Name, ErrLeaseHeld, e.Info.Host, e.Info.PID,
		e.Info.Acquired.UTC().Format(time.RFC3339))
}

// Is makes it an ErrLeaseHeld.
func (e *LeaseHeldError) Is(target error) bool { return target == ErrLeaseHeld }

// AcquireLease takes the lease of a name within a cluster name. At most one process at a time holds it, as long as holders
// stop when [Lease.Keep] tells them to: a lease of which the object did not change for its TTL is dead and may be taken.
func (r *Repository) AcquireLease(ctx context.Context, cluster, name string, o LeaseOptions) (*Lease, error) {
	if err := CheckClusterName(cluster); err != nil {
		return nil, err
	}
	o.Clock = o.Clock.withDefaults()
	l := r.newLease(cluster, name, o)
	err := l.write(ctx, l.info, storage.IfAbsent)
	if err == nil {
		return l, nil
	}
	if !errors.Is(err, storage.ErrExist) {
		return nil, fmt.Errorf("lease %s: %w", name, err)
	}
	if err := l.takeOver(ctx, o); err != nil {
		return nil, err
	}
	return l, nil
}

func (r *Repository) newLease(cluster, name string, o LeaseOptions) *Lease {
	if o.TTL <= 0 {
		o.TTL = DefaultLeaseTTL
	}
	return &Lease{
		repo: r, key: LeaseKey(cluster, name), clock: o.Clock, ephemeral: o.Ephemeral, writing: make(chan struct{}, 1),
		info: LeaseInfo{
			Format: formatVersion, Name: name, Purpose: o.Purpose, Holder: newNonce(), TTL: Seconds(o.TTL), SystemID: o.SystemID,
			Backup: o.Backup, Reference: o.Reference, Host: o.Host, Program: o.Program, PID: o.PID, Acquired: o.Clock.Wall().UTC(),
		},
	}
}

// takeOver takes a lease that exists: at once if it is free, else after it was seen to be dead.
func (l *Lease) takeOver(ctx context.Context, o LeaseOptions) error {
	w := leaseWatch{clock: o.Clock}
	for {
		seen, err := l.repo.readLease(ctx, l.key)
		if err != nil && !errors.Is(err, storage.ErrNotExist) {
			return fmt.Errorf("lease %s: %w", l.info.Name, err)
		}
		cond := storage.IfMatch(seen.etag)
		if err != nil {
			cond = storage.IfAbsent
		}
		if err != nil || seen.Free || w.dead(seen) {
			if err = l.write(ctx, l.info, cond); err == nil {
				return nil
			} else if !errors.Is(err, storage.ErrExist) {
				return fmt.Errorf("lease %s: %w", l.info.Name, err)
			}
			if !o.Wait { // somebody else was faster
				return &LeaseHeldError{Info: seen.LeaseInfo}
			}
			continue
		}
		if !o.Wait {
			return &LeaseHeldError{Info: seen.LeaseInfo}
		}
		if err := o.Clock.Sleep(ctx, w.pause(seen)); err != nil {
			return fmt.Errorf("wait for %w: %w", &LeaseHeldError{Info: seen.LeaseInfo}, err)
		}
	}
}

// write puts the body under a new nonce and, when that is done, takes body and ETag over. The caller has begun a write,
// or nobody else has l yet.
func (l *Lease) write(ctx context.Context, next LeaseInfo, cond storage.Condition) error {
	next.Nonce, next.Renewed = newNonce(), l.clock.Wall().UTC()
	began := l.clock.Monotonic()
	info, err := writeControl(ctx, l.repo.Store, l.key, next, cond)
	if err != nil {
		return err
	}
	if info.ETag == "" { // the contract wants one from Put; without it nothing could be renewed
		return fmt.Errorf("%s gave no ETag for %s: %w", l.repo.Store, l.key, storage.ErrUnsupported)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.info, l.etag, l.renewed = next, info.ETag, began
	return nil
}

// begin waits for its turn to write and returns what the lease is now.
func (l *Lease) begin(ctx context.Context) (info LeaseInfo, etag string, released bool, err error) {
	select {
	case l.writing <- struct{}{}:
	case <-ctx.Done():
		return info, "", false, fmt.Errorf("lease %s: %w", l.key, context.Cause(ctx))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.info, l.etag, l.released, nil
}

func (l *Lease) end() { <-l.writing }

// Info is what the lease says about its holder.
func (l *Lease) Info() LeaseInfo {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.info
}

// Backup is the id of the backup that the lease was taken for.
func (l *Lease) Backup() string { return l.Info().Backup }

// Renew writes the lease anew. ErrLeaseLost if somebody else has written it since: the work must stop.
func (l *Lease) Renew(ctx context.Context) error { return l.change(ctx, func(*LeaseInfo) {}) }

// SetReference renews the lease with the id of the backup that must not be deleted meanwhile.
func (l *Lease) SetReference(ctx context.Context, id string) error {
	return l.change(ctx, func(info *LeaseInfo) { info.Reference = id })
}

func (l *Lease) change(ctx context.Context, edit func(*LeaseInfo)) error {
	info, etag, released, err := l.begin(ctx)
	if err != nil {
		return err
	}
	defer l.end()
	if released {
		return fmt.Errorf("lease %s was released: %w", info.Name, ErrLeaseLost)
	}
	edit(&info)
	err = l.write(ctx, info, storage.IfMatch(etag))
	if errors.Is(err, storage.ErrExist) {
		return fmt.Errorf("lease %s: %w: %w", info.Name, ErrLeaseLost, err)
	}
	if err != nil {
		return fmt.Errorf("renew lease %s: %w", info.Name, err)
	}
	return nil
}

// Release marks the lease free, by compare-and-swap, so that only our own is. A lease that was lost is no error here.
func (l *Lease) Release(ctx context.Context) error {
	info, etag, released, err := l.begin(ctx)
	if err != nil {
		return err
	}
	defer l.end()
	if released {
		return nil
	}
	info.Free = true
	err = l.write(ctx, info, storage.IfMatch(etag))
	lost := errors.Is(err, storage.ErrExist)
	if err != nil && !lost {
		return fmt.Errorf("release lease %s: %w", info.Name, err)
	}
	l.mu.Lock()
	l.released = true
	l.mu.Unlock()
	if lost || !l.ephemeral {
		return nil
	}
	// Nobody else takes this name, so what is deleted is what we have just marked free.
	if err := l.repo.Store.Delete(ctx, l.key); err != nil {
		return fmt.Errorf("release lease %s: %w", info.Name, err)
	}
	return nil
}
