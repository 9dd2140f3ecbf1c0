package archive

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"pgstow/storage"
	"pgstow/wal/spool"
)

// pushClaim is the kind of claim on a file that is on its way into the archive.
const pushClaim = "push"

const (
	pulseEvery = 300 * time.Millisecond
	// quiet is how long nothing may move to or from the store until a claim is no longer renewed: then those who wait try themselves.
	quiet = 5 * time.Second
	// stoppingQuiet replaces it while the server is being stopped.
	stoppingQuiet = time.Second
)

// moments remembers when something moved last.
type moments struct{ last atomic.Int64 }

func (m *moments) now()                 { m.last.Store(time.Now().UnixNano()) }
func (m *moments) since() time.Duration { return time.Duration(time.Now().UnixNano() - m.last.Load()) }

// pulse holds the claim on a file and renews it while the work on it goes on: always while the processor works, and as long as something
// moves while a store or others are waited for. All methods work on a nil *pulse.
type pulse struct {
	claim   *spool.Claim
	quiet   time.Duration
	own     moments
	watched atomic.Pointer[moments] // nil: the processor works

	stop chan struct{}
	done sync.WaitGroup
}

// newPulse renews a claim until end is called. Without a claim (no spool, or somebody hangs who has it) there is nothing to renew.
func newPulse(claim *spool.Claim, pgdata string) *pulse {
	if claim == nil {
		return nil
	}
	p := &pulse{claim: claim, quiet: quiet, stop: make(chan struct{})}
	if pgdata != "" && stopping(pgdata) {
		p.quiet = stoppingQuiet
	}
	p.done.Go(p.renew)
	return p
}

func (p *pulse) renew() {
	tick := time.NewTicker(pulseEvery)
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-tick.C:
			if m := p.watched.Load(); m == nil || m.since() < p.quiet {
				p.claim.Beat()
			}
		}
	}
}

// end gives the claim back.
func (p *pulse) end() {
	if p == nil {
		return
	}
	close(p.stop)
	p.done.Wait()
	p.claim.Release()
}

// waiting says that from now on only what m sees counts as getting on.
func (p *pulse) waiting(m *moments) {
	if p != nil {
		p.watched.Store(m)
	}
}

// working says that the processor works on the file.
func (p *pulse) working() {
	if p != nil {
		p.watched.Store(nil)
	}
}

// sending says that the file is on its way to the store; with the context that it returns, what moves counts.
func (p *pulse) sending(outer context.Context) context.Context {
	if p == nil {
		return outer
	}
	p.own.now()
	p.watched.Store(&p.own)
	return storage.WithProgress(outer, func(n int) error {
		p.own.now()
		return storage.Progress(outer, n)
	})
}

// claimOwn claims the file of this call, or waits for who has it. marked: that one has stored it.
func (o *PushOptions) claimOwn(ctx context.Context, p *pushFile) (beats *pulse, marked bool, err error) {
	claim, ok := o.Spool.Claim(pushClaim, p.base)
	if !ok && o.Spool != nil {
		done := make(chan struct{})
		go func() {
			defer close(done)
			o.Spool.AwaitClaim(pushClaim, p.base, spool.ClaimStale)
		}()
		select {
		case <-done:
		case <-ctx.Done():
			return nil, false, context.Cause(ctx)
		}
		if o.Spool.Stored(p.base, p.id) {
			return nil, true, nil
		}
		claim, _ = o.Spool.Claim(pushClaim, p.base)
	}
	// It may have been claimed, stored and given back since it was looked up.
	return newPulse(claim, o.PGData), claim != nil && o.Spool.Stored(p.base, p.id), nil
}
