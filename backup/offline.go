package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"pgstow/catalog"
	"pgstow/wal/pgcontrol"
)

// offline backs up the directory of a server that was shut down cleanly
// (RULES-physical A14). Its WAL from the last checkpoint on is in no archive yet,
// so it is a part of the backup.
func (c *creation) offline(ctx context.Context) (h catalog.BackupHeader, err error) {
	c.phase(PhaseConnect)
	if c.dir, err = realDirectory(c.o.PGData); err != nil {
		return h, err
	}
	if c.major, err = readMajor(c.dir); err != nil {
		return h, err
	}
	var before []byte
	if c.control, before, err = readControl(ctx, c.o.FS, c.dir); err != nil {
		return h, err
	}
	if err := c.stillStopped(c.control); err != nil {
		return h, err
	}
	if err := c.cluster(ctx); err != nil {
		return h, err
	}
	err = c.leased(ctx, func(ctx context.Context) (err error) {
		h, err = c.stoppedServer(ctx, before)
		return err
	})
	return h, err
}

// stillStopped checks that no server runs and that the last one ended well.
func (c *creation) stillStopped(control pgcontrol.Control) error {
	if !control.State.Stopped() {
		return hint(fmt.Errorf("%s: pg_control says the server is %s", c.dir, control.State),
			"shut the server down cleanly, or back it up while it runs")
	}
	pid := filepath.Join(c.dir, "postmaster.pid")
	switch _, err := os.Lstat(pid); {
	case err == nil:
		return hint(fmt.Errorf("%s exists: a server runs in this directory", pid), "back it up while it runs, without --offline")
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return nil
}

func (c *creation) stoppedServer(ctx context.Context, before []byte) (catalog.BackupHeader, error) {
	none := catalog.BackupHeader{}
	tablespaces, err := readTablespaces(c.dir)
	if err != nil {
		return none, err
	}
	k := &copier{source: c.newSource(tablespaces)}
	if err := c.begin(ctx, k, nil, c.control.Redo, max(c.control.Timeline, c.control.MinRecoveryTimeline)); err != nil {
		return none, err
	}
	copyCtx, end, err := c.startCopy(ctx, k)
	if err != nil {
		return none, err
	}
	defer end()
	c.phase(PhaseCopy)
	if err := k.run(copyCtx); err != nil {
		return none, err
	}
	c.phase(PhaseWAL)
	h, err := c.offlineWAL(copyCtx, k)
	if err != nil {
		return none, err
	}
	control, after, err := k.storeControl(copyCtx)
	if err != nil {
		return none, err
	}
	if err := errors.Join(c.stillStopped(control), k.finish()); err != nil {
		return none, err
	}
	if !bytes.Equal(before, after) {
		return none, errors.New("pg_control changed during the offline backup: the server was started")
	}
	if err := c.describe(&h, k, control); err != nil {
		return none, err
	}
	h.Source, h.Standby, h.PostgresVersion = catalog.SourceOffline, control.State == pgcontrol.StateShutDownInRecovery, c.major*10000
	h.StartedAt, h.StoppedAt, h.NextXID = control.Modified, control.Modified, control.NextXID
	return c.commit(ctx, k, h)
}

// offlineWAL copies the WAL from the last checkpoint's redo point to the end.
func (c *creation) offlineWAL(ctx context.Context, k *copier) (h catalog.BackupHeader, err error) {
	tli := max(c.control.Timeline, c.control.MinRecoveryTimeline)
	history, err := readHistory(walDir(c.dir), tli)
	if err != nil {
		return h, err
	}
	w := &walCopier{c: k.collect, dir: walDir(c.dir), size: c.control.WALSegmentSize, sys: c.ref.SystemID}
	end, err := w.copyAll(ctx, history, c.control.Redo)
	if err != nil {
		return h, err
	}
	h = catalog.BackupHeader{
		Start: c.control.Redo, Stop: max(c.control.Redo, c.control.MinRecoveryPoint), CheckpointLSN: c.control.Checkpoint,
		Timeline: c.control.Timeline, StopTimeline: tli, History: catalog.SwitchesOf(history), WALIncluded: true,
	}
	if end <= c.control.Checkpoint || end < h.Stop {
		return h, fmt.Errorf("the WAL in %s ends at %s: the last checkpoint at %s and the end of recovery at %s are not in it",
			w.dir, end, c.control.Checkpoint, c.control.MinRecoveryPoint)
	}
	if h.IncludedWAL, err = w.addTo(k.collect); err != nil {
		return h, err
	}
	return h, k.collect.release()
}
