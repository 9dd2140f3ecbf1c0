package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"pgstow/backup"
	"pgstow/catalog"
	"pgstow/cmd/internal/config"
)

func backupCreateCommand(e *environment) *cli.Command {
	return leaf(&cli.Command{
		Name:  "create",
		Usage: "take a base backup",
		Description: `Reads the data directory of a running server in parallel, between pg_backup_start and pg_backup_stop, or, where that directory is not
here, takes what the server sends by the replication protocol (--source). It commits only when the backup's WAL is proven in the archive, or is part of the backup (--wal include). The first backup is full; each later one stores the pages that changed
since the newest backup of this server's past, and restores like a full one. What changed is told by WAL summaries (PostgreSQL 17 and newer, with
summarize_wal = on), else every page is read and compared. PostgreSQL is found as libpq finds it: PGHOST, PGPORT, PGUSER,
PGSERVICE, .pgpass. Pages that do not agree with their checksum are named, and end the command with exit status 3.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "wal", Value: "archive", Usage: "archive: wait until the archive holds its WAL; include: store the WAL in the backup (`MODE`)"},
			&cli.StringFlag{Name: "source", Value: "auto", Usage: "local: read the data directory; stream: by the replication protocol; auto: local where the directory is here (`SOURCE`)"},
			&cli.StringFlag{Name: "checkpoint", Value: "fast", Usage: "fast or spread (`MODE`)"},
			&cli.StringFlag{Name: "label", Usage: "a `TEXT` to know it by"},
			&cli.BoolFlag{Name: "full", Usage: "store everything, whatever earlier backups hold"},
			&cli.BoolFlag{Name: "scan", Usage: "read and compare every page, also where WAL summaries would tell which changed"},
			&cli.BoolFlag{Name: "offline", Usage: "a cold backup of a cleanly stopped server; needs --pgdata"},
			&cli.StringFlag{Name: "workers", Usage: "readers and compressors at work at once (`N`), default one per core"},
			&cli.StringFlag{Name: "rate-limit", Usage: "at most so many bytes per second to the store, and from a server that streams (`SIZE`, such as 50MiB)"},
			&cli.StringFlag{Name: "archive-timeout", Usage: "wait at most `DURATION` for the archive"},
			jsonFlag(),
		},
		Action: func(c *cli.Context) error {
			if _, err := operands(c); err != nil {
				return err
			}
			conf, err := settings(c, e, false)
			if err != nil {
				return err
			}
			options, err := createOptions(c, e, conf)
			if err != nil {
				return err
			}
			return createBackup(c.Context, e, conf, options, c.Bool("json"))
		},
	}, `pgstow backup create
PGHOST=/var/run/postgresql pgstow backup create --label 'before the upgrade'
pgstow backup create --wal include        # restorable with no archive at all
pgstow backup create --full
pgstow backup create --offline --pgdata /var/lib/postgresql/15/main
`)
}

func createOptions(c *cli.Context, e *environment, conf *config.Config) (backup.CreateOptions, error) {
	o := backup.CreateOptions{
		PGData: conf.PGData, Cluster: conf.Cluster, Label: c.String("label"), Offline: c.Bool("offline"), Workers: conf.Workers,
		Full: c.Bool("full"), Scan: c.Bool("scan"), RefreshAfter: conf.RefreshAfter, CacheDir: cacheDir(e, conf),
		StreamRate: conf.RateLimit, ArchiveTimeout: conf.ArchiveTimeout, Level: level(conf), Host: hostname(), Program: program(), PID: os.Getpid(),
	}
	var err error
	if o.Source, err = backup.ParseSource(c.String("source")); err != nil {
		return o, usage("--source is auto, local or stream, not %q", c.String("source"))
	}
	if o.Offline && o.Source == backup.SourceStream {
		return o, usage("--offline reads the directory of a stopped server: it does not go with --source stream")
	}
	switch c.String("wal") {
	case "archive":
		o.WAL = backup.WALArchive
	case "include":
		o.WAL = backup.WALInclude
	default:
		return o, usage("--wal is archive or include, not %q", c.String("wal"))
	}
	switch c.String("checkpoint") {
	case "fast":
	case "spread":
		o.SpreadCheckpoint = true
	default:
		return o, usage("--checkpoint is fast or spread, not %q", c.String("checkpoint"))
	}
	if o.Offline && o.PGData == "" {
		return o, usage("--offline needs --pgdata: a stopped server cannot be asked for its directory")
	}
	if strings.ContainsAny(o.Label, "\n\r") {
		return o, usage("--label must be one line")
	}
	return o, nil
}

// cacheDir is where a host without identities remembers its last backup: beside the spools of WAL. "" if there is no place.
func cacheDir(e *environment, conf *config.Config) string {
	roots, err := spoolRoots(e, conf)
	if err != nil || len(roots) == 0 { // as for a spool, everything works without it
		return ""
	}
	return filepath.Join(roots[0], "backups")
}

func createBackup(ctx context.Context, e *environment, conf *config.Config, o backup.CreateOptions, asJSON bool) error {
	repo, err := openRepository(ctx, e, conf)
	if err != nil {
		return err
	}
	if err := provenStore(ctx, repo); err != nil {
		return err
	}
	bar := e.newProgress("backup")
	o.Events = func(event backup.Event) { showBackupEvent(bar, event) }
	start := time.Now()
	header, err := backup.Create(ctx, repo, o)
	bar.finish()
	var partial *backup.PartialError
	if err != nil && !errors.As(err, &partial) {
		return withState(ctx, "backup create", err, "no backup was made of this; what the repository had before is untouched, and running it again is safe")
	}
	if asJSON {
		if jsonErr := e.printJSON(backupAsJSON(catalog.BackupSummary{BackupHeader: header})); jsonErr != nil {
			return jsonErr
		}
		return err
	}
	e.printf("backup %s of cluster %s: %s in %d files, %s stored, in %s\n", header.ID, header.Cluster, bytesText(header.Bytes), header.Files,
		bytesText(header.BytesStored), time.Since(start).Round(100*time.Millisecond))
	e.printf("%s\n", methodText(header))
	e.printf("consistent from %s on timeline %d (%s)\n", header.Stop, header.StopTimeline, timeText(header.StoppedAt))
	return err
}

func showBackupEvent(bar *progress, event backup.Event) {
	switch v := event.(type) {
	case backup.ProgressEvent:
		bar.update(v.BytesDone, v.BytesTotal)
	case backup.SourceEvent:
		bar.note("by the replication protocol: %s", v.Why)
	case backup.MethodEvent:
		bar.note("%s", beginText(v))
	case backup.DamageEvent:
		bar.note("damaged page: %s block %d: %s", v.Path, v.Block, v.What)
	case backup.NoteEvent:
		bar.note("%s", v.Text)
	case backup.SkippedEvent:
		bar.note("left out: %s: %s", v.Path, v.Reason)
	case backup.WaitingEvent:
		if v.Left > 0 && v.Waited >= 5*time.Second {
			bar.note("waiting for the archive since %s: %d WAL files missing, first %s%s", v.Waited.Round(time.Second), v.Left,
				strings.Join(v.Missing[:min(1, len(v.Missing))], ""), archiverFailure(v))
		}
	case backup.PhaseEvent:
		if v.Phase == backup.PhaseCheckpoint || v.Phase == backup.PhaseWAL {
			bar.note("%s", phaseText(v.Phase))
		}
	}
}

// beginText says what a backup begins with and why it is not done in a cheaper way.
func beginText(v backup.MethodEvent) string {
	text := "a full backup"
	switch v.Method {
	case catalog.MethodScan:
		text = "changes since " + v.Reference + " by reading and comparing every page"
	case catalog.MethodSummaries:
		text = "changes since " + v.Reference + " by WAL summaries"
	case catalog.MethodStream:
		text = "changes since " + v.Reference + " as the server sends them"
	}
	if v.Why != "" {
		text += ": " + v.Why
	}
	return text
}

// methodText says how a backup was made and what of it lies in packs of earlier ones.
func methodText(h catalog.BackupHeader) string {
	if h.Reference == "" {
		return fmt.Sprintf("%s, %d pages", h.Method, h.PagesChanged)
	}
	text := fmt.Sprintf("%s since %s, %d pages changed", h.Method, h.Reference, h.PagesChanged)
	if h.PagesRefreshed > 0 {
		text += fmt.Sprintf(", %d stored again", h.PagesRefreshed)
	}
	return text + fmt.Sprintf(", %s read; %d of %d packs are those of earlier backups (%s)", bytesText(h.BytesRead), h.PacksLent, h.Packs, bytesText(h.BytesLent))
}

func archiverFailure(v backup.WaitingEvent) string {
	if v.Standby {
		return "; if the primary is idle, run SELECT pg_switch_wal() there"
	}
	if v.ReceiverGone {
		return "; no pgstow wal receive is connected to the server"
	}
	if v.LastFailed == "" {
		return ""
	}
	return "; the server's archiver last failed on " + v.LastFailed + " at " + timeText(v.LastFailedAt)
}

func phaseText(p backup.Phase) string {
	if p == backup.PhaseCheckpoint {
		return "waiting for the server's checkpoint"
	}
	return "securing the backup's WAL"
}
