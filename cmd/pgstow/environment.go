package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

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
	fetched  bool      // `wal fetch` has come to fetching, which decides about the exit code by itself

	mu  sync.Mutex
	bar *progress // what is drawn on the terminal now; messages go above it
}

// isTerminal tells whether progress may be drawn on f. A terminal that does not know its size, such as a serial console, gets plain lines:
// nothing would be drawn on it.
func isTerminal(f *os.File) bool {
	width, height, err := term.GetSize(int(f.Fd()))
	return err == nil && width > 0 && height > 0
}

// printf writes a line of the result. An error is remembered by the resultWriter.
func (e *environment) printf(format string, args ...any) {
	_, _ = fmt.Fprintf(e.stdout, format, args...)
}

// message writes one line beside the result, as every message of pgstow looks.
func (e *environment) message(format string, args ...any) {
	e.mu.Lock()
	bar := e.bar
	e.mu.Unlock()
	if bar != nil {
		bar.note(format, args...)
		return
	}
	_, _ = fmt.Fprintf(e.stderr, "pgstow: "+format+"\n", args...)
}

// printJSON writes a value of the documented JSON contract.
func (e *environment) printJSON(value any) error {
	out := json.NewEncoder(e.stdout)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false)
	if err := out.Encode(value); err != nil && !errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("write the result: %w", err)
	}
	return nil
}

// resultWriter remembers that a result could not be written: half a result must not look like a whole one.
type resultWriter struct {
	w   io.Writer
	err error
}

func (r *resultWriter) Write(p []byte) (int, error) {
	n, err := r.w.Write(p)
	if err != nil && r.err == nil {
		r.err = err
	}
	return n, err
}

// failure is what went wrong with writing. A reader that went away (a pipe to head) wanted no more, which is no failure.
func (r *resultWriter) failure() error {
	if r.err == nil || errors.Is(r.err, syscall.EPIPE) {
		return nil
	}
	return fmt.Errorf("write the result: %w", r.err)
}
