package receive

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"pgstow/catalog"
	"pgstow/wal"
)

// setUpWithin bounds connecting and everything that is asked before WAL flows.
const setUpWithin = 30 * time.Second

// config is how the server is reached: for WAL, or for SQL.
func (o *Options) config(replication bool) (*pgconn.Config, error) {
	c, err := pgconn.ParseConfig(o.DSN)
	if err != nil {
		return nil, fmt.Errorf("connection string: %w", err)
	}
	switch {
	case o.ApplicationName != "":
		c.RuntimeParams["application_name"] = o.ApplicationName
	case c.RuntimeParams["application_name"] == "":
		c.RuntimeParams["application_name"] = DefaultName
	}
	delete(c.RuntimeParams, "replication")
	if replication {
		c.RuntimeParams["replication"] = "true"
		c.ValidateConnect = forReplication(c.ValidateConnect)
	} else if c.Database == "" {
		c.Database = "postgres"
	}
	return c, nil
}

// forReplication gives the check of target_session_attrs in a form that a walsender can answer: it runs no SELECT, but knows SHOW, and
// from 14 on the server tells by itself whether it is a standby.
func forReplication(check pgconn.ValidateConnectFunc) pgconn.ValidateConnectFunc {
	if check == nil {
		return nil
	}
	same := func(f pgconn.ValidateConnectFunc) bool {
		return reflect.ValueOf(check).Pointer() == reflect.ValueOf(f).Pointer()
	}
	wants := func(standby bool, wrong error) pgconn.ValidateConnectFunc {
		return func(ctx context.Context, conn *pgconn.PgConn) error {
			is, err := isStandby(ctx, conn)
			if err == nil && is != standby {
				return wrong
			}
			return err
		}
	}
	switch {
	case same(pgconn.ValidateConnectTargetSessionAttrsPrimary):
		return wants(false, pgconn.ErrStandbyConnection)
	case same(pgconn.ValidateConnectTargetSessionAttrsStandby):
		return wants(true, pgconn.ErrPrimaryConnection)
	case same(pgconn.ValidateConnectTargetSessionAttrsPreferStandby):
		return nil // any will do
	}
	return check
}

func isStandby(ctx context.Context, conn *pgconn.PgConn) (bool, error) {
	if told := conn.ParameterStatus("in_hot_standby"); told != "" {
		return told == "on", nil
	}
	value, err := show(ctx, conn, "transaction_read_only")
	return value == "on", err
}

// server is one connection to a server, and what it said of itself.
type server struct {
	conn     *pgconn.PgConn
	address  string
	appName  string
	systemID uint64
	major    int
	size     wal.SegmentSize
	pageSize uint32
	sums     bool // data checksums
}

// connect opens the replication connection and asks what does not change.
func connect(ctx context.Context, o *Options) (*server, error) {
	ctx, cancel := context.WithTimeout(ctx, setUpWithin)
	defer cancel()
	c, err := o.config(true)
	if err != nil {
		return nil, err
	}
	conn, err := pgconn.ConnectConfig(ctx, c)
	if err != nil {
		return nil, withConnectHint(fmt.Errorf("connect to the server: %w", err))
	}
	s := &server{conn: conn, appName: c.RuntimeParams["application_name"], address: addressOf(conn)}
	if err := s.learn(ctx); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func addressOf(conn *pgconn.PgConn) string { return conn.Conn().RemoteAddr().String() }

func withConnectHint(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && strings.HasPrefix(pg.Code, "28") {
		return &catalog.HintError{Err: err, Hint: "the role needs REPLICATION, and pg_hba.conf a line for it with the database \"replication\""}
	}
	return err
}

// close says goodbye, for a moment only: a server that does not answer notices by itself.
func (s *server) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = s.conn.Close(ctx)
}

func (s *server) learn(ctx context.Context) error {
	version, _, _ := strings.Cut(s.conn.ParameterStatus("server_version"), " ")
	number, _, _ := strings.Cut(version, ".")
	if i := strings.IndexFunc(number, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		number = number[:i] // 18beta1
	}
	var err error
	if s.major, err = strconv.Atoi(number); err != nil || s.major < 13 || s.major > 18 {
		return fmt.Errorf("PostgreSQL %s: pgstow knows 13 to 18", version)
	}
	var ident pglogrepl.IdentifySystemResult
	if ident, err = pglogrepl.IdentifySystem(ctx, s.conn); err != nil {
		return fmt.Errorf("IDENTIFY_SYSTEM: %w", err)
	}
	// The server prints the 64 bits without a sign here (IdentifySystem in src/backend/replication/walsender.c).
	if s.systemID, err = strconv.ParseUint(ident.SystemID, 10, 64); err != nil {
		return fmt.Errorf("IDENTIFY_SYSTEM: %w", err)
	}
	text, err := show(ctx, s.conn, "wal_segment_size")
	if err != nil {
		return err
	}
	size, err := parseSize(text)
	if err != nil {
		return fmt.Errorf("wal_segment_size: %w", err)
	}
	s.size = wal.SegmentSize(size)
	if err := s.size.Check(); err != nil {
		return err
	}
	if text, err = show(ctx, s.conn, "block_size"); err != nil {
		return err
	}
	page, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return fmt.Errorf("block_size: %w", err)
	}
	s.pageSize = uint32(page)
	text, err = show(ctx, s.conn, "data_checksums")
	s.sums = text == "on"
	return err
}

// position is where the server is now: its timeline, and the end of its WAL.
func (s *server) position(ctx context.Context) (wal.TimelineID, wal.LSN, error) {
	ident, err := pglogrepl.IdentifySystem(ctx, s.conn)
	if err != nil {
		return 0, 0, fmt.Errorf("IDENTIFY_SYSTEM: %w", err)
	}
	return wal.TimelineID(ident.Timeline), wal.LSN(ident.XLogPos), nil
}

// show is a setting as a walsender tells it (SHOW is a command of the replication protocol).
func show(ctx context.Context, conn *pgconn.PgConn, name string) (string, error) {
	rows, err := query(ctx, conn, "SHOW "+name)
	if err != nil {
		return "", fmt.Errorf("SHOW %s: %w", name, err)
	}
	if len(rows) != 1 || len(rows[0]) != 1 {
		return "", fmt.Errorf("SHOW %s: no value", name)
	}
	return string(rows[0][0]), nil
}

// query runs one statement and returns its rows; nil is NULL.
func query(ctx context.Context, conn *pgconn.PgConn, sql string) ([][][]byte, error) {
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(results) != 1 {
		return nil, fmt.Errorf("%d results", len(results))
	}
	return results[0].Rows, nil
}

// parseSize reads a setting with a unit of memory: "16MB".
func parseSize(text string) (uint64, error) {
	number := strings.TrimRight(text, "kMGTB")
	n, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		return 0, err
	}
	shift, ok := map[string]uint{"": 0, "B": 0, "kB": 10, "MB": 20, "GB": 30}[text[len(number):]]
	if !ok {
		return 0, fmt.Errorf("%q is no size", text)
	}
	return n << shift, nil
}

// sql asks what a walsender does not answer, on a connection of its own. Where the role may not connect so, receiving goes on without the
// answer.
func (s *server) sql(ctx context.Context, o *Options, sql string) ([][][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, setUpWithin)
	defer cancel()
	c, err := o.config(false)
	if err != nil {
		return nil, err
	}
	conn, err := pgconn.ConnectConfig(ctx, c)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(ctx) }()
	if address := addressOf(conn); address != s.address {
		return nil, fmt.Errorf("the connection string led to %s, and for WAL to %s", address, s.address) // several hosts, in the middle of a failover
	}
	return query(ctx, conn, sql)
}
