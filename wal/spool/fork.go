package spool

import (
	"os"
	"path/filepath"
	"strings"

	"pgstow/wal"
)

// RecoveryFile is the name under which recovery wants a segment (RestoreArchivedFile in src/backend/access/transam/xlogarchive.c).
const RecoveryFile = "RECOVERYXLOG"

// LeftAt tells whether the server whose pg_wal this is heads for a timeline that left the segment's timeline in the segment or before it, and
// where: for the timeline that the operator chose, or with 0 for the newest that the server knows. Recovery keeps the history of the timeline
// that it heads for in pg_wal (readTimeLineHistory in src/backend/access/transam/timeline.c, WalRcvFetchTimeLineHistoryFiles in walreceiver.c).
// When that timeline's own segment is not in the archive yet, PostgreSQL asks for the ancestor's (XLogFileReadAnyTLI in xlogrecovery.c) and
// replays all of it, also what the ancestor's server wrote behind the fork. An error says that the history could not be read.
func LeftAt(pgWAL string, segment wal.FileName, size wal.SegmentSize, chosen wal.TimelineID) (fork wal.LSN, by wal.TimelineID, left bool, err error) {
	if fits := segment.CheckSize(size) == nil; segment.Kind != wal.Segment || !fits || chosen == segment.Timeline {
		return 0, 0, false, nil
	}
	if by = chosen; chosen < segment.Timeline {
		by = newestHistory(pgWAL)
	}
	if by <= segment.Timeline {
		return 0, 0, false, nil
	}
	b, err := os.ReadFile(filepath.Join(pgWAL, wal.HistoryName(by).String()))
	if err != nil {
		return 0, by, false, err
	}
	h, err := wal.ParseHistory(by, b)
	if err != nil {
		return 0, by, false, err
	}
	fork, ok := h.Ancestor(segment.Timeline)
	return fork, by, ok && fork < segment.Start(size)+wal.LSN(size), nil
}

// newestHistory is the greatest timeline whose history lies in the folder; 0 if there is none.
func newestHistory(pgWAL string) wal.TimelineID {
	d, err := os.Open(pgWAL)
	if err != nil {
		return 0
	}
	defer func() { _ = d.Close() }()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return 0
	}
	newest := wal.TimelineID(0)
	for _, n := range names {
		if !strings.HasSuffix(n, ".history") {
			continue
		}
		if name, err := wal.ParseFileName(n); err == nil && name.Kind == wal.HistoryFile {
			newest = max(newest, name.Timeline)
		}
	}
	return newest
}

// beyondFork tells whether a waiting segment is one that recovery must not take as it is: the full program decides.
func beyondFork(name, dst string, size int64) bool {
	if filepath.Base(dst) != RecoveryFile {
		return false
	}
	segment, err := wal.ParseFileName(name)
	if err != nil {
		return false
	}
	_, _, left, err := LeftAt(filepath.Dir(dst), segment, wal.SegmentSize(size), 0)
	return err == nil && left // a history that cannot be read keeps nothing from recovery, which reads it too
}
