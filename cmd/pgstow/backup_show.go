package main

import (
	"fmt"
	"sort"
	"strconv"

	"github.com/urfave/cli/v2"

	"pgstow/catalog"
	"pgstow/cmd/internal/config"
)

func backupShowCommand(e *environment) *cli.Command {
	return leaf(&cli.Command{
		Name:      "show",
		Usage:     "show all that is known of one backup",
		ArgsUsage: "ID|latest",
		Flags: []cli.Flag{
			systemIDFlag(), jsonFlag(),
			&cli.BoolFlag{Name: "files", Usage: "list its files too"},
		},
		Action: onRepository(e, []string{"ID|latest"}, func(c *cli.Context, repo *catalog.Repository, conf *config.Config, args []string) error {
			b, err := findBackup(c.Context, c, repo, conf, args[0])
			if err != nil {
				return err
			}
			detail := backupDetail{backupJSON: backupAsJSON(b), DataDirectory: b.DataDirectory, Notes: b.Notes, Program: b.Program, Tablespaces: b.Tablespaces}
			for _, d := range b.DamagedPages {
				detail.Damaged = append(detail.Damaged, damagedPage{d.Path, d.Page, d.What})
			}
			if c.Bool("json") {
				if err := detail.readFiles(c, repo, b); err != nil {
					return err
				}
				return e.printJSON(detail)
			}
			e.printBackup(b)
			if err := detail.readFiles(c, repo, b); err != nil {
				return err
			}
			e.printFiles(detail.FileList)
			return nil
		}),
	}, `pgstow backup show latest
pgstow backup show 20261124T154500Z-k3f9 --json
`)
}

type damagedPage struct {
	Path string `json:"path"`
	Page uint32 `json:"page"`
	What string `json:"what"`
}

type fileJSON struct {
	Path string `json:"path"`
	Type string `json:"type"`
	Size int64  `json:"size"`
}

type backupDetail struct {
	backupJSON
	DataDirectory string               `json:"data_directory"`
	Program       string               `json:"program"`
	Notes         []string             `json:"notes,omitempty"`
	Tablespaces   []catalog.Tablespace `json:"tablespaces,omitempty"`
	Damaged       []damagedPage        `json:"damaged,omitempty"`
	FileList      []fileJSON           `json:"file_list,omitempty"`
}

// readFiles fills in the files when they were asked for; reading the whole manifest proves it whole as well.
func (d *backupDetail) readFiles(c *cli.Context, repo *catalog.Repository, b catalog.BackupSummary) error {
	if !c.Bool("files") {
		return nil
	}
	manifest, err := repo.ReadManifest(c.Context, b.Ref(), b.ID)
	if err != nil {
		return err
	}
	for entry, err := range manifest.Files() {
		if err != nil {
			return err
		}
		kind := entry.Type
		if kind == "" {
			kind = catalog.TypeFile
		}
		d.FileList = append(d.FileList, fileJSON{entry.Path, string(kind), entry.Size})
	}
	return nil
}

func (e *environment) printBackup(b catalog.BackupSummary) {
	line := func(name, format string, args ...any) { e.printf("%-16s%s\n", name, fmt.Sprintf(format, args...)) }
	line("backup", "%s", b.ID)
	line("cluster", "%s, system identifier %d", b.Cluster, b.SystemID)
	if b.Opaque {
		line("encrypted", "only the clear header is readable without an identity")
	} else {
		line("method", "%s", methodText(b.BackupHeader))
		if b.Why != "" {
			line("because", "%s", b.Why)
		}
		line("source", "%s", b.Source)
		line("server", "PostgreSQL %s, data checksums %s", versionText(b), onOff(b.ChecksumVersion != 0))
		line("size", "%s in %d files, %s stored in %d packs", bytesText(b.Bytes), b.Files, bytesText(b.BytesStored), b.Packs)
	}
	line("started", "%s at %s", timeText(b.StartedAt), b.Start)
	line("finished", "%s at %s on timeline %d", timeText(b.StoppedAt), b.Stop, b.StopTimeline)
	line("from", "%s on %s by %s", b.DataDirectory, b.Host, b.Program)
	if b.Label != "" {
		line("label", "%s", b.Label)
	}
	for _, t := range b.Tablespaces {
		line("tablespace", "%d at %s", t.OID, t.Location)
	}
	if b.WALIncluded {
		line("wal", "included: restorable with no archive")
	}
	options := make([]string, 0, len(b.Options))
	for name := range b.Options {
		options = append(options, name)
	}
	sort.Strings(options)
	for _, name := range options {
		line("option", "%s = %s", name, b.Options[name])
	}
	for _, note := range b.Notes {
		line("note", "%s", note)
	}
	if b.Damaged > 0 {
		line("DAMAGED", "%d pages do not agree with their checksum", b.Damaged)
		for _, d := range b.DamagedPages {
			line("", "%s page %d: %s", d.Path, d.Page, d.What)
		}
	}
}

func (e *environment) printFiles(files []fileJSON) {
	for _, f := range files {
		e.printf("%-5s%14d  %s\n", f.Type, f.Size, f.Path)
	}
}

// versionText is the server's version; pg_control, from which a cold backup has it, knows only the major.
func versionText(b catalog.BackupSummary) string {
	if b.Source == catalog.SourceOffline || b.PostgresVersion < 10000 {
		return strconv.Itoa(b.PostgresMajor)
	}
	return fmt.Sprintf("%d.%d", b.PostgresVersion/10000, b.PostgresVersion%10000)
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}
