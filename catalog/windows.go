package catalog

import (
	"cmp"
	"context"
	"slices"
	"time"

	"pgstow/wal"
)

// Window is a stretch of WAL to any place of which the cluster can be restored on one timeline.
type Window struct {
	Timeline wal.TimelineID `json:"timeline"`
	FromLSN  wal.LSN        `json:"from_lsn"` // where the first backup of the window is consistent
	FromTime time.Time      `json:"from_time"`
	ToLSN    wal.LSN        `json:"to_lsn"`           // the end of the WAL without a hole
	ToTime   time.Time      `json:"to_time,omitzero"` // of the last commit there; zero if not known
	Backups  []string       `json:"backups"`          // ids, oldest first
	Hole     *Hole          `json:"-"`                // what ends the window; nil: the end of the archive
	HoleName string         `json:"hole,omitempty"`   // the first missing segment

	// SegmentsEnd is ToLSN unless the window ends in a segment of which only pieces are stored, or an older timeline's part:
	// then it is where that one begins.
	SegmentsEnd wal.LSN `json:"segments_end_lsn"`
}

// Windows lists, for each timeline, from where to where a restore that follows it can go: from the end of a backup on its
// history along the WAL until a hole, or the end, cuts it. A backup behind the hole begins another window. Windows of
// timelines with a common ancestor overlap. ToTime is filled in if f.Segments is set.
func Windows(ctx context.Context, f Facts) ([]Window, error) {
	backups := slices.Clone(f.Backups)
	SortBackups(backups)
	var out []Window
	for _, tli := range knownTimelines(f) {
		h := historyOf(f, tli)
		list, err := windowsOf(ctx, f, h, pairs(backups, h))
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
	}
	return out, nil
}

func windowsOf(ctx context.Context, f Facts, h wal.History, list []candidate) ([]Window, error) {
	slices.SortStableFunc(list, func(a, b candidate) int { return cmp.Compare(a.b.Stop, b.b.Stop) })
	var out []Window
	for _, c := range list {
		from := c.b.Start
		if c.b.WALIncluded {
			from = c.b.Stop
		}
		path := followWAL(f.WAL, h, from)
		if c.b.WALIncluded {
			path.end = max(path.end, c.b.Stop)
		}
		if path.end < c.b.Stop {
			continue // its own WAL is not there
		}
		if n := len(out) - 1; n >= 0 && out[n].ToLSN == path.end {
			out[n].Backups = append(out[n].Backups, c.b.ID)
			continue
		}
		w := Window{
			Timeline: h.Timeline(), FromLSN: c.b.Stop, FromTime: c.b.StoppedAt, ToLSN: path.end, SegmentsEnd: path.segmentsEnd(), Backups: []string{c.b.ID},
		}
		if path.hole != nil {
			gap := path.gapError(f.WAL, c.b.ID)
			w.Hole, w.HoleName = &gap.Hole, gap.First
		}
		var err error
		p := planner{f: f}
		if w.ToTime, err = p.lastCommit(ctx, &path, c.b.Stop); err != nil {
			return nil, err
		}
		out = append(out, w)
	}
	return out, nil
}
