package receive

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"pgstow/catalog"
	"pgstow/wal"
	"pgstow/wal/walsender"
)

// SQLSTATE codes (src/backend/utils/errcodes.txt).
const (
	codeDuplicateObject = "42710" // the slot exists
	codeUndefinedObject = "42704" // it does not
	codeObjectInUse     = "55006" // another receiver has it
	codeNotInState      = "55000" // it was invalidated
)

// errNoSlot says that the slot is not there and was not to be made.
var errNoSlot = errors.New("the replication slot does not exist")

// DropSlot removes the replication slot; the server is free to remove the WAL that it held.
func DropSlot(ctx context.Context, o Options) error {
	o.setDefaults()
	s, err := connect(ctx, &o)
	if err != nil {
		return err
	}
	defer s.close()
	err = pglogrepl.DropReplicationSlot(ctx, s.conn, o.Slot, pglogrepl.DropReplicationSlotOptions{})
	return slotError("drop", o.Slot, err)
}

func slotError(verb, slot string, err error) error {
	switch {
	case err == nil:
		return nil
	case walsender.IsCode(err, codeUndefinedObject):
		return &catalog.HintError{Err: fmt.Errorf("%s replication slot %s: %w: %w", verb, slot, errNoSlot, err), Hint: "pgstow wal receive --create-slot makes it"}
	case walsender.IsCode(err, codeObjectInUse):
		return &catalog.HintError{
			Err:  fmt.Errorf("%s replication slot %s: %w", verb, slot, err),
			Hint: "another receiver is at work with it, here or on another host; two at once need a slot each (--slot)",
		}
	}
	return fmt.Errorf("%s replication slot %s: %w", verb, slot, err)
}

// slotState is what the server says of a slot.
type slotState struct {
	known   bool // it could be asked
	exists  bool
	restart wal.LSN // the server keeps WAL from here on; 0: from nowhere
}

// slot asks for the state of the slot: by the replication protocol from 15 on, before that by SQL.
func (s *server) slot(ctx context.Context, o *Options) (slotState, error) {
	var restart []byte
	if s.Major() >= 15 {
		rows, err := walsender.Query(ctx, s.conn, "READ_REPLICATION_SLOT "+o.Slot)
		if err != nil {
			return slotState{}, fmt.Errorf("READ_REPLICATION_SLOT %s: %w", o.Slot, err)
		}
		if len(rows) != 1 || len(rows[0]) != 3 || rows[0][0] == nil {
			return slotState{known: true}, nil
		}
		restart = rows[0][1]
	} else {
		rows, err := s.sql(ctx, o, "SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_type = 'physical' AND slot_name = '"+o.Slot+"'")
		if err != nil {
			return slotState{}, nil //nolint:nilerr // a role that may only replicate: the slot itself will tell
		}
		if len(rows) != 1 {
			return slotState{known: true}, nil
		}
		restart = rows[0][0]
	}
	state := slotState{known: true, exists: true}
	if restart == nil {
		return state, nil
	}
	var err error
	state.restart, err = wal.ParseLSN(string(restart))
	return state, err
}

// ensureSlot makes the slot if it is to be made, and makes it anew if it holds nothing: an invalidated slot is one in name only. The
// state's restart is then where the slot begins to hold WAL, if that is known.
func (s *server) ensureSlot(ctx context.Context, o *Options) (slotState, error) {
	state, err := s.slot(ctx, o)
	switch {
	case err != nil:
		return state, err
	case state.exists && state.restart == 0:
		return s.remakeSlot(ctx, o)
	case state.exists:
		return state, nil
	case !o.CreateSlot && state.known:
		return state, slotError("use", o.Slot, &pgconn.PgError{Severity: "ERROR", Code: codeUndefinedObject, Message: "no such slot"})
	case !o.CreateSlot:
		return state, nil
	}
	return s.makeSlot(ctx, o)
}

func (s *server) makeSlot(ctx context.Context, o *Options) (slotState, error) {
	made, err := s.createSlot(ctx, o)
	if err != nil {
		return slotState{}, err
	}
	if made {
		o.Events(SlotEvent{Slot: o.Slot})
	}
	return s.slot(ctx, o)
}

// createSlot makes the slot; made is false if it was there.
func (s *server) createSlot(ctx context.Context, o *Options) (made bool, err error) {
	_, err = pglogrepl.CreateReplicationSlot(ctx, s.conn, o.Slot, "",
		pglogrepl.CreateReplicationSlotOptions{Mode: pglogrepl.PhysicalReplication, SnapshotAction: "RESERVE_WAL"})
	if walsender.IsCode(err, codeDuplicateObject) {
		return false, nil
	}
	return err == nil, slotError("create", o.Slot, err)
}

// remakeSlot drops a slot that holds no WAL and makes it again.
func (s *server) remakeSlot(ctx context.Context, o *Options) (slotState, error) {
	err := pglogrepl.DropReplicationSlot(ctx, s.conn, o.Slot, pglogrepl.DropReplicationSlotOptions{})
	if err != nil && !walsender.IsCode(err, codeUndefinedObject) {
		return slotState{}, slotError("drop", o.Slot, err)
	}
	if _, err := s.createSlot(ctx, o); err != nil {
		return slotState{}, err
	}
	o.Events(SlotEvent{Slot: o.Slot, Lost: true})
	return s.slot(ctx, o)
}

// oldestSegment is the oldest segment in the server's pg_wal; ok only if the role may ask (pg_monitor).
func (s *server) oldestSegment(ctx context.Context, o *Options) (n wal.SegmentNumber, ok bool) {
	// Files that wait to be used again have names of the future, so the least is a real one.
	rows, err := s.sql(ctx, o, "SELECT name FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$' ORDER BY substr(name, 9) LIMIT 1")
	if err != nil || len(rows) != 1 {
		return 0, false
	}
	name, err := wal.ParseFileName(string(rows[0][0]))
	return name.Number(s.WALSegmentSize), err == nil
}
