package catalog

import (
	"context"
	"time"

	"pgstow/wal"
)

// SegmentFact is what the clear header of a stored segment says, or, if Exact, what its records say.
type SegmentFact struct {
	LastRecord              wal.LSN   // start of the last record that begins in it; 0: none
	FirstCommit, LastCommit time.Time // earliest and latest commit or abort; zero: none
	MaxXID                  uint32    // newest transaction id, circularly; 0: none
	Switch                  bool      // ends in a switch record
	HasRestorePoints        bool

	// Exact facts count only records that end within what is stored of this segment; from headers also the last one
	// that goes on in the next segment.
	Exact         bool
	Begins        wal.LSN            // Exact only: start of the last record that begins in it, whole or not; 0: none
	RestorePoints []wal.RestorePoint // Exact only
}

// SegmentFacts gives the planner what it must know of single segments. Implementations cache.
type SegmentFacts interface {
	// Header is cheap: one ranged read of 512 bytes. Not for segments of which only pieces are stored.
	Header(ctx context.Context, tli wal.TimelineID, n wal.SegmentNumber) (SegmentFact, error)
	// Decode reads the whole segment, or the gapless prefix that pieces give of it, and looks at its records. Only those
	// that end at or before until count: it is the fork where a newer timeline leaves this one, or MaxLSN.
	Decode(ctx context.Context, tli wal.TimelineID, n wal.SegmentNumber, until wal.LSN) (SegmentFact, error)
}

// Prefetcher is implemented by SegmentFacts that can read many headers at once. The planner calls it before it asks for
// each of them in turn.
type Prefetcher interface {
	Prefetch(ctx context.Context, segments []SegmentID) error
}

// SegmentID names a segment of a cluster.
type SegmentID struct {
	Timeline wal.TimelineID
	Number   wal.SegmentNumber
}

// Facts is all that the planner sees.
type Facts struct {
	Backups   []BackupSummary // in any order
	WAL       *WALIndex
	Histories map[wal.TimelineID]wal.History // of the archive's history files; timeline 1 needs none
	Unread    []wal.TimelineID               // timelines whose history the host cannot decrypt: nothing is planned then
	Segments  SegmentFacts

	// ClockSlack is how far back the server's clock may ever have been set. To prove that no commit is later than a time
	// target, segments are looked at from the end until one lies that far before it. 0: 24 hours; negative: no limit.
	ClockSlack time.Duration
}
