package changes

import (
	"cmp"
	"fmt"
	"slices"

	"pgstow/wal"
)

// Summary is one WAL summary that the server has: what changed from Start to End
// (pg_available_wal_summaries).
type Summary struct {
	Timeline   wal.TimelineID
	Start, End wal.LSN
}

// GapError says that the server has no summary of some of the WAL in question.
type GapError struct {
	Timeline wal.TimelineID
	From, To wal.LSN
}

func (e *GapError) Error() string {
	return fmt.Sprintf("the server has no WAL summary from %s to %s on timeline %d", e.From, e.To, e.Timeline)
}

// BeginError says that no summary begins at the reference's start, as one does on
// the server that the reference was taken from, since its start is a redo point.
type BeginError struct {
	Timeline wal.TimelineID
	From     wal.LSN
}

func (e *BeginError) Error() string {
	return fmt.Sprintf("no WAL summary of the server begins at %s on timeline %d: its WAL may be another than the one that the reference was taken in",
		e.From, e.Timeline)
}

// Cover picks the summaries that together cover the WAL from an LSN on timeline
// first to another on the history's own timeline, without a gap (RULES-physical B4).
// Otherwise the error is a *GapError or *BeginError.
//
// One of them has to begin at from itself: summaries end at redo points, and each
// backup starts at one. A copy of a data directory that went its own way on the same
// timeline has redo points of its own (A4).
func Cover(available []Summary, h wal.History, first wal.TimelineID, from, to wal.LSN) ([]Summary, error) {
	var out []Summary
	for _, part := range spans(h, first, from, to) {
		s := covering(available, part)
		at := part.Start
		for _, x := range s {
			if x.Start > at {
				return nil, &GapError{part.Timeline, at, x.Start}
			}
			at = max(at, x.End)
		}
		if at < part.End {
			return nil, &GapError{part.Timeline, at, part.End}
		}
		out = append(out, s...)
	}
	begins := func(s Summary) bool { return s.Timeline == first && s.Start == from }
	if from < to && !slices.ContainsFunc(out, begins) {
		return nil, &BeginError{first, from}
	}
	return out, nil
}

// spans cuts the WAL by timelines, oldest first.
func spans(h wal.History, first wal.TimelineID, from, to wal.LSN) (out []Summary) {
	begin := wal.LSN(0)
	on := false
	for _, e := range h {
		if on = on || e.Timeline == first; on {
			s := Summary{e.Timeline, max(from, begin), min(to, e.End)}
			if s.Start < s.End {
				out = append(out, s)
			}
		}
		begin = e.End
	}
	return out
}

// covering lists the summaries that share some WAL with part, by their start.
func covering(available []Summary, part Summary) (out []Summary) {
	for _, s := range available {
		if s.Timeline == part.Timeline && s.Start < part.End && s.End > part.Start {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b Summary) int { return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.End, b.End)) })
	return out
}
