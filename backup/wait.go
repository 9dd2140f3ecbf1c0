package backup

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// ArchiveTimeoutError says that the WAL of a finished copy did not come to the
// archive in time. The backup was not committed.
type ArchiveTimeoutError struct {
	Missing []string
	Left    int
	Waited  time.Duration
	// LastFailed is the WAL file that archive_command failed on last.
	LastFailed   string
	LastFailedAt time.Time
	Standby      bool
	// Received: a receiver is to bring the WAL; ReceiverGone: none was connected.
	Received, ReceiverGone bool
}

func (e *ArchiveTimeoutError) Error() string {
	s := fmt.Sprintf("the archive made no progress for %s and still lacks %d of the backup's WAL files: %s",
		e.Waited.Round(time.Second), e.Left, strings.Join(e.Missing, " "))
	if e.LastFailed != "" {
		s += fmt.Sprintf("; archive_command last failed on %s at %s", e.LastFailed, e.LastFailedAt.UTC().Format(time.RFC3339))
	}
	if e.ReceiverGone {
		s += "; no receiver of WAL is connected to the server"
	}
	return s
}

// The archive is asked again after pauses from the first to the last of these.
const (
	askFirst = 100 * time.Millisecond
	askLast  = 3 * time.Second
)

// waitForWAL waits until the archive is proven to hold the backup's WAL. As long
// as it makes progress the wait goes on.
func (c *creation) waitForWAL(ctx context.Context, s *session, p WALProof) error {
	prover := c.o.Prover
	if prover == nil {
		prover = NewWALProver(c.repo)
	}
	least, since, between := -1, time.Now(), askFirst
	for {
		missing, left, err := prover.Prove(ctx, p)
		if err != nil {
			return fmt.Errorf("the backup's WAL in the archive: %w", err)
		}
		if left == 0 {
			return nil
		}
		if least < 0 || left < least {
			least, since, between = left, time.Now(), askFirst
		}
		w := WaitingEvent{Missing: missing, Left: left, Waited: time.Since(since), Stop: p.Stop, Standby: p.Standby, Received: p.Received}
		if err := s.archivers(ctx, &w); err != nil {
			return err
		}
		c.report.emit(w)
		if w.Waited >= c.o.ArchiveTimeout {
			return archiveTimeout(w)
		}
		if err := sleep(ctx, between); err != nil {
			return err
		}
		between = min(between*3/2, askLast)
	}
}

func archiveTimeout(w WaitingEvent) error {
	err := &ArchiveTimeoutError{
		Missing: w.Missing, Left: w.Left, Waited: w.Waited, Standby: w.Standby, LastFailed: w.LastFailed, LastFailedAt: w.LastFailedAt,
		Received: w.Received, ReceiverGone: w.ReceiverGone,
	}
	switch {
	case w.Received:
		return hint(err, "see whether pgstow wal receive runs and reaches the store (pgstow check); then run the backup again, or take a standalone one with --wal include")
	case w.Standby:
		return hint(err, "on an idle primary the last segment is archived only when it is full: run SELECT pg_switch_wal() there during the wait")
	}
	return hint(err, "look at the server's log for the errors of archive_command; then run the backup again")
}

// archivers asks what those who bring WAL into the archive are doing.
func (s *session) archivers(ctx context.Context, w *WaitingEvent) error {
	switch {
	case s == nil: // they cannot be asked
	case w.Received:
		name, _, err := s.receiver(ctx)
		if err != nil {
			return err
		}
		w.ReceiverGone = name == ""
	case !w.Standby:
		var err error
		if w.LastFailed, w.LastFailedAt, err = s.archiver(ctx); err != nil {
			return fmt.Errorf("ask pg_stat_archiver: %w", err)
		}
	}
	return nil
}

// sleep waits, or returns why ctx ended.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
