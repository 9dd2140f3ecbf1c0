package archive

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"time"

	"pgstow/wal"
)

const (
	// besideFiles is how many segments a call fetches beside its own where there can be no prefetcher.
	besideFiles = 3
	// After so many segments in a row a recovery is seen to be catching up. A standby that has caught up asks for what is not there yet, again
	// and again, and gets a segment now and then: nothing is to be asked for it beyond that. Plain recovery goes on to the archive's end.
	streakOfRecovery = 1
	streakOfStandby  = 3
)

// company is what the call of a recovery for a segment does for those that will follow.
type company struct {
	f        *fetch
	last     note // of the call before
	wasThere bool
	now      time.Time

	once   sync.Once
	cancel context.CancelFunc
	done   sync.WaitGroup // transfers beside the call's own
}

// newCompany returns nil for calls that have none: of pg_rewind and of people, for other files, without a spool, or by configuration.
func (f *fetch) newCompany() *company {
	if f.Prefetch <= 0 || f.Spool == nil || f.name.Kind != wal.Segment || filepath.Base(f.dst) != recoveryFile || !f.recovery && !f.standby {
		return nil
	}
	c := &company{f: f, now: f.Now()}
	c.last, c.wasThere = readNote(f.Spool, c.now)
	return c
}

// note is what there is to note if this call succeeds.
func (c *company) note() (note, bool) {
	control := c.f.server.control
	if control == nil || c.f.name.CheckSize(control.WALSegmentSize) != nil {
		return note{}, false
	}
	return c.last.next(c.f.name, control.WALSegmentSize, c.now), true
}

// catchesUp tells whether what follows is worth fetching.
func (c *company) catchesUp(n note) bool {
	if c.f.standby {
		return n.streak >= streakOfStandby
	}
	// At its end recovery asks for the last segment once more.
	last := c.wasThere && c.last.streak == 0 && c.last.size == n.size && c.last.name.Timeline == n.name.Timeline && n.number() < c.last.number()
	return n.streak >= streakOfRecovery && !last
}

// found is called when the store has the call's own segment.
func (c *company) found(ctx context.Context) {
	if c.f.StartPrefetch != nil {
		return
	}
	c.once.Do(func() {
		if n, ok := c.note(); ok && c.catchesUp(n) {
			c.beside(ctx, n)
		}
	})
}

// beside fetches the next few segments. The first one that cannot be had ends those behind it.
func (c *company) beside(ctx context.Context, n note) {
	f, from := c.f, n.number()
	ctx, c.cancel = context.WithCancel(ctx)
	most := mostAhead(min(besideFiles, f.Prefetch), DefaultPrefetchBytes, n.size)
	wanted := map[string]bool{}
	singles, cancels := make([]context.Context, most), make([]context.CancelFunc, most)
	for i := range most {
		singles[i], cancels[i] = context.WithCancel(ctx)
	}
	for i := range most {
		name := wal.SegmentName(f.name.Timeline, from+wal.SegmentNumber(i)+1, n.size)
		wanted[name.String()] = true
		if !wholeFor(f.Timeline, f.PGData, name, n.size) {
			break
		}
		if f.Spool.HasReady(name.String()) || !hasRoom(f.Spool, int64(i+1)*int64(n.size)) {
			continue
		}
		claim, ok := f.Spool.Claim(fetchClaim, name.String())
		if !ok {
			continue
		}
		c.done.Go(func() {
			if err := fetchReady(singles[i], f.Options, f.server, f.Stall, name, claim); err != nil {
				f.keepLocal(err)
				for _, behind := range cancels[i:] {
					behind()
				}
			}
		})
	}
	f.Spool.DropOthers(func(name string) bool { return wanted[name] })
}

// ended tells where the reader is now, and has the next ones fetched if that was a success that took so long.
func (c *company) ended(err error, took time.Duration) {
	f := c.f
	if c.cancel != nil {
		c.linger(err, took)
	}
	switch n, ok := c.note(); {
	case errors.Is(err, ErrAbsent):
		if ok && !(c.wasThere && c.last.streak == 0 && c.last.name == f.name) {
			n.streak, n.pace, n.at = 0, 0, f.Now()
			_ = f.Spool.PutRecord(fetchedRecord, n.encode(), n.at)
		}
	case err == nil && ok:
		n.at = f.Now()
		if err := f.Spool.PutRecord(fetchedRecord, n.encode(), n.at); err != nil {
			f.warn("no prefetch, recovery is slower: the spool could not be written: %v", err)
			return
		}
		c.tell()
		if f.StartPrefetch != nil && c.catchesUp(n) && !f.Spool.Locked(prefetchLock, PrefetchStale) && c.room(n) {
			if err := f.StartPrefetch(f.want); err != nil {
				f.warn("no prefetch, recovery is slower: %v", err)
			}
		}
	}
}

// linger lets the transfers beside end, but not for longer than the call's own took.
func (c *company) linger(err error, took time.Duration) {
	arrived := make(chan struct{})
	go func() {
		c.done.Wait()
		close(arrived)
	}()
	if err == nil {
		t := time.NewTimer(took)
		select {
		case <-arrived:
		case <-t.C:
		}
		t.Stop()
	}
	c.cancel()
	<-arrived
}

// room tells whether the spool can take a segment, and says so once if it cannot.
func (c *company) room(n note) bool {
	if hasRoom(c.f.Spool, int64(n.size)) {
		return true
	}
	_ = c.f.Spool.PutRecord(troubleOfFetch, []byte("there is no room in "+c.f.Spool.Dir()), c.f.Now())
	c.tell()
	return false
}

// toldRecord is the trouble that stands in the server's log already.
const toldRecord = "prefetch-told"

// tell says in the server's log what hindered a prefetcher, once an hour.
func (c *company) tell() {
	f, now := c.f, c.f.Now()
	text, ok := f.Spool.Record(troubleOfFetch, noteAge, now)
	if !ok {
		return
	}
	f.Spool.Forget(troubleOfFetch)
	if told, ok := f.Spool.Record(toldRecord, noteAge, now); ok && string(told) == string(text) {
		return
	}
	f.warn("no prefetch, recovery is slower: %s", text)
	_ = f.Spool.PutRecord(toldRecord, text, now)
}
