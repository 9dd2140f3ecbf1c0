package archive

import (
	"os"
	"path/filepath"

	"pgstow/wal"
)

// wholeFor tells whether a segment may be handed over whole to a recovery that heads for the timeline that the operator chose, 0 for none: not if
// that left the segment's timeline before the segment's end, since what lies behind the fork never happened on it. Recovery keeps the history of
// the timeline that it heads for in pg_wal from its beginning (readTimeLineHistory in src/backend/access/transam/timeline.c); without it nothing
// is fetched ahead, and each call decides.
func wholeFor(chosen wal.TimelineID, pgdata string, name wal.FileName, size wal.SegmentSize) bool {
	if chosen <= name.Timeline {
		return true
	}
	b, err := os.ReadFile(filepath.Join(pgdata, "pg_wal", wal.HistoryName(chosen).String()))
	if err != nil {
		return false
	}
	h, err := wal.ParseHistory(chosen, b)
	if err != nil {
		return false
	}
	fork, left := h.Ancestor(name.Timeline)
	return !left || fork >= name.Start(size)+wal.LSN(size)
}
