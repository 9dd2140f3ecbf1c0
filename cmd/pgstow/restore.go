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

	"pgstow/backup/pgconf"
	"pgstow/backup/restore"
	"pgstow/cmd/internal/config"
)

func restoreCommand(e *environment) *cli.Command {
	return leaf(&cli.Command{
		Name:  "restore",
		Usage: "bring a cluster back, to now or to a point in time",
		Description: `Picks the newest backup that reaches the target, proves before any download that the archive leads there without a hole, prints the plan
and writes the data directory, global/pg_control last of all. Start the server afterwards: it fetches its WAL by restore_command and
recovers to the target. The directory must be empty or absent, or with --delta hold an older or damaged copy of the cluster, of which
what is right stays; an interrupted restore is run again by the same command. Archiving is switched off in the restored cluster, so that
a drill cannot write into production's archive, unless --take-over or --standby is given.`,
		ArgsUsage: "DIR",
		Flags: append(targetFlags(),
			&cli.StringFlag{Name: "backup", Usage: "begin with this backup (`ID` or latest), instead of the newest that reaches the target"},
			&cli.StringFlag{Name: "action", Usage: "at the target: pause, promote or shutdown (`WHAT`)", Value: "pause"},
			&cli.StringSliceFlag{Name: "tablespace", Usage: "restore the tablespace at OLD, or with that OID, to NEW (`OLD=NEW`); may be repeated"},
			&cli.BoolFlag{Name: "delta", Usage: "DIR holds an older or damaged copy of this cluster: fetch what differs, remove what does not belong"},
			&cli.BoolFlag{Name: "discard-wal", Usage: "with --delta: give up WAL in DIR that the archive lacks"},
			&cli.StringSliceFlag{Name: "only-databases", Usage: "restore these databases only (`NAMES` or OIDs, with commas in between; a name with a comma goes by its OID), beside postgres and the templates"},
			&cli.BoolFlag{Name: "standby", Usage: "make a standby: it follows its primary and the archive"},
			&cli.StringFlag{Name: "primary-conninfo", Usage: "with --standby: how it connects to the primary (`STRING`)"},
			&cli.StringFlag{Name: "primary-slot-name", Usage: "with --standby: the replication slot it uses on the primary (`NAME`)"},
			&cli.BoolFlag{Name: "take-over", Usage: "replace the original: go on archiving in its place"},
			&cli.BoolFlag{Name: "with-config", Usage: "bring configuration files that lay outside of the data directory into it"},
			&cli.StringFlag{Name: "owner", Usage: "the files belong to `USER[:GROUP]`, default the owner of the folder above DIR; as root only"},
			&cli.BoolFlag{Name: "force", Usage: "go on in spite of a postmaster.pid or too little free space"},
			&cli.BoolFlag{Name: "dry-run", Usage: "print the plan and do nothing"},
			&cli.StringFlag{Name: "workers", Usage: "packs read at once (`N`)"},
			&cli.StringFlag{Name: "rate-limit", Usage: "at most so many bytes per second from the store (`SIZE`, such as 50MiB)"},
			systemIDFlag(), jsonFlag(),
		),
		Action: func(c *cli.Context) error {
			args, err := operands(c, "DIR")
			if err != nil {
				return err
			}
			conf, err := settings(c, e, false)
			if err != nil {
				return err
			}
			options, err := restoreOptions(c, conf, args[0])
			if err != nil {
				return err
			}
			return runRestore(c.Context, e, conf, options, c.Bool("dry-run"), c.Bool("json"))
		},
	}, `pgstow restore /var/lib/postgresql/15/main --take-over                   # after a disaster: everything the archive has
pgstow restore /tmp/yesterday --to-time '2026-11-23 18:00:00+01' --action promote
pgstow restore /srv/copy --tablespace /mnt/fast=/srv/copy-fast --dry-run
pgstow restore /var/lib/postgresql/15/main --delta --standby --primary-conninfo 'host=db1 user=replicator'
pgstow restore /srv/part --only-databases shop,billing --action promote
`)
}

func restoreOptions(c *cli.Context, conf *config.Config, dir string) (o restore.Options, err error) {
	o = restore.Options{
		Cluster: conf.Cluster, Backup: c.String("backup"), Directory: dir, Owner: c.String("owner"), WithConfig: c.Bool("with-config"),
		Delta: c.Bool("delta"), DiscardWAL: c.Bool("discard-wal"),
		Standby: c.Bool("standby"), PrimaryConnInfo: c.String("primary-conninfo"), PrimarySlotName: c.String("primary-slot-name"),
		Force: c.Bool("force"), TakeOver: c.Bool("take-over"), Action: restore.Action(c.String("action")), Tablespaces: map[string]string{},
	}
	if text := c.String("system-id"); text != "" {
		if o.SystemID, err = parseSystemID(text); err != nil {
			return o, err
		}
	}
	if o.Target, err = targetOf(c); err != nil {
		return o, err
	}
	for _, list := range c.StringSlice("only-databases") {
		o.OnlyDatabases = append(o.OnlyDatabases, strings.Split(list, ",")...)
	}
	if o.Standby && c.IsSet("action") {
		return o, usage("--action says what happens at a target, and a standby has none")
	}
	for _, mapping := range c.StringSlice("tablespace") {
		from, to, ok := strings.Cut(mapping, "=")
		if !ok || from == "" || !strings.HasPrefix(to, "/") {
			return o, usage("--tablespace wants OLD=NEW with an absolute NEW, not %q", mapping)
		}
		if _, twice := o.Tablespaces[from]; twice {
			return o, usage("--tablespace names %s twice", from)
		}
		o.Tablespaces[from] = to
	}
	// What the server runs must know which timeline the operator chose: it decides how far the WAL of an ancestor counts.
	command := []string{"%f", "%p"}
	if o.Target.Timeline.ID != 0 {
		command = append([]string{"--timeline", o.Target.Timeline.ID.String()}, command...)
	}
	if o.Target.StopAtHole {
		command = append([]string{"--stop-at-hole"}, command...)
	}
	o.RestoreCommand, err = walCommandLine(conf, "fetch", command...)
	return o, err
}

func runRestore(ctx context.Context, e *environment, conf *config.Config, o restore.Options, dryRun, asJSON bool) error {
	repo, err := openRepository(ctx, e, conf)
	if err != nil {
		return err
	}
	plan, err := restore.Plan(ctx, repo, o)
	if errors.Is(err, restore.ErrOptions) {
		return usage("%s", err)
	}
	if err != nil {
		return err
	}
	if dryRun {
		if err := restore.Compare(ctx, repo, &plan, restore.RunOptions{Workers: conf.Workers}); err != nil {
			return err
		}
	}
	if dryRun && asJSON {
		return e.printJSON(plan)
	}
	if !asJSON {
		printPlan(e, plan)
	}
	for _, warning := range plan.Warnings {
		e.message("warning: %s", warning)
	}
	if dryRun {
		return nil
	}
	bar := e.newProgress("restore")
	var total int64
	result, err := restore.Run(ctx, repo, plan, restore.RunOptions{Workers: conf.Workers, Events: func(event restore.Event) {
		switch v := event.(type) {
		case restore.TotalsEvent:
			total = v.BytesWrite
		case restore.ProgressEvent:
			bar.update(v.BytesWritten, total)
		case restore.ResumeEvent:
			if plan.Resume {
				bar.note("an interrupted restore goes on: %s are already right", bytesText(v.KeptBytes))
			} else {
				bar.note("%s are already right, %s are to be fetched", bytesText(v.KeptBytes), bytesText(v.FetchBytes))
			}
		case restore.RemoveEvent:
			bar.note("%d files that do not belong, %s, are removed", v.Files, bytesText(v.Bytes))
		case restore.WarningEvent:
			bar.note("warning: %s", v.Text)
		case restore.PhaseEvent:
			if v.Name == restore.PhaseSync {
				bar.note("waiting for stable storage")
			}
		}
	}})
	bar.finish()
	if err != nil {
		return withState(ctx, "restore", err, unfinished(plan.Directory))
	}
	if asJSON {
		return e.printJSON(restoreJSON{plan, result})
	}
	e.printf("restored %s in %d files in %s, %s read from the repository\n", bytesText(result.Bytes), result.Files,
		result.Duration.Round(100*time.Millisecond), bytesText(result.BytesRead))
	if result.BytesKept > 0 || result.FilesRemoved > 0 {
		e.printf("kept %s that were there, wrote %s, removed %d files\n", bytesText(result.BytesKept), bytesText(result.BytesWritten), result.FilesRemoved)
	}
	e.printf("start the server to recover: pg_ctl -D %s start\n", pgconf.ShellQuote(plan.Directory))
	if len(plan.LeftOut) > 0 {
		e.printf("when recovery is over drop the databases that were left out, and restart the server:\n")
		for _, d := range plan.LeftOut {
			e.printf("  %s\n", dropText(d))
		}
	}
	return nil
}

// dropText is the SQL that removes a database that was left out, or how to find its name.
func dropText(d restore.PlannedDatabase) string {
	if d.Drop != "" {
		return d.Drop
	}
	return fmt.Sprintf("-- %d: its name is SELECT datname FROM pg_database WHERE oid = %d, if it is there at all", d.OID, d.OID)
}

// unfinished says what may be done with a directory that a restore has left before its end; "" if it cannot be told.
func unfinished(dir string) string {
	if _, err := os.Stat(filepath.Join(dir, "global", "pg_control")); !errors.Is(err, os.ErrNotExist) {
		return ""
	}
	return dir + " is not complete and cannot be started: it has no global/pg_control; the same command again goes on where this one stopped"
}

type restoreJSON struct {
	Plan   restore.Planned `json:"plan"`
	Result restore.Result  `json:"result"`
}

func printPlan(e *environment, p restore.Planned) {
	line := func(name, format string, args ...any) { e.printf("%-16s%s\n", name, fmt.Sprintf(format, args...)) }
	line("backup", "%s of cluster %s (system identifier %d), PostgreSQL %d, finished %s", p.Backup, p.Cluster, p.SystemID, p.Major, timeText(p.StoppedAt))
	target := strings.TrimSpace(p.Target.Kind + " " + p.Target.Value)
	if p.Target.Exclusive {
		target += ", exclusive"
	}
	action := p.Action
	if action == "" && !p.Standby { // the end of the archive: PostgreSQL promotes there
		action = restore.ActionPromote
	}
	line("target", "%s", strings.TrimSuffix(fmt.Sprintf("%s on timeline %d, then %s", target, p.Timeline, action), ", then "))
	if p.EndLSN != 0 {
		line("", "recovery ends at %s %s", p.EndLSN, strings.TrimPrefix(timeText(p.EndTime), "-"))
	}
	line("directory", "%s", p.Directory)
	for _, t := range p.Tablespaces {
		if !t.InPlace {
			line("tablespace", "%d: %s -> %s, %s", t.OID, t.Original, t.Location, bytesText(t.Bytes))
		}
	}
	for _, d := range p.LeftOut {
		line("left out", "database %s (%d), %s", d.Name, d.OID, bytesText(d.Bytes))
	}
	printDelta(line, p.Delta)
	line("writes", "%s in %d files", bytesText(p.Bytes), p.Files)
	line("reads", "%s in %d objects", bytesText(p.BytesRead), p.Objects)
	for _, w := range p.WAL {
		name := w.FirstName
		if w.LastName != w.FirstName {
			name += " to " + w.LastName
		}
		line("wal", "%s", name)
	}
	switch {
	case p.Standby:
		from := "the archive alone"
		if p.PrimaryConnInfo != "" {
			from = "its primary and the archive"
		}
		line("standby", "of %s", from)
		line("archiving", "as the original's settings say")
	case p.TakeOver:
		line("archiving", "goes on in the original's place")
	default:
		line("archiving", "off in the restored cluster (--take-over leaves it on)")
	}
}

// printDelta says what a delta restore finds in its directory and what becomes of it.
func printDelta(line func(name, format string, args ...any), d *restore.PlannedDelta) {
	if d == nil {
		return
	}
	line("delta", "%s in %d files are there and compared", bytesText(d.Bytes), d.Files)
	if d.Compared {
		line("", "%s are right and stay, %s are fetched, from %d objects", bytesText(d.BytesKept), bytesText(d.BytesFetch), d.Packs)
	}
	line("removes", "%d files, %s", d.RemoveFiles, bytesText(d.RemoveBytes))
	for _, name := range d.Removes {
		line("", "%s", name)
	}
	if n := len(d.Removes); n > 0 && int64(n) < d.RemoveFiles {
		line("", "…")
	}
}
