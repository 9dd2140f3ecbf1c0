package archive

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pgstow/wal"
	"pgstow/wal/spool"
)

// Defaults of PrefetchOptions, and how a prefetcher works.
const (
	DefaultPrefetch      = 16
	DefaultPrefetchBytes = 1 << 30
	DefaultPrefetchIdle  = 10 * time.Second

	prefetchLock = "prefetch"
	// PrefetchStale is how long after its last sign of life a prefetcher counts as hung and is replaced.
	PrefetchStale = 5 * time.Second

	// leastSegments are ahead also where they are large: one is taken while the next one comes.
	leastSegments = 2
	firstDepth    = 4
	// atATime bounds the transfers, and so the memory.
	atATime = 8
	// slow is a reader for which one segment ahead is as good as many.
	slow = 5 * time.Second
	// patience is how many segments' time a reader may be silent, up to longest; the least is Idle.
	patience, longest = 10, 10 * time.Minute

	tickEvery = time.Second
	pollEvery = 100 * time.Millisecond // where the kernel does not tell what was taken
)

// PrefetchOptions are those of the process that fetches ahead of recovery's asking. Options must be the same as those of the fetches that it
// works for, the spool included.
type PrefetchOptions struct {
	Options
	// Timeline is the timeline that the operator chose as recovery's target; 0: the latest.
	Timeline wal.TimelineID
	// Segments is how many are ahead at most. 0: the default.
	Segments int
	// Bytes is how much of the spool's disk they may take, but two segments in any case. 0: the default.
	Bytes int64
	// Idle is how long it stays when nobody takes anything; longer for a reader that was slow before. 0: the default.
	Idle time.Duration
	// Stall is the most time without any byte moving before a transfer is given up. 0: the default.
	Stall time.Duration
	// Alive tells whether the server still runs that it was started for; nil: it does.
	Alive func() bool
}

// PrefetchResult counts what a prefetcher did.
type PrefetchResult struct {
	Requests int // transfers begun
	Fetched  int // segments that came and were sound
	Taken    int // of those, what was handed over
	// Busy: another one is at work on this spool, so nothing was done.
	Busy bool
	// Depth is how far ahead it was at the most.
	Depth int
	End   string // why it ended
}

// Prefetch fetches the segments behind the named one into the spool, ahead of a recovery that asks for one after the other, and as far ahead
// as recovery's speed makes sense. They are verified as Fetch does it, and are of no use to anybody else: it removes what was not taken when
// it ends or when recovery goes on elsewhere. It never answers for the archive: what cannot be had is left to the call that asks for it. It
// ends when nothing was taken for a while, when there is nothing more to be had and all was taken, when recovery is over or the server is
// gone, when another one has taken its place, and with ctx.
func Prefetch(ctx context.Context, o PrefetchOptions, name string) (PrefetchResult, error) {
	o.setDefaults()
	from, err := wal.ParseFileName(name)
	if err != nil {
		return PrefetchResult{}, err
	}
	lock, ok := o.Spool.Lock(prefetchLock, PrefetchStale)
	if !ok {
		return PrefetchResult{Busy: o.Spool != nil}, nil
	}
	defer lock.Release()
	o.tidy()
	s, err := findServer(ctx, &o.Options)
	if err == nil && s.control == nil {
		err = errNoServer
	}
	if err != nil {
		return PrefetchResult{}, err
	}
	p := newPrefetcher(&o, s, from)
	ctx, cancel := context.WithCancel(ctx)
	p.run(ctx, lock)
	cancel()
	p.drain()
	if lock.Held() {
		o.tidy()
	}
	return p.result, nil
}

func (o *PrefetchOptions) setDefaults() {
	o.Options.setDefaults()
	if o.Segments <= 0 {
		o.Segments = DefaultPrefetch
	}
	if o.Bytes <= 0 {
		o.Bytes = DefaultPrefetchBytes
	}
	if o.Idle <= 0 {
		o.Idle = DefaultPrefetchIdle
	}
	if o.Stall <= 0 {
		o.Stall = DefaultFetchStall
	}
}

// tidy leaves nothing in the spool that a prefetcher made.
func (o *PrefetchOptions) tidy() {
	o.Spool.DropOthers(nil)
	o.Spool.DropClaims(fetchClaim)
}

// prefetcher is the state of one; all of it belongs to the goroutine of run.
type prefetcher struct {
	o      *PrefetchOptions
	server server
	size   wal.SegmentSize

	tli     wal.TimelineID
	at      wal.SegmentNumber // the last one that the reader has
	next    wal.SegmentNumber // the next one to begin with
	stop    wal.SegmentNumber // the first one that could not be had, if stopped
	stopped bool
	noRoom  bool
	ready   map[wal.SegmentNumber]bool
	flying  map[wal.SegmentNumber]context.CancelFunc
	results chan arrival

	most, depth int
	full        int           // how often in a row the reader found all that may be ahead
	pace        time.Duration // of the reader, per segment: the slower ones of late
	moved       time.Time     // when the reader or a transfer got on last
	taken       time.Time
	heard       time.Time // of the note that was heeded last

	result PrefetchResult
}

type arrival struct {
	number wal.SegmentNumber
	err    error
}

func newPrefetcher(o *PrefetchOptions, s server, from wal.FileName) *prefetcher {
	size := s.control.WALSegmentSize
	p := &prefetcher{
		o: o, server: s, size: size, tli: from.Timeline, at: from.Number(size),
		ready: map[wal.SegmentNumber]bool{}, flying: map[wal.SegmentNumber]context.CancelFunc{}, results: make(chan arrival, atATime),
		most: mostAhead(o.Segments, o.Bytes, size), moved: time.Now(), taken: time.Now(),
	}
	p.next = p.at + 1
	if n, ok := readNote(o.Spool, o.Now()); ok && n.name == from {
		p.pace, p.heard = n.pace, n.at
	}
	p.depth = min(firstDepth, p.most)
	if p.pace > slow {
		p.depth = 1
	}
	return p
}

// mostAhead is how many segments of a size may be ahead.
func mostAhead(segments int, limit int64, size wal.SegmentSize) int {
	return max(1, min(segments, max(leastSegments, int(limit/int64(size)))))
}

// run works until one of the reasons to end.
func (p *prefetcher) run(ctx context.Context, lock *spool.Claim) {
	w := newWatcher(unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_DONT_FOLLOW) // files that go away or are replaced
	defer w.close()
	every := tickEvery
	if w == nil {
		every = pollEvery
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	w.add(p.o.Spool.Dir(), p.o.Spool.MakeReady())
	for {
		p.look()
		p.begin(ctx)
		p.result.Depth = max(p.result.Depth, p.depth)
		if p.result.End = p.over(); p.result.End != "" {
			return
		}
		select {
		case <-ctx.Done():
			p.result.End = "told to"
			return
		case a := <-p.results:
			p.arrived(a)
		case <-w.changed():
		case <-tick.C:
			lock.Beat()
			if p.result.End = p.outside(lock); p.result.End != "" {
				return
			}
			w.add(p.o.Spool.Dir(), p.o.Spool.MakeReady()) // either may be another one by now
		}
	}
}

// outside looks at what ends a prefetcher from outside.
func (p *prefetcher) outside(lock *spool.Claim) string {
	switch {
	case p.o.Alive != nil && !p.o.Alive():
		return "the server is gone"
	case !lock.Held():
		return "the lock was taken over or removed"
	case !inRecovery(p.o.PGData):
		return "recovery is over"
	}
	return ""
}

// inRecovery tells whether the server restores files: recovery from an archive needs one of the two, and ends by removing them
// (readRecoverySignalFile and CleanupAfterArchiveRecovery in src/backend/access/transam/xlog*.c).
func inRecovery(pgdata string) bool {
	return exists(filepath.Join(pgdata, "standby.signal")) || exists(filepath.Join(pgdata, "recovery.signal"))
}

func (p *prefetcher) over() string {
	idle := min(max(p.o.Idle, patience*p.pace), max(p.o.Idle, longest))
	switch {
	case len(p.flying) > 0:
		return ""
	case len(p.ready) == 0 && p.stopped:
		return "there is nothing more to be had"
	case len(p.ready) == 0 && p.noRoom:
		return "the spool has no room"
	case time.Since(p.moved) > idle:
		return "nothing is wanted"
	}
	return ""
}

// look finds out what the reader has taken, and where it is by its own account.
func (p *prefetcher) look() {
	before, took := len(p.ready), 0
	for n := range p.ready {
		if !p.o.Spool.HasReady(p.name(n).String()) {
			delete(p.ready, n)
			p.at = max(p.at, n)
			took++
		}
	}
	miss := false
	if n, ok := readNote(p.o.Spool, p.o.Now()); ok && !n.at.Equal(p.heard) {
		p.heard = n.at
		miss = n.streak > 0 && p.asked(n)
	}
	if took == 0 && !miss {
		return
	}
	p.result.Taken += took
	p.passed()
	p.follow(before, took, miss)
}

// asked heeds the note of a call that fetched by itself. true: it was ahead of us.
func (p *prefetcher) asked(n note) bool {
	number := n.name.Number(p.size)
	switch {
	case n.name.Timeline == p.tli && number == p.at:
		return false
	case n.name.Timeline == p.tli && number > p.at && number <= p.at+wal.SegmentNumber(p.most)+1:
		p.at = number
		return true
	}
	p.elsewhere(n.name.Timeline, number)
	return false
}

// elsewhere begins anew behind another position.
func (p *prefetcher) elsewhere(tli wal.TimelineID, at wal.SegmentNumber) {
	p.drain()
	for n := range p.ready {
		p.o.Spool.DropReady(p.name(n).String())
	}
	clear(p.ready)
	p.tli, p.at, p.next, p.stopped, p.moved = tli, at, at+1, false, time.Now()
}

// passed drops what lies behind the reader.
func (p *prefetcher) passed() {
	for n := range p.ready {
		if n <= p.at {
			p.o.Spool.DropReady(p.name(n).String())
			delete(p.ready, n)
		}
	}
	for n, cancel := range p.flying {
		if n <= p.at {
			cancel()
		}
	}
	p.next = max(p.next, p.at+1)
	p.stopped = p.stopped && p.stop > p.at
	p.noRoom = false
}

// follow adapts the depth to the reader: it doubles when the reader found nothing waiting, and shrinks when all was always there.
func (p *prefetcher) follow(before, took int, miss bool) {
	now := time.Now()
	p.pace = max(now.Sub(p.taken)/time.Duration(took+1), p.pace*3/4)
	p.taken, p.moved = now, now
	switch {
	case miss, len(p.ready) == 0 && !p.stopped:
		p.full = 0
		p.depth = min(2*p.depth, p.most)
	case before >= p.depth:
		if p.full += took; p.full >= 4*p.depth {
			p.full = 0
			p.depth = max(min(leastSegments, p.most), p.depth/2)
		}
	default:
		p.full = 0
	}
}

// begin begins transfers, in the order in which the reader will ask.
func (p *prefetcher) begin(ctx context.Context) {
	for ; p.next <= p.at+wal.SegmentNumber(p.depth) && len(p.flying) < atATime; p.next++ {
		n := p.next
		if p.stopped && n >= p.stop {
			return
		}
		if _, flies := p.flying[n]; flies || p.ready[n] {
			continue
		}
		if p.noRoom = !hasRoom(p.o.Spool, int64(len(p.flying)+1)*int64(p.size)); p.noRoom {
			return
		}
		name := p.name(n)
		if !wholeFor(p.o.Timeline, p.o.PGData, name, p.size) {
			p.stopped, p.stop = true, n
			return
		}
		claim, ok := p.o.Spool.Claim(fetchClaim, name.String())
		if !ok {
			continue // a call is at it
		}
		single, cancel := context.WithCancel(ctx)
		p.flying[n] = cancel
		p.result.Requests++
		go func() {
			defer cancel()
			err := fetchReady(single, p.o.Options, p.server, p.o.Stall, name, claim)
			p.results <- arrival{n, err}
		}()
	}
}

// arrived notes how a transfer ended.
func (p *prefetcher) arrived(a arrival) {
	delete(p.flying, a.number)
	name := p.name(a.number).String()
	switch {
	case a.err == nil && a.number > p.at:
		p.ready[a.number] = true
		p.result.Fetched++
		p.moved = time.Now()
	case a.err == nil:
		p.o.Spool.DropReady(name)
	case a.number <= p.at: // nobody wants it any more
	case errors.Is(a.err, context.Canceled):
		p.next = min(p.next, a.number)
	case p.stopped && a.number > p.stop:
	default:
		// Whatever it is, the reader's own call finds out, and says so.
		p.stopped, p.stop = true, a.number
		p.next = min(p.next, a.number)
		for n, cancel := range p.flying {
			if n > a.number {
				cancel()
			}
		}
		p.o.keepLocal(a.err)
	}
}

// drain ends all transfers.
func (p *prefetcher) drain() {
	for _, cancel := range p.flying {
		cancel()
	}
	for len(p.flying) > 0 {
		a := <-p.results
		delete(p.flying, a.number)
		p.o.Spool.DropReady(p.name(a.number).String())
	}
}

func (p *prefetcher) name(n wal.SegmentNumber) wal.FileName { return wal.SegmentName(p.tli, n, p.size) }

// fetchReady brings one segment into the spool, and gives the claim on it back.
func fetchReady(ctx context.Context, o Options, s server, stall time.Duration, name wal.FileName, claim *spool.Claim) error {
	defer claim.Release()
	ctx, w, stop := watched(ctx, stall)
	defer stop()
	w.beat = claim.Beat
	f := &fetch{FetchOptions: FetchOptions{Options: o}, want: name.String(), name: name, server: s}
	f.open = func() (sink, error) { return newSpoolSink(o.Spool, name.String()) }
	return f.get(ctx, w, s.ref.WALKey(name, ""))
}

// keepLocal remembers a trouble with this host's own files for the server's log; of the archive's, the calls speak themselves.
func (o *Options) keepLocal(err error) {
	var local *localError
	if errors.As(err, &local) {
		_ = o.Spool.PutRecord(troubleOfFetch, []byte(err.Error()), o.Now())
	}
}

// hasRoom tells whether the spool's file system can take so much and be far from full, which would stop a server whose data lies there too.
func hasRoom(s *spool.Spool, bytes int64) bool {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(s.Dir(), &fs); err != nil {
		return !errors.Is(err, os.ErrNotExist)
	}
	reserve := min(int64(fs.Blocks)*fs.Bsize/20, 1<<30)
	return int64(fs.Bavail)*fs.Bsize-reserve >= bytes
}
