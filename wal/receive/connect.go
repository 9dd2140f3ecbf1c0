package receive

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"pgstow/wal/walsender"
)

// config is how the server is reached.
func (o *Options) config() (*pgconn.Config, error) {
	c, err := walsender.ParseConfig(o.DSN, DefaultName)
	if err == nil && o.ApplicationName != "" {
		c.RuntimeParams["application_name"] = o.ApplicationName
	}
	return c, err
}

// server is one connection to a server, and what it said of itself.
type server struct {
	walsender.Facts
	conn    *pgconn.PgConn
	address string
	appName string
}

// connect opens the replication connection and asks what does not change.
func connect(ctx context.Context, o *Options) (*server, error) {
	ctx, cancel := context.WithTimeout(ctx, walsender.SetUpWithin)
	defer cancel()
	c, err := o.config()
	if err != nil {
		return nil, err
	}
	conn, err := walsender.Connect(ctx, c)
	if err != nil {
		return nil, err
	}
	s := &server{conn: conn, appName: c.RuntimeParams["application_name"], address: walsender.Address(conn)}
	if s.Facts, err = walsender.Learn(ctx, conn); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *server) close() { walsender.Close(s.conn) }

// sql asks what a walsender does not answer, on a connection of its own. Where the role may not connect so, receiving goes on without the
// answer.
func (s *server) sql(ctx context.Context, o *Options, sql string) ([][][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, walsender.SetUpWithin)
	defer cancel()
	c, err := o.config()
	if err != nil {
		return nil, err
	}
	delete(c.RuntimeParams, "replication")
	if c.Database == "" {
		c.Database = "postgres"
	}
	conn, err := pgconn.ConnectConfig(ctx, c)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(ctx) }()
	if address := walsender.Address(conn); address != s.address {
		return nil, fmt.Errorf("the connection string led to %s, and for WAL to %s", address, s.address) // several hosts, in the middle of a failover
	}
	return walsender.Query(ctx, conn, sql)
}
