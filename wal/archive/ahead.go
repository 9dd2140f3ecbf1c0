package archive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"pgstow/wal/spool"
)

// Limits of those who store ahead of the server's asking.
const (
	// DefaultAhead is how many files are on their way at a time.
	DefaultAhead = 8
	// DefaultIdle is how long a worker stays without anything to do.
	DefaultIdle = 10 * time.Second

	// window is how many files may be marked as stored that the server has not asked for yet. The spool keeps marks of some more.
	window = 128
	// plainLimit bounds the bytes of the files on their way; a single larger one goes alone.
	plainLimit = 256 << 20
	// storedLimit bounds the memory of objects that wait for the store's answer; a single larger one goes alone.
	storedLimit = 24 << 20
	// fewLanes and manyLanes are how many files are encoded at a time; with more processors than lanes, each file's frames are shared among some.
	fewLanes, manyLanes = 2, 3
	manyProcessors      = 4

	// restAfterTrouble is how long the store is left alone after it failed, and at least how long a file is left to the server's own call.
	restAfterTrouble = 10 * time.Second
	// scanRest is the least time between two readings of archive_status that found all there was, and scanShare the least in terms of what
	// one takes.
	scanRest  = 50 * time.Millisecond
	scanShare = 20
)

// ahead stores waiting files before the server asks for them, and marks them in the spool.
type ahead struct {
	push   PushOptions
	status string
	waldir string
	files  int

	archive openArchive
	lanes   chan *lane
	slots   chan struct{}
	plain   *semaphore.Weighted
	memory  *semaphore.Weighted
	stored  buffers
	moved   moments // when anything moved
	worked  moments // when a file was stored, or the server came on
	flying  atomic.Int64
	halt    chan struct{} // closed: no new files
	held    string        // the file that a call of the server had in hand when this began; "": none
	first   chan struct{} // closed: it is known what became of held
	jobs    sync.WaitGroup
	wake    *watcher

	mu      sync.Mutex
	busy    map[string]bool
	failed  map[string]failure
	rest    time.Time // the store is left alone until then
	inCall  bool      // this is the call itself, which has the first of the waiting files
	refused string    // nothing that the server will ask for behind this file is stored; "": none
	marked  []string  // known to be stored, and not yet asked for as far as is known, in order
	isMark  map[string]bool
	outcome WorkerResult
	fault   error // a panic of one of the goroutines
}

// failure is a file that was tried in vain: it is for the server's own call now.
type failure struct {
	id    spool.FileID
	until time.Time // zero: it was refused, and stays so while the file is the same
}

func newAhead(o *PushOptions, files int) *ahead {
	processors := runtime.GOMAXPROCS(0)
	lanes := fewLanes
	if processors > manyProcessors {
		lanes = manyLanes
	}
	lanes = min(lanes, files)
	a := &ahead{
		push: *o, status: archiveStatus(o.PGData), waldir: filepath.Join(o.PGData, "pg_wal"), files: files,
		lanes: make(chan *lane, lanes), slots: make(chan struct{}, files), halt: make(chan struct{}), first: make(chan struct{}),
		plain: semaphore.NewWeighted(plainLimit), memory: semaphore.NewWeighted(storedLimit), stored: buffers{keep: files},
		busy: map[string]bool{}, failed: map[string]failure{}, isMark: map[string]bool{},
	}
	a.push.StartWorker, a.push.Beside = nil, 0
	for range lanes {
		a.lanes <- &lane{width: (processors + lanes - 1) / lanes}
	}
	a.moved.now()
	a.worked.now()
	return a
}

// run works until ctx ends or halt is closed, and waits for what is on its way.
func (a *ahead) run(ctx context.Context) {
	a.wake = newWatcher(statusChanges)
	a.wake.add(a.status)
	var opened sync.Once
	defer func() {
		a.jobs.Wait()
		a.wake.close()
	}()
	for a.goesOn(ctx) {
		began := time.Now()
		names, more, err := waitingFiles(a.status)
		took := time.Since(began)
		a.note(func(r *WorkerResult) { r.Scans++ })
		if err != nil { // the folder was renamed, or the server removes its data directory
			a.pause(ctx, statusEvery, nil)
			a.wake.add(a.status)
			continue
		}
		a.readRefused()
		opened.Do(func() { a.awaitFirst(names) })
		began = time.Now()
		for _, name := range names {
			if !a.goesOn(ctx) {
				return
			}
			a.admit(ctx, name)
		}
		if !more || time.Since(began) < scanRest {
			a.pause(ctx, max(scanRest, scanShare*took), nil)
		}
		if !more {
			a.pause(ctx, statusEvery, a.wake.changed())
		}
	}
}

func (a *ahead) goesOn(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-a.halt:
		return false
	default:
		return true
	}
}

// pause waits, or until wake tells of something.
func (a *ahead) pause(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-a.halt:
	case <-wake:
	case <-t.C:
	}
}

func (a *ahead) note(f func(*WorkerResult)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f(&a.outcome)
}

// admit begins with a file as soon as there is room, unless it is not to be had: stored already, claimed by others, or left to the server's call.
func (a *ahead) admit(ctx context.Context, name string) {
	if a.inHand(name) || a.skips(name) || a.behindRefused(name) || !a.takeSlot(ctx) {
		return
	}
	given := false
	defer func() {
		if !given {
			<-a.slots
		}
	}()
	for a.tooFar() { // the server does not come on; whoever watches this run ends it after a while
		if !a.goesOn(ctx) {
			return
		}
		a.pause(ctx, scanRest, a.wake.changed())
	}
	id, err := spool.Stat(filepath.Join(a.waldir, name))
	// Time has passed: the server may be done with it, and the store may have failed.
	if err != nil || !isReady(a.status, name) || a.skips(name) || a.behindRefused(name) || a.hasFailed(name, id) {
		return
	}
	if a.push.Spool.Stored(name, id) {
		a.addMark(name)
		return
	}
	weight := min(id.Size, plainLimit)
	if a.plain.Acquire(ctx, weight) != nil {
		return
	}
	claim, ok := a.push.Spool.Claim(pushClaim, name)
	if !ok {
		a.plain.Release(weight)
		return
	}
	given = true
	a.setBusy(name, true)
	a.flying.Add(1)
	a.jobs.Go(func() {
		defer func() {
			a.plain.Release(weight)
			a.setBusy(name, false)
			a.flying.Add(-1)
			<-a.slots
		}()
		defer a.catch(name)
		beats := newPulse(claim, a.push.PGData)
		defer beats.end()
		a.settle(ctx, name, id, a.job(ctx, name, beats))
	})
}

// catch makes an error of a panic, so that a worker ends in an orderly way: where somebody adopts it, its exit status matters.
func (a *ahead) catch(what string) {
	if r := recover(); r != nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.fault = fmt.Errorf("%s: panic: %v", what, r)
	}
}

func (a *ahead) takeSlot(ctx context.Context) bool {
	select {
	case a.slots <- struct{}{}:
		return true
	case <-ctx.Done():
	case <-a.halt:
	}
	return false
}

// errNotReady says that the server does not wait for the file any more.
var errNotReady = errors.New("no longer waits")

// job stores one file.
func (a *ahead) job(ctx context.Context, name string, beats *pulse) error {
	o := a.push
	o.setDefaults() // the server may be stopping by now
	p, err := openFile(filepath.Join(a.waldir, name))
	if err != nil {
		return err
	}
	defer p.close()
	if o.Spool.Stored(p.base, p.id) {
		return nil
	}
	beats.waiting(&a.moved)
	var l *lane
	select {
	case l = <-a.lanes:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	release := sync.OnceFunc(func() { a.lanes <- l })
	defer release()
	if !isReady(a.status, name) {
		return errNotReady
	}
	beats.working()
	ctx, cancel := context.WithTimeoutCause(ctx, o.total(p.id.Size), errDeadline)
	defer cancel()
	how := attempt{pulse: beats, lane: l, repo: &a.archive}
	ready, err := o.prepare(ctx, p, how)
	if err != nil {
		return explain(ctx, err)
	}
	defer ready.encoded.close()
	a.moved.now()
	beats.waiting(&a.moved)
	if err := a.keep(ctx, ready.encoded); err != nil {
		return err
	}
	release()
	select {
	case <-a.first:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if a.behindRefused(name) {
		return errNotReady
	}
	if _, err := o.send(a.watch(ctx), p, ready, how); err != nil {
		return explain(ctx, err)
	}
	if err := o.Spool.MarkStored(p.base, p.id); err != nil {
		return fmt.Errorf("the spool could not be written: %w", err)
	}
	return nil
}

// keep moves an object out of its lane, as soon as there is memory for it.
func (a *ahead) keep(ctx context.Context, e *encoded) error {
	if e.mapped { // in a file, not in memory
		return nil
	}
	weight := int64(min(len(e.bytes), storedLimit))
	if err := a.memory.Acquire(ctx, weight); err != nil {
		return context.Cause(ctx)
	}
	e.bytes = a.stored.clone(e.bytes)
	e.done = func() {
		a.stored.give(e.bytes)
		a.memory.Release(weight)
	}
	return nil
}

// settle takes note of how a file ended.
func (a *ahead) settle(ctx context.Context, name string, id spool.FileID, err error) {
	switch {
	case err == nil:
		a.worked.now()
		a.push.clearTrouble(name)
		a.mu.Lock()
		delete(a.failed, name)
		a.outcome.Stored++
		a.mu.Unlock()
		a.addMark(name)
	case errors.Is(err, errNotReady), errors.Is(err, os.ErrNotExist), ctx.Err() != nil:
		// The server is done with the file, or this run has to end.
	default:
		f := failure{id: id}
		var refused *RefusedError
		if !errors.As(err, &refused) {
			f.until = time.Now().Add(restAfterTrouble)
			a.archive.drop(err)
			a.push.forget(err)
		}
		a.push.keepTrouble(name, err)
		a.push.keepRefused(name, err)
		a.mu.Lock()
		defer a.mu.Unlock()
		if isConflict(err) && (a.refused == "" || archiveOrder(name, a.refused) < 0) {
			a.refused = name
		}
		a.failed[name] = f
		a.outcome.Failed++
		if a.rest.Before(f.until) {
			a.rest = f.until
		}
	}
}
