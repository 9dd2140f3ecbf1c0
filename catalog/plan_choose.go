package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"pgstow/storage/object"
	"pgstow/wal"
)

// planner holds what PlanRestore works on.
type planner struct {
	f Facts
	t Target
}

// candidate is a backup with the timeline that would be followed from it.
type candidate struct {
	b BackupSummary
	h wal.History
}

// unfit is why a candidate cannot reach the target; err is what the operator sees if no other one can.
type unfit struct{ err error }

func (u unfit) Error() string { return u.err.Error() }

func planRestore(ctx context.Context, f Facts, t Target, want BackupSelector) (Plan, error) {
	if f.WAL == nil {
		return Plan{}, errors.New("plan restore: no index of the archive")
	}
	if len(f.Unread) > 0 {
		return Plan{}, identityHint(fmt.Errorf("plan restore: history of timeline %d: %w", f.Unread[0], object.ErrNoIdentity))
	}
	p := planner{f: f, t: t}
	list, err := p.candidates(want)
	if err != nil {
		return Plan{}, err
	}
	var first error
	for i, c := range list {
		plan, err := p.try(ctx, c)
		if err == nil {
			plan.Candidates = i + 1
			return plan, nil
		}
		var u unfit
		if !errors.As(err, &u) {
			return Plan{}, err
		}
		if first == nil {
			first = u.err // the newest one's reason is the one that matters
		}
	}
	return Plan{}, first
}

// candidates lists the backups that lie on the target timeline and end before the target, newest first.
func (p *planner) candidates(want BackupSelector) ([]candidate, error) {
	backups := slices.Clone(p.f.Backups)
	SortBackups(backups)
	slices.Reverse(backups)
	explicit := want.ID != "" && want.ID != "latest"
	if explicit {
		backups = slices.DeleteFunc(backups, func(b BackupSummary) bool { return b.ID != want.ID })
		if len(backups) == 0 {
			return nil, fmt.Errorf("backup %s: %w", want.ID, ErrNoBackup)
		}
	}
	if len(backups) == 0 {
		return nil, hint(fmt.Errorf("no backup to begin with: %w", ErrNoBackup), "pgstow backup create makes one")
	}
	on, err := p.onTimeline(backups)
	if err != nil {
		return nil, err
	}
	var out []candidate
	for _, c := range on {
		if p.endsBefore(c.b, explicit) {
			out = append(out, c)
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	e := &UnreachableError{Target: p.t}
	for _, c := range on { // the last one is the oldest
		e.Nearest = []Point{{LSN: c.b.Stop, Time: c.b.StoppedAt, Note: "backup " + c.b.ID + " is consistent from"}}
	}
	e.Why = "the oldest backup on that timeline ends behind it"
	if explicit {
		e.Why = "backup " + want.ID + " ends behind it"
	}
	if p.t.Kind == TargetXID {
		e.Why += ", or does not say which transactions had begun"
	}
	return nil, e
}

// onTimeline pairs each backup that lies on the target timeline with the history of that timeline; newest first.
func (p *planner) onTimeline(newestFirst []BackupSummary) ([]candidate, error) {
	known := knownTimelines(p.f)
	var out []candidate
	switch choice := p.t.Timeline; {
	case choice.Current:
		for _, b := range newestFirst {
			if h := historyOf(p.f, b.StopTimeline); onHistory(b, h) {
				out = append(out, candidate{b, h})
			}
		}
	case choice.ID != 0:
		if !slices.Contains(known, choice.ID) {
			return nil, &UnreachableError{Target: p.t, Why: fmt.Sprintf("timeline %d is not in the archive", choice.ID)}
		}
		out = pairs(newestFirst, historyOf(p.f, choice.ID))
	default:
		// The highest timeline on which there is a backup at all, as PostgreSQL takes the newest that descends from it.
		for i := len(known) - 1; i >= 0 && len(out) == 0; i-- {
			out = pairs(newestFirst, historyOf(p.f, known[i]))
		}
	}
	if len(out) == 0 {
		b := newestFirst[0]
		return nil, &UnreachableError{
			Target: p.t, Why: "no backup lies on the history of that timeline",
			Nearest: []Point{{LSN: b.Stop, Time: b.StoppedAt, Note: fmt.Sprintf("backup %s, on timeline %d, is consistent from", b.ID, b.StopTimeline)}},
		}
	}
	return out, nil
}

func pairs(list []BackupSummary, h wal.History) []candidate {
	var out []candidate
	for _, b := range list {
		if onHistory(b, h) {
			out = append(out, candidate{b, h})
		}
	}
	return out
}

// onHistory reports whether a server that was restored from b can follow h: both ends of the backup lie on h, and the
// ancestors that the backup recorded are h's own.
func onHistory(b BackupSummary, h wal.History) bool {
	if !h.Contains(b.StopTimeline, b.Stop) || !h.Contains(b.Timeline, b.Start) {
		return false
	}
	return b.Opaque || len(b.History) == 0 || h.Descends(b.TimelineHistory())
}

// knownTimelines lists, ascending, the timelines of which there is WAL, a history file or a backup.
func knownTimelines(f Facts) []wal.TimelineID {
	seen := map[wal.TimelineID]bool{}
	for _, t := range f.WAL.Timelines {
		seen[t.Timeline] = true
	}
	for t := range f.Histories {
		seen[t] = true
	}
	for _, b := range f.Backups {
		seen[b.StopTimeline] = true
	}
	out := make([]wal.TimelineID, 0, len(seen))
	for t := range seen {
		out = append(out, t)
	}
	slices.Sort(out)
	return out
}

// historyOf is the archive's history of a timeline, else a backup's own record of it, else none but itself.
func historyOf(f Facts, tli wal.TimelineID) wal.History {
	if h, ok := f.Histories[tli]; ok && h.Timeline() == tli {
		return h
	}
	for _, b := range f.Backups {
		if b.StopTimeline == tli && len(b.History) > 0 {
			return b.TimelineHistory()
		}
	}
	return wal.NewHistory(tli)
}

// endsBefore is the first half of RULES-physical E3: PostgreSQL fails on a target before the backup's end, since the
// server is not consistent there (recoveryStopsBefore, recoveryStopsAfter in backend/access/transam/xlogrecovery.c).
func (p *planner) endsBefore(b BackupSummary, explicit bool) bool {
	switch p.t.Kind {
	case TargetTime:
		return b.StoppedAt.Before(p.t.Time)
	case TargetLSN:
		return b.Stop <= p.t.LSN
	case TargetXID:
		if b.NextXID == 0 {
			return explicit
		}
		return !xidPrecedes(p.t.XID, uint32(b.NextXID))
	default:
		return true
	}
}

// xidPrecedes is TransactionIdPrecedes (backend/access/transam/transam.c): ids are compared on a circle of 2^32.
func xidPrecedes(a, b uint32) bool { return int32(a-b) < 0 }

// try checks one candidate: its own WAL, then the target.
func (p *planner) try(ctx context.Context, c candidate) (Plan, error) {
	plan := Plan{Backup: c.b, Target: p.t, Timeline: c.h.Timeline(), History: c.h, NeedsArchive: true}
	from := c.b.Start
	if c.b.WALIncluded {
		from = c.b.Stop
	}
	path := followWAL(p.f.WAL, c.h, from)
	if p.t.StopAtHole {
		path.upToHole(p.f.WAL)
	}
	consistent := c.b.Stop
	if c.b.Start == c.b.Stop { // cold: the shutdown checkpoint's record begins there
		consistent++
	}
	switch {
	case c.b.WALIncluded:
		path.end = max(path.end, c.b.Stop)
	case path.end < consistent && path.hole != nil:
		return plan, unfit{path.gapError(p.f.WAL, c.b.ID)}
	case path.end < consistent:
		return plan, unfit{&UnreachableError{
			Target: p.t, Why: fmt.Sprintf("the archive ends at %s, before backup %s is consistent", path.end, c.b.ID),
			Nearest: []Point{{LSN: c.b.Stop, Note: "its own WAL is needed up to"}},
		}}
	}
	plan.WALEnd = path.end
	if err := p.reach(ctx, c, &path, &plan); err != nil {
		return plan, err
	}
	plan.Path = path.walParts(plan.cut(path.size))
	if p.t.Kind == TargetImmediate && c.b.WALIncluded {
		plan.Path, plan.NeedsArchive = nil, false
	}
	if p.t.Kind == TargetLatest && c.b.WALIncluded && len(path.parts) == 0 {
		plan.NeedsArchive = false
		plan.Notes = append(plan.Notes, "the archive has no WAL behind the backup: recovery ends where the backup ends")
	}
	// The server looks for a target record by record, and behind the checkpoint of a cold backup there may be none.
	plan.AtEnd = p.t.Kind == TargetImmediate && c.b.Start == c.b.Stop && c.b.WALIncluded && len(path.parts) == 0
	return plan, nil
}

// cut is where the WAL that the plan needs ends; 0: nobody knows before it is replayed.
func (p *Plan) cut(size wal.SegmentSize) wal.LSN {
	switch p.Target.Kind {
	case TargetImmediate, TargetName:
		return p.StopLSN
	case TargetLSN:
		// The record that stops recovery begins at the target or behind it, often in the next segment.
		return size.End(size.SegmentOf(p.StopLSN) + 1)
	default:
		return 0
	}
}

// reach is the second half of E3: WAL that ends before the target is FATAL since PostgreSQL 13.
func (p *planner) reach(ctx context.Context, c candidate, path *walPath, plan *Plan) error {
	var ok bool
	var err error
	switch p.t.Kind {
	case TargetImmediate:
		plan.StopLSN = c.b.Stop
		return nil
	case TargetLatest:
		if path.hole != nil {
			if !p.t.StopAtHole {
				return p.short(ctx, c, path)
			}
			gap := path.gapError(p.f.WAL, c.b.ID)
			plan.Notes = append(plan.Notes, fmt.Sprintf("recovery ends at %s, before the missing segment %s: what the archive has from %s on is given up", gap.Reached, gap.First, gap.Next))
		}
		plan.StopTime, err = p.lastCommit(ctx, path, c.b.Stop)
		return err
	case TargetLSN:
		plan.StopLSN = p.t.LSN
		ok, err = p.reachLSN(ctx, path)
	case TargetTime:
		ok, err = p.reachTime(ctx, path, c.b.Stop)
	case TargetXID:
		if c.b.NextXID == 0 {
			plan.Notes = append(plan.Notes, "the backup does not say which transactions had begun: if the target had, recovery will fail")
		}
		ok, err = p.reachXID(ctx, path, c.b.Stop)
	case TargetName:
		ok, err = p.reachName(ctx, path, c.b, plan)
	default:
		return fmt.Errorf("plan restore: unknown %s", p.t.Kind)
	}
	if err != nil || ok {
		return err
	}
	return p.short(ctx, c, path)
}

// short is the error of a path that ends before the target.
func (p *planner) short(ctx context.Context, c candidate, path *walPath) error {
	last, err := p.lastCommit(ctx, path, c.b.Stop)
	if err != nil {
		return err
	}
	if path.hole != nil {
		gap := path.gapError(p.f.WAL, c.b.ID)
		gap.ReachedTime = last
		return unfit{gap}
	}
	why := "it lies behind the end of the archived WAL"
	switch p.t.Kind {
	case TargetTime:
		why = "no later commit is archived, and without one PostgreSQL would not know that it is there"
	case TargetXID:
		why = "no such transaction is in the archived WAL"
	case TargetName:
		why = fmt.Sprintf("no restore point of this name is in the WAL behind backup %s", c.b.ID)
	}
	return unfit{&UnreachableError{Target: p.t, Why: why, Nearest: []Point{{LSN: path.end, Time: last, Note: "the archived WAL ends at"}}}}
}

// slack is how far back in time the search for a later commit goes on.
func (p *planner) slack() (time.Duration, bool) {
	switch {
	case p.f.ClockSlack < 0:
		return 0, false
	case p.f.ClockSlack == 0:
		return 24 * time.Hour, true
	default:
		return p.f.ClockSlack, true
	}
}
