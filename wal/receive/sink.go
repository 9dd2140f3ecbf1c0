package receive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"pgstow/catalog"
	"pgstow/storage/object"
	"pgstow/wal"
	"pgstow/wal/archive"
)

// sink takes the WAL of one timeline as it comes and stores it. Write blocks when too much is waiting, and so holds up the server.
type sink struct {
	o    *Options
	repo *catalog.Repository
	ref  catalog.ClusterRef
	tli  wal.TimelineID
	size wal.SegmentSize
	hold wal.LSN // no piece is stored before all up to here has arrived
	// joint is what the first record that comes must go on from.
	joint joint
	from  string // where the WAL comes from, for the headers
	tell  func(Event)

	ctx    context.Context // of the requests
	cancel context.CancelFunc
	group  sync.WaitGroup
	// changed has a value whenever position may have changed.
	changed chan struct{}

	mu       sync.Mutex
	cond     *sync.Cond // with mu: something was stored, failed, or was stopped
	buffer   *plainBuffer
	pieces   *object.Writer // encodes pieces
	whole    *object.Writer // encodes full segments in memory
	seg      *segment
	received wal.LSN
	waiting  time.Time // when the oldest byte arrived that is in no job; zero: there is none
	due      bool      // what waits is to be stored as soon as the window allows
	stored   wal.LSN   // end of the contiguous stored prefix
	queue    []*job    // not yet part of it, in order
	inFlight [2]int    // requests under way: pieces, segments
	counts   [2]int64  // stored: pieces, segments
	stopped  bool
	err      error
}

// segmentsInFlight is how many full segments are on their way while the next one arrives.
const segmentsInFlight = 2

// errStopped is what Write returns after stop.
var errStopped = errors.New("receiving was ended")

// newSink makes a sink for a stream from where a plan says. found are the pieces of its segment that the archive has already.
func newSink(o *Options, repo *catalog.Repository, ref catalog.ClusterRef, size wal.SegmentSize, at plan, found []storedPiece) (*sink, error) {
	start := size.Start(at.segment)
	s := &sink{
		o: o, repo: repo, ref: ref, tli: at.timeline, size: size, hold: at.fork, tell: o.Events, received: start, stored: start,
		changed: make(chan struct{}, 1),
	}
	s.cond = sync.NewCond(&s.mu)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	var err error
	if s.pieces, err = object.NewWriter(s.writerOptions()); err != nil {
		return nil, err
	}
	if size <= inMemory {
		if s.whole, err = object.NewWriter(s.writerOptions()); err != nil {
			return nil, err
		}
	}
	if s.buffer, err = newPlainBuffer(size, o.Dir); err != nil {
		return nil, err
	}
	if err := s.begin(start, found); err != nil {
		s.buffer.release()
		return nil, err
	}
	return s, nil
}

func (s *sink) writerOptions() object.WriterOptions {
	w := s.repo.WriterOptions()
	w.Level, w.Hash, w.Verify = s.o.Level, true, true
	return w
}

// begin makes ready for the segment that starts at start.
func (s *sink) begin(start wal.LSN, found []storedPiece) error {
	g := &segment{name: wal.SegmentName(s.tli, s.size.SegmentOf(start), s.size), start: start, from: start, same: start, found: found, left: len(found)}
	for _, p := range found { // in the order of their keys
		if p.from <= g.from {
			g.from = max(g.from, p.to)
		}
	}
	g.prefix = g.from
	if s.whole != nil {
		s.whole.Reset()
		g.full = memoryEncoder{s.whole}
	} else {
		var err error
		if g.full, err = newFileEncoder(s.writerOptions(), s.o.Dir); err != nil {
			return err
		}
	}
	s.seg = g
	return nil
}

// Write takes the WAL that begins at, which must be where the last one ended.
func (s *sink) Write(at wal.LSN, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at != s.received {
		return fmt.Errorf("the server sent WAL from %s where %s was due", at, s.received)
	}
	for len(data) > 0 {
		if err := s.room(); err != nil {
			return err
		}
		n := min(len(data), int(s.size)-s.seg.n, s.space())
		if err := s.take(data[:n]); err != nil {
			return s.fail(err)
		}
		data = data[n:]
		if s.seg.n == int(s.size) {
			if err := s.complete(); err != nil {
				return s.fail(err)
			}
		}
	}
	s.flush()
	return s.err
}

// pending is how many bytes are received and in no job. What is stored already does not wait.
func (s *sink) pending() int {
	if s.received <= s.seg.from {
		return 0
	}
	return int(s.received - s.seg.from)
}

// space is how many more bytes may wait.
func (s *sink) space() int {
	if s.received < s.hold {
		return int(s.hold - s.received)
	}
	return maxPending - s.pending()
}

// room waits until more may wait.
func (s *sink) room() error {
	for s.err == nil && !s.stopped && s.space() <= 0 {
		s.due = true
		if s.flush(); s.space() <= 0 && s.err == nil {
			s.cond.Wait()
		}
	}
	if s.err == nil && s.stopped {
		return errStopped
	}
	return s.err
}

// take puts bytes of the current segment where they belong.
func (s *sink) take(p []byte) error {
	g := s.seg
	if err := s.buffer.write(p, g.n); err != nil {
		return err
	}
	first := g.n < wal.LongHeaderSize
	g.n += len(p)
	s.received += wal.LSN(len(p))
	if first && g.n >= wal.LongHeaderSize {
		if err := g.checkStart(s.buffer.bytes[:wal.LongHeaderSize], s.ref, s.size); err != nil {
			return err
		}
	}
	if err := s.joint.check(g.name, s.buffer.bytes[:g.n]); err != nil {
		return err
	}
	for g.n-g.coded >= object.FrameSize {
		if err := g.full.add(s.buffer.bytes[g.coded : g.coded+object.FrameSize]); err != nil {
			return err
		}
		g.coded += object.FrameSize
	}
	if err := g.compareFound(s.buffer.bytes, s.from); err != nil {
		return err
	}
	if s.pending() > 0 && s.waiting.IsZero() && s.received >= s.hold {
		s.waiting = s.o.Now()
	}
	s.advance()
	return nil
}

// complete stores the full segment and begins the next one.
func (s *sink) complete() error {
	for s.err == nil && !s.stopped && s.inFlight[wholes] >= segmentsInFlight {
		s.cond.Wait()
	}
	if s.err != nil {
		return s.err
	}
	if s.stopped {
		return errStopped
	}
	g := s.seg
	h, err := archive.Describe(s.buffer.bytes[:g.n], g.name, s.ref)
	if err != nil {
		return err
	}
	s.sign(&h)
	whole, err := g.full.finish(h)
	if err != nil {
		return fmt.Errorf("encode %s: %w", g.name, err)
	}
	next := g.start + wal.LSN(s.size)
	j := &job{
		kind: wholes, key: s.ref.WALKey(g.name, ""), from: g.start, to: next, since: s.waiting, object: whole, deletes: g.pieceKeys(),
	}
	if j.since.IsZero() {
		j.since = s.o.Now()
	}
	s.waiting, s.due = time.Time{}, false
	if err := s.begin(next, nil); err != nil {
		return err
	}
	return s.start(j)
}

// sign adds to a header who writes.
func (s *sink) sign(h *object.Header) {
	h.Time, h.Host, h.DataDirectory, h.Program = s.o.Now(), s.o.Host, s.from, s.o.Program
}

// flush stores what waits in a piece if it is time and the window allows. It must be called with mu held.
func (s *sink) flush() {
	if s.err != nil || s.pending() == 0 || s.received < s.hold || s.inFlight[parts] >= s.o.Window {
		return
	}
	if s.o.Synchronous || s.due || s.pending() >= s.o.FlushBytes {
		if err := s.piece(); err != nil {
			_ = s.fail(err)
		}
	}
}

// piece stores what waits.
func (s *sink) piece() error {
	g := s.seg
	if g.n < wal.LongHeaderSize {
		return nil // of whom it is does not show yet
	}
	from, level, covers := g.merge(s.received)
	key := s.ref.PieceKey(g.name, from, s.received)
	h := object.Header{
		Name: key[len(s.ref.LogPrefix(g.name.Timeline, g.name.Log)):], Kind: object.KindPiece, SystemID: s.ref.SystemID, Timeline: uint32(s.tli),
		From: uint64(from), To: uint64(s.received),
	}
	s.sign(&h)
	piece, err := s.encodePiece(h, s.buffer.bytes[from-g.start:s.received-g.start])
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	j := &job{kind: parts, key: key, from: from, to: s.received, since: s.waiting, object: piece}
	if len(covers) > 0 {
		// What it covers is deleted when the next ones are merged: a recovery that has just listed them can still read them.
		j.deletes, g.dead = g.dead, covers
	}
	g.add(link{key: key, from: from, level: level}, len(covers))
	g.from = s.received
	s.waiting, s.due = time.Time{}, false
	return s.start(j)
}

// encodePiece makes the object of a piece. One that is larger than what may wait in memory was held for a fork.
func (s *sink) encodePiece(h object.Header, plain []byte) (*encoded, error) {
	if len(plain) > maxPending {
		e, err := newFileEncoder(s.writerOptions(), s.o.Dir)
		if err != nil {
			return nil, err
		}
		if err := e.add(plain); err != nil {
			e.drop()
			return nil, err
		}
		return e.finish(h)
	}
	b, err := s.pieces.Encode(h, plain)
	if err != nil {
		return nil, err
	}
	return &encoded{bytes: bytes.Clone(b), release: func() {}}, nil
}

// Flush stores what waits as soon as the window allows.
func (s *sink) Flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.due = s.pending() > 0
	s.flush()
}

// stop makes Write return.
func (s *sink) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	s.cond.Broadcast()
}

// fail notes the first error, after which nothing more is stored but by drain. It must be called with mu held.
func (s *sink) fail(err error) error {
	if s.err == nil && !errors.Is(err, errStopped) {
		s.err = err
	}
	s.signal()
	return err
}

// signal wakes whoever waits for a change.
func (s *sink) signal() {
	s.cond.Broadcast()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// position is how far a sink is.
type position struct {
	received, stored wal.LSN
	oldest           time.Time // when the oldest byte arrived that is not stored; zero: there is none
	busy             bool      // requests are under way, or jobs wait for them
	counts           [2]int64
	err              error
}

func (s *sink) position() position {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := position{received: s.received, stored: s.stored, oldest: s.waiting, busy: len(s.queue) > 0, counts: s.counts, err: s.err}
	if len(s.queue) > 0 {
		p.oldest = s.queue[0].since
	}
	return p
}

// poke makes whoever watches look again.
func (s *sink) poke() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signal()
}
