package main

import (
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"pgstow/cmd/internal/config"
	"pgstow/cmd/internal/detach"
	"pgstow/cmd/internal/hotpath"
	"pgstow/wal/archive"
)

// prefetchWord is the command that fetches ahead of recovery.
const prefetchWord = "prefetch"

const (
	// prefetchMemory bounds a prefetcher: what passes through it are frames of a megabyte, which are used again.
	prefetchMemory = 64 << 20
	// prefetchTries is how long one request of a prefetcher is tried again by the store's wrapper: the call that needs the file tries longer.
	prefetchTries = 3 * time.Second
	// aheadFile stands for the file that recovery wants: what a prefetcher fetches is not for there.
	aheadFile = "ahead"
)

// fetchAhead says how the following segments are to be fetched before recovery asks for them: by a process of their own, or where the server
// would adopt that, by the calls. Without a running server there is no recovery.
func fetchAhead(e *environment, conf *config.Config, o *archive.FetchOptions) {
	server, running := detach.Running(o.PGData)
	o.Spool = o.Spool.ForRun(server.Start())
	if o.PGData == "" || !running {
		return
	}
	if o.Prefetch = conf.Prefetch; server.MayAdopt() {
		return
	}
	o.StartPrefetch = func(name string) error {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		args, err := prefetchArgs(e.args, name)
		if err != nil {
			return err
		}
		// Like the worker of push, it begins where this call was made, with the same settings, and so finds the same spool.
		return detach.Start(detach.Options{Program: self, Args: args, Env: e.environ})
	}
}

// prefetchArgs are the arguments of a fetch, for the prefetcher that begins behind its file.
func prefetchArgs(args []string, name string) ([]string, error) {
	call, err := asTyped(hotpath.Fetch, args)
	if err != nil {
		return nil, err
	}
	own := slices.Clone(args[1 : len(args)-2])
	own[slices.Index(own, hotpath.Fetch)] = prefetchWord
	return append(own, name, filepath.Join(filepath.Dir(call.Path), aheadFile)), nil
}

// isWALPrefetch tells whether these are a prefetcher's arguments: its exit status is 0 or 1.
func isWALPrefetch(args []string) bool {
	return len(args) > 2 && args[1] == "wal" && args[2] == prefetchWord
}

func walPrefetchCommand(e *environment) *cli.Command {
	return leaf(&cli.Command{
		Name:   prefetchWord,
		Hidden: true,
		Usage:  "fetch the WAL that recovery will ask for: what a fetch starts",
		Description: `Fetches the segments behind NAME into the spool before recovery asks for them. One runs for each spool; it ends when nobody takes
anything, and with recovery. Exit status 0 or 1.`,
		ArgsUsage: "NAME PATH",
		Flags:     fetchFlags(),
		Action: func(c *cli.Context) error {
			ctx, stop := signal.NotifyContext(c.Context, syscall.SIGHUP, syscall.SIGQUIT)
			defer stop()
			debug.SetTraceback("single") // no abort, which would be for those who wait for an answer
			debug.SetMemoryLimit(prefetchMemory)
			args, err := operands(c, "NAME", "PATH")
			if err != nil {
				return err
			}
			conf, err := settings(c, e, true)
			if err != nil {
				return err
			}
			choice, err := parseTimeline(c.String("timeline"))
			if err != nil {
				return err
			}
			call := hotpath.Call{Command: hotpath.Fetch, File: args[0], Path: args[1]}
			base, err := archiveOptions(c, e, conf, &call)
			if err != nil {
				return err
			}
			if base.Store, err = openStore(c.Context, e, conf, prefetchTries); err != nil {
				return err
			}
			server, running := detach.Running(base.PGData)
			if base.Spool == nil || !running || server.MayAdopt() || conf.Prefetch == 0 {
				return nil
			}
			if base.PGData, err = filepath.Abs(base.PGData); err != nil {
				return err
			}
			base.Spool = base.Spool.ForRun(server.Start())
			if err := detach.Enter(base.Spool.Dir()); err != nil {
				return err
			}
			_, err = archive.Prefetch(ctx, archive.PrefetchOptions{
				Options: base, Timeline: choice.ID, Segments: conf.Prefetch, Alive: server.Alive,
			}, args[0])
			return err
		},
	}, `pgstow wal prefetch 000000010000000000000003 pg_wal/ahead
`)
}
