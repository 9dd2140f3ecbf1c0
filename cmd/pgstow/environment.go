package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"
)

// environment is everything a command takes from the process, injected so that a command can be tested as a function.
type environment struct {
	args     []string
	environ  []string
	stdin    io.Reader
	stdout   io.Writer // results, text or JSON, and nothing else
	stderr   io.Writer // messages, progress, errors
	terminal bool      // stderr is a terminal: progress bars are welcome
}

// isTerminal tells whether progress may be drawn on f.
func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// printf writes a line of the result. A reader that went away (a closed pipe) is not an error worth a message.
func (e *environment) printf(format string, args ...any) {
	_, _ = fmt.Fprintf(e.stdout, format, args...)
}

// message writes one line beside the result, as every message of pgstow looks.
func (e *environment) message(format string, args ...any) {
	_, _ = fmt.Fprintf(e.stderr, "pgstow: "+format+"\n", args...)
}

// printJSON writes a value of the documented JSON contract.
func (e *environment) printJSON(value any) error {
	out := json.NewEncoder(e.stdout)
	out.SetIndent("", "  ")
	return out.Encode(value)
}
