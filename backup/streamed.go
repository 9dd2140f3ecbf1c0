package backup

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pgstow/backup/source"
	"pgstow/backup/stream"
	"pgstow/catalog"
	"pgstow/wal"
	"pgstow/wal/pgcontrol"
)

// notReachedError says that the server gave no replication connection.
type notReachedError struct{ err error }

func (e *notReachedError) Error() string { return e.err.Error() }
func (e *notReachedError) Unwrap() error { return e.err }

// streaming is a backup by the replication protocol: BASE_BACKUP on one connection, and
// what is asked meanwhile on another.
type streaming struct {
	*creation
	server *stream.Server
	beside *stream.Server
	// sql asks what only SQL tells; nil where the role may not connect so.
	sql *session
	// ask is sql if it may also see who receives WAL.
	ask      *session
	received bool // no archiver runs on the server
	warnings atomic.Int64

	started  time.Time
	timeline wal.TimelineID // where the server was at the beginning
	history  wal.History    // of that

	told *reference // what the server was told of; nil: nothing
	why  string     // why that is nothing
}

// streamed backs up a server without its files.
func (c *creation) streamed(ctx context.Context) (h catalog.BackupHeader, err error) {
	c.phase(PhaseConnect)
	s := &streaming{creation: c}
	s.server, err = stream.Connect(ctx, stream.Options{DSN: c.o.Conn, Name: "pgstow backup", Notice: s.warned})
	if err != nil {
		return h, &notReachedError{err}
	}
	defer func() { s.server.Close() }() // it can become another one
	if s.beside, err = s.server.Again(ctx); err != nil {
		return h, hint(err, "a backup needs two connections for replication, three at its end: max_wal_senders must leave them free")
	}
	defer func() { s.beside.Close() }()
	if s.sql = s.openSQL(ctx); s.sql != nil {
		defer s.sql.close(context.WithoutCancel(ctx))
	}
	f := s.server.Facts
	c.major, c.mode, c.dir = f.Major(), f.DirectoryMode, f.DataDirectory
	c.control = pgcontrol.Control{ // as far as it is known before it comes
		SystemID: f.SystemID, BlockSize: f.BlockSize, RelSegSize: f.RelSegSize, WALSegmentSize: f.WALSegmentSize, LogHints: f.LogHints,
	}
	if f.Checksums {
		c.control.DataChecksumVersion = 1
	}
	if err := s.findArchiver(ctx); err != nil {
		return h, err
	}
	if err := c.cluster(ctx); err != nil {
		return h, err
	}
	err = c.leased(ctx, func(ctx context.Context) (err error) {
		h, err = s.run(ctx)
		return err
	})
	return h, err
}

// warningsKept bounds how many of the server's warnings are noted: there is one for each
// file of some kinds.
const warningsKept = 20

func (s *streaming) warned(text string) {
	if s.warnings.Add(1) <= warningsKept {
		s.report.emit(NoteEvent{Text: "the server warns: " + text})
	}
}

// openSQL connects for SQL to the same server, if the role may.
func (s *streaming) openSQL(ctx context.Context) *session {
	x, err := dial(ctx, s.o.Conn)
	if err != nil {
		return nil
	}
	var standby, monitor bool
	err = x.setUp(ctx)
	if err == nil {
		err = x.conn.QueryRow(ctx, `SELECT pg_is_in_recovery(), system_identifier::text, pg_has_role('pg_read_all_stats', 'USAGE')
			FROM pg_control_system()`).Scan(&standby, (*systemIDScanner)(&x.systemID), &monitor)
	}
	same := x.conn.PgConn().Conn().RemoteAddr().String() == s.server.Address
	if err != nil || !same || x.systemID != s.server.SystemID || standby != s.server.Standby {
		x.close(context.WithoutCancel(ctx))
		return nil
	}
	x.standby = standby
	if monitor {
		s.ask = x
	}
	return x
}

// findArchiver makes sure that somebody brings the server's WAL into the archive, as far
// as that can be seen.
func (s *streaming) findArchiver(ctx context.Context) error {
	if s.o.WAL == WALInclude || s.server.Standby || s.server.ArchiverOff == "" {
		return nil
	}
	s.received = true
	if s.ask == nil {
		s.report.emit(NoteEvent{Text: s.server.ArchiverOff + ", and this role cannot see whether a receiver stores the server's WAL"})
		return nil
	}
	s.ask.archiveMode = "on" // and archive_command tells
	if strings.HasPrefix(s.server.ArchiverOff, "archive_mode") {
		s.ask.archiveMode = "off"
	}
	return s.ask.findArchiver(ctx)
}

// run does the work for which the lease was taken.
func (s *streaming) run(ctx context.Context) (catalog.BackupHeader, error) {
	none := catalog.BackupHeader{}
	// WAL that is compared with the archive's at the end is held too.
	if s.o.WAL == WALInclude || s.server.Standby || s.received || s.repo.Opaque() {
		if err := s.beside.HoldWAL(ctx, slotName(s.id)); err != nil {
			return none, err
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	b, err := s.begin(ctx)
	if err != nil {
		return none, err
	}
	defer b.Close()
	k, err := s.copier(ctx, b)
	if err != nil {
		return none, err
	}
	copyCtx, end, err := s.startCopy(ctx, k)
	if err != nil {
		return none, err
	}
	defer end()
	got, err := s.receive(copyCtx, k, b, cancel)
	if err != nil {
		return none, err
	}
	h, err := s.finishWAL(copyCtx, k, b, got)
	if err != nil {
		return none, err
	}
	return s.commit(ctx, k, h, got)
}

// begin starts the backup on the server.
func (s *streaming) begin(ctx context.Context) (b *stream.Backup, err error) {
	s.phase(PhaseCheckpoint)
	if s.started, err = s.clock(ctx); err != nil {
		return nil, err
	}
	if s.timeline, _, err = s.beside.Position(ctx); err != nil {
		return nil, err
	}
	if s.history, err = s.beside.History(ctx, s.timeline); err != nil {
		return nil, err
	}
	if s.told, s.why, err = s.offer(ctx); err != nil {
		return nil, err
	}
	o := stream.BackupOptions{
		Label: serverLabel(s.id, s.o.Label), Spread: s.o.SpreadCheckpoint, MaxRate: s.o.StreamRate, Incremental: s.told != nil,
	}
	b, err = s.server.StartBackup(ctx, o)
	var refused *pgconn.PgError
	if o.Incremental && errors.As(err, &refused) && ctx.Err() == nil { // summaries are missing, or not there yet
		s.told, s.why, o.Incremental = nil, refused.Message, false
		if err := s.reconnect(ctx); err != nil {
			return nil, err
		}
		b, err = s.server.StartBackup(ctx, o)
	}
	if err != nil {
		return nil, err
	}
	if !s.history.Contains(b.Timeline, b.Start) {
		b.Close()
		return nil, fmt.Errorf("the server was on timeline %d, and the backup starts at %s on timeline %d", s.timeline, b.Start, b.Timeline)
	}
	s.control.Redo, s.control.Timeline = b.Start, s.timeline
	return b, nil
}

func (s *streaming) clock(ctx context.Context) (time.Time, error) {
	if s.sql != nil {
		return s.sql.now(ctx)
	}
	return s.beside.Clock(ctx)
}

// copier prepares the copy, beside a reference if there is one.
func (s *streaming) copier(ctx context.Context, b *stream.Backup) (*copier, error) {
	k := &copier{
		start: b.Start, streamed: true,
		source: source.Options{Root: s.dir, Tablespaces: tablespacesSent(b.Tablespaces)},
		limit: func(ctx context.Context) (wal.LSN, error) {
			_, end, err := s.beside.Position(ctx)
			return end, err
		},
	}
	if s.dir == "" {
		k.source.Root = "streamed from " + s.server.Address
	}
	if err := s.choose(ctx, k, b); err != nil {
		return nil, err
	}
	s.tellMethod(k)
	return k, nil
}

// choose finds the reference: the one that the server was told of, or what there is now that
// the start is known.
func (s *streaming) choose(ctx context.Context, k *copier, b *stream.Backup) (err error) {
	if s.told != nil {
		if k.ref = s.told; b.Start < k.ref.header.Stop {
			return fmt.Errorf("the server sends what changed since backup %s, which ended at %s, after the start of this one at %s", k.ref.header.ID, k.ref.header.Stop, b.Start)
		}
		return nil
	}
	k.ref, k.why, err = s.findReference(ctx, beginning{start: b.Start, history: s.history, control: s.control})
	if k.ref != nil {
		k.why = s.why
	}
	return err
}

// tablespacesSent are those beside the data directory. One in place has a path in it
// (allow_in_place_tablespaces).
func tablespacesSent(list []stream.Tablespace) (out []source.Tablespace) {
	for _, t := range list {
		if t.OID != 0 {
			out = append(out, source.Tablespace{OID: t.OID, Location: t.Location, InPlace: !strings.HasPrefix(t.Location, "/")})
		}
	}
	return out
}

// mapOf is the tablespace_map that the server would send (do_pg_backup_start in
// backend/access/transam/xlog.c).
func mapOf(list []stream.Tablespace) (b []byte) {
	for _, t := range tablespacesSent(list) {
		if !t.InPlace {
			escaped := strings.NewReplacer("\\", "\\\\", "\n", "\\\n", "\r", "\\\r").Replace(t.Location)
			b = fmt.Appendf(b, "%d %s\n", t.OID, escaped)
		}
	}
	return b
}

// sent is what the server said in the course and at the end of its backup.
type sent struct {
	stopped
	control    pgcontrol.Control
	checkpoint wal.LSN
	startTLI   wal.TimelineID
}

// receive takes all files and the end of the backup, and writes the manifest's lines.
func (s *streaming) receive(ctx context.Context, k *copier, b *stream.Backup, cancel context.CancelCauseFunc) (got sent, err error) {
	s.phase(PhaseCopy)
	var size int64
	for _, t := range b.Tablespaces {
		size += t.Size
	}
	s.report.totalBytes.Store(size)
	f := &feeder{copier: k, b: b, major: s.major, modeOfFolders: s.mode, cancel: cancel}
	lines, err := k.runStream(ctx, f)
	if err != nil {
		return got, err
	}
	defer func() { err = errors.Join(err, lines.close()) }()
	s.phase(PhaseStop)
	if got, err = s.ended(ctx, k, b, f); err != nil {
		return got, err
	}
	if err := k.collect.storeControl(ctx, f.controlFile); err != nil {
		return got, err
	}
	return got, k.writeLines(ctx, lines)
}

// ended hears the end of the backup and checks what was sent.
func (s *streaming) ended(ctx context.Context, k *copier, b *stream.Backup, f *feeder) (got sent, err error) {
	done, err := b.Done()
	if err != nil {
		return got, err
	}
	got.lsn, got.timeline, got.label, got.tablespaceMap = done.Stop, done.Timeline, f.label, f.tablespaceMap
	if got.tablespaceMap == nil {
		got.tablespaceMap = mapOf(b.Tablespaces)
	}
	if done.Damaged && k.collect.totals.damaged == 0 {
		s.report.emit(NoteEvent{Text: "the server found pages that do not agree with their checksums; in what it sent there are none"})
	}
	tli, _, err := s.beside.Position(ctx)
	if err != nil && ctx.Err() == nil { // it was idle as long as the files came
		again, aerr := s.server.Again(ctx)
		if aerr != nil {
			return got, errors.Join(err, aerr)
		}
		s.beside.Close()
		s.beside = again
		tli, _, err = s.beside.Position(ctx)
	}
	switch {
	case err != nil:
		return got, err
	case tli != s.timeline, !s.server.Standby && got.timeline != tli, !s.history.Contains(got.timeline, got.lsn):
		return got, fmt.Errorf("the server went from timeline %d to %d during the backup, which ends at %s on %d", s.timeline, tli, got.lsn, got.timeline)
	}
	label, err := wal.ParseBackupLabel(got.label)
	if err != nil {
		return got, err
	}
	if err := s.checkStop(b.Start, label, got.stopped); err != nil {
		return got, err
	}
	if from := label.IncrementalFromLSN; s.told != nil && from != s.told.header.Start || s.told == nil && from != 0 {
		return got, fmt.Errorf("the server sent what changed since %s, and was asked for something else", from)
	}
	got.checkpoint, got.startTLI = label.CheckpointLSN, label.StartTimeline
	if got.control, err = s.checkControl(k, f.controlFile, b.Start); err != nil {
		return got, err
	}
	return got, s.after(ctx, &got.stopped)
}

// checkControl reads pg_control, which came last, and compares it with what the server
// said of itself.
func (s *streaming) checkControl(k *copier, b []byte, start wal.LSN) (pgcontrol.Control, error) {
	if b == nil {
		return pgcontrol.Control{}, errors.New("the server did not send pg_control")
	}
	got, err := pgcontrol.Parse(b)
	if err != nil {
		return got, hint(fmt.Errorf("pg_control as the server sent it: %w", err), "run the backup again")
	}
	want := s.control
	switch {
	case got.SystemID != want.SystemID, got.BlockSize != want.BlockSize, got.RelSegSize != want.RelSegSize,
		got.WALSegmentSize != want.WALSegmentSize, (got.DataChecksumVersion != 0) != (want.DataChecksumVersion != 0):
		return got, errors.New("pg_control as the server sent it is not of the server that it said it is")
	case got.Redo < start:
		return got, fmt.Errorf("pg_control as the server sent it is from before the backup: its last checkpoint is at %s, and the backup starts at %s", got.Redo, start)
	}
	if k.ref == nil {
		return got, nil
	}
	if reason := unlike(k.ref.header, beginning{start: start, history: s.history, control: got}); reason != "" {
		return got, hint(fmt.Errorf("backup %s %s: nothing can be built on it", k.ref.header.ID, reason), "run pgstow backup create --full")
	}
	return got, nil
}

// after asks what is only known when the backup has ended: the server's clock, and, if
// the role may connect for SQL, its next transaction and its databases.
func (s *streaming) after(ctx context.Context, to *stopped) (err error) {
	if s.sql != nil {
		err := s.sql.moment(ctx, to)
		if err == nil {
			s.databases, err = s.sql.databases(ctx)
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
		s.ask, to.nextXID = nil, 0 // the session is lost; the backup does not need it
		s.report.emit(NoteEvent{Text: err.Error()})
	}
	to.time, err = s.beside.Clock(ctx)
	return err
}

// commit completes the header and commits.
func (s *streaming) commit(ctx context.Context, k *copier, h catalog.BackupHeader, got sent) (catalog.BackupHeader, error) {
	if err := k.finish(); err != nil {
		return h, err
	}
	if err := s.describe(&h, k, got.control); err != nil {
		return h, err
	}
	h.Source, h.Standby, h.PostgresVersion = catalog.SourceStream, s.server.Standby, s.server.Version
	h.CheckpointLSN, h.Timeline, h.StopTimeline = got.checkpoint, got.startTLI, got.timeline
	h.BackupLabel, h.TablespaceMap = got.label, got.tablespaceMap
	h.StartedAt, h.StoppedAt, h.NextXID = s.started, got.time, got.nextXID
	return s.creation.commit(ctx, k, h)
}
