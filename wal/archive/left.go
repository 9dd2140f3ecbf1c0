package archive

import (
	"io"
	"path/filepath"

	"pgstow/wal"
	"pgstow/wal/spool"
)

// behindFork is called before a full segment is looked for that recovery asks for. When recovery heads for a timeline that left the segment's timeline
// in it or before it, it gets nothing that the old timeline's server wrote afterwards: that never happened on the new one, and PostgreSQL would
// replay it. It asks only because the new timeline's own segment is not in the archive yet.
//
// A standby is told that there is no such segment, and streams, or asks again until the other is there. Plain recovery, for which that is the
// end, gets the part before the fork; the rest is zeros.
func (f *fetch) behindFork() {
	c := f.server.control
	if f.name.Kind != wal.Segment || filepath.Base(f.dst) != recoveryFile || !f.standby && !f.recovery || c == nil {
		return
	}
	fork, by, left, err := spool.LeftAt(filepath.Dir(f.dst), f.name, c.WALSegmentSize, f.Timeline)
	switch {
	case err != nil, !left: // a history that cannot be read keeps nothing from recovery, which reads it too
		return
	case c.MinRecoveryTimeline == f.name.Timeline && c.MinRecoveryPoint > fork:
		return // it has passed the fork, and cannot go where that leads
	}
	start := f.name.Start(c.WALSegmentSize)
	if f.beyond = f.standby || fork < start+wal.LongHeaderSize; f.beyond {
		f.warn("fetch %s: not served: timeline %d, where recovery is heading, left timeline %d at %s", f.want, by, f.name.Timeline, fork)
		return
	}
	f.cut = int64(fork - start)
	f.warn("fetch %s: only what lies before %s is served, where timeline %d, for which recovery is heading, left timeline %d", f.want, fork, by, f.name.Timeline)
}

// wholeFor tells whether a segment may be handed over whole to a recovery that heads for the timeline that the operator chose, 0 for the newest.
// Without its history nothing is fetched ahead, and each call decides.
func wholeFor(chosen wal.TimelineID, pgdata string, name wal.FileName, size wal.SegmentSize) bool {
	_, _, left, err := spool.LeftAt(filepath.Join(pgdata, "pg_wal"), name, size, chosen)
	return err == nil && !left
}

// cutter passes the first bytes on and replaces the others by zeros.
type cutter struct {
	w    io.Writer
	left int64
}

func (c *cutter) Write(p []byte) (int, error) {
	if n := min(c.left, int64(len(p))); n < int64(len(p)) {
		p = append(p[:n:n], make([]byte, int64(len(p))-n)...)
	}
	n, err := c.w.Write(p)
	c.left = max(0, c.left-int64(n))
	return n, err
}
