package main

import (
	"context"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"pgstow/cmd/internal/config"
	"pgstow/cmd/internal/hotpath"
	"pgstow/wal/archive"
	"pgstow/wal/spool"
)

// storeTotal is how long one request of push and fetch may be tried again by the store's wrapper: longer than any deadline of theirs, so
// that theirs decide.
const storeTotal = time.Hour

func walPushCommand(e *environment) *cli.Command {
	return leaf(&cli.Command{
		Name:  "push",
		Usage: "store one WAL file: what archive_command runs, through pgstow-wal",
		Description: `Stores a segment, .history, .backup or .partial file under its own name, once and for ever. Exit status: 0 the store has confirmed it,
1 failed and to be tried again, 12 refused. The same file again is a success; another one of the same name is refused.`,
		ArgsUsage: "PATH",
		Flags:     []cli.Flag{systemIDFlag()},
		Action: func(c *cli.Context) error {
			args, err := operands(c, "PATH")
			if err != nil {
				return err
			}
			conf, err := settings(c, e, true)
			if err != nil {
				return err
			}
			call := hotpath.Call{Command: hotpath.Push, Path: args[0]}
			base, err := archiveOptions(c, e, conf, &call)
			if err != nil {
				return err
			}
			o := pushOptions(base, conf)
			runAhead(e, conf, &o)
			limitMemory(o.Beside > 0)
			_, err = archive.Push(c.Context, o, args[0])
			return err
		},
	}, `archive_command = 'pgstow-wal push %p'
pgstow wal push /var/lib/postgresql/15/main/pg_wal/000000010000000000000003
`)
}

func walFetchCommand(e *environment) *cli.Command {
	return leaf(&cli.Command{
		Name:  "fetch",
		Usage: "bring one WAL file back: what restore_command runs, through pgstow-wal",
		Description: `Exit status: 0 the file is in place, verified; 1 it is proven not to be in the archive; 126 anything else, on which PostgreSQL stops
instead of ending recovery early. A standby is told 1 when the store cannot be reached, since it goes on asking.`,
		ArgsUsage: "NAME PATH",
		Flags:     fetchFlags(),
		Action: func(c *cli.Context) error {
			args, err := operands(c, "NAME", "PATH")
			if err != nil {
				return err
			}
			conf, err := settings(c, e, true)
			if err != nil {
				return err
			}
			choice, err := parseTimeline(c.String("timeline"))
			if err != nil {
				return err
			}
			call := hotpath.Call{Command: hotpath.Fetch, File: args[0], Path: args[1]}
			base, err := archiveOptions(c, e, conf, &call)
			if err != nil {
				return err
			}
			e.fetched = true
			o := archive.FetchOptions{
				Options: base, Deadline: conf.FetchDeadline, Timeline: choice.ID, Incomplete: c.Bool("incomplete"), StopAtHole: c.Bool("stop-at-hole"),
			}
			fetchAhead(e, conf, &o)
			return archive.Fetch(c.Context, o, args[0], args[1])
		},
	}, `restore_command = 'pgstow-wal fetch %f %p'
pgstow wal fetch 000000010000000000000003 ./segment
`)
}

func fetchFlags() []cli.Flag {
	return []cli.Flag{
		systemIDFlag(),
		&cli.StringFlag{Name: "timeline", Usage: "the timeline `N` that recovery was told to follow"},
		&cli.BoolFlag{Name: "incomplete", Usage: "serve a segment of which only the first part is stored, padded with zeros"},
		&cli.BoolFlag{Name: "stop-at-hole", Usage: "take a hole in the archive for its end"},
	}
}

// archiveOptions gathers what push and fetch share. The data directory is found by the same rule as in pgstow-wal, and so is the spool:
// from the call as PostgreSQL made it.
func archiveOptions(c *cli.Context, e *environment, conf *config.Config, call *hotpath.Call) (archive.Options, error) {
	// What a folder that is not mounted means is fetch's to say: a standby goes on asking.
	store, err := openStoreLate(c.Context, e, conf, storeTotal, call.Command == hotpath.Fetch)
	if err != nil {
		return archive.Options{}, err
	}
	pins, err := pinsOf(conf)
	if err != nil {
		return archive.Options{}, err
	}
	o := archive.Options{Store: store, Pins: pins, Cluster: conf.Cluster, Warn: func(text string) { e.message("%s", text) }}
	if id := c.String("system-id"); id != "" {
		if o.SystemID, err = parseSystemID(id); err != nil {
			return archive.Options{}, err
		}
	}
	asMade := *call
	if parsed, err := asTyped(call.Command, e.args); err == nil {
		asMade = parsed
	} else if conf.PGData != "" {
		asMade.Flags = append(asMade.Flags, hotpath.Flag{Name: "pgdata", Value: conf.PGData})
	}
	data, err := asMade.DataDirectory(e.environ)
	switch {
	case conf.PGData != "":
		o.PGData = conf.PGData
	case err == nil:
		o.PGData = data
	case o.SystemID == 0 && call.Command == hotpath.Fetch:
		// Somebody without a data directory, who is looking for one file: the repository knows which server that is, if there is one only.
		if o.SystemID, err = onlySystemID(c.Context, e, conf); err != nil {
			return archive.Options{}, err
		}
	case o.SystemID == 0:
		return archive.Options{}, err
	}
	if o.PGData != "" {
		o.Spool = openSpool(e, asMade)
	}
	return o, nil
}

// asTyped reads the arguments behind the word push or fetch as pgstow-wal reads them. A process that was started for such calls has those of
// the call that started it, behind a word of its own, so that both come to the same spool.
func asTyped(command string, args []string) (hotpath.Call, error) {
	own := map[string]string{hotpath.Push: workerWord, hotpath.Fetch: prefetchWord}[command]
	first := slices.IndexFunc(args, func(arg string) bool { return arg == command || arg == own })
	return hotpath.Parse(command, args[first+1:])
}

// openSpool opens the spool of this call; without one everything works, only slower.
func openSpool(e *environment, call hotpath.Call) *spool.Spool {
	place, err := call.Spool(version, e.environ)
	if err != nil {
		e.message("warning: no spool: %s", err)
		return nil
	}
	if len(place.Roots) == 0 {
		e.message("warning: no spool: neither PGSTOW_SPOOL nor HOME says where it may be")
		return nil
	}
	s, err := spool.Create(place.Name, place.Roots...)
	if err != nil {
		e.message("warning: no spool: %s", err)
		return nil
	}
	return s
}

func onlySystemID(ctx context.Context, e *environment, conf *config.Config) (uint64, error) {
	repo, err := openRepository(ctx, e, conf)
	if err != nil {
		return 0, err
	}
	infos, err := repo.SystemIDs(ctx, conf.Cluster)
	if err != nil {
		return 0, err
	}
	if len(infos) != 1 {
		return 0, usage("%d servers bear the name %s in the repository: say which by --pgdata or --system-id", len(infos), conf.Cluster)
	}
	return infos[0].SystemID, nil
}
