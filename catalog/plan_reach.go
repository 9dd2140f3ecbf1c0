package catalog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"pgstow/wal"
)

// prefetchWindow is how many headers are asked for at a time. The first window is small, since the last segments of an
// archive usually decide.
const (
	firstWindow    = 8
	prefetchWindow = 256
)

// fact is the header's, or, where that does not tell, the decoded segment's.
func (p *planner) fact(ctx context.Context, s pathSegment) (SegmentFact, error) {
	if p.f.Segments == nil {
		return SegmentFact{}, errors.New("plan restore: nothing is known of the segments")
	}
	if !s.header {
		return p.decode(ctx, s)
	}
	f, err := p.f.Segments.Header(ctx, s.Timeline, s.Number)
	if err != nil {
		return f, fmt.Errorf("plan restore: %w", err)
	}
	return f, nil
}

func (p *planner) decode(ctx context.Context, s pathSegment) (SegmentFact, error) {
	f, err := p.f.Segments.Decode(ctx, s.Timeline, s.Number, s.until)
	if err != nil {
		return f, fmt.Errorf("plan restore: %w", err)
	}
	return f, nil
}

// facts yields segments with their facts, reading ahead where Segments can.
func (p *planner) facts(ctx context.Context, list iter.Seq[pathSegment]) iter.Seq2[pathSegment, factOrError] {
	return func(yield func(pathSegment, factOrError) bool) {
		next, stop := iter.Pull(list)
		defer stop()
		ahead, can := p.f.Segments.(Prefetcher)
		for window := firstWindow; ; window = min(2*window, prefetchWindow) {
			var batch []pathSegment
			var ids []SegmentID
			for len(batch) < window {
				s, ok := next()
				if !ok {
					break
				}
				batch = append(batch, s)
				if s.header {
					ids = append(ids, s.SegmentID)
				}
			}
			if len(batch) == 0 {
				return
			}
			if can && len(ids) > 1 {
				if err := ahead.Prefetch(ctx, ids); err != nil {
					yield(batch[0], factOrError{err: fmt.Errorf("plan restore: %w", err)})
					return
				}
			}
			for _, s := range batch {
				f, err := p.fact(ctx, s)
				if !yield(s, factOrError{f, err}) || err != nil {
					return
				}
			}
		}
	}
}

type factOrError struct {
	SegmentFact
	err error
}

// reachLSN reports whether a record that begins at the target or behind it is whole on the path: inclusive or exclusive,
// PostgreSQL must read one to stop (recoveryStopsBefore and recoveryStopsAfter compare its start).
func (p *planner) reachLSN(ctx context.Context, path *walPath) (bool, error) {
	if path.end <= p.t.LSN {
		return false, nil
	}
	open := true // the next record found going backward may go on behind the end of the path
	for s, f := range p.facts(ctx, path.backward(path.size.SegmentOf(p.t.LSN))) {
		if f.err != nil {
			return false, f.err
		}
		begins := f.LastRecord
		if f.Exact {
			begins = f.Begins
		}
		if f.Switch {
			open = false
		}
		switch {
		case begins == 0:
			continue
		case begins < p.t.LSN:
			return false, nil
		case f.LastRecord >= p.t.LSN && (f.Exact || !open):
			return true, nil
		case !f.Exact && open:
			exact, err := p.decode(ctx, s)
			if err != nil || exact.LastRecord >= p.t.LSN {
				return err == nil, err
			}
		}
		open = false // what began before this one is whole, though it may have begun in an earlier segment
	}
	return false, nil
}

// reachTime reports whether a commit or abort behind the target (exclusive: at or behind) is on the path: that is the
// record before which PostgreSQL stops; without one it fails with "recovery ended before configured recovery target was
// reached".
func (p *planner) reachTime(ctx context.Context, path *walPath, from wal.LSN) (bool, error) {
	slack, limited := p.slack()
	for _, f := range p.facts(ctx, path.backward(path.size.SegmentOf(from))) {
		if f.err != nil {
			return false, f.err
		}
		last := f.LastCommit
		if last.IsZero() {
			continue
		}
		if last.After(p.t.Time) || p.t.Exclusive && last.Equal(p.t.Time) {
			return true, nil
		}
		if limited && last.Before(p.t.Time.Add(-slack)) {
			return false, nil
		}
	}
	return false, nil
}

// reachXID reports whether the path has a transaction id at or behind the target. That the target itself has committed or
// aborted there, which PostgreSQL wants to see, is not known from headers.
func (p *planner) reachXID(ctx context.Context, path *walPath, from wal.LSN) (bool, error) {
	for _, f := range p.facts(ctx, path.backward(path.size.SegmentOf(from))) {
		if f.err != nil {
			return false, f.err
		}
		if f.MaxXID != 0 && !xidPrecedes(f.MaxXID, p.t.XID) {
			return true, nil
		}
	}
	return false, nil
}

// reachName finds the first restore point of the name from the backup's start on: there PostgreSQL stops, after the record,
// and if the server is not consistent by then it fails. WAL that a backup holds itself is not looked into.
func (p *planner) reachName(ctx context.Context, path *walPath, b BackupSummary, plan *Plan) (bool, error) {
	for s, f := range p.facts(ctx, path.segments(path.size.SegmentOf(b.Start))) {
		if f.err != nil {
			return false, f.err
		}
		if !f.HasRestorePoints && !f.Exact {
			continue
		}
		exact, err := p.decode(ctx, s)
		if err != nil {
			return false, err
		}
		for _, rp := range exact.RestorePoints {
			if rp.Name != p.t.Name || rp.LSN <= b.Start {
				continue
			}
			if rp.LSN < b.Stop {
				return false, unfit{&UnreachableError{
					Target: p.t, Why: fmt.Sprintf("backup %s is not consistent there yet", b.ID),
					Nearest: []Point{{LSN: rp.LSN, Time: rp.Time, Note: "the restore point is at"}, {LSN: b.Stop, Time: b.StoppedAt, Note: "the backup ends at"}},
				}}
			}
			plan.StopLSN, plan.StopTime = rp.LSN, rp.Time
			return true, nil
		}
	}
	return false, nil
}

// lastCommit is the time of the last commit or abort on the path; zero if the last segments have none.
func (p *planner) lastCommit(ctx context.Context, path *walPath, from wal.LSN) (time.Time, error) {
	if p.f.Segments == nil {
		return time.Time{}, nil
	}
	looked := 0
	for _, f := range p.facts(ctx, path.backward(path.size.SegmentOf(from))) {
		if f.err != nil {
			return time.Time{}, f.err
		}
		if looked++; !f.LastCommit.IsZero() || looked >= prefetchWindow {
			return f.LastCommit, nil
		}
	}
	return time.Time{}, nil
}
