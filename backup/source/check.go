package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"pgstow/wal"
	"pgstow/wal/page"
)

// Checker decides whether pages are sound, and tells pages torn by a concurrent
// write, which recovery repairs, from damaged ones. It is safe for concurrent use.
type Checker struct {
	// PageSize in bytes.
	PageSize int
	// Checksums: the cluster has data checksums; otherwise headers alone are judged.
	Checksums bool
	// Start is the backup's start LSN: a page that changes later comes back from
	// a full-page image in the WAL.
	Start wal.LSN
	// Limit asks the server how far its WAL goes by now. It is called only for
	// pages that fail. nil: no server runs, so nothing can be torn.
	Limit func(ctx context.Context) (wal.LSN, error)
	// Once: reading a page again gives the same bytes, as those that a server sent.
	Once bool

	mu      sync.Mutex
	reached wal.LSN // the last answer of Limit
	patient atomic.Int64
}

// Outcome is what Recheck found.
type Outcome uint8

// The outcomes.
const (
	Sound   Outcome = iota + 1 // the page is right after all
	Torn                       // caught in the middle of a write after the start: recovery repairs it
	Damaged                    // wrong on disk
	Gone                       // the file ends before the page now
)

// Check judges a page as it was read. block is the page's number in the
// relation's fork, counted over all its files.
func (c *Checker) Check(b []byte, block uint32) page.Verdict {
	if c.Checksums {
		return page.Check(b, block)
	}
	return page.CheckHeader(b)
}

// Rereading a page that was being written needs a moment now and then. A
// relation full of damage must not take hours, so patience ends.
const (
	rereads     = 4
	rereadPause = 2 * time.Millisecond
	patientFor  = 1000 // pages
)

// Recheck reads a faulty page again, into b, and judges it. at is its offset in
// the file. fault is what is still wrong with it.
func (c *Checker) Recheck(ctx context.Context, f io.ReaderAt, at int64, b []byte, block uint32) (o Outcome, fault string, err error) {
	var verdict page.Verdict
	wait, times := c.Limit != nil && !c.Once && c.patient.Add(1) <= patientFor, rereads
	if c.Once {
		times = 1
	}
	for i := range times {
		if i > 0 && wait {
			if err := pause(ctx, rereadPause); err != nil {
				return 0, "", err
			}
		}
		n, err := f.ReadAt(b, at)
		if n < len(b) {
			if errors.Is(err, io.EOF) {
				return Gone, "", nil
			}
			return 0, "", err
		}
		if verdict = c.Check(b, block); verdict.OK() {
			return Sound, "", nil
		}
	}
	lsn := page.ParseHeader(b).LSN
	fault = fmt.Sprintf("%s, page LSN %s", verdict, lsn)
	torn, err := c.torn(ctx, lsn)
	if err != nil {
		return 0, "", err
	}
	if torn {
		return Torn, fault, nil
	}
	return Damaged, fault, nil
}

// torn says whether lsn lies between the start and what the server has written.
func (c *Checker) torn(ctx context.Context, lsn wal.LSN) (bool, error) {
	if c.Limit == nil || lsn < c.Start {
		return false, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if lsn <= c.reached {
		return true, nil
	}
	reached, err := c.Limit(ctx)
	if err != nil {
		return false, fmt.Errorf("ask how far the WAL goes: %w", err)
	}
	c.reached = max(c.reached, reached)
	return lsn <= c.reached, nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
