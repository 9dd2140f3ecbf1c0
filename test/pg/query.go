package pg

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// queryTimeout bounds each helper's statement.
const queryTimeout = 2 * time.Minute

// DSN is a connection string for a database of this server, by its unix socket, as superuser postgres.
func (s *Server) DSN(database string) string {
	return fmt.Sprintf("host=%s port=%d user=postgres dbname=%s", s.SocketDir, s.Port, database)
}

// Env is DSN("postgres") as libpq's environment, for programs.
func (s *Server) Env() []string {
	return []string{"PGHOST=" + s.SocketDir, fmt.Sprintf("PGPORT=%d", s.Port), "PGUSER=postgres", "PGDATABASE=postgres"}
}

// Conn connects to a database. The caller closes it.
func (s *Server) Conn(ctx context.Context, database string) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(s.DSN(database))
	if err != nil {
		return nil, err
	}
	// The simple protocol takes several statements at once and returns every type as text.
	cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	return pgx.ConnectConfig(ctx, cfg)
}

// Exec runs statements in database postgres. Several, parted by semicolons, are one transaction.
func (s *Server) Exec(sql string, args ...any) {
	s.t.Helper()
	s.ExecIn("postgres", sql, args...)
}

// ExecIn is Exec in another database.
func (s *Server) ExecIn(database, sql string, args ...any) {
	s.t.Helper()
	if err := s.TryExec(database, sql, args...); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
}

// TryExec is ExecIn that returns its error.
func (s *Server) TryExec(database, sql string, args ...any) error {
	return s.with(database, func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, sql, args...)
		return err
	})
}

// Value runs a query in database postgres and returns the first column of its one row as text; NULL is "".
func (s *Server) Value(sql string, args ...any) string {
	s.t.Helper()
	return s.ValueIn("postgres", sql, args...)
}

// ValueIn is Value in another database.
func (s *Server) ValueIn(database, sql string, args ...any) string {
	s.t.Helper()
	v, err := s.TryValue(database, sql, args...)
	if err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// TryValue is ValueIn that returns its error.
func (s *Server) TryValue(database, sql string, args ...any) (string, error) {
	var v *string
	err := s.with(database, func(ctx context.Context, c *pgx.Conn) error {
		return c.QueryRow(ctx, sql, args...).Scan(&v)
	})
	if err != nil || v == nil {
		return "", err
	}
	return *v, nil
}

func (s *Server) with(database string, f func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	c, err := s.Conn(ctx, database)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(ctx) }()
	return f(ctx, c)
}

// Now is the server's clock.
func (s *Server) Now() time.Time {
	s.t.Helper()
	v := s.Value(`SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`)
	now, err := time.Parse(time.RFC3339Nano, v)
	if err != nil {
		s.t.Fatalf("clock: %v", err)
	}
	return now
}

// CurrentLSN is the end of the WAL written, or in recovery of the WAL replayed, as PostgreSQL writes it: "0/16B3748".
func (s *Server) CurrentLSN() string {
	s.t.Helper()
	return s.Value("SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END")
}

// SystemID is the cluster's system identifier.
func (s *Server) SystemID() string {
	s.t.Helper()
	return s.Value("SELECT system_identifier FROM pg_control_system()")
}

// SwitchWAL ends the current segment, after a record that makes sure that there is something in it, and returns its name.
func (s *Server) SwitchWAL() string {
	s.t.Helper()
	s.Exec("SELECT pg_create_restore_point('switch')")
	return s.Value("SELECT pg_walfile_name(pg_switch_wal())")
}

// WaitArchived waits until PostgreSQL knows a WAL file as archived: it has a .done file or has been removed already.
func (s *Server) WaitArchived(name string) {
	s.t.Helper()
	s.Await("the archiving of "+name, 2*time.Minute, func() (bool, error) {
		return !s.walFile("archive_status/"+name+".ready") &&
			(s.walFile("archive_status/"+name+".done") || !s.walFile(name)), nil
	})
}

// ArchiveAll switches to a new segment, waits until the old one is archived, and returns its name.
func (s *Server) ArchiveAll() string {
	s.t.Helper()
	name := s.SwitchWAL()
	s.WaitArchived(name)
	return name
}

// ReadyFiles are the names of the WAL files that wait to be archived.
func (s *Server) ReadyFiles() []string {
	s.t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.Dir, "pg_wal", "archive_status"))
	if err != nil {
		s.t.Fatalf("archive_status: %v", err)
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".ready"); ok {
			names = append(names, name)
		}
	}
	return names
}

func (s *Server) walFile(name string) bool {
	_, err := os.Stat(filepath.Join(s.Dir, "pg_wal", name))
	return err == nil
}

// WaitPrimary waits until recovery is over and the server takes writes.
func (s *Server) WaitPrimary() {
	s.t.Helper()
	s.AwaitValue("SELECT pg_is_in_recovery()", "f")
}

// WaitPaused waits until recovery is paused, at its target for example.
func (s *Server) WaitPaused() {
	s.t.Helper()
	if s.Install.Major < 14 {
		s.AwaitValue("SELECT pg_is_wal_replay_paused()", "t")
		return
	}
	s.AwaitValue("SELECT pg_get_wal_replay_pause_state()", "paused")
}

// AwaitValue waits until a query returns a value. Errors of the query are waited out: a server at the end of its recovery may refuse connections.
func (s *Server) AwaitValue(sql, want string) {
	s.t.Helper()
	last := ""
	s.Await(fmt.Sprintf("%s = %q", sql, want), s.opts.StartTimeout, func() (bool, error) {
		if !s.Running() {
			return false, fmt.Errorf("the server has exited; the last answer was %q", last)
		}
		v, err := s.TryValue("postgres", sql)
		if last = v; err != nil {
			last = err.Error()
		}
		return err == nil && v == want, nil
	})
}

// Await polls cond every 20 ms until it is true; an error of cond, or the timeout, fails the test with the server's log.
func (s *Server) Await(what string, timeout time.Duration, cond func() (bool, error)) {
	s.t.Helper()
	if err := s.poll(what, timeout, cond, func() {}); err != nil {
		s.t.Fatalf("%v\n%s", err, s.LogTail())
	}
}

// Await polls cond every 20 ms until it is true; an error of cond, or the timeout, fails the test.
func Await(t TB, what string, timeout time.Duration, cond func() (bool, error)) {
	t.Helper()
	if err := poll(what, timeout, cond); err != nil {
		t.Fatalf("%v", err)
	}
}

func (s *Server) poll(what string, timeout time.Duration, cond func() (bool, error), onFailure func()) error {
	err := poll(what, timeout, cond)
	if err != nil {
		onFailure()
	}
	return err
}

func poll(what string, timeout time.Duration, cond func() (bool, error)) error {
	deadline := time.Now().Add(timeout)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := cond()
		if err != nil {
			return fmt.Errorf("waiting for %s: %w", what, err)
		}
		if ok {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waiting for %s: not within %s", what, timeout)
		}
		<-tick.C
	}
}
