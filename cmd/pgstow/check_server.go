package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/urfave/cli/v2"

	"pgstow/catalog"
	"pgstow/cmd/internal/config"
	"pgstow/cmd/internal/detach"
	"pgstow/wal"
	"pgstow/wal/archive"
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
	started                                                       time.Time
	written                                                       wal.LSN // how far it is: flushed, or on a standby replayed
	timeline                                                      wal.TimelineID
	slots                                                         []slot
	waiting                                                       map[string]bool // names of the files that wait to be archived, if its data directory can be read
}

// checkServer returns what it learned of the server; nil if it could not be asked.
func checkServer(c *cli.Context, conf *config.Config, repo *catalog.Repository, r *checkReport) *serverFacts {
	ctx, cancel := context.WithTimeout(c.Context, c.Duration("wait")+30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, "")
	if err != nil {
		r.fail("server", "%s (PGHOST, PGPORT, PGUSER decide; --no-server leaves this out)", err)
		return nil
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	facts, err := askServer(ctx, conn, c.String("slot"))
	if err != nil {
		r.fail("server", "%s", err)
		return nil
	}
	r.ok("server", "PostgreSQL %s at %s, system identifier %s", facts.version, facts.dataDirectory, facts.systemID)
	facts.judge(r)
	judgeSlots(facts.slots, facts.slotLimit, c.String("slot"), r)
	facts.judgeBacklog(r)
	facts.judgeTimeline(ctx, conf, repo, r)
	if facts.recovery || c.Bool("no-switch") || facts.archiveMode == "off" {
		return &facts
	}
	if err := proveArchiving(ctx, c, conn, conf, repo, facts, r); err != nil {
		r.fail("archiving", "%s", err)
	}
	return &facts
}

func askServer(ctx context.Context, conn *pgx.Conn, receiver string) (f serverFacts, err error) {
	var written, timeline int64
	err = conn.QueryRow(ctx, `SELECT current_setting('server_version'), current_setting('archive_mode'), current_setting('archive_command'),
		current_setting('wal_level'), current_setting('data_directory'), current_setting('max_slot_wal_keep_size'), pg_is_in_recovery(),
		(SELECT system_identifier::text FROM pg_control_system()), archived_count, failed_count, last_failed_wal, last_failed_time, last_archived_time,
		pg_postmaster_start_time(),
		(CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_replay_lsn(), '0/0') ELSE pg_current_wal_flush_lsn() END - '0/0'::pg_lsn)::bigint,
		greatest((SELECT timeline_id FROM pg_control_checkpoint()), (SELECT received_tli FROM pg_stat_wal_receiver))
		FROM pg_stat_archiver`).Scan(&f.version, &f.archiveMode, &f.archiveCommand, &f.walLevel, &f.dataDirectory, &f.slotLimit, &f.recovery,
		&f.systemID, &f.archived, &f.failed, &f.lastFailed, &f.lastFailedAt, &f.lastArchivedAt, &f.started, &written, &timeline)
	if err != nil {
		return f, fmt.Errorf("ask the server for its settings (a superuser or pg_monitor is needed): %w", err)
	}
	f.written, f.timeline = wal.LSN(written), wal.TimelineID(timeline)
	if f.slots, err = askSlots(ctx, conn, receiver); err != nil {
		return f, fmt.Errorf("ask the server for its replication slots: %w", err)
	}
	return f, nil
}

// judge tells whether, and how, the server gets its WAL archived.
func (f *serverFacts) judge(r *checkReport) {
	switch stream := receiving(f.slots); {
	case f.archiveMode != "off":
		r.ok("archiving", "archive_mode = %s, archive_command = %s", f.archiveMode, f.archiveCommand)
		if !strings.Contains(f.archiveCommand, "pgstow") {
			r.warn("archiving", "archive_command does not run pgstow")
		}
	case stream != "":
		r.ok("archiving", "archive_mode is off, pgstow wal receive archives by the replication slot %s", stream)
	case f.recovery:
		r.warn("archiving", "archive_mode is off: once this standby is promoted nothing is archived, unless pgstow wal receive is started")
	default:
		r.fail("archiving", "archive_mode is off, and no pgstow wal receive is connected by a replication slot: nothing is archived")
		r.hint("set archive_mode = on and archive_command (pgstow init shows it) and restart the server, or run pgstow wal receive")
	}
	if f.walLevel == "minimal" {
		r.fail("archiving", "wal_level is minimal: WAL of that kind cannot be restored from")
	}
	if f.archiveMode != "off" && f.lastFailed != nil && f.lastFailedAt != nil && (f.lastArchivedAt == nil || f.lastFailedAt.After(*f.lastArchivedAt)) {
		r.fail("archiving", "the last attempt failed: %s at %s; the server's log has the reason", *f.lastFailed, timeText(*f.lastFailedAt))
	}
}

// judgeTimeline compares the server's timeline with the archive's newest one. A standby that is promoted takes the number behind the newest
// timeline that it finds, and if it cannot reach the archive then, one that the archive has already (RULES-archive B6). A primary that writes
// an older timeline writes what no restore to the latest will have: another server has taken over; or it was killed at the very end of
// its recovery, when it had chosen its timeline and removed recovery.signal but not yet written its last checkpoint, and has forgotten that
// since (StartupXLOG in backend/access/transam/xlog.c).
func (f *serverFacts) judgeTimeline(ctx context.Context, conf *config.Config, repo *catalog.Repository, r *checkReport) {
	systemID, err := parseSystemID(f.systemID)
	if err != nil {
		r.fail("timeline", "%s", err)
		return
	}
	list, err := repo.WALTimelines(ctx, catalog.ClusterRef{Name: conf.Cluster, SystemID: systemID})
	switch {
	case err != nil:
		r.fail("timeline", "%s", err)
	case len(list) > 0 && list[len(list)-1] > f.timeline && !f.recovery:
		r.fail("timeline", "the archive's newest timeline is %d, this server writes timeline %d: a restore will not have what it writes; another server has taken over, or it was killed at the very end of its recovery: restore anew",
			list[len(list)-1], f.timeline)
	case !f.recovery: // the number of a young timeline may not have arrived
		r.ok("timeline", "the server writes timeline %d, and the archive has none that is newer", f.timeline)
	case len(list) == 0:
		r.warn("timeline", "this standby is on timeline %d, the archive has none of its cluster", f.timeline)
	case list[len(list)-1] > f.timeline:
		r.warn("timeline", "the archive's newest timeline is %d, this standby is on %d: promoted without a restore_command that works, it may take a number that the archive has already",
			list[len(list)-1], f.timeline)
	default:
		r.ok("timeline", "the archive's newest timeline is %d, and so is this standby's; a promotion makes the next", list[len(list)-1])
	}
}

// The server has this long to be helped before its disk is full, with WAL waiting, or with none.
const (
	fullSoon  = 4 * time.Hour
	fullStall = time.Hour
)

// judgeBacklog looks at what waits to be archived, where the data directory can be read.
func (f *serverFacts) judgeBacklog(r *checkReport) {
	now := time.Now()
	b, err := archive.ReadBacklog(f.dataDirectory, now)
	if err != nil {
		r.warn("backlog", "the data directory cannot be read from here: %s", err)
		return
	}
	f.waiting = b.Files
	text := fmt.Sprintf("%d files (%s) wait to be archived, %s are free for pg_wal", len(b.Files), bytesText(b.Bytes), bytesText(b.Free))
	left, known := b.UntilFull()
	if known {
		text += fmt.Sprintf("; at the present rate of %s/s that lasts %s", bytesText(int64(b.Rate)), hoursText(left))
	}
	if !b.Since.IsZero() {
		text += fmt.Sprintf("; the oldest waits since %s", timeText(b.Since))
	}
	stalled := len(b.Files) > 1 && now.Sub(b.Since) > catalog.HoleGrace
	switch {
	case len(b.Files) > 0 && b.Bytes > b.Free/4, stalled && known && left < fullSoon:
		r.fail("backlog", "%s: the server stops when it is full", text)
	case stalled:
		r.warn("backlog", "%s", text)
	case known && left < fullStall:
		r.warn("backlog", "%s: an outage of the store that is longer stops the server", text)
	default:
		r.ok("backlog", "%s", text)
	}
	if server, running := detach.Running(f.dataDirectory); running && server.MayAdopt() {
		r.warn("backlog", "the postmaster is process 1: give the container an init (docker run --init), so that it adopts no stray children")
	}
}

// hoursText is a time of which nobody wants the minutes, unless it is short.
func hoursText(d time.Duration) string {
	if h := d.Hours(); h >= 1 {
		return fmt.Sprintf("%.1f hours", h)
	}
	return fmt.Sprintf("%.0f minutes", d.Minutes())
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
