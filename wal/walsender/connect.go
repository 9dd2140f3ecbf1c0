// Package walsender is what everybody needs who speaks PostgreSQL's replication protocol: reaching a server by it, and asking the server what
// it is and where in the WAL it is.
package walsender

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pgstow/catalog"
)

// SetUpWithin bounds connecting, and what is asked before anything flows.
const SetUpWithin = 30 * time.Second

// ParseConfig reads a libpq connection string or URL. name is the application_name, unless the string has one.
func ParseConfig(dsn, name string) (*pgconn.Config, error) {
	c, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("connection string: %w", err)
	}
	if c.RuntimeParams["application_name"] == "" {
		c.RuntimeParams["application_name"] = name
	}
	return c, nil
}

// Connect opens a replication connection. c is changed for that.
func Connect(ctx context.Context, c *pgconn.Config) (*pgconn.PgConn, error) {
	c.RuntimeParams["replication"] = "true"
	c.ValidateConnect = forReplication(c.ValidateConnect)
	conn, err := pgconn.ConnectConfig(ctx, c)
	if err == nil {
		return conn, nil
	}
	err = fmt.Errorf("connect to the server for replication: %w", err)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && (strings.HasPrefix(pg.Code, "28") || pg.Code == "42501") { // invalid authorization, insufficient privilege
		err = &catalog.HintError{Err: err, Hint: "the role needs REPLICATION, and pg_hba.conf a line for it with the database \"replication\""}
	}
	return nil, err
}

// Address is where a connection led to.
func Address(conn *pgconn.PgConn) string { return conn.Conn().RemoteAddr().String() }

// Close says goodbye, for a moment only: a server that does not answer notices by itself.
func Close(conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// forReplication gives the check of target_session_attrs in a form that a walsender can answer: it runs no SELECT, but knows SHOW.
func forReplication(check pgconn.ValidateConnectFunc) pgconn.ValidateConnectFunc {
	if check == nil {
		return nil
	}
	is := func(f pgconn.ValidateConnectFunc) bool {
		return reflect.ValueOf(check).Pointer() == reflect.ValueOf(f).Pointer()
	}
	wants := func(standby bool, wrong error) pgconn.ValidateConnectFunc {
		return func(ctx context.Context, conn *pgconn.PgConn) error {
			found, err := IsStandby(ctx, conn)
			if err == nil && found != standby {
				return wrong
			}
			return err
		}
	}
	switch {
	case is(pgconn.ValidateConnectTargetSessionAttrsPrimary):
		return wants(false, pgconn.ErrStandbyConnection)
	case is(pgconn.ValidateConnectTargetSessionAttrsStandby):
		return wants(true, pgconn.ErrPrimaryConnection)
	case is(pgconn.ValidateConnectTargetSessionAttrsPreferStandby):
		return nil // any will do
	}
	return check
}
