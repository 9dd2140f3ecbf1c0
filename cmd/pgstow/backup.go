package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"pgstow/catalog"
	"pgstow/cmd/internal/config"
)

func backupCommand(e *environment) *cli.Command {
	return group("backup", "take, list, show and delete base backups",
		backupCreateCommand(e), backupListCommand(e), backupShowCommand(e), backupDeleteCommand(e))
}

func systemIDFlag() cli.Flag {
	return &cli.StringFlag{Name: "system-id", Usage: "the server with this system `IDENTIFIER`, where the cluster's name has several"}
}

// clusters lists what bears the configured name, narrowed by --system-id; none is an error that names what there is.
func clusters(ctx context.Context, c *cli.Context, repo *catalog.Repository, conf *config.Config) ([]catalog.ClusterInfo, error) {
	all, err := repo.SystemIDs(ctx, conf.Cluster)
	if err != nil {
		return nil, err
	}
	if text := c.String("system-id"); text != "" {
		id, err := parseSystemID(text)
		if err != nil {
			return nil, err
		}
		for _, info := range all {
			if info.SystemID == id {
				return []catalog.ClusterInfo{info}, nil
			}
		}
		return nil, fmt.Errorf("cluster %s with system identifier %d: %w", conf.Cluster, id, catalog.ErrNoCluster)
	}
	if len(all) > 0 {
		return all, nil
	}
	others, err := repo.Clusters(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, info := range others {
		names = append(names, info.Name)
	}
	why := "the repository has no cluster yet"
	if len(names) > 0 {
		why = "the repository has " + strings.Join(names, ", ")
	}
	return nil, fmt.Errorf("cluster %s: %w: %s", conf.Cluster, catalog.ErrNoCluster, why)
}

// findBackup finds a backup by its id, or "latest", among all servers that bear the cluster's name.
func findBackup(ctx context.Context, c *cli.Context, repo *catalog.Repository, conf *config.Config, id string) (catalog.BackupSummary, error) {
	infos, err := clusters(ctx, c, repo, conf)
	if err != nil {
		return catalog.BackupSummary{}, err
	}
	if id == "latest" && len(infos) > 1 {
		return catalog.BackupSummary{}, usage("several servers bear the name %s: say which by --system-id, or name the backup by its id", conf.Cluster)
	}
	for _, info := range infos {
		list, err := repo.Backups(ctx, info.Ref())
		if err != nil {
			return catalog.BackupSummary{}, err
		}
		for i, b := range list {
			if b.ID == id || id == "latest" && i == len(list)-1 {
				return b, nil
			}
		}
	}
	return catalog.BackupSummary{}, fmt.Errorf("backup %s of cluster %s: %w", id, conf.Cluster, catalog.ErrNoBackup)
}

func parseSystemID(text string) (uint64, error) {
	id, err := strconv.ParseUint(text, 10, 64)
	if err != nil || id == 0 {
		return 0, usage("--system-id %q is not a system identifier", text)
	}
	return id, nil
}
