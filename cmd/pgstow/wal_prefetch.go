package main

import (
	"context"
	"path/filepath"
	"runtime/debug"
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
		args, err := prefetchArgs(e.args, name)
		if err != nil {
			return err
		}
		return startDetached(e, args)
	}
}

// prefetchArgs are the arguments of a fetch, for the prefetcher that begins behind its file.
func prefetchArgs(args []string, name string) ([]string, error) {
	call, err := asTyped(hotpath.Fetch, args)
	if err != nil {
		return nil, err
	}
	return append(withWord(args[:len(args)-2], hotpath.Fetch, prefetchWord), name, filepath.Join(filepath.Dir(call.Path), aheadFile)), nil
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
		Action: detached(e, hotpath.Fetch, prefetchTries, func(conf *config.Config) int { return conf.Prefetch },
			func(ctx context.Context, call walCall, server detach.Server) error {
				debug.SetMemoryLimit(prefetchMemory)
				call.Spool = call.Spool.ForRun(server.Start())
				_, err := archive.Prefetch(ctx, archive.PrefetchOptions{
					Options: call.Options, Timeline: call.timeline.ID, Segments: call.conf.Prefetch, Alive: server.Alive,
				}, call.args[0])
				return err
			}),
	}, `pgstow wal prefetch 000000010000000000000003 pg_wal/ahead
`)
}
