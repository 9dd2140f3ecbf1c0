package main

import (
	"github.com/urfave/cli/v2"

	"pgstow/cmd/internal/hotpath"
	"pgstow/wal/archive"
)

func walPushCommand(e *environment) *cli.Command {
	return leaf(&cli.Command{
		Name:  "push",
		Usage: "store one WAL file: what archive_command runs, through pgstow-wal",
		Description: `Stores a segment, .history, .backup or .partial file under its own name, once and for ever. Exit status: 0 the store has confirmed it,
1 failed and to be tried again, 12 refused. The same file again is a success; another one of the same name is refused.`,
		ArgsUsage: "PATH",
		Flags:     []cli.Flag{systemIDFlag()},
		Action: func(c *cli.Context) error {
			call, err := walCallOf(c, e, hotpath.Push, storeTotal)
			if err != nil {
				return err
			}
			o := pushOptions(call.Options, call.conf)
			runAhead(e, call.conf, &o)
			limitMemory(o.Beside > 0)
			_, err = archive.Push(c.Context, o, call.args[0])
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
			call, err := walCallOf(c, e, hotpath.Fetch, storeTotal)
			if err != nil {
				return err
			}
			e.fetched = true
			o := archive.FetchOptions{
				Options: call.Options, Deadline: call.conf.FetchDeadline, Timeline: call.timeline.ID,
				Incomplete: c.Bool("incomplete"), StopAtHole: c.Bool("stop-at-hole"),
			}
			fetchAhead(e, call.conf, &o)
			return archive.Fetch(c.Context, o, call.args[0], call.args[1])
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
