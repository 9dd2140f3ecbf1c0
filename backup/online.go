package backup

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pgstow/catalog"
	"pgstow/wal"
	"pgstow/wal/pgcontrol"
)

// online backs up the directory of a running server, between its own start and
// stop of a backup in one session.
func (c *creation) online(ctx context.Context) (h catalog.BackupHeader, err error) {
	c.phase(PhaseConnect)
	s, err := connect(ctx, c.o.Conn)
	if err != nil {
		if c.o.Source != SourceAuto || c.o.PGData != "" || !notAllowed(err) {
			return h, err
		}
		return c.notLocal(ctx, err) // it may be a role for replication alone
	}
	defer s.close(context.WithoutCancel(ctx))
	if err := c.here(s); err != nil {
		return c.notLocal(ctx, err)
	}
	if err := c.meet(ctx, s); err != nil {
		return h, err
	}
	if err := c.cluster(ctx); err != nil {
		return h, err
	}
	err = c.leased(ctx, func(ctx context.Context) (err error) {
		h, err = c.withServer(ctx, s)
		return err
	})
	return h, err
}

// notAllowed says whether the server refused because of who asks.
func notAllowed(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (strings.HasPrefix(pg.Code, "28") || pg.Code == "42501") // invalid authorization, insufficient privilege
}

// here says why the directory that the server names is not one that can be read here.
func (c *creation) here(s *session) error {
	if c.o.Source != SourceAuto || c.o.PGData != "" {
		return nil // it must be: see meet
	}
	dir, err := realDirectory(s.dataDirectory)
	if err == nil {
		err = checkDirectory(dir, s.facts)
	}
	return err
}

// notLocal streams instead, since the directory cannot be read here.
func (c *creation) notLocal(ctx context.Context, err error) (catalog.BackupHeader, error) {
	c.report.emit(SourceEvent{Why: err.Error()})
	h, serr := c.streamed(ctx)
	var missed *notReachedError
	if errors.As(serr, &missed) {
		return h, errors.Join(err, serr)
	}
	return h, serr
}

// meet finds the server's data directory and makes sure that it is the server's.
func (c *creation) meet(ctx context.Context, s *session) (err error) {
	dir := c.o.PGData
	if dir == "" {
		dir = s.dataDirectory
	}
	if c.dir, err = realDirectory(dir); err != nil {
		return hint(err, "a backup reads the server's data directory: run it on the server's host, as its user")
	}
	if err := checkDirectory(c.dir, s.facts); err != nil {
		return err
	}
	if c.major, err = readMajor(c.dir); err != nil {
		return err
	}
	if c.control, _, err = readControl(ctx, c.o.FS, c.dir); err != nil {
		return err
	}
	switch {
	case c.control.SystemID != s.systemID:
		return fmt.Errorf("%s has system identifier %d and the server %d", c.dir, c.control.SystemID, s.systemID)
	case c.major != s.major():
		return fmt.Errorf("%s is of PostgreSQL %d and the server of %d", c.dir, c.major, s.major())
	case s.walLevel == "minimal":
		return hint(errors.New("wal_level is minimal: backups of a running server need replica or logical"), "set wal_level = replica, or use --offline")
	case c.o.WAL == WALArchive && !s.standby:
		return s.findArchiver(ctx)
	}
	return nil
}

// withServer does the work for which the lease was taken.
func (c *creation) withServer(ctx context.Context, s *session) (catalog.BackupHeader, error) {
	none := catalog.BackupHeader{}
	// WAL that is compared with the archive's at the end is held too.
	if c.o.WAL == WALInclude || s.standby || s.received {
		if err := s.reserveWAL(ctx, c.id); err != nil {
			return none, err
		}
	}
	c.phase(PhaseCheckpoint)
	started, err := s.now(ctx)
	if err != nil {
		return none, err
	}
	start, err := s.start(ctx, serverLabel(c.id, c.o.Label), !c.o.SpreadCheckpoint)
	if err != nil {
		return none, err
	}
	tli, err := s.timeline(ctx)
	if err != nil {
		return none, err
	}
	if c.control, _, err = readControl(ctx, c.o.FS, c.dir); err != nil {
		return none, err
	}
	if c.control.Redo < start {
		return none, fmt.Errorf("%s is not the server's directory: its last checkpoint is at %s, and the backup starts at %s", c.dir, c.control.Redo, start)
	}
	tablespaces, err := readTablespaces(c.dir)
	if err != nil {
		return none, err
	}
	src := c.newSource(tablespaces)
	src.StatsTempDirectory = s.statsTempDir
	var settings map[string]string
	src.Externals, settings = configFiles(c.dir, s.facts)

	k := &copier{source: src, start: start, limit: s.reached}
	if err := c.begin(ctx, k, s, start, tli); err != nil {
		return none, err
	}
	copyCtx, end, err := c.startCopy(ctx, k)
	if err != nil {
		return none, err
	}
	defer end()
	control, stop, err := c.copyBetween(copyCtx, k, s, start, tli)
	if err != nil {
		return none, err
	}
	h, err := c.finishWAL(copyCtx, k, s, start, stop, tli)
	if err != nil {
		return none, err
	}
	return c.commitOnline(ctx, k, s, h, control, started, settings)
}

// copyBetween copies the files and ends the backup on the server.
func (c *creation) copyBetween(ctx context.Context, k *copier, s *session, start wal.LSN, tli wal.TimelineID) (control pgcontrol.Control, stop stopped, err error) {
	c.phase(PhaseCopy)
	if err = c.copyWatched(ctx, k, s); err != nil {
		return control, stop, err
	}
	if control, _, err = k.storeControl(ctx); err != nil {
		return control, stop, err
	}
	c.phase(PhaseStop)
	if c.databases, err = s.databases(ctx); err != nil {
		return control, stop, err
	}
	if stop, err = s.stop(ctx); err != nil {
		return control, stop, err
	}
	if stop.timeline != tli {
		return control, stop, fmt.Errorf("the server went from timeline %d to %d during the backup", tli, stop.timeline)
	}
	label, err := wal.ParseBackupLabel(stop.label)
	if err != nil {
		return control, stop, err
	}
	return control, stop, c.checkStop(start, label, stop)
}

// copyWatched copies while the session is pinged; its loss ends the copy.
func (c *creation) copyWatched(ctx context.Context, k *copier, s *session) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	quit, watched := make(chan struct{}), make(chan error, 1)
	go func() {
		err := s.watch(ctx, quit)
		if err != nil {
			cancel(err)
		}
		watched <- err
	}()
	err := k.run(ctx)
	close(quit)
	if werr := <-watched; werr != nil {
		return werr
	}
	return err
}

// finishWAL makes sure of the WAL and returns what the header says of it.
func (c *creation) finishWAL(ctx context.Context, k *copier, s *session, start wal.LSN, stop stopped, tli wal.TimelineID) (h catalog.BackupHeader, err error) {
	c.phase(PhaseWAL)
	history, err := readHistory(walDir(c.dir), stop.timeline)
	if err != nil {
		return h, err
	}
	label, err := wal.ParseBackupLabel(stop.label)
	if err != nil {
		return h, err
	}
	h = catalog.BackupHeader{
		Start: start, Stop: stop.lsn, CheckpointLSN: label.CheckpointLSN, Timeline: label.StartTimeline, StopTimeline: tli,
		History: catalog.SwitchesOf(history), BackupLabel: stop.label, TablespaceMap: stop.tablespaceMap,
		StoppedAt: stop.time, NextXID: stop.nextXID,
	}
	if c.o.WAL == WALInclude {
		w := &walCopier{c: k.collect, dir: walDir(c.dir), size: c.control.WALSegmentSize, sys: c.ref.SystemID}
		if err := w.copyRange(ctx, history, start, stop.lsn); err != nil {
			return h, err
		}
		h.WALIncluded = true
		h.IncludedWAL, err = w.addTo(k.collect)
		if err == nil {
			err = k.collect.release()
		}
		return h, err
	}
	proof := WALProof{
		Ref: c.ref, SegmentSize: c.control.WALSegmentSize, History: history, Start: start, Stop: stop.lsn,
		Label: serverLabel(c.id, c.o.Label), Standby: s.standby, Received: s.received, WALDir: walDir(c.dir),
		Host: c.o.Host, DataDirectory: c.dir, Program: c.o.Program,
	}
	return h, c.waitForWAL(ctx, s, proof)
}

// commitOnline completes the header and commits.
func (c *creation) commitOnline(ctx context.Context, k *copier, s *session, h catalog.BackupHeader, control pgcontrol.Control, started time.Time, settings map[string]string) (catalog.BackupHeader, error) {
	if err := k.finish(); err != nil {
		return h, err
	}
	if err := c.describe(&h, k, control); err != nil {
		return h, err
	}
	h.Source, h.Standby, h.PostgresVersion = catalog.SourceLocal, s.standby, s.version
	h.StartedAt, h.ConfigFiles = started, settings
	return c.commit(ctx, k, h)
}
