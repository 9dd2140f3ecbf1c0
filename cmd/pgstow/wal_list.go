package main

import (
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"pgstow/catalog"
	"pgstow/cmd/internal/config"
	"pgstow/wal"
)

type walRangeJSON struct {
	First    string    `json:"first"`
	Last     string    `json:"last"`
	StartLSN string    `json:"start_lsn"`
	EndLSN   string    `json:"end_lsn"`
	Segments uint64    `json:"segments"`
	Bytes    int64     `json:"bytes_stored"`
	Newest   time.Time `json:"newest"`
}

type walHoleJSON struct {
	First    string     `json:"first"`
	Last     string     `json:"last"`
	StartLSN string     `json:"start_lsn"`
	EndLSN   string     `json:"end_lsn"`
	Segments uint64     `json:"segments"`
	Since    time.Time  `json:"since"`  // when the archive first went past it
	Before   *time.Time `json:"before"` // when the segments beside it were stored
	After    *time.Time `json:"after"`
	Overdue  bool       `json:"overdue"`
}

// walIncompleteJSON is a segment of which only pieces are stored.
type walIncompleteJSON struct {
	Segment  string    `json:"segment"`
	StartLSN string    `json:"start_lsn"`
	EndLSN   string    `json:"end_lsn"`
	Pieces   int       `json:"pieces"`
	Bytes    int64     `json:"bytes_stored"`
	Newest   time.Time `json:"newest"`
}

type walTimelineJSON struct {
	Cluster        string              `json:"cluster"`
	SystemID       uint64              `json:"system_id,string"`
	Timeline       uint32              `json:"timeline"`
	Ranges         []walRangeJSON      `json:"ranges"`
	Holes          []walHoleJSON       `json:"holes"`
	Incomplete     []walIncompleteJSON `json:"incomplete"`
	SegmentsEndLSN *string             `json:"segments_end_lsn"` // null where there is neither a segment nor a piece
	EndLSN         *string             `json:"end_lsn"`
	Pieces         int                 `json:"pieces"`
	Forgotten      int                 `json:"forgotten_pieces"` // of segments that are stored in full
	NewestPiece    *time.Time          `json:"newest_piece"`
	LagSeconds     *float64            `json:"lag_seconds"` // the age of the newest piece
	Partials       int                 `json:"partials"`
	PartialFiles   []string            `json:"partial_files"`
	History        bool                `json:"history"`
	Objects        int                 `json:"objects"`
	Bytes          int64               `json:"bytes_stored"`
	Newest         *time.Time          `json:"newest"`
}

func timelineAsJSON(index *catalog.WALIndex, t catalog.TimelineWAL, now time.Time) walTimelineJSON {
	out := walTimelineJSON{
		Cluster: index.Ref.Name, SystemID: index.Ref.SystemID, Timeline: uint32(t.Timeline), Ranges: []walRangeJSON{}, Holes: []walHoleJSON{},
		Incomplete: []walIncompleteJSON{}, Forgotten: t.Forgotten, Partials: len(t.Partials), PartialFiles: []string{}, History: t.HasHistory,
		Objects: t.Objects, Bytes: t.Bytes, Newest: moment(t.Newest),
	}
	size := index.SegmentSize
	name := func(n wal.SegmentNumber) string { return wal.SegmentName(t.Timeline, n, size).String() }
	for _, r := range t.Ranges {
		out.Ranges = append(out.Ranges, walRangeJSON{
			First: name(r.First), Last: name(r.Last), StartLSN: size.Start(r.First).String(), EndLSN: size.End(r.Last).String(),
			Segments: r.Count(), Bytes: r.Bytes, Newest: r.Newest.UTC(),
		})
	}
	for _, h := range t.Holes() {
		out.Holes = append(out.Holes, walHoleJSON{
			First: name(h.First), Last: name(h.Last), StartLSN: size.Start(h.First).String(), EndLSN: size.End(h.Last).String(),
			Segments: h.Count(), Since: h.Since.UTC(), Before: moment(h.Before), After: moment(h.After), Overdue: h.Overdue(now),
		})
	}
	for _, p := range t.Pieces {
		out.Pieces += p.Count
		out.Incomplete = append(out.Incomplete, walIncompleteJSON{
			Segment: name(p.Segment), StartLSN: p.From.String(), EndLSN: p.To.String(), Pieces: p.Count, Bytes: p.Bytes, Newest: p.Newest.UTC(),
		})
	}
	for _, p := range t.Partials {
		out.PartialFiles = append(out.PartialFiles, p.Name.String())
	}
	if newest := t.NewestPiece(); !newest.IsZero() {
		lag := now.Sub(newest).Seconds()
		out.NewestPiece, out.LagSeconds = moment(newest), &lag
	}
	if len(t.Ranges)+len(t.Pieces) > 0 {
		segments, end := t.Head(size, now)
		out.SegmentsEndLSN, out.EndLSN = new(segments.String()), new(end.String())
	}
	return out
}

func walListCommand(e *environment) *cli.Command {
	return leaf(&cli.Command{
		Name:  "list",
		Usage: "list the ranges and holes of the archived WAL",
		Description: `A hole older than ten minutes ends the command with exit status 3: recovery cannot cross it. A younger one is in progress: parallel
pushes overtake each other.`,
		Flags: []cli.Flag{systemIDFlag(), jsonFlag()},
		Action: onRepository(e, nil, func(c *cli.Context, repo *catalog.Repository, conf *config.Config, _ []string) error {
			infos, err := clusters(c.Context, c, repo, conf)
			if err != nil {
				return err
			}
			out, overdue := []walTimelineJSON{}, uint64(0)
			for _, info := range infos {
				index, err := repo.ListWAL(c.Context, info.Ref(), info.SegmentSize)
				if err != nil {
					return err
				}
				for _, t := range index.Timelines {
					out = append(out, timelineAsJSON(index, t, time.Now()))
				}
			}
			for _, t := range out {
				for _, h := range t.Holes {
					if h.Overdue {
						overdue += h.Segments
					}
				}
			}
			if c.Bool("json") {
				if err := e.printJSON(out); err != nil {
					return err
				}
			} else {
				e.printWAL(out)
			}
			if overdue > 0 {
				return &partialError{fmt.Sprintf("the archive of cluster %s has holes: %d segments are missing between others", conf.Cluster, overdue)}
			}
			return nil
		}),
	}, `pgstow wal list
pgstow wal list --json | jq '.[].holes'
`)
}

func (e *environment) printWAL(timelines []walTimelineJSON) {
	if len(timelines) == 0 {
		e.printf("no WAL\n")
		return
	}
	t := e.newTable("system", "timeline", "first", "last", "from", "to", "segments", "stored", "newest")
	for _, tl := range timelines {
		for i, r := range tl.Ranges {
			t.AppendRow([]any{tl.SystemID, tl.Timeline, r.First, r.Last, r.StartLSN, r.EndLSN, r.Segments, bytesText(r.Bytes), timeText(r.Newest)})
			if i < len(tl.Holes) {
				h := tl.Holes[i]
				t.AppendRow([]any{tl.SystemID, tl.Timeline, h.First, h.Last, h.StartLSN, h.EndLSN, h.Segments, h.state(), "since " + timeText(h.Since)})
			}
		}
		for _, p := range tl.Incomplete {
			t.AppendRow([]any{tl.SystemID, tl.Timeline, p.Segment, p.Segment, p.StartLSN, p.EndLSN, "part of 1", bytesText(p.Bytes), timeText(p.Newest)})
		}
		if len(tl.Ranges)+len(tl.Incomplete) == 0 {
			t.AppendRow([]any{tl.SystemID, tl.Timeline, "-", "-", "-", "-", 0, bytesText(tl.Bytes), "-"})
		}
	}
	t.Render()
	for _, tl := range timelines {
		if text := tl.endText(); text != "" {
			e.printf("timeline %d of system %d %s\n", tl.Timeline, tl.SystemID, text)
		}
		for _, name := range tl.PartialFiles {
			e.printf("timeline %d of system %d has %s, which recovery does not read\n", tl.Timeline, tl.SystemID, name)
		}
	}
}

// state is what stands in the place of a hole's size.
func (h walHoleJSON) state() string {
	if h.Overdue {
		return "MISSING"
	}
	return "in progress"
}

// endText says where the archive ends, which no single line of the table does where pieces are involved.
func (t walTimelineJSON) endText() string {
	if t.EndLSN == nil {
		return ""
	}
	text := "ends at " + *t.EndLSN
	if *t.EndLSN != *t.SegmentsEndLSN {
		text += ", from " + *t.SegmentsEndLSN + " on in pieces"
	}
	if t.NewestPiece != nil {
		text += fmt.Sprintf("; the newest piece came %s ago", ageText(*t.LagSeconds))
	}
	return text
}

// ageText is for ages by another host's clock, which may be a little ahead.
func ageText(seconds float64) string {
	return time.Duration(max(seconds, 0) * float64(time.Second)).Round(time.Second).String()
}
