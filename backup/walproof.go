package backup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// receiverGrace is how long a receiver may be away, as after a restart, if the server keeps a slot for one.
	receiverGrace = 10 * time.Second
	receiverAsk   = 200 * time.Millisecond
)

// findArchiver makes sure that somebody brings the server's WAL into the archive: the server's own archiver, or a receiver that streams it
// (pgstow wal receive). A receiver stores no .backup file, so the proof compares its segments with the server's.
func (s *session) findArchiver(ctx context.Context) error {
	why, err := s.archiverOff(ctx)
	if err != nil || why == "" {
		return err
	}
	s.received = true
	for begun := time.Now(); ; {
		name, slots, err := s.receiver(ctx)
		switch {
		case err != nil:
			return err
		case name != "":
			return nil
		case slots == 0:
			return hint(fmt.Errorf("%s, and no receiver is connected: the WAL that a backup needs would never be in the archive", why),
				"turn archiving on, start pgstow wal receive, or take a standalone backup with --wal include")
		case time.Since(begun) > receiverGrace:
			return hint(fmt.Errorf("%s, and no receiver is connected by the server's replication slot: the WAL that a backup needs would not come into the archive", why),
				"start pgstow wal receive again, or take a standalone backup with --wal include")
		}
		if err := sleep(ctx, receiverAsk); err != nil {
			return err
		}
	}
}

// archiverOff says why the server's own archiver stores nothing; "" if it does. An empty archive_command with no archive_library only
// warns (pgarch_MainLoop in backend/postmaster/pgarch.c).
func (s *session) archiverOff(ctx context.Context) (why string, err error) {
	if s.archiveMode == "off" {
		return "archive_mode is off", nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var empty bool
	err = s.conn.QueryRow(ctx, "SELECT current_setting('archive_command') = '' AND coalesce(current_setting('archive_library', true), '') = ''").Scan(&empty)
	if err != nil {
		return "", fmt.Errorf("ask for archive_command: %w", err)
	}
	if empty {
		return "archive_command is empty", nil
	}
	return "", nil
}

// receiver names one that streams the server's WAL now; "" if there is none. slots counts the physical slots that nobody uses now. A
// standby ("walreceiver", as it calls itself unless it was given a name) is none, but by a slot that was made for pgstow.
func (s *session) receiver(ctx context.Context) (name string, slots int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err = s.conn.QueryRow(ctx, `SELECT coalesce(nullif(r.application_name, ''), s.slot_name, 'unnamed')
		FROM pg_stat_replication r LEFT JOIN pg_replication_slots s ON r.pid = s.active_pid AND NOT s.temporary
		WHERE r.application_name LIKE 'pgstow%' AND r.application_name NOT LIKE 'pgstow backup%'
			OR s.slot_type = 'physical' AND (s.slot_name LIKE 'pgstow%' OR r.application_name <> 'walreceiver')
		ORDER BY 1 LIMIT 1`).Scan(&name)
	if err == nil {
		return name, 0, nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return "", 0, fmt.Errorf("ask for the server's receivers of WAL: %w", err)
	}
	err = s.conn.QueryRow(ctx, "SELECT count(*)::int FROM pg_replication_slots WHERE slot_type = 'physical' AND NOT active").Scan(&slots)
	if err != nil {
		return "", 0, fmt.Errorf("ask for the server's replication slots: %w", err)
	}
	return "", slots, nil
}
