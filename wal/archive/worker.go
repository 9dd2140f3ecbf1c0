package archive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	workerLock = "worker"
	// WorkerStale is how long after its last sign of life a worker counts as hung and is replaced.
	WorkerStale = 5 * time.Second
	lookEvery   = 250 * time.Millisecond
)

// WorkerOptions are those of the process that stores ahead of the server's asking. They must be the same as those of the pushes that it works
// for, the spool included.
type WorkerOptions struct {
	PushOptions
	// Files is how many files are on their way at a time. 0: DefaultAhead.
	Files int
	// Idle is how long it stays without anything to do. 0: DefaultIdle.
	Idle time.Duration
	// Alive tells whether the server still runs that it was started for; nil: it does.
	Alive func() bool
}

// WorkerResult counts what a worker did.
type WorkerResult struct {
	Stored int // files that are in the archive and marked in the spool
	Failed int // tries that are left to the server's own call
	Scans  int // readings of archive_status
	// Busy: another worker is at work on this spool, so nothing was done.
	Busy bool
}

// Why a worker ends.
var (
	errIdle     = errors.New("there is nothing to do")
	errGone     = errors.New("the server is gone")
	errReplaced = errors.New("the lock of this worker was taken over or removed")
)

// WorkerRuns tells whether a worker for this spool is alive, so that none need be started.
func WorkerRuns(o Options) bool { return o.Spool.Locked(workerLock, WorkerStale) }

// RunWorker stores the files that wait to be archived, in the order in which the server will ask for them, and marks them in the spool. It
// ends without an error when there was nothing to do for a while, when the server is gone, when another worker has taken its place, and
// with ctx. It never changes anything that is the server's, and whatever becomes of it, the server's own calls store what it did not.
func RunWorker(ctx context.Context, o WorkerOptions) (WorkerResult, error) {
	o.setDefaults()
	if o.Files <= 0 {
		o.Files = DefaultAhead
	}
	if o.Idle <= 0 {
		o.Idle = DefaultIdle
	}
	lock, ok := o.Spool.Lock(workerLock, WorkerStale)
	if !ok {
		return WorkerResult{Busy: true}, nil
	}
	defer lock.Release()
	o.Spool.DropClaims(pushClaim)
	defer o.Spool.DropClaims(pushClaim)

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a := newAhead(&o.PushOptions, o.Files)
	var done sync.WaitGroup
	done.Go(func() {
		defer cancel(nil)
		defer a.catch("reading " + a.status)
		a.run(ctx)
	})
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			continue
		case <-tick.C:
		}
		lock.Beat()
		switch {
		case o.Alive != nil && !o.Alive():
			cancel(errGone)
		case !lock.Held():
			cancel(errReplaced)
		case a.broken() != nil:
			cancel(a.broken())
		case a.flying.Load() == 0 && a.worked.since() > o.Idle:
			cancel(errIdle)
		}
	}
	done.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.outcome, a.fault
}

func (a *ahead) broken() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.fault
}

// beside is what a call does for its neighbours: it has a worker started, or where that cannot be, stores some of them itself.
type beside struct {
	o      *PushOptions
	p      *pushFile
	ahead  *ahead
	cancel context.CancelFunc
	done   chan struct{}
}

// start is called when the archive is open. Nothing here may fail or delay the call's own file.
func (b *beside) start(ctx context.Context) {
	o := b.o
	if o.Spool == nil || o.PGData == "" || o.StartWorker == nil && o.Beside <= 0 || !b.isOwn() || !othersWait(archiveStatus(o.PGData), b.p.base) {
		return
	}
	if o.StartWorker != nil {
		if WorkerRuns(o.Options) {
			return
		}
		if err := o.StartWorker(); err != nil {
			o.keepTrouble(b.p.base, fmt.Errorf("start the worker: %w", err))
		}
		return
	}
	ctx, b.cancel = context.WithCancel(ctx)
	b.ahead, b.done = newAhead(o, o.Beside), make(chan struct{})
	b.ahead.inCall = true
	go func() {
		defer close(b.done)
		b.ahead.run(ctx)
	}()
}

// isOwn tells whether the file lies in the data directory's own pg_wal: neighbours of others are nobody's business here.
func (b *beside) isOwn() bool {
	own, err := os.Stat(filepath.Join(b.o.PGData, "pg_wal"))
	if err != nil {
		return false
	}
	folder, err := os.Stat(filepath.Dir(b.p.path))
	return err == nil && os.SameFile(own, folder)
}

// finish lets neighbours that are on their way arrive, for as long again as the call's own file took; none if that failed.
func (b *beside) finish(took time.Duration, err error) {
	if b.ahead == nil {
		return
	}
	defer func() {
		b.cancel()
		<-b.done
	}()
	if err != nil {
		return
	}
	b.ahead.halted()
	t := time.NewTimer(took)
	defer t.Stop()
	select {
	case <-b.done:
	case <-t.C:
	}
}

func (a *ahead) halted() { close(a.halt) }
