package stream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"pgstow/wal"
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
	w.stop = context.AfterFunc(ctx, func() { _ = own.conn.Conn().SetDeadline(time.Unix(1, 0)) })
	if err := w.begin(tli, from); err != nil {
		_ = w.Close()
		return nil, fmt.Errorf("read WAL of timeline %d from %s: %w", tli, from, err)
	}
	return w, nil
}

func (w *WAL) begin(tli wal.TimelineID, from wal.LSN) error {
	f := w.s.conn.Frontend()
	f.SendQuery(&pgproto3.Query{String: fmt.Sprintf("START_REPLICATION PHYSICAL %s TIMELINE %d", from, tli)})
	if err := f.Flush(); err != nil {
		return err
	}
	msg, err := w.receive()
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

func (w *WAL) receive() (pgproto3.BackendMessage, error) {
	for {
		msg, err := w.s.conn.ReceiveMessage(context.Background())
		if err != nil {
			if w.ctx.Err() != nil {
				return nil, context.Cause(w.ctx)
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
	msg, err := w.receive()
	if err != nil {
		return fmt.Errorf("read WAL at %s: %w", w.at, err)
	}
	m, ok := msg.(*pgproto3.CopyData)
	if !ok {
		return fmt.Errorf("read WAL at %s: the timeline ends there (%T)", w.at, msg)
	}
	switch {
	case len(m.Data) >= walHeader && m.Data[0] == 'w':
		if at := wal.LSN(binary.BigEndian.Uint64(m.Data[1:])); at != w.at {
			return fmt.Errorf("read WAL at %s: the server sends that at %s", w.at, at)
		}
		w.time = clock(m.Data[17:])
		w.data = m.Data[walHeader:]
		return nil
	case len(m.Data) > 0 && m.Data[0] == 'k':
		return w.alive(m.Data)
	}
	return errors.New("read WAL: the server sent a message of an unknown kind")
}

// alive answers a server that wants to know whether we are there.
func (w *WAL) alive(m []byte) error {
	if len(m) < 18 || m[17] == 0 {
		return nil
	}
	b := make([]byte, 34)
	b[0] = 'r' // nothing is written, flushed or applied: a reader is no standby
	binary.BigEndian.PutUint64(b[25:], uint64(time.Now().UnixMicro()-postgresEpoch))
	f := w.s.conn.Frontend()
	f.Send(&pgproto3.CopyData{Data: b})
	return f.Flush()
}

// Clock is the server's time, which it tells beside WAL. It is later than the question.
func (s *Server) Clock(ctx context.Context) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, setUpWithin)
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
