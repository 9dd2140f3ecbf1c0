package main

import (
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"pgstow/catalog"
	"pgstow/cmd/internal/config"
)

// backupJSON is one backup as `backup list --json`, `backup show --json`, `backup create --json` and `info --json` print it.
type backupJSON struct {
	ID           string     `json:"id"`
	Cluster      string     `json:"cluster"`
	SystemID     uint64     `json:"system_id,string"`
	Method       string     `json:"method"`
	Source       string     `json:"source"`
	Standby      bool       `json:"standby"`
	Label        string     `json:"label"`
	StartLSN     string     `json:"start_lsn"`
	StopLSN      string     `json:"stop_lsn"`
	Timeline     uint32     `json:"timeline"`
	StartedAt    *time.Time `json:"started_at"`
	StoppedAt    *time.Time `json:"stopped_at"`
	Bytes        int64      `json:"bytes"`
	BytesRead    int64      `json:"bytes_read"`
	BytesStored  int64      `json:"bytes_stored"`
	PagesChanged int64      `json:"pages_changed"`
	Refreshed    int64      `json:"pages_refreshed"`
	PacksLent    int64      `json:"packs_lent"`
	BytesLent    int64      `json:"bytes_lent"`
	Why          string     `json:"why,omitempty"`
	Files        int64      `json:"files"`
	DamagedPages int64      `json:"damaged_pages"`
	WALIncluded  bool       `json:"wal_included"`
	Postgres     int        `json:"postgres_major"`
	Host         string     `json:"host"`
	Reference    string     `json:"reference,omitempty"`
	Opaque       bool       `json:"opaque,omitempty"` // encrypted, and no identity was given: only what the clear header says is known
}

func backupAsJSON(b catalog.BackupSummary) backupJSON {
	return backupJSON{
		ID: b.ID, Cluster: b.Cluster, SystemID: b.SystemID, Method: string(b.Method), Source: string(b.Source), Standby: b.Standby, Label: b.Label,
		StartLSN: b.Start.String(), StopLSN: b.Stop.String(), Timeline: uint32(b.StopTimeline), StartedAt: moment(b.StartedAt),
		StoppedAt: moment(b.StoppedAt), Bytes: b.Bytes, BytesRead: b.BytesRead, BytesStored: b.BytesStored, PagesChanged: b.PagesChanged,
		Refreshed: b.PagesRefreshed, PacksLent: b.PacksLent, BytesLent: b.BytesLent, Why: b.Why,
		Files: b.Files, DamagedPages: b.Damaged, WALIncluded: b.WALIncluded, Postgres: b.PostgresMajor, Host: b.Host, Reference: b.Reference,
		Opaque: b.Opaque,
	}
}

// moment is a time for JSON: null if it is not known.
func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func backupListCommand(e *environment) *cli.Command {
	return leaf(&cli.Command{
		Name:  "list",
		Usage: "list the backups of a cluster, newest last",
		Flags: []cli.Flag{systemIDFlag(), jsonFlag()},
		Action: onRepository(e, nil, func(c *cli.Context, repo *catalog.Repository, conf *config.Config, _ []string) error {
			infos, err := clusters(c.Context, c, repo, conf)
			if err != nil {
				return err
			}
			all := []catalog.BackupSummary{}
			for _, info := range infos {
				list, err := repo.Backups(c.Context, info.Ref())
				if err != nil {
					return err
				}
				all = append(all, list...)
			}
			if c.Bool("json") {
				out := make([]backupJSON, len(all))
				for i, b := range all {
					out[i] = backupAsJSON(b)
				}
				return e.printJSON(out)
			}
			e.printBackups(all)
			return nil
		}),
	}, `pgstow backup list
pgstow backup list --json | jq -r '.[-1].id'
`)
}

func (e *environment) printBackups(list []catalog.BackupSummary) {
	if len(list) == 0 {
		e.printf("no backups\n")
		return
	}
	t := e.newTable("backup", "method", "finished", "timeline", "start", "stop", "size", "pages", "stored", "")
	for _, b := range list {
		method, size, stored, pages := string(b.Method), bytesText(b.Bytes), bytesText(b.BytesStored), strconv.FormatInt(b.PagesChanged, 10)
		if b.Opaque {
			method, size, stored, pages = "?", "?", "?", "?"
		}
		t.AppendRow([]any{b.ID, method, timeText(b.StoppedAt), b.StopTimeline, b.Start, b.Stop, size, pages, stored, backupRemarks(b)})
	}
	t.Render()
}

func backupRemarks(b catalog.BackupSummary) string {
	switch {
	case b.Damaged > 0:
		return "DAMAGED PAGES"
	case b.Opaque:
		return "encrypted"
	case b.WALIncluded:
		return "WAL included"
	case b.Source == catalog.SourceOffline:
		return "cold"
	default:
		return ""
	}
}
