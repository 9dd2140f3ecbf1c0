// Command pgstow backs up PostgreSQL into an object store and brings it back.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"pgstow/cmd/internal/hotpath"
)

// version is stamped by the build.
var version = "development"

func main() {
	hotpath.Guard()
	e := &environment{
		args: os.Args, environ: os.Environ(), stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, terminal: isTerminal(os.Stderr),
	}
	ctx, stop := context.Background(), context.CancelFunc(func() {})
	// What restore_command runs must die by a signal or exit with 126, never with a code that PostgreSQL takes for "not in the archive"; so
	// signals keep their default there.
	if !isWALFetch(os.Args) {
		ctx, stop = signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
		// A second Ctrl-C ends at once.
		context.AfterFunc(ctx, stop)
		// A reader of our output that goes away must not end a backup; who is told of SIGPIPE gets an error from the write instead.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	}
	code := run(ctx, e)
	stop()
	os.Exit(code)
}
