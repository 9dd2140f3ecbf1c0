package main

import (
	"github.com/urfave/cli/v2"

	"pgstow/cmd/internal/hotpath"
	"pgstow/wal/archive"
)

func walResolveCommand(e *environment) *cli.Command {
	return leaf(&cli.Command{
		Name:  "resolve",
		Usage: "settle a refused push: two files of one name, both are kept",
		Description: `When push refuses a file because the archive has another one of that name (exit status 12), a person must say which one recovery shall
read. --keep stored leaves the archive's and sets the server's file aside under another key; --keep local puts the server's file in place
and sets the archive's aside. Nothing is lost either way, and the server's next push succeeds.`,
		ArgsUsage: "PATH",
		Flags: []cli.Flag{
			systemIDFlag(),
			&cli.StringFlag{Name: "keep", Usage: "stored or local (`WHICH`)"},
		},
		Action: func(c *cli.Context) error {
			args, err := operands(c, "PATH")
			if err != nil {
				return err
			}
			keep := map[string]archive.Keep{"stored": archive.KeepStored, "local": archive.KeepLocal}[c.String("keep")]
			if keep == 0 {
				return usage("say which file recovery shall read: --keep stored or --keep local")
			}
			conf, err := settings(c, e, false)
			if err != nil {
				return err
			}
			store, err := openStore(c.Context, e, conf, storeTotal)
			if err != nil {
				return err
			}
			base, err := archiveOptions(c, e, conf, store, hotpath.Call{Command: hotpath.Push, Path: args[0]})
			if err != nil {
				return err
			}
			result, err := archive.Resolve(c.Context, pushOptions(base, conf), args[0], keep)
			if err != nil {
				return err
			}
			if result.Aside == "" {
				e.printf("%s holds these very bytes: there is nothing to settle\n", result.Key)
			} else {
				e.printf("%s is what recovery reads; the other file is at %s\n", result.Key, result.Aside)
			}
			return nil
		},
	}, `pgstow wal resolve --keep stored /var/lib/postgresql/15/main/pg_wal/000000010000000000000003
`)
}
