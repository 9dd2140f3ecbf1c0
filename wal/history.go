package wal

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strconv"
)

// MaxLSN is where a timeline that has not ended ends.
const MaxLSN LSN = math.MaxUint64

// HistoryEntry is one timeline on the way from the first one to the timeline a History describes.
type HistoryEntry struct {
	Timeline TimelineID
	End      LSN    // the fork: the first byte that belongs to the next entry. MaxLSN for the last entry.
	Reason   string // why it was left, PostgreSQL's words; "" for the last entry
}

// History is a timeline with all its ancestors, oldest first. The last entry is the timeline itself, with End =
// MaxLSN (readTimeLineHistory in backend/access/transam/timeline.c keeps the same list, newest first). The history
// of timeline 1, which has no file, is NewHistory(1).
type History []HistoryEntry

// NewHistory is the history of a timeline without ancestors.
func NewHistory(tli TimelineID) History { return History{{Timeline: tli, End: MaxLSN}} }

// ParseHistory reads the contents of the .history file of timeline tli by readTimeLineHistory's rules: blank lines
// and lines that start with # are skipped, a line is "parent, fork, reason" separated by white space, timelines
// increase and stay below tli. What PostgreSQL tolerates is tolerated.
func ParseHistory(tli TimelineID, b []byte) (History, error) {
	var h History
	for n, line := range bytes.Split(b, []byte{'\n'}) {
		rest := trimSpace(line)
		if len(rest) == 0 || rest[0] == '#' {
			continue
		}
		e, err := parseHistoryLine(rest)
		if err != nil {
			return nil, fmt.Errorf("history of timeline %d, line %d: %w", tli, n+1, err)
		}
		if len(h) > 0 && e.Timeline <= h[len(h)-1].Timeline {
			return nil, fmt.Errorf("history of timeline %d, line %d: timeline %d after %d: they must increase", tli, n+1, e.Timeline, h[len(h)-1].Timeline)
		}
		h = append(h, e)
	}
	if len(h) > 0 && tli <= h[len(h)-1].Timeline {
		return nil, fmt.Errorf("history of timeline %d names timeline %d as an ancestor: ancestors have smaller numbers", tli, h[len(h)-1].Timeline)
	}
	return append(h, HistoryEntry{Timeline: tli, End: MaxLSN}), nil
}

// parseHistoryLine is sscanf(line, "%u\t%X/%X") followed by the reason.
func parseHistoryLine(line []byte) (e HistoryEntry, err error) {
	num, rest := span(line, isDigit)
	tli, err := strconv.ParseUint(string(num), 10, 32)
	if err != nil {
		return e, fmt.Errorf("%q does not begin with a timeline number", line)
	}
	hi, rest := span(trimSpace(rest), isHexDigit)
	if len(rest) == 0 || rest[0] != '/' {
		return e, fmt.Errorf("%q has no switch point after the timeline", line)
	}
	lo, rest := span(trimSpace(rest[1:]), isHexDigit)
	end, err := ParseLSN(string(hi) + "/" + string(lo))
	if err != nil {
		return e, fmt.Errorf("%q has no switch point after the timeline: %w", line, err)
	}
	reason := bytes.TrimRight(trimSpace(rest), " \t\r\v\f")
	return HistoryEntry{Timeline: TimelineID(tli), End: end, Reason: string(reason)}, nil
}

func isDigit(c byte) bool    { return c >= '0' && c <= '9' }
func isHexDigit(c byte) bool { return isDigit(c) || c >= 'A' && c <= 'F' || c >= 'a' && c <= 'f' }

// span cuts b after the bytes at its start for which ok holds.
func span(b []byte, ok func(byte) bool) (head, tail []byte) {
	i := 0
	for i < len(b) && ok(b[i]) {
		i++
	}
	return b[:i], b[i:]
}

// trimSpace removes what C's isspace calls space from the start of b.
func trimSpace(b []byte) []byte { return bytes.TrimLeft(b, " \t\n\v\f\r") }

// Format gives the bytes of the history file as PostgreSQL writes it (writeTimeLineHistory): one line per ancestor, a
// blank line between two. A file that PostgreSQL wrote comes back byte for byte. A history without ancestors is empty.
func (h History) Format() []byte {
	var b []byte
	for i, e := range h {
		if i == len(h)-1 {
			break
		}
		if i > 0 {
			b = append(b, '\n')
		}
		b = fmt.Appendf(b, "%d\t%s\t%s\n", uint32(e.Timeline), e.End, e.Reason)
	}
	return b
}

// Timeline is the timeline the history belongs to; 0 for an empty History.
func (h History) Timeline() TimelineID {
	if len(h) == 0 {
		return 0
	}
	return h[len(h)-1].Timeline
}

// Parent is the timeline this one forked from and the LSN of the fork. ok is false if it has none.
func (h History) Parent() (tli TimelineID, fork LSN, ok bool) {
	if len(h) < 2 {
		return 0, 0, false
	}
	p := h[len(h)-2]
	return p.Timeline, p.End, true
}

// begin is the LSN at which entry i starts.
func (h History) begin(i int) LSN {
	if i == 0 {
		return 0
	}
	return h[i-1].End
}

// TimelineOf is the timeline that the byte at l belongs to (tliOfPointInHistory); 0 only for an empty History.
func (h History) TimelineOf(l LSN) TimelineID {
	for i := len(h) - 1; i >= 0; i-- {
		if l >= h.begin(i) {
			return h[i].Timeline
		}
	}
	return 0
}

// TimelineOfSegment is the timeline under whose name recovery looks for segment n first: the newest one that begins in
// or before it, since the segment with a fork is copied to the new timeline (XLogFileReadAnyTLI in
// backend/access/transam/xlogrecovery.c).
func (h History) TimelineOfSegment(n SegmentNumber, size SegmentSize) TimelineID {
	for i := len(h) - 1; i >= 0; i-- {
		if size.SegmentOf(h.begin(i)) <= n {
			return h[i].Timeline
		}
	}
	return 0
}

// Ancestor is the LSN at which this history left timeline tli (tliSwitchPoint). ok is false if tli is not an ancestor;
// the timeline itself is not its own ancestor.
func (h History) Ancestor(tli TimelineID) (end LSN, ok bool) {
	for i := range max(len(h)-1, 0) {
		if h[i].Timeline == tli {
			return h[i].End, true
		}
	}
	return 0, false
}

// Begin is the LSN at which timeline tli starts in this history: the fork from its parent, 0 for the first one.
func (h History) Begin(tli TimelineID) (LSN, bool) {
	for i := range h {
		if h[i].Timeline == tli {
			return h.begin(i), true
		}
	}
	return 0, false
}

// Contains says whether WAL of timeline tli that ends at l (a backup's stop, a record's end) is part of this history:
// tli is in it, does not begin after l, and is not left before l. Both ends count: l may be the fork itself.
func (h History) Contains(tli TimelineID, l LSN) bool {
	for i := range h {
		if h[i].Timeline == tli {
			return l >= h.begin(i) && l <= h[i].End
		}
	}
	return false
}

// Descends says whether h goes on from o: o's timeline is h's own or one of its ancestors, and all before it is the
// same. A history descends from itself. Reasons are not compared.
func (h History) Descends(o History) bool {
	if len(o) == 0 || len(o) > len(h) {
		return false
	}
	last := len(o) - 1
	return slices.EqualFunc(h[:last], o[:last], sameFork) && h[last].Timeline == o[last].Timeline
}

// Equal says whether both have the same timelines and forks. Reasons, which no rule depends on, are not compared.
func (h History) Equal(o History) bool { return slices.EqualFunc(h, o, sameFork) }

func sameFork(a, b HistoryEntry) bool { return a.Timeline == b.Timeline && a.End == b.End }
