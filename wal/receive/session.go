package receive

import (
	"context"
	"errors"
	"fmt"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/object"
	"pgstow/wal"
	"pgstow/wal/archive"
	"pgstow/wal/walsender"
)

// session is a connection to a server that is the right one.
type session struct {
	*receiver
	*server
	repo *catalog.Repository
	ref  catalog.ClusterRef
	told bool // the connection was announced
}

// receive streams one timeline to its end. next says that the stream goes on with another one, or from another place.
func (s *session) receive(ctx context.Context) (next bool, err error) {
	s.beat()
	setUp, cancel := context.WithTimeout(ctx, walsender.SetUpWithin)
	defer cancel()
	now, err := walsender.Identify(setUp, s.conn)
	if err != nil {
		return false, err
	}
	tli, end := now.Timeline, now.End
	if !s.told {
		s.told = true
		s.o.Events(ConnectedEvent{Server: s.address, SystemID: s.SystemID, Major: s.Major(), Timeline: tli})
	}
	slot, err := s.ensureSlot(setUp, &s.o)
	if err != nil {
		return false, err
	}
	history, err := s.history(setUp, tli)
	if err != nil {
		return false, err
	}
	cancel()

	base := s.WALSegmentSize.SegmentOf(end)
	if slot.restart != 0 {
		base = min(base, s.WALSegmentSize.SegmentOf(slot.restart))
	}
	// The store may be slow; the server's patience is not needed yet.
	p := &planner{repo: s.repo, ref: s.ref, size: s.WALSegmentSize, history: history}
	at, err := p.plan(ctx, base, s.floor)
	if err != nil {
		return false, err
	}
	if !s.swept {
		s.swept = true
		sweep(ctx, s.repo, s.o.Host, at.leftover, s.o.Events)
	}
	if start := s.WALSegmentSize.Start(at.segment); start > end {
		// While the store was looked at, the server went on, and may have pushed what it wrote.
		now, err := walsender.Identify(ctx, s.conn)
		if err != nil {
			return false, err
		}
		if now.Timeline != tli {
			return true, nil
		}
		end = now.End
	}
	if start := s.WALSegmentSize.Start(at.segment); start > end {
		standby, err := walsender.IsStandby(ctx, s.conn)
		if err != nil {
			return false, err
		}
		return false, at.behind(s.ref, start, end, standby)
	}
	found, err := headers(ctx, s.repo, s.ref, at.pieces, s.o.Events)
	if err != nil {
		return false, err
	}
	next, err = s.stream(ctx, at, found, end)
	switch {
	case walsender.IsCode(err, walsender.CodeUndefinedFile):
		return false, s.anew(ctx, func(fresh *server) error { return s.missing(ctx, fresh, at, slot, base, history) })
	case errors.Is(err, errSlotLost):
		return false, s.anew(ctx, func(fresh *server) error {
			_, err := fresh.remakeSlot(ctx, &s.o)
			return err
		})
	}
	return next, err
}

// anew does something about an error of the server on another connection, since the state of this one is unknown then, and says that the
// next session is to begin at once.
func (s *session) anew(ctx context.Context, do func(*server) error) error {
	s.close()
	fresh, err := connect(ctx, &s.o)
	if err != nil {
		return err
	}
	defer fresh.close()
	if err := do(fresh); err != nil {
		return err
	}
	return errAnew
}

// history is the way to the server's timeline. Its file is part of the archive: without it nobody would find that way.
func (s *session) history(ctx context.Context, tli wal.TimelineID) (wal.History, error) {
	if tli == 1 {
		return wal.NewHistory(1), nil
	}
	content, ok, err := walsender.HistoryFile(ctx, s.conn, tli)
	if err == nil && !ok {
		err = fmt.Errorf("the server has no history of timeline %d", tli)
	}
	if err != nil {
		return nil, err
	}
	h, err := wal.ParseHistory(tli, content)
	if err != nil {
		return nil, err
	}
	if err := s.storeHistory(ctx, tli, content); err != nil {
		return nil, err
	}
	// Those of the ancestors are stored as far as the server has them; it does not need them itself.
	for _, e := range h[:len(h)-1] {
		if e.Timeline == 1 {
			continue
		}
		content, ok, err := walsender.HistoryFile(ctx, s.conn, e.Timeline)
		if err == nil && ok {
			err = s.storeHistory(ctx, e.Timeline, content)
		}
		if err != nil {
			return nil, err
		}
	}
	return h, nil
}

// storeHistory creates a history file, or finds it there with the same bytes.
func (s *session) storeHistory(ctx context.Context, tli wal.TimelineID, content []byte) error {
	key := s.ref.HistoryKey(tli)
	h, err := archive.Describe(content, wal.HistoryName(tli), s.ref)
	if err != nil {
		return err
	}
	h.Time, h.Host, h.DataDirectory, h.Program = s.o.Now(), s.o.Host, s.source(), s.o.Program
	w := s.repo.WriterOptions()
	w.Level = s.o.Level
	b, err := object.EncodeAll(w, h, content)
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	if h, err = object.ParseHeader(b); err != nil {
		return err
	}
	begin := s.o.Now()
	_, err = s.repo.Put(ctx, key, b, storage.IfAbsent)
	switch {
	case err == nil:
		s.o.Events(StoredEvent{Key: key, Bytes: len(b), Took: s.o.Now().Sub(begin)})
		return nil
	case errors.Is(err, storage.ErrExist):
		return archive.Confirm(ctx, s.repo.Store, key, h)
	}
	return err
}

// source names the server in headers, where a push has its data directory.
func (s *session) source() string {
	return fmt.Sprintf("streamed from %s by slot %s", s.address, s.o.Slot)
}

// missing decides where to go on when the server no longer has the WAL with which the archive would: at the oldest that it has, or where
// the slot begins, or at what it writes now. The names in the archive show the hole; nothing else records it.
func (s *session) missing(ctx context.Context, fresh *server, at plan, slot slotState, base wal.SegmentNumber, history wal.History) error {
	next := at.segment + 1
	if n, ok := fresh.oldestSegment(ctx, &s.o); ok && n > at.segment {
		next = n
	} else if base > at.segment {
		next = base
	} else if now, err := walsender.Identify(ctx, fresh.conn); err != nil {
		return err
	} else if n := s.WALSegmentSize.SegmentOf(now.End); n > at.segment {
		next = n
	}
	s.floor = next
	first, last := wal.SegmentName(at.timeline, at.segment, s.WALSegmentSize), wal.SegmentName(history.TimelineOfSegment(next-1, s.WALSegmentSize), next-1, s.WALSegmentSize)
	s.o.Events(MissingEvent{
		Timeline: at.timeline, From: s.WALSegmentSize.Start(at.segment), To: s.WALSegmentSize.Start(next), First: first.String(), Last: last.String(),
	})
	if slot.restart != 0 && slot.restart < s.WALSegmentSize.Start(next) {
		// The slot was to hold it, so it was invalidated, which it stays for ever.
		if _, err := fresh.remakeSlot(ctx, &s.o); err != nil {
			return err
		}
	}
	return nil
}
