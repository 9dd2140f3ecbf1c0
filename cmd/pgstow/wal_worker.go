package main

import (
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"syscall"

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
		o.StartWorker = func() error {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			// It begins where this call was made, with the same arguments and environment, relative paths included: so it finds the same
			// settings and the same spool, and moves there as soon as it has.
			return detach.Start(detach.Options{Program: self, Args: workerArgs(e.args), Env: e.environ})
		}
	}
}

// workerArgs are the arguments of a push, for the worker.
func workerArgs(args []string) []string {
	args = slices.Clone(args[1:])
	args[slices.Index(args, hotpath.Push)] = workerWord
	return args
}

// isWALWorker tells whether these are a worker's arguments: whoever adopts one may look at its exit status, which is only ever 0 or 1.
func isWALWorker(args []string) bool {
	return len(args) > 2 && args[1] == "wal" && args[2] == workerWord
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
		Action: func(c *cli.Context) error {
			ctx, stop := signal.NotifyContext(c.Context, syscall.SIGHUP, syscall.SIGQUIT)
			defer stop()
			debug.SetTraceback("single") // no abort: see isWALWorker
			limitMemory(true)
			args, err := operands(c, "PATH")
			if err != nil {
				return err
			}
			conf, err := settings(c, e, true)
			if err != nil {
				return err
			}
			call := hotpath.Call{Command: hotpath.Push, Path: args[0]}
			base, err := archiveOptions(c, e, conf, &call)
			if err != nil {
				return err
			}
			server, running := detach.Running(base.PGData)
			if base.Spool == nil || !running || server.MayAdopt() || conf.PushAhead == 0 {
				return nil
			}
			if base.PGData, err = filepath.Abs(base.PGData); err != nil {
				return err
			}
			if err := detach.Enter(base.Spool.Dir()); err != nil {
				return err
			}
			_, err = archive.RunWorker(ctx, archive.WorkerOptions{
				PushOptions: pushOptions(base, conf), Files: conf.PushAhead, Idle: conf.PushAheadIdle, Alive: server.Alive,
			})
			return err
		},
	}, `pgstow wal worker pg_wal/000000010000000000000003
`)
}
