package backup

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"pgstow/backup/changes"
	"pgstow/catalog"
	"pgstow/wal"
)

// maxChanged is how many changed pages are remembered, four bytes each. With more,
// everything is read.
const maxChanged = 16 << 20

// summaries asks the server what changed from the reference's start to ours. Where it
// cannot tell for certain the answer is nil, and why says why.
func (c *creation) summaries(ctx context.Context, s *session, reference catalog.BackupHeader, h wal.History, start wal.LSN) (set *changes.Set, why string, err error) {
	switch {
	case c.o.changed != nil:
		return c.o.changed(reference.ID), "", nil
	case s == nil:
		return nil, "a stopped server cannot be asked what changed", nil
	case c.o.Scan:
		return nil, "a scan was asked for", nil
	case s.major() < 17:
		return nil, fmt.Sprintf("PostgreSQL %d has no WAL summaries", s.major()), nil
	case !s.summarizes:
		return nil, "summarize_wal is off", nil
	}
	set, unknown := s.changed(ctx, h, reference.Timeline, reference.Start, start)
	if unknown == nil {
		why, err = c.otherPast(reference, h)
	} else {
		why = unknown.Error()
	}
	if why != "" || err != nil {
		return nil, why, err
	}
	return set, "", nil
}

// changed reads the summaries of the WAL from an LSN on timeline first to another on
// the history's own.
func (s *session) changed(ctx context.Context, h wal.History, first wal.TimelineID, from, to wal.LSN) (*changes.Set, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list, err := s.awaitSummaries(ctx, h, first, from, to)
	if err != nil {
		return nil, err
	}
	set := &changes.Set{Limit: maxChanged}
	for _, x := range list {
		if err := s.readSummary(ctx, x, set); err != nil {
			return nil, fmt.Errorf("WAL summary from %s to %s: %w", x.Start, x.End, err)
		}
	}
	return set, nil
}

// Waiting for the summarizer, which has to come as far as the backup's start.
const (
	summaryPause  = 50 * time.Millisecond
	summaryWithin = 30 * time.Second // without progress
)

// awaitSummaries waits until the summaries reach to. As long as there is progress it
// goes on; a hole that will not be filled ends it.
func (s *session) awaitSummaries(ctx context.Context, h wal.History, first wal.TimelineID, from, to wal.LSN) ([]changes.Summary, error) {
	var reached wal.LSN
	for since := time.Now(); ; {
		list, err := s.available(ctx)
		if err != nil {
			return nil, fmt.Errorf("list WAL summaries: %w", err)
		}
		covering, err := changes.Cover(list, h, first, from, to)
		var gap *changes.GapError
		if !errors.As(err, &gap) {
			return covering, err
		}
		summarized, pending, running, err := s.summarizer(ctx)
		switch {
		case err != nil:
			return nil, fmt.Errorf("ask the WAL summarizer: %w", err)
		case !running:
			return nil, fmt.Errorf("%w, and its summarizer does not run", gap)
		case summarized >= to, summarized > gap.From && gap.Timeline == h.Timeline():
			// Looked at once more: the last one may have come between the two questions.
			if list, err = s.available(ctx); err != nil {
				return nil, fmt.Errorf("list WAL summaries: %w", err)
			}
			return changes.Cover(list, h, first, from, to)
		case pending > reached:
			reached, since = pending, time.Now()
		case time.Since(since) > summaryWithin:
			return nil, fmt.Errorf("%w, and its summarizer is stuck at %s", gap, pending)
		}
		if err := sleep(ctx, summaryPause); err != nil {
			return nil, err
		}
	}
}

func (s *session) available(ctx context.Context) (out []changes.Summary, err error) {
	rows, err := s.conn.Query(ctx, "SELECT tli::int8, start_lsn::text, end_lsn::text FROM pg_available_wal_summaries()")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var tli int64
		var from, to string
		if err := rows.Scan(&tli, &from, &to); err != nil {
			return nil, err
		}
		x := changes.Summary{Timeline: wal.TimelineID(tli)}
		if x.Start, err = wal.ParseLSN(from); err != nil {
			return nil, err
		}
		if x.End, err = wal.ParseLSN(to); err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, rows.Err()
}

// summarizer says how far the summaries on disk and in memory go.
func (s *session) summarizer(ctx context.Context) (summarized, pending wal.LSN, running bool, err error) {
	var a, b string
	err = s.conn.QueryRow(ctx, `SELECT summarized_lsn::text, pending_lsn::text, summarizer_pid IS NOT NULL
		FROM pg_get_wal_summarizer_state()`).Scan(&a, &b, &running)
	if err != nil {
		return 0, 0, false, err
	}
	if summarized, err = wal.ParseLSN(a); err != nil {
		return 0, 0, false, err
	}
	pending, err = wal.ParseLSN(b)
	return summarized, pending, running, err
}

// readSummary adds what one summary says of main forks, and of whole databases. The
// server fails if the summary has vanished meanwhile.
func (s *session) readSummary(ctx context.Context, x changes.Summary, set *changes.Set) error {
	rows, err := s.conn.Query(ctx, `SELECT relfilenode::int8, reltablespace::int8, reldatabase::int8,
			min(relblocknumber) FILTER (WHERE is_limit_block), (array_agg(relblocknumber) FILTER (WHERE NOT is_limit_block))::text
		FROM pg_wal_summary_contents($1::int8, $2::text::pg_lsn, $3::text::pg_lsn)
		WHERE relforknumber = 0 GROUP BY 1, 2, 3`, int64(x.Timeline), x.Start.String(), x.End.String())
	if err != nil {
		return err
	}
	defer rows.Close()
	var blocks []uint32
	for rows.Next() {
		if blocks, err = addSummaryRow(rows, set, blocks); err != nil {
			return err
		}
	}
	return rows.Err()
}

// addSummaryRow takes one relation. blocks is memory to be used again.
func addSummaryRow(rows pgx.Rows, set *changes.Set, blocks []uint32) ([]uint32, error) {
	var node, tablespace, database int64
	var limit *int64
	var list *string
	if err := rows.Scan(&node, &tablespace, &database, &limit, &list); err != nil {
		return blocks, err
	}
	r := changes.Relation{Tablespace: uint32(tablespace), Database: uint32(database), Node: uint32(node)}
	if limit != nil {
		set.AddLimit(r, uint32(*limit))
	}
	if list == nil {
		return blocks, nil
	}
	blocks = blocks[:0]
	n, digits := uint64(0), false
	for _, ch := range []byte(*list) {
		if ch >= '0' && ch <= '9' {
			n, digits = n*10+uint64(ch-'0'), true
			continue
		}
		if digits {
			if n > 1<<32-2 {
				return blocks, fmt.Errorf("block number %d", n)
			}
			blocks = append(blocks, uint32(n))
		}
		if n, digits = 0, false; ch != '{' && ch != ',' && ch != '}' {
			return blocks, fmt.Errorf("list of blocks has %s", strconv.QuoteRune(rune(ch)))
		}
	}
	return blocks, set.Add(r, blocks)
}
