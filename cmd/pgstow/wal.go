package main

import (
	"errors"
	"os"

	"github.com/urfave/cli/v2"
)

func walCommand(e *environment) *cli.Command {
	return group("wal", "push, fetch, receive and list WAL, fill holes and settle conflicts", walPushCommand(e), walWorkerCommand(e), walFetchCommand(e), walPrefetchCommand(e), walReceiveCommand(e), walListCommand(e), walRepairCommand(e), walResolveCommand(e))
}

// partialError is a command that finished with something to complain about: exit 3.
type partialError struct{ text string }

func (p *partialError) Error() string { return p.text }

func isPartial(err error) bool {
	var p *partialError
	return errors.As(err, &p)
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return name
}
