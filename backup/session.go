package backup

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"pgstow/catalog"
	"pgstow/wal"
)

// session is the one server session of a backup: PostgreSQL ends the backup when
// it ends. Its methods are safe for concurrent use.
type session struct {
	mu   sync.Mutex
	conn *pgx.Conn
	pid  uint32
	facts
}

// facts are what the server says of itself at the beginning.
type facts struct {
	version       int // server_version_num
	standby       bool
	systemID      uint64
	dataDirectory string
	port          int
	started       time.Time // of the postmaster
	archiveMode   string
	received      bool // the server's archiver is off, and a receiver streams its WAL into the archive
	walLevel      string
	summarizes    bool              // summarize_wal, PostgreSQL 17 and newer
	statsTempDir  string            // PostgreSQL 14 and older
	configFiles   map[string]string // setting -> path
}

func (f facts) major() int { return f.version / 10000 }

// connect opens the session. Nothing may end it but us: all timeouts are off.
func connect(ctx context.Context, dsn string) (*session, error) {
	s, err := dial(ctx, dsn)
	if err != nil {
		return nil, err
	}
	err = s.setUp(ctx)
	if err == nil {
		err = s.learn(ctx)
	}
	if err != nil {
		s.close(context.WithoutCancel(ctx))
		return nil, err
	}
	return s, nil
}

// dial opens a session of which nothing is known.
func dial(ctx context.Context, dsn string) (*session, error) {
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("connection string: %w", err)
	}
	cfg.RuntimeParams["application_name"] = "pgstow backup"
	// No conversion: backup_label and tablespace_map are kept byte for byte.
	cfg.RuntimeParams["client_encoding"] = "SQL_ASCII"
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to the server: %w", err)
	}
	return &session{conn: conn}, nil
}

// closeWithin bounds the goodbye to a server that does not answer.
const closeWithin = 5 * time.Second

// close drops the session, and with it a backup that was not stopped.
func (s *session) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, closeWithin)
	defer cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.conn.Close(ctx) // the server notices by itself
}

func (s *session) setUp(ctx context.Context) error {
	if err := s.conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&s.version); err != nil {
		return fmt.Errorf("ask the server's version: %w", err)
	}
	if m := s.major(); m < 13 || m > 18 {
		return fmt.Errorf("PostgreSQL %d: pgstow knows 13 to 18", m)
	}
	off := []string{"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"}
	if s.major() >= 14 {
		off = append(off, "idle_session_timeout")
	}
	if s.major() >= 17 {
		off = append(off, "transaction_timeout")
	}
	for _, setting := range off {
		if _, err := s.conn.Exec(ctx, "SET "+setting+" = 0"); err != nil {
			return fmt.Errorf("turn off %s: %w", setting, err)
		}
	}
	var pid int64
	if err := s.conn.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&pid); err != nil {
		return err
	}
	s.pid = uint32(pid)
	if own := s.conn.PgConn().PID(); own != s.pid {
		return hint(errors.New("the connection goes through a pooler: a backup needs a session of its own"),
			"connect to the server's own port or socket")
	}
	return nil
}

// learn asks what the server is and where it lies.
func (s *session) learn(ctx context.Context) error {
	err := s.conn.QueryRow(ctx, `SELECT pg_is_in_recovery(), system_identifier::text, current_setting('port')::int,
		pg_postmaster_start_time(), current_setting('archive_mode'), current_setting('wal_level') FROM pg_control_system()`).
		Scan(&s.standby, (*systemIDScanner)(&s.systemID), &s.port, &s.started, &s.archiveMode, &s.walLevel)
	if err != nil {
		return fmt.Errorf("ask the server about itself: %w", err)
	}
	settings := []string{"data_directory", "config_file", "hba_file", "ident_file"}
	if s.major() <= 14 {
		settings = append(settings, "stats_temp_directory")
	}
	if s.major() >= 17 {
		settings = append(settings, "summarize_wal")
	}
	s.configFiles = make(map[string]string)
	for _, name := range settings {
		var v *string
		if err := s.conn.QueryRow(ctx, "SELECT current_setting($1)", name).Scan(&v); err != nil {
			return hint(fmt.Errorf("ask for %s: %w", name, err), "the role must be a superuser or a member of pg_read_all_settings (pg_monitor has it)")
		}
		if v == nil {
			continue
		}
		switch name {
		case "data_directory":
			s.dataDirectory = *v
		case "stats_temp_directory":
			s.statsTempDir = *v
		case "summarize_wal":
			s.summarizes = *v == "on"
		default:
			s.configFiles[name] = *v
		}
	}
	return nil
}

// systemIDScanner reads the system identifier: the server prints the 64 bits as a
// signed number.
type systemIDScanner uint64

func (s *systemIDScanner) Scan(v any) error {
	text, ok := v.(string)
	if !ok {
		return fmt.Errorf("system identifier is %T", v)
	}
	var n int64
	if _, err := fmt.Sscan(text, &n); err != nil {
		return fmt.Errorf("system identifier %q: %w", text, err)
	}
	*s = systemIDScanner(n)
	return nil
}

// slotName is that of a backup's temporary slot.
func slotName(id string) string {
	return "pgstow_" + strings.ToLower(strings.ReplaceAll(id, "-", "_"))
}

// reserveWAL makes a temporary replication slot, which holds the WAL from the
// last checkpoint's redo point on as long as the session lives.
func (s *session) reserveWAL(ctx context.Context, id string) error {
	name := slotName(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.conn.Exec(ctx, "SELECT pg_create_physical_replication_slot($1, true, true)", name)
	if err != nil {
		return hint(fmt.Errorf("hold the WAL by a temporary replication slot: %w", err),
			"the role needs REPLICATION, and max_replication_slots a free slot")
	}
	return nil
}

// start begins the backup. It lasts as long as the checkpoint.
func (s *session) start(ctx context.Context, label string, fast bool) (wal.LSN, error) {
	sql := "SELECT pg_backup_start($1, $2)::text"
	if s.major() <= 14 {
		sql = "SELECT pg_start_backup($1, $2, false)::text"
	}
	var text string
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.conn.QueryRow(ctx, sql, label, fast).Scan(&text); err != nil {
		return 0, hint(fmt.Errorf("start the backup on the server: %w", err),
			"the role must be a superuser or be granted EXECUTE on pg_backup_start and pg_backup_stop (pg_start_backup and pg_stop_backup up to 14)")
	}
	return wal.ParseLSN(text)
}

// stopped is what the end of a backup says.
type stopped struct {
	lsn           wal.LSN
	timeline      wal.TimelineID
	label         []byte
	tablespaceMap []byte
	time          time.Time // server's clock, after the stop
	nextXID       uint64    // after the stop
}

// stop ends the backup. Errors are final: the server says why it cannot be used.
func (s *session) stop(ctx context.Context) (stopped, error) {
	var out stopped
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.same(ctx); err != nil {
		return out, err
	}
	sql := "SELECT lsn::text, labelfile, spcmapfile FROM pg_backup_stop(false)"
	if s.major() <= 14 {
		sql = "SELECT lsn::text, labelfile, spcmapfile FROM pg_stop_backup(false, false)"
	}
	var lsn, label string
	var spcmap *string
	if err := s.conn.QueryRow(ctx, sql).Scan(&lsn, &label, &spcmap); err != nil {
		return out, fmt.Errorf("stop the backup on the server: %w", err)
	}
	out.label = []byte(label)
	if spcmap != nil {
		out.tablespaceMap = []byte(*spcmap)
	}
	var err error
	if out.lsn, err = wal.ParseLSN(lsn); err != nil {
		return out, err
	}
	if err := s.momentLocked(ctx, &out); err != nil {
		return out, err
	}
	out.timeline, err = s.timelineLocked(ctx)
	return out, err
}

// moment asks for the server's clock and its next transaction.
func (s *session) moment(ctx context.Context, to *stopped) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.momentLocked(ctx, to)
}

func (s *session) momentLocked(ctx context.Context, to *stopped) error {
	var next string
	var standby bool
	err := s.conn.QueryRow(ctx, "SELECT clock_timestamp(), pg_snapshot_xmax(pg_current_snapshot())::text, pg_is_in_recovery()").
		Scan(&to.time, &next, &standby)
	if err != nil {
		return fmt.Errorf("after the backup's stop: %w", err)
	}
	if standby != s.standby {
		return errors.New("the server was promoted during the backup")
	}
	if _, err := fmt.Sscan(next, &to.nextXID); err != nil {
		return fmt.Errorf("next transaction id %q: %w", next, err)
	}
	return nil
}

// same checks that the backend is still the one that the backup began with.
func (s *session) same(ctx context.Context) error {
	var pid int64
	if err := s.conn.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&pid); err != nil {
		return fmt.Errorf("the backup's session is lost: %w", err)
	}
	if uint32(pid) != s.pid {
		return errors.New("the backup's session became another one: is there a pooler in between?")
	}
	return nil
}

// timeline is the one that the server writes, or replays.
func (s *session) timeline(ctx context.Context) (wal.TimelineID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.timelineLocked(ctx)
}

func (s *session) timelineLocked(ctx context.Context) (wal.TimelineID, error) {
	sql := "SELECT ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int8"
	if s.standby {
		sql = "SELECT min_recovery_end_timeline::int8 FROM pg_control_recovery()"
	}
	var tli int64
	if err := s.conn.QueryRow(ctx, sql).Scan(&tli); err != nil {
		return 0, fmt.Errorf("ask for the timeline: %w", err)
	}
	return wal.TimelineID(tli), nil
}

// reached is how far the server's WAL goes: what it has written, or on a standby
// received or replayed.
func (s *session) reached(ctx context.Context) (wal.LSN, error) {
	sql := "SELECT pg_current_wal_insert_lsn()::text"
	if s.standby {
		sql = "SELECT greatest(pg_last_wal_replay_lsn(), pg_last_wal_receive_lsn())::text"
	}
	var text string
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.conn.QueryRow(ctx, sql).Scan(&text); err != nil {
		return 0, err
	}
	return wal.ParseLSN(text)
}

// databases lists all databases by OID.
func (s *session) databases(ctx context.Context) ([]catalog.Database, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.same(ctx); err != nil { // it may have been lost while files were read
		return nil, err
	}
	rows, err := s.conn.Query(ctx, "SELECT oid::int8, datname, datistemplate FROM pg_database ORDER BY oid")
	if err != nil {
		return nil, fmt.Errorf("list the databases: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d catalog.Database, err error) {
		var oid int64
		err = row.Scan(&oid, &d.Name, &d.Template)
		d.OID = uint32(oid)
		return d, err
	})
	if err != nil {
		return nil, fmt.Errorf("list the databases: %w", err)
	}
	return all, nil
}

// now is the server's clock.
func (s *session) now(ctx context.Context) (t time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err = s.conn.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&t)
	return t, err
}

// archiver is the last failure of archive_command, empty if there is none since
// the last success.
func (s *session) archiver(ctx context.Context) (failed string, at time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var name *string
	var when *time.Time
	err = s.conn.QueryRow(ctx, `SELECT last_failed_wal, last_failed_time FROM pg_stat_archiver
		WHERE last_failed_time > coalesce(last_archived_time, '-infinity')`).Scan(&name, &when)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", time.Time{}, nil
	}
	if err == nil && name != nil && when != nil {
		failed, at = *name, *when
	}
	return failed, at, err
}

// pingEvery is how often the session is used while files are read, so that no
// firewall forgets it and its loss is noticed.
const pingEvery = 15 * time.Second

// watch pings until quit is closed or ctx ends; it returns what is wrong with the
// session. A query under way is not interrupted by quit: that would end the session.
func (s *session) watch(ctx context.Context, quit <-chan struct{}) error {
	t := time.NewTicker(pingEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-quit:
			return nil
		case <-t.C:
		}
		s.mu.Lock()
		err := s.same(ctx)
		s.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// hint makes an error that says what can be done.
func hint(err error, text string) error { return &catalog.HintError{Err: err, Hint: text} }
