package receive

import (
	"context"
	"errors"
	"time"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/object"
	"pgstow/wal"
	"pgstow/wal/archive"
)

// Kinds of jobs.
const (
	parts  = 0
	wholes = 1
)

// job is an object on its way into the store.
type job struct {
	kind     int
	key      string
	header   object.Header
	object   *encoded
	from, to wal.LSN
	since    time.Time // when its first byte arrived
	deletes  []string  // keys that are superfluous once it is stored
	done     bool
}

// start sends a job on its way. It must be called with mu held.
func (s *sink) start(j *job) error {
	var err error
	if j.header, err = object.ParseHeader(j.object.bytes); err != nil {
		return err
	}
	s.queue = append(s.queue, j)
	s.inFlight[j.kind]++
	s.group.Go(func() {
		begin := time.Now()
		err := s.put(s.ctx, j)
		s.ended(j, err)
		if err == nil {
			s.tell(StoredEvent{Key: j.key, From: j.from, To: j.to, Whole: j.kind == wholes, Bytes: len(j.object.bytes), Took: time.Since(begin)})
		}
	})
	return nil
}

// put stores the object of a job. The bytes are the same however often it is called.
func (s *sink) put(ctx context.Context, j *job) error {
	_, err := s.repo.Put(ctx, j.key, j.object.bytes, storage.IfAbsent)
	if errors.Is(err, storage.ErrExist) {
		return archive.Confirm(ctx, s.repo.Store, j.key, j.header)
	}
	return err
}

// ended takes note of how a job ended.
func (s *sink) ended(j *job, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inFlight[j.kind]--
	if err != nil {
		_ = s.fail(err)
		return
	}
	j.done = true
	s.counts[j.kind]++
	s.pop()
	s.flush()
	s.signal()
}

// pop takes the jobs off the queue that make the stored prefix longer, and deletes what they make superfluous. It must be called with mu
// held.
func (s *sink) pop() {
	for len(s.queue) > 0 && s.queue[0].done {
		j := s.queue[0]
		s.queue = s.queue[1:]
		s.stored = max(s.stored, j.to)
		j.object.release()
		s.remove(j.deletes)
	}
	s.advance()
}

// advance moves the stored prefix over what was found in the archive: a piece counts when all of it has arrived and been found equal,
// since it may be of a server that went another way. It must be called with mu held.
func (s *sink) advance() {
	switch {
	case len(s.queue) > 0:
	case s.received < s.seg.prefix:
		s.stored = max(s.stored, s.seg.same)
	default:
		s.stored = max(s.stored, min(s.seg.from, s.received))
	}
}

// remove deletes pieces beside everything else. What cannot be deleted now is found by the next receiver.
func (s *sink) remove(keys []string) {
	if len(keys) == 0 {
		return
	}
	s.group.Go(func() {
		if err := s.repo.Store.Delete(s.ctx, keys...); err != nil {
			s.tell(NoteEvent{Text: "pieces of a stored segment could not be deleted, and stay: " + err.Error()})
			return
		}
		s.tell(DeletedEvent{Pieces: len(keys)})
	})
}

// drain stores everything that has arrived, and tries again until it is stored, or ctx ends, or trying is of no use. It is called when
// nothing more is written. idle is called now and then while it waits.
func (s *sink) drain(ctx context.Context, idle func()) error {
	stop := context.AfterFunc(ctx, s.cancel) // ends the requests that are under way
	defer stop()
	if err := s.rest(); err != nil {
		return err
	}
	if err := s.settle(ctx, idle); err != nil {
		return err
	}
	waits := newBackoff()
	troubled := false
	for {
		j := s.nextOpen()
		if j == nil {
			break
		}
		err := s.putWatched(j, idle)
		if err == nil {
			s.mu.Lock()
			j.done = true
			s.counts[j.kind]++
			s.pop()
			s.mu.Unlock()
			waits.Reset()
			continue
		}
		if isFinal(err) || ctx.Err() != nil {
			return err
		}
		wait := waits.NextBackOff()
		troubled = true
		s.tell(StoreEvent{Key: j.key, Err: err, Wait: wait})
		if !pause(ctx, wait, idle) {
			return err
		}
	}
	if troubled {
		s.tell(RecoveredEvent{})
	}
	return nil
}

// putWatched is put that calls idle now and then.
func (s *sink) putWatched(j *job, idle func()) error {
	done := make(chan error, 1)
	s.group.Go(func() { done <- s.put(s.ctx, j) })
	tick := time.NewTicker(idleEvery)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			idle()
		}
	}
}

// rest puts what waits into a last piece, whatever the window says.
func (s *sink) rest() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if isFinal(s.err) {
		return s.err
	}
	if s.pending() == 0 || s.received < s.hold {
		return nil
	}
	return s.piece()
}

// settle waits until no request is under way. One that failed is no error here, unless it makes no sense to try it again.
func (s *sink) settle(ctx context.Context, idle func()) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		s.mu.Lock()
		busy, err := s.inFlight[parts]+s.inFlight[wholes] > 0, s.err
		s.mu.Unlock()
		switch {
		case isFinal(err):
			return err
		case !busy && ctx.Err() != nil && s.nextOpen() != nil:
			return context.Cause(ctx)
		case !busy:
			return nil
		}
		select {
		case <-s.changed:
		case <-tick.C:
			idle()
		}
	}
}

// nextOpen is the first job that is not stored.
func (s *sink) nextOpen() *job {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range s.queue {
		if !j.done {
			return j
		}
	}
	return nil
}

// close ends what is left and frees the memory. Deletions that are under way are waited for, since they are cheap to finish.
func (s *sink) close() {
	timer := time.AfterFunc(closeWithin, s.cancel)
	s.group.Wait()
	timer.Stop()
	s.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range s.queue {
		j.object.release()
	}
	s.queue = nil
	s.seg.full.drop()
	s.buffer.release()
}

// closeWithin bounds the deletions that are under way when a stream has ended.
const closeWithin = 5 * time.Second

// isFinal tells whether an error is one that another try would not change and a person must look at.
func isFinal(err error) bool {
	var refused *archive.RefusedError
	return errors.As(err, &refused) || errors.Is(err, catalog.ErrRecipients) || errors.Is(err, catalog.ErrClusterMismatch) ||
		errors.Is(err, catalog.ErrUnsafeStore) || errors.Is(err, catalog.ErrPlaintext) || errors.Is(err, ErrServer)
}
