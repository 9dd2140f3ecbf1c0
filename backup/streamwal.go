package backup

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"

	"pgstow/backup/stream"
	"pgstow/catalog"
	"pgstow/wal"
)

// finishWAL makes sure of the WAL and returns what the header says of it.
func (s *streaming) finishWAL(ctx context.Context, k *copier, b *stream.Backup, got sent) (h catalog.BackupHeader, err error) {
	s.phase(PhaseWAL)
	history := s.history
	if got.timeline != s.timeline { // a standby's end of backup can be behind its replay
		if history, err = s.beside.History(ctx, got.timeline); err != nil {
			return h, err
		}
	}
	h = catalog.BackupHeader{Start: b.Start, Stop: got.lsn, History: catalog.SwitchesOf(history)}
	own := serverWAL{s}
	if s.o.WAL == WALArchive {
		return h, s.waitForWAL(ctx, s.ask, WALProof{
			Ref: s.ref, SegmentSize: s.control.WALSegmentSize, History: history, Start: b.Start, Stop: got.lsn,
			Label: serverLabel(s.id, s.o.Label), Standby: s.server.Standby, Received: s.received, Compare: s.repo.Opaque(), Server: own,
			Host: s.o.Host, DataDirectory: k.source.Root, Program: s.o.Program,
		})
	}
	dir, err := os.MkdirTemp(s.o.TempDir, "pgstow-wal-")
	if err != nil {
		return h, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	w := &walCopier{c: k.collect, dir: dir, size: s.control.WALSegmentSize, sys: s.ref.SystemID, bring: own.bring}
	if err := w.copyRange(ctx, history, b.Start, got.lsn); err != nil {
		return h, err
	}
	h.WALIncluded = true
	if h.IncludedWAL, err = w.addTo(k.collect); err != nil {
		return h, err
	}
	return h, k.collect.release()
}

// serverWAL reads a server's WAL by the replication protocol.
type serverWAL struct{ s *streaming }

// Open is ServerWAL's.
func (w serverWAL) Open(ctx context.Context, name wal.FileName) (io.ReadCloser, error) {
	size := w.s.control.WALSegmentSize
	switch name.Kind {
	case wal.HistoryFile:
		b, ok, err := w.s.beside.HistoryFile(ctx, name.Timeline)
		if err == nil && !ok {
			err = fs.ErrNotExist
		}
		if err != nil {
			return nil, err
		}
		return io.NopCloser(bytes.NewReader(b)), nil
	case wal.Segment:
		_, end, err := w.s.beside.Position(ctx)
		if err != nil {
			return nil, err
		}
		from := name.Start(size)
		if end <= from {
			return nil, fs.ErrNotExist
		}
		return w.s.beside.ReadWAL(ctx, name.Timeline, from, min(end, size.End(name.Number(size))))
	}
	return nil, fs.ErrNotExist
}

// bring fetches a file; a segment that is not whole yet is filled with zeros.
func (w serverWAL) bring(ctx context.Context, name wal.FileName, to string) (err error) {
	from, err := w.Open(ctx, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := io.Copy(f, from); err != nil || name.Kind != wal.Segment {
		return err
	}
	return f.Truncate(int64(w.s.control.WALSegmentSize))
}
