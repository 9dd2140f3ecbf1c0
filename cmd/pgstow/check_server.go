package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"pgstow/catalog"
	"pgstow/cmd/internal/config"
	"pgstow/wal"
)

// serverFacts is what check asks a server.
type serverFacts struct {
	version, archiveMode, archiveCommand, walLevel, dataDirectory string
	slotLimit                                                     string
	recovery                                                      bool
	systemID                                                      string
	archived, failed                                              int64
	lastFailed                                                    *string
	lastFailedAt, lastArchivedAt                                  *time.Time
	slots                                                         int64
}

func checkServer(c *cli.Context, conf *config.Config, repo *catalog.Repository, r *checkReport) {
	ctx, cancel := context.WithTimeout(c.Context, c.Duration("wait")+30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, "")
	if err != nil {
		r.fail("server", "%s (PGHOST, PGPORT, PGUSER decide; --no-server leaves this out)", err)
		return
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	facts, err := askServer(ctx, conn)
	if err != nil {
		r.fail("server", "%s", err)
		return
	}
	r.ok("server", "PostgreSQL %s at %s, system identifier %s", facts.version, facts.dataDirectory, facts.systemID)
	facts.judge(r)
	facts.judgeBacklog(r)
	if facts.recovery || c.Bool("no-switch") || facts.archiveMode == "off" {
		return
	}
	if err := proveArchiving(ctx, c, conn, conf, repo, facts, r); err != nil {
		r.fail("archiving", "%s", err)
	}
}

func askServer(ctx context.Context, conn *pgx.Conn) (f serverFacts, err error) {
	err = conn.QueryRow(ctx, `SELECT current_setting('server_version'), current_setting('archive_mode'), current_setting('archive_command'),
		current_setting('wal_level'), current_setting('data_directory'), current_setting('max_slot_wal_keep_size'), pg_is_in_recovery(),
		(SELECT system_identifier::text FROM pg_control_system()), archived_count, failed_count, last_failed_wal, last_failed_time, last_archived_time,
		(SELECT count(*) FROM pg_replication_slots)
		FROM pg_stat_archiver`).Scan(&f.version, &f.archiveMode, &f.archiveCommand, &f.walLevel, &f.dataDirectory, &f.slotLimit, &f.recovery,
		&f.systemID, &f.archived, &f.failed, &f.lastFailed, &f.lastFailedAt, &f.lastArchivedAt, &f.slots)
	if err != nil {
		return f, fmt.Errorf("ask the server for its settings (a superuser or pg_monitor is needed): %w", err)
	}
	return f, nil
}

func (f *serverFacts) judge(r *checkReport) {
	if f.archiveMode == "off" {
		r.fail("archiving", "archive_mode is off: nothing is archived")
	} else {
		r.ok("archiving", "archive_mode = %s, archive_command = %s", f.archiveMode, f.archiveCommand)
		if !strings.Contains(f.archiveCommand, "pgstow") {
			r.warn("archiving", "archive_command does not run pgstow")
		}
	}
	if f.walLevel == "minimal" {
		r.fail("archiving", "wal_level is minimal: WAL of that kind cannot be restored from")
	}
	if f.lastFailed != nil && f.lastFailedAt != nil && (f.lastArchivedAt == nil || f.lastFailedAt.After(*f.lastArchivedAt)) {
		r.fail("archiving", "the last attempt failed: %s at %s; the server's log has the reason", *f.lastFailed, timeText(*f.lastFailedAt))
	}
	if f.slots > 0 && f.slotLimit == "-1" {
		r.warn("slots", "%d replication slots, and max_slot_wal_keep_size is unlimited: an abandoned one fills the disk", f.slots)
	}
}

// judgeBacklog looks at what waits to be archived, where the data directory can be read.
func (f *serverFacts) judgeBacklog(r *checkReport) {
	pgWAL := filepath.Join(f.dataDirectory, "pg_wal")
	entries, err := os.ReadDir(filepath.Join(pgWAL, "archive_status"))
	if err != nil {
		r.warn("backlog", "the data directory cannot be read from here: %s", err)
		return
	}
	waiting, bytes := 0, int64(0)
	for _, entry := range entries {
		name, ready := strings.CutSuffix(entry.Name(), ".ready")
		if !ready {
			continue
		}
		waiting++
		if info, err := os.Stat(filepath.Join(pgWAL, name)); err == nil {
			bytes += info.Size()
		}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(pgWAL, &fs); err != nil {
		r.warn("backlog", "%s: %s", pgWAL, err)
		return
	}
	free := int64(fs.Bavail) * fs.Bsize
	text := fmt.Sprintf("%d files (%s) wait to be archived, %s are free for pg_wal", waiting, bytesText(bytes), bytesText(free))
	if waiting > 0 && bytes > free/4 {
		r.fail("backlog", "%s: the server stops when it is full", text)
	} else {
		r.ok("backlog", "%s", text)
	}
	if first, err := firstLine(filepath.Join(f.dataDirectory, "postmaster.pid")); err == nil && first == "1" {
		r.warn("backlog", "the postmaster is process 1: give the container an init (docker run --init), so that it adopts no stray children")
	}
}

func firstLine(path string) (string, error) {
	data, err := os.ReadFile(path)
	line, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimSpace(line), err
}

// proveArchiving has the server finish a segment and waits for it in this very repository: the one proof that its archive_command has the
// same settings as we do.
func proveArchiving(ctx context.Context, c *cli.Context, conn *pgx.Conn, conf *config.Config, repo *catalog.Repository, f serverFacts, r *checkReport) error {
	var name string
	if err := conn.QueryRow(ctx, `SELECT pg_walfile_name(pg_create_restore_point('pgstow check'))`).Scan(&name); err != nil {
		return fmt.Errorf("make a restore point: %w", err)
	}
	if _, err := conn.Exec(ctx, `SELECT pg_switch_wal()`); err != nil {
		return fmt.Errorf("switch to a new segment: %w", err)
	}
	systemID, err := parseSystemID(f.systemID)
	if err != nil {
		return err
	}
	segment, err := wal.ParseFileName(name)
	if err != nil {
		return err
	}
	key := catalog.ClusterRef{Name: conf.Cluster, SystemID: systemID}.WALKey(segment, "")
	start := time.Now()
	waited, cancel := context.WithTimeout(ctx, c.Duration("wait"))
	defer cancel()
	poll := time.NewTicker(200 * time.Millisecond)
	defer poll.Stop()
	for {
		if _, err = repo.Store.Stat(waited, key); err == nil {
			r.ok("archiving", "%s arrived after %s", name, time.Since(start).Round(10*time.Millisecond))
			return nil
		}
		select {
		case <-waited.Done():
			return fmt.Errorf("%s did not arrive at %s within %s (%w): does archive_command have the settings shown above?", name, key, c.Duration("wait"), err)
		case <-poll.C:
		}
	}
}
