package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgproto3"

	"pgstow/wal"
	"pgstow/wal/walsender"
)

// WAL reads a range of a server's WAL as it lies on its disk.
type WAL struct {
	s    *Server
	ctx  context.Context
	stop func() bool
	at   wal.LSN
	to   wal.LSN
	data []byte
	// time is the server's clock of the last message.
	time time.Time
}

// ReadWAL reads the WAL of a timeline from one LSN to another, which the server must have written. It does so on a connection of its own,
// which Close ends.
func (s *Server) ReadWAL(ctx context.Context, tli wal.TimelineID, from, to wal.LSN) (*WAL, error) {
	own, err := s.Again(ctx)
	if err != nil {
		return nil, err
	}
	w := &WAL{s: own, ctx: ctx, at: from, to: to}
	w.stop = own.endsWith(ctx)
	if err := w.begin(tli, from); err != nil {
		_ = w.Close()
		return nil, fmt.Errorf("read WAL of timeline %d from %s: %w", tli, from, err)
	}
	return w, nil
}

func (w *WAL) begin(tli wal.TimelineID, from wal.LSN) error {
	if err := w.s.command(fmt.Sprintf("START_REPLICATION PHYSICAL %s TIMELINE %d", from, tli)); err != nil {
		return err
	}
	msg, err := w.s.receive(w.ctx)
	if err != nil {
		return err
	}
	if _, ok := msg.(*pgproto3.CopyBothResponse); !ok {
		return fmt.Errorf("the server has no WAL of this timeline there (%T)", msg)
	}
	return nil
}

// Close ends the connection.
func (w *WAL) Close() error {
	w.stop()
	w.s.Close()
	return nil
}

// Read gives the next bytes; io.EOF at the end of the range.
func (w *WAL) Read(p []byte) (int, error) {
	if w.at >= w.to {
		return 0, io.EOF
	}
	for len(w.data) == 0 {
		if err := w.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, w.data[:min(len(w.data), int(min(w.to-w.at, 1<<30)))])
	w.data = w.data[n:]
	w.at += wal.LSN(n)
	return n, nil
}

// fill receives the next message with WAL.
func (w *WAL) fill() error {
	msg, err := w.s.receive(w.ctx)
	if err != nil {
		return fmt.Errorf("read WAL at %s: %w", w.at, err)
	}
	m, ok := msg.(*pgproto3.CopyData)
	if !ok {
		return fmt.Errorf("read WAL at %s: the timeline ends there (%T)", w.at, msg)
	}
	if len(m.Data) == 0 {
		return errors.New("read WAL: the server sent an empty message")
	}
	switch m.Data[0] {
	case pglogrepl.XLogDataByteID:
		x, err := pglogrepl.ParseXLogData(m.Data[1:])
		if err != nil {
			return fmt.Errorf("read WAL at %s: %w", w.at, err)
		}
		if at := wal.LSN(x.WALStart); at != w.at {
			return fmt.Errorf("read WAL at %s: the server sends that at %s", w.at, at)
		}
		w.time, w.data = x.ServerTime.UTC(), x.WALData
		return nil
	case pglogrepl.PrimaryKeepaliveMessageByteID:
		return w.alive(m.Data[1:])
	}
	return fmt.Errorf("read WAL: the server sent a message of the unknown kind %q", m.Data[0])
}

// alive answers a server that wants to know whether we are there.
func (w *WAL) alive(b []byte) error {
	m, err := pglogrepl.ParsePrimaryKeepaliveMessage(b)
	if err != nil || !m.ReplyRequested {
		return err
	}
	// Nothing is written, flushed or applied: a reader is no standby.
	return pglogrepl.SendStandbyStatusUpdate(w.ctx, w.s.conn, pglogrepl.StandbyStatusUpdate{})
}

// Clock is the server's time, which it tells beside WAL. It is later than the question.
func (s *Server) Clock(ctx context.Context) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, walsender.SetUpWithin)
	defer cancel()
	tli, end, err := s.Position(ctx)
	if err != nil {
		return time.Time{}, err
	}
	w, err := s.ReadWAL(ctx, tli, (end-1)&^8191, end)
	if err != nil {
		return time.Time{}, fmt.Errorf("ask the server for its time: %w", err)
	}
	defer func() { _ = w.Close() }()
	if err := w.fill(); err != nil {
		return time.Time{}, fmt.Errorf("ask the server for its time: %w", err)
	}
	return w.time, nil
}
