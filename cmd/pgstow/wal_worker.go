package main

import (
	"context"
	"runtime/debug"

	"github.com/urfave/cli/v2"

	"pgstow/cmd/internal/config"
	"pgstow/cmd/internal/detach"
	"pgstow/cmd/internal/hotpath"
	"pgstow/wal/archive"
)

// workerWord is the command that works ahead of pushes.
const workerWord = "worker"

// Limits of the memory of one file at a time and of several, at which the runtime begins to give back what it does not need. What is held are
// large buffers without pointers: collecting often is cheap.
const (
	pushMemory   = 56 << 20
	workerMemory = 120 << 20
	walGarbage   = 20 // percent
)

// limitMemory is for a process that stores one file, or several at a time.
func limitMemory(several bool) {
	limit := int64(pushMemory)
	if several {
		limit = workerMemory
	}
	debug.SetMemoryLimit(limit)
	debug.SetGCPercent(walGarbage)
}

func pushOptions(base archive.Options, conf *config.Config) archive.PushOptions {
	return archive.PushOptions{Options: base, Level: level(conf), Deadline: conf.PushDeadline, Host: hostname(), Program: program()}
}

// runAhead says how a push is to help the files that wait behind its own: by a worker, or where the server would adopt that, by itself.
// Without a running server nothing waits.
func runAhead(e *environment, conf *config.Config, o *archive.PushOptions) {
	server, running := detach.Running(o.PGData)
	switch {
	case conf.PushAhead == 0 || o.PGData == "" || !running:
	case server.MayAdopt():
		o.Beside = conf.PushAhead
	default:
		o.StartWorker = func() error { return startDetached(e, withWord(e.args, hotpath.Push, workerWord)) }
	}
}

func walWorkerCommand(e *environment) *cli.Command {
	return leaf(&cli.Command{
		Name:   workerWord,
		Hidden: true,
		Usage:  "store the WAL files that wait to be archived: what a push starts",
		Description: `Stores the files that wait in pg_wal before PostgreSQL asks for them and marks them in the spool. One runs for each spool; it ends when
there is nothing to do, and with the server. Exit status 0 or 1.`,
		ArgsUsage: "PATH",
		Flags:     []cli.Flag{systemIDFlag()},
		Action: detached(e, hotpath.Push, storeTotal, func(conf *config.Config) int { return conf.PushAhead },
			func(ctx context.Context, call walCall, server detach.Server) error {
				limitMemory(true)
				_, err := archive.RunWorker(ctx, archive.WorkerOptions{
					PushOptions: pushOptions(call.Options, call.conf), Files: call.conf.PushAhead, Idle: call.conf.PushAheadIdle, Alive: server.Alive,
				})
				return err
			}),
	}, `pgstow wal worker pg_wal/000000010000000000000003
`)
}
