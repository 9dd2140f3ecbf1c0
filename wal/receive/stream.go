package receive

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"pgstow/wal"
	"pgstow/wal/walsender"
)

// Times of silence, as those of a standby's walreceiver.
const (
	askAfter    = 30 * time.Second // without a word the server is asked for one
	giveUpAfter = 60 * time.Second // without a word the connection is given up
)

// replyWhileStoring is less than half of the smallest wal_sender_timeout that makes sense.
const replyWhileStoring = 500 * time.Millisecond

// stream is one START_REPLICATION: a reader that fills the sink, and the loop in run, which alone writes to the connection.
type stream struct {
	*session
	sink *sink
	tli  wal.TimelineID

	mu        sync.Mutex
	serverEnd wal.LSN
	heard     time.Time // of the server; while the reader waits for the store, now
	storing   bool      // the reader waits for the store
	asked     bool      // the server wants a reply

	acked   wal.LSN
	replied time.Time
	askedAt time.Time
	told    time.Time
}

// errTimelineEnd is how the reader ends when the server has sent all of the timeline.
var errTimelineEnd = errors.New("the timeline has ended")

// stream receives from a planned position on until the timeline, the connection or ctx ends, and stores all that has arrived.
func (s *session) stream(ctx context.Context, at plan, found []storedPiece, end wal.LSN) (next bool, err error) {
	start := s.WALSegmentSize.Start(at.segment)
	sink, err := newSink(&s.o, s.repo, s.ref, s.WALSegmentSize, at, found)
	if err != nil {
		return false, err
	}
	sink.from = s.source()
	if sink.joint, err = at.joint(ctx, s.repo, s.ref); err != nil {
		sink.close()
		return false, err
	}
	defer func() {
		sink.close()
		s.counts[parts] += sink.counts[parts]
		s.counts[wholes] += sink.counts[wholes]
	}()
	setUp, cancel := context.WithTimeout(ctx, walsender.SetUpWithin)
	defer cancel()
	err = pglogrepl.StartReplication(setUp, s.conn, s.o.Slot, pglogrepl.LSN(start),
		pglogrepl.StartReplicationOptions{Mode: pglogrepl.PhysicalReplication, Timeline: int32(at.timeline)})
	if tli, lsn, ok := pglogrepl.IsErrEndTimeline(err); ok {
		s.o.Events(SwitchEvent{Timeline: at.timeline, Next: wal.TimelineID(tli), At: wal.LSN(lsn)})
		return true, nil
	}
	if err != nil {
		return false, s.startError(err)
	}
	s.started()
	s.o.Events(StreamingEvent{Timeline: at.timeline, Start: start, Stored: sink.seg.from})
	st := &stream{session: s, sink: sink, tli: at.timeline, serverEnd: end, heard: time.Now()}
	return st.run(ctx)
}

// errSlotLost says that the server has invalidated the slot for good.
var errSlotLost = errors.New("the replication slot was invalidated")

// startError says what a refused START_REPLICATION means. From 18 on an invalidated slot is refused (ReplicationSlotAcquire in
// src/backend/replication/slot.c); the same code has a logical slot, which is not ours to drop.
func (s *session) startError(err error) error {
	if walsender.IsCode(err, codeNotInState) && strings.Contains(err.Error(), "can no longer") {
		return fmt.Errorf("%w: %w", errSlotLost, err)
	}
	return slotError("use", s.o.Slot, err)
}

// run carries the stream to its end.
func (st *stream) run(ctx context.Context) (next bool, err error) {
	read := make(chan error, 1)
	go func() { read <- st.read() }()
	readerDone, why := st.loop(ctx, read)
	if errors.Is(why, errStalled) || st.sink.position().err != nil {
		st.hangUp() // the server is to be free now, not when the store answers
	}
	st.sink.stop()
	if !readerDone {
		// A read that waits ends at once; what was read is whole.
		_ = st.conn.Conn().SetReadDeadline(time.Unix(1, 0))
		<-read //nolint:errcheck // it was made to end
	}
	stopping := ctx.Err() != nil
	if stopping {
		st.o.Events(StoppingEvent{})
	}
	within, cancel := outlasting(ctx, st.o.StopTimeout)
	defer cancel()
	if err := st.sink.drain(within, st.alive); err != nil {
		return false, err
	}
	p := st.sink.position()
	st.worked = st.worked || p.counts[parts]+p.counts[wholes] > 0
	st.report(st.tli, p, st.end())
	if errors.Is(why, errStalled) {
		return false, why
	}
	_ = st.reply(p.stored, false) // a connection that is lost shows below
	switch {
	case errors.Is(why, errTimelineEnd):
		return st.endTimeline()
	case stopping, errors.Is(why, errUntil):
		return false, nil
	}
	return false, why
}

var errUntil = errors.New("the wanted position is stored")

// loop answers the server and watches, until something ends the stream: it returns why, and whether it was the reader's end.
func (st *stream) loop(ctx context.Context, read <-chan error) (readerDone bool, why error) {
	flush := time.NewTicker(st.o.FlushInterval)
	defer flush.Stop()
	tick := time.NewTicker(min(replyWhileStoring, st.o.StatusInterval, st.o.StallTimeout/4))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case err := <-read:
			return true, err
		case <-st.sink.changed:
		case <-flush.C:
			st.sink.Flush()
		case <-tick.C:
		}
		if err := st.attend(time.Now()); err != nil {
			return false, err
		}
	}
}

// attend does what is due.
func (st *stream) attend(now time.Time) error {
	p := st.sink.position()
	if p.err != nil {
		return p.err
	}
	if st.o.Until != 0 && p.received >= st.o.Until {
		st.sink.Flush()
		if p.stored >= st.o.Until {
			return errUntil
		}
	}
	if !p.oldest.IsZero() {
		if age := st.o.Now().Sub(p.oldest); age > st.o.StallTimeout {
			st.o.Events(StalledEvent{Age: age})
			return errStalled
		}
	}
	asked, ask, err := st.silence(now)
	if err != nil {
		return err
	}
	if p.stored != st.acked || asked || ask || now.Sub(st.replied) >= st.replyEvery() {
		if err := st.reply(p.stored, ask); err != nil {
			return fmt.Errorf("answer the server: %w", err)
		}
	}
	if now.Sub(st.told) >= min(st.o.StatusInterval, idleEvery) {
		st.told = now
		st.report(st.tli, p, st.end())
	}
	return nil
}

// replyEvery is how often the server is told the position though nothing happens. While the reader waits for the store, nobody reads the
// server's questions, and it ends connections of which it has not heard for wal_sender_timeout.
func (st *stream) replyEvery() time.Duration {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.storing {
		return min(st.o.StatusInterval, replyWhileStoring)
	}
	return st.o.StatusInterval
}

// hangUp closes the connection beside the reader.
func (st *stream) hangUp() {
	conn := st.conn.Conn()
	_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = conn.Write([]byte{'X', 0, 0, 0, 4}) // Terminate; if it does not arrive, the end of the connection does
	_ = conn.Close()
}

// silence tells whether the server waits for a reply, and whether it should be asked for one.
func (st *stream) silence(now time.Time) (asked, ask bool, err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	asked, st.asked = st.asked, false
	if st.storing {
		st.heard = now
	}
	switch quiet := now.Sub(st.heard); {
	case quiet > giveUpAfter:
		return asked, false, errSilent
	case quiet > askAfter && now.Sub(st.askedAt) > askAfter:
		st.askedAt = now
		return asked, true, nil
	}
	return asked, false, nil
}

func (st *stream) end() wal.LSN {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.serverEnd
}

// replyWithin bounds the write of a reply: 34 bytes that wait are a connection that is gone.
const replyWithin = 10 * time.Second

// reply tells the server how far WAL is stored: written and flushed are the same here, and nothing is ever applied, which is 0
// (ProcessStandbyReplyMessage in src/backend/replication/walsender.c). pglogrepl's own function would call it applied.
func (st *stream) reply(stored wal.LSN, ask bool) error {
	b := []byte{'d', 0, 0, 0, 38, pglogrepl.StandbyStatusUpdateByteID}
	b = binary.BigEndian.AppendUint64(b, uint64(stored))
	b = binary.BigEndian.AppendUint64(b, uint64(stored))
	b = binary.BigEndian.AppendUint64(b, 0)
	b = binary.BigEndian.AppendUint64(b, uint64(st.o.Now().Sub(postgresEpoch).Microseconds()))
	if ask {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	conn := st.conn.Conn()
	if err := conn.SetWriteDeadline(time.Now().Add(replyWithin)); err != nil {
		return err
	}
	if _, err := conn.Write(b); err != nil {
		return err
	}
	st.acked, st.replied = stored, time.Now()
	return conn.SetWriteDeadline(time.Time{})
}

var postgresEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// read fills the sink with what the server sends. It is the only reader of the connection.
func (st *stream) read() error {
	for {
		msg, err := st.conn.ReceiveMessage(context.Background())
		if err != nil {
			return fmt.Errorf("the connection was lost: %w", err)
		}
		switch m := msg.(type) {
		case *pgproto3.CopyData:
			if err := st.data(m.Data); err != nil {
				return err
			}
		case *pgproto3.CopyDone:
			return errTimelineEnd
		case *pgproto3.ErrorResponse:
			return fmt.Errorf("the server ended the stream: %w", pgconn.ErrorResponseToPgError(m))
		case *pgproto3.CommandComplete, *pgproto3.ReadyForQuery:
			return errEnded // it is being shut down, and has sent all
		}
	}
}

// data takes one message of the stream.
func (st *stream) data(b []byte) error {
	if len(b) == 0 {
		return errors.New("the server sent an empty message")
	}
	switch b[0] {
	case pglogrepl.XLogDataByteID:
		m, err := pglogrepl.ParseXLogData(b[1:])
		if err != nil {
			return err
		}
		st.note(wal.LSN(m.ServerWALEnd), false, true)
		err = st.sink.Write(wal.LSN(m.WALStart), m.WALData)
		st.note(wal.LSN(m.ServerWALEnd), false, false)
		return err
	case pglogrepl.PrimaryKeepaliveMessageByteID:
		m, err := pglogrepl.ParsePrimaryKeepaliveMessage(b[1:])
		if err != nil {
			return err
		}
		st.note(wal.LSN(m.ServerWALEnd), m.ReplyRequested, false)
		if m.ReplyRequested {
			// A server that is being shut down asks so, and waits until we have all.
			st.sink.Flush()
			st.sink.poke()
		}
		return nil
	}
	return fmt.Errorf("the server sent a message of the unknown kind %q", b[0])
}

func (st *stream) note(end wal.LSN, asked, storing bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.serverEnd = max(st.serverEnd, end)
	st.heard = time.Now()
	st.asked = st.asked || asked
	st.storing = storing
}

// endTimeline ends the stream from our side too and hears which timeline is next.
func (st *stream) endTimeline() (next bool, err error) {
	if err := st.conn.Conn().SetDeadline(time.Now().Add(walsender.SetUpWithin)); err != nil {
		return false, err
	}
	done, err := pglogrepl.SendStandbyCopyDone(context.Background(), st.conn)
	if err != nil {
		return false, fmt.Errorf("end of timeline %d: %w", st.tli, err)
	}
	if err := st.conn.Conn().SetDeadline(time.Time{}); err != nil {
		return false, err
	}
	if done == nil {
		return false, errEnded
	}
	st.o.Events(SwitchEvent{Timeline: st.tli, Next: wal.TimelineID(done.Timeline), At: wal.LSN(done.LSN)})
	return true, nil
}
