package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"pgstow/catalog"
	"pgstow/cmd/internal/config"
	"pgstow/wal"
)

type infoJSON struct {
	Repository string        `json:"repository"`
	ID         string        `json:"id"`
	Encrypted  bool          `json:"encrypted"`
	Clusters   []clusterJSON `json:"clusters"`
}

type clusterJSON struct {
	Name      string            `json:"name"`
	SystemID  uint64            `json:"system_id,string"`
	Postgres  int               `json:"postgres_major"`
	Windows   []windowJSON      `json:"windows"`
	Timelines []walTimelineJSON `json:"timelines"`
	Backups   []backupJSON      `json:"backups"`
	WALBytes  int64             `json:"wal_bytes_stored"`
	backups   []catalog.BackupSummary
}

type windowJSON struct {
	Timeline       uint32     `json:"timeline"`
	FromLSN        string     `json:"from_lsn"`
	FromTime       *time.Time `json:"from_time"`
	ToLSN          string     `json:"to_lsn"`
	SegmentsEndLSN string     `json:"segments_end_lsn"` // less than to_lsn: behind it are pieces of a segment
	ToTime         *time.Time `json:"to_time"`
	Backups        []string   `json:"backups"`

	Hole        string     `json:"hole,omitempty"` // the first missing segment, if one ends the window
	HoleLast    string     `json:"hole_last,omitempty"`
	HoleSince   *time.Time `json:"hole_since,omitempty"`
	HoleOverdue bool       `json:"hole_overdue,omitempty"`
}

func windowAsJSON(w catalog.Window, size wal.SegmentSize, now time.Time) windowJSON {
	out := windowJSON{
		Timeline: uint32(w.Timeline), FromLSN: w.FromLSN.String(), FromTime: moment(w.FromTime), ToLSN: w.ToLSN.String(),
		SegmentsEndLSN: w.SegmentsEnd.String(), ToTime: moment(w.ToTime), Backups: w.Backups, Hole: w.HoleName,
	}
	if h := w.Hole; h != nil {
		out.HoleLast, out.HoleSince, out.HoleOverdue = wal.SegmentName(h.Timeline, h.Last, size).String(), moment(h.Since), h.Overdue(now)
	}
	return out
}

// remark is what ends the window, where that is not simply the last segment.
func (w windowJSON) remark() string {
	switch {
	case w.Hole != "" && w.HoleOverdue:
		return fmt.Sprintf("HOLE at %s since %s", w.Hole, timeOrDash(w.HoleSince))
	case w.Hole != "":
		return w.Hole + " in progress"
	case w.SegmentsEndLSN != w.ToLSN:
		return "from " + w.SegmentsEndLSN + " on in pieces"
	default:
		return ""
	}
}

func infoCommand(e *environment) *cli.Command {
	return leaf(&cli.Command{
		Name:        "info",
		Usage:       "show what can be restored: clusters, recovery windows, backups",
		Description: `Without --cluster every cluster of the repository is shown.`,
		Flags:       []cli.Flag{systemIDFlag(), jsonFlag()},
		Action: onRepository(e, nil, func(c *cli.Context, repo *catalog.Repository, conf *config.Config, _ []string) error {
			var infos []catalog.ClusterInfo
			var err error
			if conf.Source("cluster") == "default" && c.String("system-id") == "" {
				infos, err = repo.Clusters(c.Context)
			} else {
				infos, err = clusters(c.Context, c, repo, conf)
			}
			if errors.Is(err, catalog.ErrNoCluster) && conf.Source("cluster") != "flag" {
				// A new repository, whose configuration names the cluster to come, is no mistake.
				if all, listErr := repo.Clusters(c.Context); listErr == nil && len(all) == 0 {
					err = nil
				}
			}
			if err != nil {
				return err
			}
			out := infoJSON{Repository: conf.Repo, ID: repo.ID, Encrypted: repo.Encrypted, Clusters: []clusterJSON{}}
			for _, info := range infos {
				one, err := gatherCluster(c, repo, info)
				if err != nil {
					return err
				}
				out.Clusters = append(out.Clusters, one)
			}
			if c.Bool("json") {
				return e.printJSON(out)
			}
			out.print(e, repo)
			return nil
		}),
	}, `pgstow info
pgstow info --cluster main --json | jq '.clusters[].windows'
`)
}

func gatherCluster(c *cli.Context, repo *catalog.Repository, info catalog.ClusterInfo) (clusterJSON, error) {
	out := clusterJSON{
		Name: info.Name, SystemID: info.SystemID, Postgres: info.PostgresMajor, Windows: []windowJSON{}, Timelines: []walTimelineJSON{},
		Backups: []backupJSON{},
	}
	facts, err := repo.Facts(c.Context, info.Ref())
	if err != nil {
		return out, err
	}
	windows, err := catalog.Windows(c.Context, facts)
	if err != nil {
		return out, err
	}
	now := time.Now()
	for _, w := range windows {
		out.Windows = append(out.Windows, windowAsJSON(w, facts.WAL.SegmentSize, now))
	}
	for _, t := range facts.WAL.Timelines {
		out.Timelines = append(out.Timelines, timelineAsJSON(facts.WAL, t, now))
	}
	out.backups, out.WALBytes = facts.Backups, facts.WAL.Bytes()
	catalog.SortBackups(out.backups)
	for _, b := range out.backups {
		out.Backups = append(out.Backups, backupAsJSON(b))
	}
	return out, nil
}

func (i infoJSON) print(e *environment, repo *catalog.Repository) {
	e.printf("repository %s at %s, %s\n", i.ID, i.Repository, encryptionText(repo))
	if len(i.Clusters) == 0 {
		e.printf("no cluster yet: the first push or backup makes one\n")
	}
	seen := map[string]int{}
	for _, c := range i.Clusters {
		seen[c.Name]++
	}
	for _, c := range i.Clusters {
		e.printf("\ncluster %s, system identifier %d, PostgreSQL %d\n", c.Name, c.SystemID, c.Postgres)
		if seen[c.Name] > 1 {
			e.printf("WARNING: %d servers bear the name %s; restore asks which is meant by --system-id\n", seen[c.Name], c.Name)
		}
		c.print(e)
	}
}

func (c clusterJSON) print(e *environment) {
	if len(c.Windows) == 0 {
		e.printf("nothing can be restored: there is no backup\n")
	} else {
		t := e.newTable("timeline", "from", "to", "from LSN", "to LSN", "backups", "")
		for _, w := range c.Windows {
			t.AppendRow([]any{w.Timeline, timeOrDash(w.FromTime), timeOrDash(w.ToTime), w.FromLSN, w.ToLSN, len(w.Backups), w.remark()})
		}
		t.SetTitle("recovery windows")
		t.Render()
	}
	e.printf("\n")
	e.printBackups(c.backups)
	e.printf("\n")
	e.printWAL(c.Timelines)
}

func timeOrDash(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return timeText(*t)
}
