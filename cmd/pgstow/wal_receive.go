package main

import (
	"errors"

	"github.com/urfave/cli/v2"

	"pgstow/catalog"
	"pgstow/cmd/internal/config"
	"pgstow/wal"
	"pgstow/wal/receive"
)

func walReceiveCommand(e *environment) *cli.Command {
	return leaf(&cli.Command{
		Name:  "receive",
		Usage: "store WAL as the server writes it, over the replication protocol",
		Description: `Runs until it is told to stop (SIGTERM, SIGINT), and then stores what has arrived. The segment that is being written is stored in pieces,
from which recovery reaches the last stored commit; the full segment replaces them. What the store has not confirmed is kept by a
replication slot. It goes on where the archive ends, follows the server to another timeline, and connects again when the connection is
lost. The server is found as libpq finds it: PGHOST, PGPORT, PGUSER, PGSERVICE, .pgpass; the role needs REPLICATION. Push and receive may run
at once.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "dsn", Usage: "`STRING` that says how to connect, over libpq's environment"},
			&cli.StringFlag{Name: "slot", Value: receive.DefaultName, Usage: "`NAME` of the replication slot"},
			&cli.BoolFlag{Name: "create-slot", Usage: "make the slot if it is missing, and go on"},
			&cli.BoolFlag{Name: "drop-slot", Usage: "remove the slot, and end"},
			&cli.StringFlag{Name: "application-name", Usage: "`NAME` for synchronous_standby_names (default \"" + receive.DefaultName + "\")"},
			&cli.BoolFlag{Name: "synchronous", Usage: "store at once what arrives, for a server whose commits wait for it"},
			&cli.DurationFlag{Name: "flush-interval", Value: receive.DefaultFlushInterval, Usage: "how long WAL waits before it is stored (`DURATION`)"},
			&cli.IntFlag{Name: "window", Value: receive.DefaultWindow, Usage: "how many pieces are on their way at once (`N`)"},
			&cli.DurationFlag{Name: "stall-timeout", Value: receive.DefaultStallTimeout, Usage: "disconnect when the store has not confirmed WAL for `DURATION`"},
			&cli.StringFlag{Name: "until-lsn", Usage: "end when all WAL up to `LSN` is stored"},
			&cli.BoolFlag{Name: "no-loop", Usage: "end when the connection is lost"},
			&cli.BoolFlag{Name: "verbose", Usage: "tell of every stored object"},
			systemIDFlag(),
		},
		Action: func(c *cli.Context) error {
			if _, err := operands(c); err != nil {
				return err
			}
			conf, err := settings(c, e, false)
			if err != nil {
				return err
			}
			return receiveWAL(c, e, conf)
		},
	}, `pgstow wal receive --create-slot
pgstow wal receive --dsn 'host=db1,db2 target_session_attrs=primary user=backup' --slot pgstow --create-slot
pgstow wal receive --synchronous --create-slot     # with synchronous_standby_names = 'ANY 1 (pgstow, standby)'
pgstow wal receive --no-loop --until-lsn 0/5000000
pgstow wal receive --drop-slot
`)
}

func receiveWAL(c *cli.Context, e *environment, conf *config.Config) error {
	o, err := receiveOptions(c, conf)
	if err != nil {
		return err
	}
	if o.Store, err = openStore(c.Context, e, conf, storeTotal); err != nil {
		return err
	}
	if o.Pins, err = pinsOf(conf); err != nil {
		return err
	}
	if err := o.Check(); err != nil {
		return usage("%s", err)
	}
	if c.Bool("drop-slot") {
		return receive.DropSlot(c.Context, o)
	}
	// Whether the repository may be written to is settled before any WAL is taken from the server.
	repo, err := openRepository(c.Context, e, conf)
	if err != nil {
		return err
	}
	if err := provenStore(c.Context, repo); err != nil {
		return err
	}
	var manager notifier
	o.Events = func(event receive.Event) { showReceiveEvent(e, &manager, event, c.Bool("verbose")) }
	err = receive.Run(c.Context, o)
	if errors.Is(err, receive.ErrServer) && catalog.Hint(err) == "" {
		return &catalog.HintError{Err: err, Hint: "an upgraded or newly made server has another system id: start the receiver anew for it"}
	}
	return err
}

func receiveOptions(c *cli.Context, conf *config.Config) (receive.Options, error) {
	o := receive.Options{
		Cluster: conf.Cluster, DSN: c.String("dsn"), Slot: c.String("slot"), CreateSlot: c.Bool("create-slot"),
		ApplicationName: c.String("application-name"), Synchronous: c.Bool("synchronous"), FlushInterval: c.Duration("flush-interval"),
		Window: c.Int("window"), StallTimeout: c.Duration("stall-timeout"), Once: c.Bool("no-loop"), Level: level(conf), Host: hostname(),
		Program: program(), Dir: conf.Spool,
	}
	var err error
	if text := c.String("until-lsn"); text != "" {
		if o.Until, err = wal.ParseLSN(text); err != nil {
			return o, usage("--until-lsn: %s", err)
		}
	}
	if text := c.String("system-id"); text != "" {
		if o.SystemID, err = parseSystemID(text); err != nil {
			return o, err
		}
	}
	switch {
	case o.FlushInterval <= 0, o.StallTimeout <= 0:
		return o, usage("--flush-interval and --stall-timeout must be more than nothing")
	case o.Window < 1:
		return o, usage("--window must be 1 or more")
	case c.Bool("create-slot") && c.Bool("drop-slot"):
		return o, usage("--create-slot and --drop-slot are one too many")
	}
	return o, nil
}

func showReceiveEvent(e *environment, manager *notifier, event receive.Event, verbose bool) {
	switch event := event.(type) {
	case receive.StreamingEvent, receive.RetryEvent:
		manager.started()
	case receive.StatusEvent:
		manager.alive(event.String())
		return
	case receive.StoppingEvent:
		manager.stopping()
	}
	if !verbose && receive.Routine(event) {
		return
	}
	e.message("%s", event)
	if retry, ok := event.(receive.RetryEvent); ok && catalog.Hint(retry.Err) != "" {
		e.message("hint: %s", catalog.Hint(retry.Err))
	}
}
