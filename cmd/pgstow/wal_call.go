package main

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"pgstow/catalog"
	"pgstow/cmd/internal/config"
	"pgstow/cmd/internal/detach"
	"pgstow/cmd/internal/hotpath"
	"pgstow/storage"
	"pgstow/wal/archive"
	"pgstow/wal/spool"
)

// storeTotal is how long one request of push and fetch may be tried again by the store's wrapper: longer than any deadline of theirs, so
// that theirs decide.
const storeTotal = time.Hour

// walCall is a call of push or fetch, or that of a process which works ahead of such calls.
type walCall struct {
	args     []string
	conf     *config.Config
	timeline catalog.TimelineChoice // of fetch
	archive.Options
}

// walCallOf gathers what all of them share. tries is how long one request is tried again by the store's wrapper.
func walCallOf(c *cli.Context, e *environment, command string, tries time.Duration) (call walCall, err error) {
	names := []string{"NAME", "PATH"}
	if command == hotpath.Push {
		names = names[1:]
	}
	if call.args, err = operands(c, names...); err != nil {
		return call, err
	}
	if call.conf, err = settings(c, e, true); err != nil {
		return call, err
	}
	if call.timeline, err = parseTimeline(c.String("timeline")); err != nil {
		return call, err
	}
	// What a folder that is not mounted means is fetch's to say: a standby goes on asking.
	store, err := openStoreLate(c.Context, e, call.conf, tries, command == hotpath.Fetch)
	if err != nil {
		return call, err
	}
	made := hotpath.Call{Command: command, File: call.args[0], Path: call.args[len(call.args)-1]}
	call.Options, err = archiveOptions(c, e, call.conf, store, made)
	return call, err
}

// archiveOptions are those of a call of push or fetch. The data directory is found by the same rule as in pgstow-wal, and so is the spool: from
// the call as PostgreSQL made it.
func archiveOptions(c *cli.Context, e *environment, conf *config.Config, store storage.Store, call hotpath.Call) (archive.Options, error) {
	pins, err := pinsOf(conf)
	if err != nil {
		return archive.Options{}, err
	}
	o := archive.Options{Store: store, Pins: pins, Cluster: conf.Cluster, Warn: func(text string) { e.message("%s", text) }}
	if id := c.String("system-id"); id != "" {
		if o.SystemID, err = parseSystemID(id); err != nil {
			return archive.Options{}, err
		}
	}
	if parsed, err := asTyped(call.Command, e.args); err == nil {
		call = parsed
	} else if conf.PGData != "" {
		call.Flags = append(call.Flags, hotpath.Flag{Name: "pgdata", Value: conf.PGData})
	}
	data, err := call.DataDirectory(e.environ)
	switch {
	case conf.PGData != "":
		o.PGData = conf.PGData
	case err == nil:
		o.PGData = data
	case o.SystemID == 0 && call.Command == hotpath.Fetch:
		// Somebody without a data directory, who is looking for one file: the repository knows which server that is, if there is one only.
		repo, err := openRepository(c.Context, e, conf)
		if err != nil {
			return archive.Options{}, err
		}
		if o.SystemID, err = onlySystemID(c.Context, repo, conf); err != nil {
			return archive.Options{}, err
		}
	case o.SystemID == 0:
		return archive.Options{}, err
	}
	if o.PGData != "" {
		o.Spool = openSpool(e, call)
	}
	return o, nil
}

// asTyped reads the arguments behind the word push or fetch as pgstow-wal reads them. A process that was started for such calls has those of
// the call that started it, behind a word of its own, so that both come to the same spool.
func asTyped(command string, args []string) (hotpath.Call, error) {
	own := map[string]string{hotpath.Push: workerWord, hotpath.Fetch: prefetchWord}[command]
	first := slices.IndexFunc(args, func(arg string) bool { return arg == command || arg == own })
	return hotpath.Parse(command, args[first+1:])
}

// openSpool opens the spool of this call; without one everything works, only slower.
func openSpool(e *environment, call hotpath.Call) *spool.Spool {
	place, err := call.Spool(version, e.environ)
	if err != nil {
		e.message("warning: no spool: %s", err)
		return nil
	}
	if len(place.Roots) == 0 {
		e.message("warning: no spool: neither PGSTOW_SPOOL nor HOME says where it may be")
		return nil
	}
	s, err := spool.Create(place.Name, place.Roots...)
	if err != nil {
		e.message("warning: no spool: %s", err)
		return nil
	}
	return s
}

// spoolRoots are where the spools of this configuration may be.
func spoolRoots(e *environment, conf *config.Config) ([]string, error) {
	if conf.Spool != "" {
		return []string{conf.Spool}, nil
	}
	return (hotpath.Call{}).Roots(e.environ)
}

func onlySystemID(ctx context.Context, repo *catalog.Repository, conf *config.Config) (uint64, error) {
	infos, err := repo.SystemIDs(ctx, conf.Cluster)
	if err != nil {
		return 0, err
	}
	if len(infos) != 1 {
		return 0, usage("%d servers bear the name %s in the repository: say which by --pgdata or --system-id", len(infos), conf.Cluster)
	}
	return infos[0].SystemID, nil
}

// startDetached starts this program for work that outlasts this call. It begins where the call was made, with the same environment, relative
// paths included: so it finds the same settings and the same spool, and moves there as soon as it has.
func startDetached(e *environment, args []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return detach.Start(detach.Options{Program: self, Args: args, Env: e.environ})
}

// withWord are the arguments of a call with another word in the place of its command's.
func withWord(args []string, command, word string) []string {
	args = slices.Clone(args[1:])
	args[slices.Index(args, command)] = word
	return args
}

// isDetached tells whether these are the arguments of a process that was started so: whoever adopts one may look at its exit status, which is
// only ever 0 or 1.
func isDetached(args []string) bool {
	return len(args) > 2 && args[1] == "wal" && (args[2] == workerWord || args[2] == prefetchWord)
}

// detached is the action of a command that works ahead of the calls of push or fetch, as many files as most says; where there is nothing to work
// for, or nothing to be done, it ends at once.
func detached(e *environment, command string, tries time.Duration, most func(*config.Config) int,
	work func(context.Context, walCall, detach.Server) error,
) cli.ActionFunc {
	return func(c *cli.Context) error {
		ctx, stop := signal.NotifyContext(c.Context, syscall.SIGHUP, syscall.SIGQUIT)
		defer stop()
		debug.SetTraceback("single") // no abort: see isDetached
		call, err := walCallOf(c, e, command, tries)
		if err != nil {
			return err
		}
		server, running := detach.Running(call.PGData)
		if call.Spool == nil || !running || server.MayAdopt() || most(call.conf) == 0 {
			return nil
		}
		if call.PGData, err = filepath.Abs(call.PGData); err != nil {
			return err
		}
		if err := detach.Enter(call.Spool.Dir()); err != nil {
			return err
		}
		return work(ctx, call, server)
	}
}
