package main

import (
	"time"

	"pgstow/catalog"
	"pgstow/cmd/internal/config"
	"pgstow/wal"
	"pgstow/wal/archive"
)

// checkWAL looks for holes in the archive, and at how far the stream of pieces is. server is the one that the archive is of, if check could
// ask it.
func checkWAL(facts catalog.Facts, server *serverFacts, now time.Time, r *checkReport) {
	holes, index := 0, facts.WAL
	for _, t := range index.Timelines {
		for _, h := range t.Holes() {
			holes++
			if facts.LeftBefore(h) {
				r.warn("wal", "%s to %s is missing on timeline %d, which the newest timeline has left before: only a restore to that one would come by",
					wal.SegmentName(h.Timeline, h.First, index.SegmentSize), wal.SegmentName(h.Timeline, h.Last, index.SegmentSize), h.Timeline)
				continue
			}
			checkHole(index, h, server, now, r)
		}
	}
	if holes == 0 {
		r.ok("wal", "%s: no holes, newest %s", index.Ref, timeText(index.Newest()))
	}
	for i := len(index.Timelines) - 1; i >= 0; i-- {
		if t := &index.Timelines[i]; len(t.Ranges)+len(t.Pieces) > 0 {
			checkStream(index, t, server, now, r) // pieces of older timelines stay for ever
			break
		}
	}
}

// checkHole tells a hole that a push is about to fill from one that stays: it is older than [catalog.HoleGrace], or it was left by a server
// that has been started anew since and has nothing waiting that would fill it.
func checkHole(index *catalog.WALIndex, h catalog.Hole, server *serverFacts, now time.Time, r *checkReport) {
	size := index.SegmentSize
	name := func(n wal.SegmentNumber) string { return wal.SegmentName(h.Timeline, n, size).String() }
	overdue := h.Overdue(now)
	if !overdue && server != nil && server.started.After(h.Since) && !server.waiting[name(h.First)] {
		overdue = true
	}
	if !overdue {
		r.warn("wal", "%s to %s is not there yet", name(h.First), name(h.Last))
		return
	}
	r.fail("wal", "%s to %s (%s to %s) is missing since %s: recovery cannot cross it",
		name(h.First), name(h.Last), size.Start(h.First), size.End(h.Last), timeText(h.Since))
	r.hint("pgstow wal repair --pgdata DIR stores what the server, or a standby, still has of it; otherwise take a new backup")
}

// streamLag is how old the newest piece may be while the server is further.
const streamLag = time.Minute

// checkStream tells where the archive really ends if the last segment is there in pieces.
func checkStream(index *catalog.WALIndex, t *catalog.TimelineWAL, server *serverFacts, now time.Time, r *checkReport) {
	newest := t.NewestPiece()
	if newest.IsZero() {
		return
	}
	_, end := t.Head(index.SegmentSize, now)
	age := ageText(now.Sub(newest).Seconds())
	if server != nil && !server.recovery && server.written > end && now.Sub(newest) > streamLag {
		r.warn("receive", "the archive ends at %s and the server is at %s, but the newest piece came %s ago", end, server.written, age)
		r.hint("is pgstow wal receive still running?")
		return
	}
	r.ok("receive", "the archive ends at %s, the newest piece came %s ago", end, age)
}

// checkAhead tells the last thing that went wrong in the background, where files are stored before the server asks for them: nobody else would
// speak of it unless the server's own try fails too.
func checkAhead(e *environment, conf *config.Config, r *checkReport) {
	roots, err := spoolRoots(e, conf)
	if err != nil {
		r.warn("ahead", "%s", err)
		return
	}
	for _, t := range archive.Troubles(time.Now(), roots...) {
		if t.Cluster == conf.Cluster {
			r.warn("ahead", "storing %s of %s before the server asked for it failed at %s: %s", t.Name, t.PGData, timeText(t.Time), t.Text)
		}
	}
}
