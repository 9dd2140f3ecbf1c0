package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"pgstow/wal"
)

// BackupOptions are those of BASE_BACKUP.
type BackupOptions struct {
	// Label is one line.
	Label string
	// Spread lets the server take its time with the first checkpoint.
	Spread bool
	// MaxRate bounds what the server sends, in bytes a second; 0: no limit.
	MaxRate int64
	// Incremental asks for what changed since the backup of which the manifest was
	// uploaded on this connection.
	Incremental bool
}

// Rates that the server takes, in bytes a second (MAX_RATE_LOWER and MAX_RATE_UPPER in src/include/replication/basebackup.h).
const (
	minRate = 32 << 10
	maxRate = 1 << 30
)

// sql is the command as each major knows it (src/backend/replication/repl_gram.y).
//
// The server verifies checksums: it alone can read a page again that it caught in the middle of a write, where the header is still the old
// one. What it finds wrong for good it sends all the same, and says so at the end (see Done).
//
// With TABLESPACE_MAP it sends no links in pg_tblspc, but up to 15 it then also leaves out tablespaces that are folders there
// (allow_in_place_tablespaces); without, it cannot send links to paths of 100 bytes and more.
func (o BackupOptions) sql(major int) string {
	label := "'" + strings.ReplaceAll(o.Label, "'", "''") + "'"
	rate := min(max(o.MaxRate, minRate), maxRate) >> 10
	limited := o.MaxRate > 0 && o.MaxRate <= maxRate
	if major < 15 {
		sql := "BASE_BACKUP LABEL " + label + " PROGRESS NOWAIT"
		if !o.Spread {
			sql += " FAST"
		}
		if limited {
			sql += fmt.Sprintf(" MAX_RATE %d", rate)
		}
		return sql + " MANIFEST 'no'"
	}
	checkpoint := "fast"
	if o.Spread {
		checkpoint = "spread"
	}
	list := []string{"LABEL " + label, "PROGRESS", "CHECKPOINT '" + checkpoint + "'", "WAIT false", "MANIFEST 'no'"}
	if o.Incremental {
		list = append(list, "INCREMENTAL")
	}
	if major > 15 {
		list = append(list, "TABLESPACE_MAP")
	}
	if limited {
		list = append(list, fmt.Sprintf("MAX_RATE %d", rate))
	}
	return "BASE_BACKUP (" + strings.Join(list, ", ") + ")"
}

// Tablespace is one that the server sends.
type Tablespace struct {
	OID      uint32 // 0: the data directory itself
	Location string
	Size     int64 // bytes, as estimated by the server
}

// Backup is a base backup that the server is sending. It is not for concurrent use.
type Backup struct {
	// Start is the redo point of the checkpoint that it begins with, on Timeline.
	Start    wal.LSN
	Timeline wal.TimelineID
	// Tablespaces in the order of sending; the data directory is the last one.
	Tablespaces []Tablespace

	s      *Server
	ctx    context.Context
	stop   func() bool
	inside int // CopyOut streams begun
	at     int // index into Tablespaces of the archive that is read; -1: none yet
	next   int // of the archive that was announced; -1: none
	ended  bool
	data   []byte // of the last message, not yet read
	tar    *archive
}

// StartBackup begins a base backup; it returns after the server's checkpoint. Until Close the connection belongs to the backup. When ctx
// ends so does the connection.
func (s *Server) StartBackup(ctx context.Context, o BackupOptions) (*Backup, error) {
	b := &Backup{s: s, ctx: ctx, at: -1, next: -1}
	b.stop = s.endsWith(ctx)
	if err := b.begin(o); err != nil {
		b.Close()
		return nil, fmt.Errorf("start the backup on the server: %w", err)
	}
	return b, nil
}

// Close lets go of the connection, which is of no more use unless Done has succeeded.
func (b *Backup) Close() { b.stop() }

func (b *Backup) begin(o BackupOptions) error {
	if err := b.s.command(o.sql(b.s.Major())); err != nil {
		return err
	}
	rows, err := b.rows()
	if err != nil {
		return err
	}
	if b.Start, b.Timeline, err = position(rows); err != nil {
		return err
	}
	if rows, err = b.rows(); err != nil {
		return err
	}
	for _, row := range rows {
		t, err := tablespace(row)
		if err != nil {
			return err
		}
		b.Tablespaces = append(b.Tablespaces, t)
	}
	if n := len(b.Tablespaces); n == 0 || b.Tablespaces[n-1].OID != 0 {
		return errors.New("the server does not send the data directory as the last one")
	}
	return nil
}

// position reads a result set of one LSN and its timeline.
func position(rows [][]string) (wal.LSN, wal.TimelineID, error) {
	if len(rows) != 1 || len(rows[0]) != 2 {
		return 0, 0, errors.New("the server does not say where the backup is in the WAL")
	}
	lsn, err := wal.ParseLSN(rows[0][0])
	if err != nil {
		return 0, 0, err
	}
	tli, err := strconv.ParseUint(rows[0][1], 10, 32)
	return lsn, wal.TimelineID(tli), err
}

func tablespace(row []string) (t Tablespace, err error) {
	if len(row) != 3 {
		return t, errors.New("the server does not say which tablespaces it sends")
	}
	if row[0] != "" {
		oid, err := strconv.ParseUint(row[0], 10, 32)
		if err != nil {
			return t, fmt.Errorf("tablespace: %w", err)
		}
		t.OID = uint32(oid)
	}
	t.Location = row[1]
	if row[2] != "" {
		t.Size, err = strconv.ParseInt(row[2], 10, 64)
		t.Size <<= 10
	}
	return t, err
}

// receive is the next message that says something; an error of the server is an error. pgconn has told of warnings. The end of ctx must end the
// connection.
func (s *Server) receive(ctx context.Context) (pgproto3.BackendMessage, error) {
	for {
		msg, err := s.conn.ReceiveMessage(context.Background())
		if err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, fmt.Errorf("the connection was lost: %w", err)
		}
		switch m := msg.(type) {
		case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus:
		case *pgproto3.ErrorResponse:
			return nil, pgconn.ErrorResponseToPgError(m)
		default:
			return msg, nil
		}
	}
}

// endsWith lets ctx end the connection; stop ends that.
func (s *Server) endsWith(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = s.conn.Conn().SetDeadline(time.Unix(1, 0)) })
}

// command begins what is answered by more than rows.
func (s *Server) command(sql string) error {
	s.conn.Frontend().SendQuery(&pgproto3.Query{String: sql})
	return s.conn.Frontend().Flush()
}

// rows reads one result set to its end.
func (b *Backup) rows() (rows [][]string, err error) {
	for {
		msg, err := b.s.receive(b.ctx)
		if err != nil {
			return nil, err
		}
		switch m := msg.(type) {
		case *pgproto3.RowDescription:
		case *pgproto3.DataRow:
			row := make([]string, len(m.Values))
			for i, v := range m.Values {
				row[i] = string(v)
			}
			rows = append(rows, row)
		case *pgproto3.CommandComplete:
			return rows, nil
		default:
			return nil, unexpected(msg)
		}
	}
}

func unexpected(msg pgproto3.BackendMessage) error {
	return fmt.Errorf("the server sent %T in the middle of a backup", msg)
}

// nextArchive goes to the next tablespace's archive; io.EOF after the last one.
func (b *Backup) nextArchive() error {
	if _, err := io.Copy(io.Discard, b); err != nil {
		return err
	}
	if b.s.Major() < 15 {
		if b.inside == len(b.Tablespaces) {
			return io.EOF
		}
		msg, err := b.s.receive(b.ctx)
		if err != nil {
			return err
		}
		if _, ok := msg.(*pgproto3.CopyOutResponse); !ok {
			return unexpected(msg)
		}
		b.at, b.ended = b.inside, false
		b.inside++
		return nil
	}
	if b.inside == 0 {
		msg, err := b.s.receive(b.ctx)
		if err != nil {
			return err
		}
		if _, ok := msg.(*pgproto3.CopyOutResponse); !ok {
			return unexpected(msg)
		}
		b.inside = 1
		for b.next < 0 && !b.ended {
			if err := b.fill(); err != nil {
				return err
			}
		}
	}
	if b.next < 0 {
		if b.at != len(b.Tablespaces)-1 {
			return errors.New("the server did not send all tablespaces")
		}
		return io.EOF
	}
	b.at, b.next = b.next, -1
	return nil
}

// Read gives the bytes of the archive.
func (b *Backup) Read(p []byte) (int, error) {
	for len(b.data) == 0 {
		if b.at < 0 || b.next >= 0 || b.ended {
			return 0, io.EOF
		}
		if err := b.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, b.data)
	b.data = b.data[n:]
	return n, nil
}

// fill receives until there is data, or another archive is announced, or all has been sent. Up to 14 a CopyOut is one archive
// (SendBackupHeader and sendDir in src/backend/replication/basebackup.c), later the messages have kinds (basebackup_copy.c).
func (b *Backup) fill() error {
	msg, err := b.s.receive(b.ctx)
	if err != nil {
		return err
	}
	switch m := msg.(type) {
	case *pgproto3.CopyDone:
		b.ended = true
		return nil
	case *pgproto3.CopyData:
		if b.s.Major() < 15 {
			b.data = m.Data
			return nil
		}
		return b.kind(m.Data)
	}
	return unexpected(msg)
}

func (b *Backup) kind(m []byte) error {
	if len(m) == 0 {
		return errors.New("the server sent an empty message")
	}
	switch m[0] {
	case 'd':
		b.data = m[1:]
		return nil
	case 'p':
		return nil
	case 'n':
		return b.announce(string(m[1:]))
	}
	return fmt.Errorf("the server sent a message of the unknown kind %q", m[0])
}

// announce takes the name of an archive, "<oid>.tar" or "base.tar", with the tablespace's path behind it.
func (b *Backup) announce(text string) error {
	name, _, _ := strings.Cut(text, "\x00")
	stem, ok := strings.CutSuffix(name, ".tar")
	for i, t := range b.Tablespaces {
		if ok && (t.OID == 0 && stem == "base" || t.OID != 0 && stem == strconv.FormatUint(uint64(t.OID), 10)) {
			b.next = i
			return nil
		}
	}
	return fmt.Errorf("the server sends an archive %q, which is no tablespace of the backup", name)
}

// Done is the end of a backup.
type Done struct {
	Stop     wal.LSN
	Timeline wal.TimelineID
	// Damaged: the server found pages that do not agree with their checksums.
	Damaged bool
}

// Done reads what comes behind the last file. Where the server found damaged pages it says so by an error in the place of success, when
// everything has been sent (perform_base_backup in basebackup.c).
func (b *Backup) Done() (d Done, err error) {
	rows, err := b.rows()
	if err != nil {
		return d, fmt.Errorf("end of the backup on the server: %w", err)
	}
	if d.Stop, d.Timeline, err = position(rows); err != nil {
		return d, fmt.Errorf("end of the backup on the server: %w", err)
	}
	for {
		msg, err := b.s.receive(b.ctx)
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Code == codeDataCorrupted && pg.SeverityUnlocalized == "ERROR" {
			d.Damaged = true
			continue
		}
		if err != nil {
			return d, fmt.Errorf("end of the backup on the server: %w", err)
		}
		switch msg.(type) {
		case *pgproto3.CommandComplete:
		case *pgproto3.ReadyForQuery:
			return d, nil
		default:
			return d, unexpected(msg)
		}
	}
}

const codeDataCorrupted = "XX001"
