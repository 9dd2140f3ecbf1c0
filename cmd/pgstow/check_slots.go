package main

import (
	"context"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// slot is a replication slot of the server.
type slot struct {
	name        string
	physical    bool
	active      bool
	state       string // wal_status: reserved, extended, unreserved or lost; "" before it was used
	application string // of who is connected
	held        int64  // bytes of WAL that it holds back
	ours        bool   // pgstow wal receive uses it
}

// askSlots asks for all slots. receiver is the name of the one that pgstow wal receive uses; where it is not told, that is a slot by which one is
// connected, or which bears its name.
func askSlots(ctx context.Context, conn *pgx.Conn, receiver string) ([]slot, error) {
	rows, err := conn.Query(ctx, `SELECT s.slot_name, s.slot_type = 'physical', s.active, coalesce(s.wal_status, ''), coalesce(r.application_name, ''),
		coalesce(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END - s.restart_lsn, 0)::bigint
		FROM pg_replication_slots s LEFT JOIN pg_stat_replication r ON r.pid = s.active_pid ORDER BY s.slot_name`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (s slot, err error) {
		err = row.Scan(&s.name, &s.physical, &s.active, &s.state, &s.application, &s.held)
		s.ours = s.physical && (s.name == receiver || strings.HasPrefix(s.application, "pgstow") || !s.active && strings.HasPrefix(s.name, "pgstow"))
		return s, err
	})
}

// receiving is the slot by which a pgstow wal receive is connected now.
func receiving(slots []slot) string {
	for _, s := range slots {
		if s.ours && s.active {
			return s.name
		}
	}
	return ""
}

// judgeSlots looks for slots that will fill the disk, or that have lost what they were for.
func judgeSlots(slots []slot, limit, receiver string, r *checkReport) {
	if receiver != "" && !slices.ContainsFunc(slots, func(s slot) bool { return s.name == receiver }) {
		r.fail("slots", "the server has no replication slot %s", receiver)
		r.hint("pgstow wal receive --slot %s --create-slot makes it", receiver)
	}
	for _, s := range slots {
		switch {
		case s.state == "lost":
			r.fail("slots", "the server has removed WAL that slot %s still needed", s.name)
			if s.ours {
				r.hint("pgstow wal receive goes on behind the hole once its slot is made anew; pgstow wal list shows the hole")
			}
		case s.ours && !s.active:
			r.fail("slots", "no pgstow wal receive is connected by slot %s, which holds back %s of WAL", s.name, bytesText(s.held))
			r.hint("start pgstow wal receive again, or drop the slot: a slot without a receiver fills the disk")
		case s.ours:
			r.ok("slots", "pgstow wal receive is connected by slot %s, %s of WAL behind", s.name, bytesText(s.held))
		}
	}
	if len(slots) > 0 && limit == "-1" {
		r.warn("slots", "%d replication slots, and max_slot_wal_keep_size is unlimited: an abandoned one fills the disk", len(slots))
	}
}
