package main

import (
	"time"

	"github.com/urfave/cli/v2"

	"pgstow/catalog"
	"pgstow/cmd/internal/config"
)

type deletedJSON struct {
	Backup string `json:"backup"`
	DryRun bool   `json:"dry_run"`
	Packs  int    `json:"packs_deleted"`
	Kept   int    `json:"packs_kept"`
	Bytes  int64  `json:"bytes"`
}

func backupDeleteCommand(e *environment) *cli.Command {
	return leaf(&cli.Command{
		Name:  "delete",
		Usage: "delete one backup and what only it needs",
		Description: `The manifest goes first, so that the backup does not exist any more, then the packs that no other backup refers to. WAL is not touched.
The only backup of a cluster is deleted only with --force.`,
		ArgsUsage: "ID",
		Flags: []cli.Flag{
			systemIDFlag(), jsonFlag(),
			&cli.BoolFlag{Name: "force", Usage: "delete it even if it is the last backup of the cluster"},
			&cli.BoolFlag{Name: "dry-run", Usage: "say what would be deleted"},
			&cli.BoolFlag{Name: "ignore-holds", Usage: "delete it although a restore that may still be running holds it"},
			&cli.DurationFlag{Name: "wait", Value: 30 * time.Second, Usage: "watch a lease that is in the way for so long, to see whether its holder is alive"},
		},
		Action: onRepository(e, []string{"ID"}, func(c *cli.Context, repo *catalog.Repository, conf *config.Config, args []string) error {
			b, err := findBackup(c.Context, c, repo, conf, args[0])
			if err != nil {
				return err
			}
			if args[0] != b.ID {
				return usage("name the backup to delete by its id: %s", b.ID)
			}
			list, err := repo.Backups(c.Context, b.Ref())
			if err != nil {
				return err
			}
			if len(list) == 1 && !c.Bool("force") {
				return usage("%s is the only backup of cluster %s: nothing could be restored without it; --force deletes it all the same", b.ID, b.Cluster)
			}
			deleted, err := repo.DeleteBackup(c.Context, b.Ref(), b.ID, catalog.DeleteOptions{
				Host: hostname(), Program: program(), Wait: c.Duration("wait"), IgnoreHolds: c.Bool("ignore-holds"), DryRun: c.Bool("dry-run"),
			})
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return e.printJSON(deletedJSON{b.ID, c.Bool("dry-run"), len(deleted.Packs), deleted.Kept, deleted.Bytes})
			}
			verb := "deleted"
			if c.Bool("dry-run") {
				verb = "would delete"
			}
			e.printf("%s backup %s: %d packs, %s; %d packs are kept for other backups\n", verb, b.ID, len(deleted.Packs), bytesText(deleted.Bytes), deleted.Kept)
			return nil
		}),
	}, `pgstow backup delete 20261124T154500Z-k3f9
`)
}
