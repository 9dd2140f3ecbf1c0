package pg

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Sum is what a table held.
type Sum struct {
	Rows int64
	Hash string // the sum over all rows of a 64-bit hash of the row as text: the same rows in any order give the same
}

// Sums are tables by "database.schema.table".
type Sums map[string]Sum

// Sums reads every logged table and materialized view of the given databases, or of all that allow connections, each database in one snapshot. It
// works on a standby too. Unlogged tables are left out, since recovery empties them.
func (s *Server) Sums(databases ...string) Sums {
	s.t.Helper()
	if len(databases) == 0 {
		databases = s.Databases()
	}
	sums := Sums{}
	for _, db := range databases {
		err := s.with(db, func(ctx context.Context, c *pgx.Conn) error {
			return sumDatabase(ctx, c, db, sums)
		})
		if err != nil {
			s.t.Fatalf("checksums of database %s: %v", db, err)
		}
	}
	return sums
}

func sumDatabase(ctx context.Context, c *pgx.Conn, db string, sums Sums) error {
	tx, err := c.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	rows, err := tx.Query(ctx, `
		SELECT n.nspname || '.' || c.relname, format('%I.%I', n.nspname, c.relname)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p'
		  AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema'
		ORDER BY 1`)
	if err != nil {
		return err
	}
	type table struct{ Name, Quoted string }
	tables, err := pgx.CollectRows(rows, pgx.RowToStructByPos[table])
	if err != nil {
		return err
	}
	for _, tb := range tables {
		var sum Sum
		q := "SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text FROM ONLY " + tb.Quoted + " t"
		if err := tx.QueryRow(ctx, q).Scan(&sum.Rows, &sum.Hash); err != nil {
			return fmt.Errorf("%s: %w", tb.Name, err)
		}
		sums[db+"."+tb.Name] = sum
	}
	return nil
}

// Databases are the names of all databases that allow connections, templates left out.
func (s *Server) Databases() []string {
	s.t.Helper()
	list := s.Value("SELECT string_agg(datname, E'\n' ORDER BY datname) FROM pg_database WHERE datallowconn AND NOT datistemplate")
	return strings.Split(list, "\n")
}

// Rows is the number of rows of all tables.
func (a Sums) Rows() int64 {
	var n int64
	for _, s := range a {
		n += s.Rows
	}
	return n
}

// Names are the tables' names, sorted.
func (a Sums) Names() []string { return slices.Sorted(maps.Keys(a)) }

// Diff says in lines what differs in got; "" if nothing does.
func (a Sums) Diff(got Sums) string {
	var b strings.Builder
	for _, name := range a.Names() {
		g, ok := got[name]
		switch want := a[name]; {
		case !ok:
			fmt.Fprintf(&b, "%s is missing (%d rows)\n", name, want.Rows)
		case g != want:
			fmt.Fprintf(&b, "%s has %d rows with hash %s, want %d with %s\n", name, g.Rows, g.Hash, want.Rows, want.Hash)
		}
	}
	for _, name := range got.Names() {
		if _, ok := a[name]; !ok {
			fmt.Fprintf(&b, "%s should not be there (%d rows)\n", name, got[name].Rows)
		}
	}
	return b.String()
}
