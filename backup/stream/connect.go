// Package stream speaks the part of PostgreSQL's replication protocol that backups need: it knows a server without its files, receives a
// base backup file by file as the server sends it (BASE_BACKUP), and reads WAL from it (START_REPLICATION). It knows nothing of stores,
// packs and maps.
package stream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"pgstow/catalog"
	"pgstow/wal"
)

// setUpWithin bounds connecting and each question to a server.
const setUpWithin = 30 * time.Second

// Options say how a server is reached.
type Options struct {
	// DSN is a libpq connection string or URL. It must lead to the server itself, not to a pooler.
	DSN string
	// Name is the application_name, unless the DSN has one.
	Name string
	// Notice is told of the server's warnings; may be nil.
	Notice func(text string)
}

// Server is a replication connection, and what the server said of itself. It is not for concurrent use.
type Server struct {
	Facts
	Address string

	conn *pgconn.PgConn
	o    Options
}

// Facts are what a server tells everybody with REPLICATION.
type Facts struct {
	SystemID       uint64
	Version        int // server_version_num
	Standby        bool
	BlockSize      uint32 // bytes
	RelSegSize     uint32 // pages in one file of a relation
	WALSegmentSize wal.SegmentSize
	Checksums      bool
	WALLevel       string
	LogHints       bool
	// ArchiverOff says why the server's own archiver stores nothing; "" if it does.
	ArchiverOff string
	// DataDirectory is empty where the role may not know it.
	DataDirectory string
	DirectoryMode fs.FileMode
	// Summarizes: it keeps summaries of its WAL, by which it can send what changed (17
	// and newer).
	Summarizes bool
}

// Major is PostgreSQL's major version.
func (f Facts) Major() int { return f.Version / 10000 }

// Connect opens a replication connection and asks what does not change.
func Connect(ctx context.Context, o Options) (*Server, error) {
	ctx, cancel := context.WithTimeout(ctx, setUpWithin)
	defer cancel()
	s, err := dial(ctx, o, nil)
	if err != nil {
		return nil, err
	}
	if err := s.learn(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Again opens one more connection to the same server.
func (s *Server) Again(ctx context.Context) (*Server, error) {
	ctx, cancel := context.WithTimeout(ctx, setUpWithin)
	defer cancel()
	var params map[string]string
	if s.Major() >= 14 {
		params = map[string]string{"idle_session_timeout": "0"} // it may idle as long as the backup lasts
	}
	x, err := dial(ctx, s.o, params)
	if err != nil {
		return nil, err
	}
	x.Facts = s.Facts
	id, err := pglogrepl.IdentifySystem(ctx, x.conn)
	switch {
	case err != nil:
		err = fmt.Errorf("IDENTIFY_SYSTEM: %w", err)
	case id.SystemID != strconv.FormatUint(s.SystemID, 10) || x.Address != s.Address:
		err = fmt.Errorf("the connection string led to %s, and now to %s: name one server", s.Address, x.Address)
	}
	if err != nil {
		x.Close()
		return nil, err
	}
	return x, nil
}

func dial(ctx context.Context, o Options, params map[string]string) (*Server, error) {
	c, err := pgconn.ParseConfig(o.DSN)
	if err != nil {
		return nil, fmt.Errorf("connection string: %w", err)
	}
	if c.RuntimeParams["application_name"] == "" {
		c.RuntimeParams["application_name"] = o.Name
	}
	c.RuntimeParams["replication"] = "true"
	for name, value := range params {
		c.RuntimeParams[name] = value
	}
	c.ValidateConnect = forReplication(c.ValidateConnect)
	c.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if o.Notice != nil && n.SeverityUnlocalized == "WARNING" {
			o.Notice(n.Message)
		}
	}
	conn, err := pgconn.ConnectConfig(ctx, c)
	if err != nil {
		err = fmt.Errorf("connect to the server for replication: %w", err)
		var pg *pgconn.PgError
		if errors.As(err, &pg) && (strings.HasPrefix(pg.Code, "28") || pg.Code == "42501") {
			err = &catalog.HintError{Err: err, Hint: "the role needs REPLICATION, and pg_hba.conf a line for it with the database \"replication\""}
		}
		return nil, err
	}
	return &Server{conn: conn, Address: conn.Conn().RemoteAddr().String(), o: o}, nil
}

// Close says goodbye, for a moment only: a server that does not answer notices by itself.
func (s *Server) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = s.conn.Close(ctx)
}

// forReplication gives the check of target_session_attrs in a form that a walsender can answer: it runs no SELECT, but knows SHOW.
func forReplication(check pgconn.ValidateConnectFunc) pgconn.ValidateConnectFunc {
	if check == nil {
		return nil
	}
	is := func(f pgconn.ValidateConnectFunc) bool {
		return reflect.ValueOf(check).Pointer() == reflect.ValueOf(f).Pointer()
	}
	wants := func(standby bool, wrong error) pgconn.ValidateConnectFunc {
		return func(ctx context.Context, conn *pgconn.PgConn) error {
			found, err := isStandby(ctx, conn)
			if err == nil && found != standby {
				return wrong
			}
			return err
		}
	}
	switch {
	case is(pgconn.ValidateConnectTargetSessionAttrsPrimary):
		return wants(false, pgconn.ErrStandbyConnection)
	case is(pgconn.ValidateConnectTargetSessionAttrsStandby):
		return wants(true, pgconn.ErrPrimaryConnection)
	case is(pgconn.ValidateConnectTargetSessionAttrsPreferStandby):
		return nil // any will do
	}
	return check
}

// isStandby asks by what the server tells from 14 on, and before that by what a session of a standby cannot be but.
func isStandby(ctx context.Context, conn *pgconn.PgConn) (bool, error) {
	if told := conn.ParameterStatus("in_hot_standby"); told != "" {
		return told == "on", nil
	}
	value, err := show(ctx, conn, "transaction_read_only")
	return value == "on", err
}

func (s *Server) learn(ctx context.Context) error {
	id, err := pglogrepl.IdentifySystem(ctx, s.conn)
	if err != nil {
		return fmt.Errorf("IDENTIFY_SYSTEM: %w", err)
	}
	// The server prints the 64 bits without a sign here (IdentifySystem in src/backend/replication/walsender.c).
	if s.SystemID, err = strconv.ParseUint(id.SystemID, 10, 64); err != nil {
		return fmt.Errorf("IDENTIFY_SYSTEM: %w", err)
	}
	if s.Standby, err = isStandby(ctx, s.conn); err != nil {
		return err
	}
	for _, q := range []struct {
		name string
		take func(string) error
	}{
		{"server_version_num", func(v string) (err error) { s.Version, err = strconv.Atoi(v); return err }},
		{"block_size", number(&s.BlockSize)},
		{"segment_size", s.relationSegment},
		{"wal_segment_size", func(v string) error {
			n, err := parseSize(v)
			s.WALSegmentSize = wal.SegmentSize(n)
			if err == nil {
				err = s.WALSegmentSize.Check()
			}
			return err
		}},
		{"data_checksums", onOff(&s.Checksums)},
		{"wal_level", func(v string) error { s.WALLevel = v; return nil }},
		{"wal_log_hints", onOff(&s.LogHints)},
		{"data_directory_mode", func(v string) error {
			n, err := strconv.ParseUint(v, 8, 9)
			s.DirectoryMode = fs.FileMode(n)
			return err
		}},
	} {
		v, err := show(ctx, s.conn, q.name)
		if err == nil {
			err = q.take(v)
		}
		if err != nil {
			return fmt.Errorf("ask for %s: %w", q.name, err)
		}
	}
	if m := s.Major(); m < 13 || m > 18 {
		return fmt.Errorf("PostgreSQL %d: pgstow knows 13 to 18", m)
	}
	if s.Major() >= 17 {
		v, err := show(ctx, s.conn, "summarize_wal")
		if err != nil {
			return err
		}
		s.Summarizes = v == "on"
	}
	if s.DataDirectory, err = show(ctx, s.conn, "data_directory"); err != nil && !isPgError(err) {
		return err // a role that may not know it is no error
	}
	return s.learnArchiver(ctx)
}

func (s *Server) learnArchiver(ctx context.Context) error {
	mode, err := show(ctx, s.conn, "archive_mode")
	if err != nil {
		return err
	}
	if mode == "off" {
		s.ArchiverOff = "archive_mode is off"
		return nil
	}
	command, err := show(ctx, s.conn, "archive_command")
	if err != nil {
		return err
	}
	library := ""
	if s.Major() >= 15 {
		if library, err = show(ctx, s.conn, "archive_library"); err != nil {
			return err
		}
	}
	if command == "" && library == "" {
		s.ArchiverOff = "archive_command is empty"
	}
	return nil
}

func isPgError(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg)
}

// relationSegment takes segment_size, which comes after block_size and is shown in bytes.
func (s *Server) relationSegment(v string) error {
	n, err := parseSize(v)
	if err != nil {
		return err
	}
	if s.BlockSize == 0 || n%uint64(s.BlockSize) != 0 {
		return fmt.Errorf("%s with pages of %d bytes", v, s.BlockSize)
	}
	s.RelSegSize = uint32(n / uint64(s.BlockSize))
	return nil
}

func number(to *uint32) func(string) error {
	return func(v string) error {
		n, err := strconv.ParseUint(v, 10, 32)
		*to = uint32(n)
		return err
	}
}

func onOff(to *bool) func(string) error {
	return func(v string) error { *to = v == "on"; return nil }
}

// parseSize reads a setting with a unit of memory: "16MB".
func parseSize(text string) (uint64, error) {
	digits := strings.TrimRight(text, "kMGTB")
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil {
		return 0, err
	}
	shift, ok := map[string]uint{"": 0, "B": 0, "kB": 10, "MB": 20, "GB": 30, "TB": 40}[text[len(digits):]]
	if !ok {
		return 0, fmt.Errorf("%q is no size", text)
	}
	return n << shift, nil
}

// show is a setting as a walsender tells it (SHOW is a command of the replication protocol).
func show(ctx context.Context, conn *pgconn.PgConn, name string) (string, error) {
	results, err := conn.Exec(ctx, "SHOW "+name).ReadAll()
	if err != nil {
		return "", fmt.Errorf("SHOW %s: %w", name, err)
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) != 1 {
		return "", fmt.Errorf("SHOW %s: no value", name)
	}
	return string(results[0].Rows[0][0]), nil
}

// Position is where the server is now: its timeline, and the end of the WAL that it has written to disk, or on a standby received. No page
// on its disk has a later LSN.
func (s *Server) Position(ctx context.Context) (wal.TimelineID, wal.LSN, error) {
	ctx, cancel := context.WithTimeout(ctx, setUpWithin)
	defer cancel()
	id, err := pglogrepl.IdentifySystem(ctx, s.conn)
	if err != nil {
		return 0, 0, fmt.Errorf("IDENTIFY_SYSTEM: %w", err)
	}
	return wal.TimelineID(id.Timeline), wal.LSN(id.XLogPos), nil
}

// HistoryFile is the contents of a timeline's history file. ok is false if the server has none.
func (s *Server) HistoryFile(ctx context.Context, tli wal.TimelineID) (b []byte, ok bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, setUpWithin)
	defer cancel()
	file, err := pglogrepl.TimelineHistory(ctx, s.conn, int32(tli))
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "58P01" { // undefined_file
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("TIMELINE_HISTORY %d: %w", tli, err)
	}
	return file.Content, true, nil
}

// History is the way to a timeline.
func (s *Server) History(ctx context.Context, tli wal.TimelineID) (wal.History, error) {
	if tli == 1 {
		return wal.NewHistory(1), nil
	}
	b, ok, err := s.HistoryFile(ctx, tli)
	if err == nil && !ok {
		err = fmt.Errorf("the server has no history of timeline %d", tli)
	}
	if err != nil {
		return nil, err
	}
	return wal.ParseHistory(tli, b)
}

// HoldWAL makes a temporary replication slot, which holds the WAL from the last checkpoint's redo point on as long as this connection
// lives.
func (s *Server) HoldWAL(ctx context.Context, slot string) error {
	ctx, cancel := context.WithTimeout(ctx, setUpWithin)
	defer cancel()
	_, err := pglogrepl.CreateReplicationSlot(ctx, s.conn, slot, "", pglogrepl.CreateReplicationSlotOptions{
		Mode: pglogrepl.PhysicalReplication, Temporary: true, SnapshotAction: "RESERVE_WAL",
	})
	if err != nil {
		return &catalog.HintError{
			Err:  fmt.Errorf("hold the WAL by a temporary replication slot: %w", err),
			Hint: "max_replication_slots must leave a free slot",
		}
	}
	return nil
}
