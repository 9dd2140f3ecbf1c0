package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"pgstow/catalog"
	"pgstow/cmd/internal/config"
	"pgstow/wal"
	"pgstow/wal/archive"
)

func walRepairCommand(e *environment) *cli.Command {
	return leaf(&cli.Command{
		Name:  "repair",
		Usage: "store what the archive lacks of the WAL in pg_wal, or in another folder",
		Description: `Fills holes and saves what was never archived: before pg_rewind, before a failover, after an object was lost. Works on a running server, on
one that is dead, and on a standby's pg_wal or a copy of one (--from). The folder is never changed. A dead server's last segment, which is not
full, is stored up to its last whole record. Exit status: 0 nothing is missing any more, 3 holes remain, 12 some files are another server's or
differ from the archive's: those are named, all others are stored.`,
		Flags: []cli.Flag{
			systemIDFlag(), jsonFlag(),
			&cli.StringFlag{Name: "from", Usage: "`DIR` with the WAL files, default pg_wal of the data directory"},
			&cli.BoolFlag{Name: "dry-run", Usage: "look and compare, and store nothing"},
			&cli.BoolFlag{Name: "all", Usage: "store also what is older than all that the archive has"},
		},
		Action: onRepository(e, nil, func(c *cli.Context, repo *catalog.Repository, conf *config.Config, _ []string) error {
			o, err := repairOptions(c, e, repo, conf)
			if err != nil {
				return err
			}
			if !o.DryRun {
				if err := provenStore(c.Context, repo); err != nil {
					return err
				}
			}
			result, err := archive.Repair(c.Context, o)
			var refused *archive.RefusedError
			if err != nil && !errors.As(err, &refused) {
				state := ""
				if n := result.Count(archive.RepairStored); n > 0 {
					state = fmt.Sprintf("%d files were stored; run it again to go on", n)
				}
				return withState(c.Context, "wal repair", err, state)
			}
			if c.Bool("json") {
				if err := e.printJSON(repairAsJSON(&result, o.DryRun)); err != nil {
					return err
				}
			} else {
				e.printRepair(&result, o.DryRun)
			}
			if err == nil && len(result.Holes) > 0 {
				return &partialError{fmt.Sprintf("the archive of cluster %s still lacks %s", conf.Cluster, holesText(&result))}
			}
			return err
		}),
	}, `pgstow wal repair --pgdata /var/lib/postgresql/15/main
pgstow wal repair --pgdata /var/lib/postgresql/15/main --dry-run
pgstow wal repair --from /mnt/standby/pg_wal
`)
}

func repairOptions(c *cli.Context, e *environment, repo *catalog.Repository, conf *config.Config) (archive.RepairOptions, error) {
	pins, err := pinsOf(conf)
	if err != nil {
		return archive.RepairOptions{}, err
	}
	o := archive.RepairOptions{
		PushOptions: pushOptions(archive.Options{
			Store: repo.Store, Pins: pins, Cluster: conf.Cluster, PGData: conf.PGData, Warn: func(text string) { e.message("%s", text) },
		}, conf),
		From: c.String("from"), All: c.Bool("all"), DryRun: c.Bool("dry-run"),
	}
	if !c.Bool("json") {
		o.Report = e.reportRepaired
	}
	if id := c.String("system-id"); id != "" {
		if o.SystemID, err = parseSystemID(id); err != nil {
			return o, err
		}
	}
	switch {
	case o.PGData != "" || o.SystemID != 0 && o.From != "":
	case o.From == "":
		return o, usage("say where the WAL is: the data directory by --pgdata, or a folder of WAL files by --from")
	default:
		o.SystemID, err = onlySystemID(c.Context, repo, conf)
	}
	return o, err
}

// reportRepaired prints what is worth a line: not what the archive had already.
func (e *environment) reportRepaired(f archive.RepairedFile) {
	switch f.Action {
	case archive.RepairStored, archive.RepairMissing:
		what := string(f.Action)
		if f.Piece {
			what += " its beginning, up to " + f.To.String()
		}
		if f.StoredSize > 0 {
			what += fmt.Sprintf(" (%s, %s stored)", bytesText(f.PlainSize), bytesText(f.StoredSize))
		}
		e.printf("%s: %s\n", f.Name, what)
	case archive.RepairSkipped, archive.RepairRefused:
		e.printf("%s: %s: %s\n", f.Name, f.Action, strings.TrimPrefix(f.Reason, string(f.Action)+": "))
	case archive.RepairExisted:
	}
}

func (e *environment) printRepair(r *archive.RepairResult, dry bool) {
	done := fmt.Sprintf("%d stored", r.Count(archive.RepairStored))
	if dry {
		done = fmt.Sprintf("%d would be stored", r.Count(archive.RepairMissing))
	}
	e.printf("%s: %s, %d are in the archive already, %d skipped, %d refused\n", r.From, done,
		r.Count(archive.RepairExisted), r.Count(archive.RepairSkipped), r.Count(archive.RepairRefused))
	if len(r.Holes) > 0 {
		e.printf("still missing: %s\n", holesText(r))
	}
}

// holesShown is how many holes a message names.
const holesShown = 8

func holesText(r *archive.RepairResult) string {
	var names []string
	for i, h := range r.Holes {
		if i == holesShown {
			names = append(names, fmt.Sprintf("and %d holes more", len(r.Holes)-i))
			break
		}
		first, last := holeNames(r, h)
		if first != last {
			first += " to " + last
		}
		names = append(names, first)
	}
	return strings.Join(names, ", ")
}

func holeNames(r *archive.RepairResult, h catalog.Hole) (first, last string) {
	return wal.SegmentName(h.Timeline, h.First, r.SegmentSize).String(), wal.SegmentName(h.Timeline, h.Last, r.SegmentSize).String()
}

type repairedFileJSON struct {
	Name    string `json:"name"`
	Action  string `json:"action"`
	Key     string `json:"key,omitempty"`
	FromLSN string `json:"from_lsn,omitempty"`
	ToLSN   string `json:"to_lsn,omitempty"`
	Piece   bool   `json:"piece"`
	Bytes   int64  `json:"bytes"`
	Stored  int64  `json:"bytes_stored"`
	Reason  string `json:"reason,omitempty"`
}

type repairHoleJSON struct {
	Timeline uint32 `json:"timeline"`
	First    string `json:"first"`
	Last     string `json:"last"`
	StartLSN string `json:"start_lsn"`
	EndLSN   string `json:"end_lsn"`
	Segments uint64 `json:"segments"`
}

type repairJSON struct {
	Cluster  string             `json:"cluster"`
	SystemID uint64             `json:"system_id,string"`
	From     string             `json:"from"`
	DryRun   bool               `json:"dry_run"`
	Running  bool               `json:"running"`
	Files    []repairedFileJSON `json:"files"`
	Recycled int                `json:"recycled"`
	Holes    []repairHoleJSON   `json:"holes"`
}

func repairAsJSON(r *archive.RepairResult, dry bool) repairJSON {
	out := repairJSON{
		Cluster: r.Ref.Name, SystemID: r.Ref.SystemID, From: r.From, DryRun: dry, Running: r.Running, Recycled: r.Recycled,
		Files: []repairedFileJSON{}, Holes: []repairHoleJSON{},
	}
	for _, f := range r.Files {
		file := repairedFileJSON{
			Name: f.Name, Action: string(f.Action), Key: f.Key, Piece: f.Piece, Bytes: f.PlainSize, Stored: f.StoredSize, Reason: f.Reason,
		}
		if f.To != 0 {
			file.FromLSN, file.ToLSN = f.From.String(), f.To.String()
		}
		out.Files = append(out.Files, file)
	}
	for _, h := range r.Holes {
		first, last := holeNames(r, h)
		out.Holes = append(out.Holes, repairHoleJSON{
			Timeline: uint32(h.Timeline), First: first, Last: last, StartLSN: r.SegmentSize.Start(h.First).String(),
			EndLSN: r.SegmentSize.End(h.Last).String(), Segments: uint64(h.Last-h.First) + 1,
		})
	}
	return out
}
