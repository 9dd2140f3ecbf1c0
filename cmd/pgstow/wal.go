package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"pgstow/catalog"
	"pgstow/cmd/internal/config"
	"pgstow/wal"
)

func walCommand(e *environment) *cli.Command {
	return group("wal", "push, fetch and list WAL, and settle conflicts", walPushCommand(e), walFetchCommand(e), walListCommand(e), walResolveCommand(e))
}

// holeGrace is how long a hole at the head of the archive is normal: parallel pushes finish out of order.
const holeGrace = 10 * time.Minute

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
	First    string    `json:"first"`
	Last     string    `json:"last"`
	StartLSN string    `json:"start_lsn"`
	EndLSN   string    `json:"end_lsn"`
	Segments uint64    `json:"segments"`
	Since    time.Time `json:"since"` // when the segment behind it was stored
	Overdue  bool      `json:"overdue"`
}

type walTimelineJSON struct {
	Cluster  string         `json:"cluster"`
	SystemID uint64         `json:"system_id,string"`
	Timeline uint32         `json:"timeline"`
	Ranges   []walRangeJSON `json:"ranges"`
	Holes    []walHoleJSON  `json:"holes"`
	Pieces   int            `json:"pieces"`
	Partials int            `json:"partials"`
	History  bool           `json:"history"`
	Objects  int            `json:"objects"`
	Bytes    int64          `json:"bytes_stored"`
}

func timelineAsJSON(index *catalog.WALIndex, t catalog.TimelineWAL, now time.Time) walTimelineJSON {
	out := walTimelineJSON{
		Cluster: index.Ref.Name, SystemID: index.Ref.SystemID, Timeline: uint32(t.Timeline), Ranges: []walRangeJSON{}, Holes: []walHoleJSON{},
		Pieces: len(t.Pieces), Partials: len(t.Partials), History: t.HasHistory, Objects: t.Objects, Bytes: t.Bytes,
	}
	size := index.SegmentSize
	name := func(n wal.SegmentNumber) string { return wal.SegmentName(t.Timeline, n, size).String() }
	for _, r := range t.Ranges {
		out.Ranges = append(out.Ranges, walRangeJSON{
			First: name(r.First), Last: name(r.Last), StartLSN: size.Start(r.First).String(), EndLSN: size.Start(r.Last + 1).String(),
			Segments: r.Count(), Bytes: r.Bytes, Newest: r.Newest.UTC(),
		})
	}
	for _, h := range t.Holes() {
		out.Holes = append(out.Holes, walHoleJSON{
			First: name(h.First), Last: name(h.Last), StartLSN: size.Start(h.First).String(), EndLSN: size.Start(h.Last + 1).String(),
			Segments: uint64(h.Last-h.First) + 1, Since: h.Since.UTC(), Overdue: now.Sub(h.Since) > holeGrace,
		})
	}
	return out
}

func walListCommand(e *environment) *cli.Command {
	return leaf(&cli.Command{
		Name:        "list",
		Usage:       "list the ranges and holes of the archived WAL",
		Description: `A hole older than ten minutes ends the command with exit status 3: recovery cannot cross it.`,
		Flags:       []cli.Flag{systemIDFlag(), jsonFlag()},
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
				t.AppendRow([]any{tl.SystemID, tl.Timeline, h.First, h.Last, h.StartLSN, h.EndLSN, h.Segments, "MISSING", timeText(h.Since)})
			}
		}
		if len(tl.Ranges) == 0 {
			t.AppendRow([]any{tl.SystemID, tl.Timeline, "-", "-", "-", "-", 0, bytesText(tl.Bytes), "-"})
		}
	}
	t.Render()
}

// partialError is a command that finished with something to complain about: exit 3.
type partialError struct{ text string }

func (p *partialError) Error() string { return p.text }

func isPartial(err error) bool {
	var p *partialError
	return errors.As(err, &p)
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return name
}
