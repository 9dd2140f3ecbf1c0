// Package stream speaks the part of PostgreSQL's replication protocol that backups need: it knows a server without its files, receives a
// base backup file by file as the server sends it (BASE_BACKUP), and reads WAL from it (START_REPLICATION). It knows nothing of stores,
// packs and maps.
package stream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"strconv"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"pgstow/catalog"
	"pgstow/wal"
	"pgstow/wal/walsender"
)

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
	walsender.Facts
	Standby    bool
	RelSegSize uint32 // pages in one file of a relation
	WALLevel   string
	LogHints   bool
	// ArchiverOff says why the server's own archiver stores nothing; "" if it does.
	ArchiverOff string
	// DataDirectory is empty where the role may not know it.
	DataDirectory string
	DirectoryMode fs.FileMode
	// Summarizes: it keeps summaries of its WAL, by which it can send what changed (17
	// and newer).
	Summarizes bool
}

// Connect opens a replication connection and asks what does not change.
func Connect(ctx context.Context, o Options) (*Server, error) {
	ctx, cancel := context.WithTimeout(ctx, walsender.SetUpWithin)
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
	ctx, cancel := context.WithTimeout(ctx, walsender.SetUpWithin)
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
	id, err := walsender.Identify(ctx, x.conn)
	if err == nil && (id.ID != s.SystemID || x.Address != s.Address) {
		err = fmt.Errorf("the connection string led to %s, and now to %s: name one server", s.Address, x.Address)
	}
	if err != nil {
		x.Close()
		return nil, err
	}
	return x, nil
}

func dial(ctx context.Context, o Options, params map[string]string) (*Server, error) {
	c, err := walsender.ParseConfig(o.DSN, o.Name)
	if err != nil {
		return nil, err
	}
	maps.Copy(c.RuntimeParams, params)
	c.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if o.Notice != nil && n.SeverityUnlocalized == "WARNING" {
			o.Notice(n.Message)
		}
	}
	conn, err := walsender.Connect(ctx, c)
	if err != nil {
		return nil, err
	}
	return &Server{conn: conn, Address: walsender.Address(conn), o: o}, nil
}

// Close says goodbye.
func (s *Server) Close() { walsender.Close(s.conn) }

func (s *Server) show(ctx context.Context, name string) (string, error) {
	return walsender.Show(ctx, s.conn, name)
}

func (s *Server) learn(ctx context.Context) (err error) {
	if s.Facts.Facts, err = walsender.Learn(ctx, s.conn); err != nil {
		return err
	}
	if s.Standby, err = walsender.IsStandby(ctx, s.conn); err != nil {
		return err
	}
	for _, q := range []struct {
		name string
		take func(string) error
	}{
		{"segment_size", s.relationSegment},
		{"wal_level", func(v string) error { s.WALLevel = v; return nil }},
		{"wal_log_hints", onOff(&s.LogHints)},
		{"data_directory_mode", func(v string) error {
			n, err := strconv.ParseUint(v, 8, 9)
			s.DirectoryMode = fs.FileMode(n)
			return err
		}},
	} {
		v, err := s.show(ctx, q.name)
		if err != nil {
			return err
		}
		if err := q.take(v); err != nil {
			return fmt.Errorf("%s: %w", q.name, err)
		}
	}
	if s.Major() >= 17 {
		v, err := s.show(ctx, "summarize_wal")
		if err != nil {
			return err
		}
		s.Summarizes = v == "on"
	}
	if s.DataDirectory, err = s.show(ctx, "data_directory"); err != nil && !isPgError(err) {
		return err // a role that may not know it is no error
	}
	return s.learnArchiver(ctx)
}

func (s *Server) learnArchiver(ctx context.Context) error {
	mode, err := s.show(ctx, "archive_mode")
	if err != nil {
		return err
	}
	if mode == "off" {
		s.ArchiverOff = "archive_mode is off"
		return nil
	}
	command, err := s.show(ctx, "archive_command")
	if err != nil {
		return err
	}
	library := ""
	if s.Major() >= 15 {
		if library, err = s.show(ctx, "archive_library"); err != nil {
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

// relationSegment takes segment_size, which is shown in bytes.
func (s *Server) relationSegment(v string) error {
	n, err := walsender.ParseSize(v)
	if err != nil {
		return err
	}
	if s.BlockSize == 0 || n%uint64(s.BlockSize) != 0 {
		return fmt.Errorf("%s with pages of %d bytes", v, s.BlockSize)
	}
	s.RelSegSize = uint32(n / uint64(s.BlockSize))
	return nil
}

func onOff(to *bool) func(string) error {
	return func(v string) error { *to = v == "on"; return nil }
}

// Position is where the server is now: its timeline, and the end of the WAL that it has written to disk, or on a standby received. No page
// on its disk has a later LSN.
func (s *Server) Position(ctx context.Context) (wal.TimelineID, wal.LSN, error) {
	ctx, cancel := context.WithTimeout(ctx, walsender.SetUpWithin)
	defer cancel()
	id, err := walsender.Identify(ctx, s.conn)
	return id.Timeline, id.End, err
}

// HistoryFile is the contents of a timeline's history file. ok is false if the server has none.
func (s *Server) HistoryFile(ctx context.Context, tli wal.TimelineID) (b []byte, ok bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, walsender.SetUpWithin)
	defer cancel()
	return walsender.HistoryFile(ctx, s.conn, tli)
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
	ctx, cancel := context.WithTimeout(ctx, walsender.SetUpWithin)
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
