package chaos_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"pgstow/test/pg"
	"pgstow/wal"
)

const createTable = `CREATE TABLE chaos (worker int, number int, part int, parts int, payload text, PRIMARY KEY (worker, number, part))`

// load are clients that write into one server until they are stopped, and enter into the ledger what it answers. They live through the
// server's crashes: a client whose connection breaks makes a new one, and never learns what became of its last transaction.
type load struct {
	ledger *ledger
	dsn    string
	dir    string      // the data directory
	slow   atomic.Bool // write no WAL but that of the rows
	stop   context.CancelFunc
	done   sync.WaitGroup
}

const (
	workers = 4
	maxRows = 3 // of one transaction

	pace  = 8 * time.Millisecond  // the longest pause between two transactions
	retry = 20 * time.Millisecond // between two attempts to connect
)

// startLoad starts the clients. What they write follows from the seed and the era, which counts the disasters so far.
func startLoad(t *testing.T, s *pg.Server, l *ledger, era, segMiB int) *load {
	ctx, cancel := context.WithCancel(t.Context())
	c := &load{ledger: l, dsn: s.DSN("postgres"), dir: s.Dir, stop: cancel}
	for worker := range workers {
		random := rand.New(rand.NewPCG(l.seed, uint64(1000*era+worker)))
		c.done.Go(func() { c.work(ctx, worker, random, segMiB<<20) })
	}
	c.done.Go(func() { c.govern(ctx) })
	return c
}

// govern has the clients write less while more than a few files wait to be archived: a disaster is to find something in the archive.
func (c *load) govern(ctx context.Context) {
	const mostWaiting = 10
	for ctx.Err() == nil {
		ready, err := filepath.Glob(filepath.Join(c.dir, "pg_wal", "archive_status", "*.ready"))
		c.slow.Store(err == nil && len(ready) > mostWaiting)
		rest(ctx, 100*time.Millisecond)
	}
}

// Stop ends the clients and waits for them.
func (c *load) Stop() {
	c.stop()
	c.done.Wait()
}

func (c *load) work(ctx context.Context, worker int, random *rand.Rand, segment int) {
	for ctx.Err() == nil {
		conn, err := c.connect(ctx)
		if err != nil {
			rest(ctx, retry)
			continue
		}
		for err == nil && ctx.Err() == nil {
			parts, ballast := 1+random.IntN(maxRows), ballastSize(random, segment)
			wait := time.Duration(random.Int64N(int64(pace)))
			if c.slow.Load() {
				ballast = 0
			}
			err = c.write(ctx, conn, worker, parts, ballast)
			rest(ctx, wait)
		}
		_ = conn.Close(context.WithoutCancel(ctx)) // it may be broken
	}
}

// ballastSize is the size of a WAL record that leaves nothing in the database: of some kilobytes, and now and then of so much that it spans
// segments, which a crash then cuts through.
func ballastSize(random *rand.Rand, segment int) int {
	switch p := random.IntN(400); {
	case p == 0 && segment < 4<<20:
		return segment + random.IntN(2*segment)
	case p < 8:
		return random.IntN(256 << 10)
	default:
		return random.IntN(8 << 10)
	}
}

func (c *load) connect(ctx context.Context) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(c.dsn)
	if err != nil {
		return nil, err
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	cfg.RuntimeParams["application_name"] = "chaos"
	return pgx.ConnectConfig(ctx, cfg)
}

// write writes one transaction. An error means that the connection is of no use any more; the transaction may have been committed.
func (c *load) write(ctx context.Context, conn *pgx.Conn, worker, parts, ballast int) error {
	number := c.ledger.Begin(worker, parts)
	sql := "BEGIN; " + insert(c.ledger.seed, worker, number, parts)
	if ballast > 0 {
		sql += fmt.Sprintf("; SELECT pg_logical_emit_message(true, 'ballast', repeat(md5('%d %d'), %d))", worker, number, 1+ballast/32)
	}
	if _, err := conn.Exec(ctx, sql); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "COMMIT"); err != nil {
		return err
	}
	c.ledger.Acknowledge(worker, number)
	var at string
	if err := conn.QueryRow(ctx, "SELECT pg_current_wal_flush_lsn()").Scan(&at); err != nil {
		return err
	}
	after, err := wal.ParseLSN(at)
	if err != nil {
		return err
	}
	c.ledger.Place(worker, number, after)
	return nil
}

func insert(seed uint64, worker, number, parts int) string {
	var values []string
	for part := range parts {
		values = append(values, fmt.Sprintf("(%d, %d, %d, %d, '%s')", worker, number, part, parts, payload(seed, worker, number, part)))
	}
	return "INSERT INTO chaos VALUES " + strings.Join(values, ", ")
}

// rest waits, or returns when ctx ends.
func rest(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// readRows are all rows of a server.
func readRows(ctx context.Context, s *pg.Server) ([]row, error) {
	conn, err := s.Conn(ctx, "postgres")
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(ctx) }()
	rows, err := conn.Query(ctx, "SELECT worker, number, part, parts, payload FROM chaos")
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (row, error) {
		var v row
		err := r.Scan(&v.worker, &v.number, &v.part, &v.parts, &v.payload)
		return v, err
	})
}
