package hotpath

import (
	"errors"
	"path/filepath"
	"strings"

	"pgstow/wal/spool"
)

// Flag is one flag of a call, without its dashes; a flag without a value has Value "".
type Flag struct{ Name, Value string }

// Call is one call of push or fetch as PostgreSQL makes it.
type Call struct {
	Command string // "push" or "fetch"
	Flags   []Flag
	File    string // the %f of fetch, or the last part of push's %p
	Path    string // %p
}

// Commands.
const (
	Push  = "push"
	Fetch = "fetch"
)

// ErrUnknown says that arguments are not understood here: the full program must look at them.
var ErrUnknown = errors.New("not a call that the spool can answer")

// Flags of `wal push` and `wal fetch` as pgstow-wal has to know them: whether the next argument is a value. Both programs take a flag
// as --x=v too, and all flags stand before the operands.
func valued(name string) bool {
	switch name {
	case "config", "repo", "cluster", "pgdata", "spool", "encryption", "recipients", "identity-file", "system-id", "timeline":
		return true
	}
	return false
}

func boolean(name string) bool {
	switch name {
	case "incomplete", "stop-at-hole":
		return true
	}
	return false
}

// Parse reads the arguments after the word push or fetch. Anything that is not plain is ErrUnknown.
func Parse(command string, args []string) (Call, error) {
	call := Call{Command: command}
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		name, value, hasValue := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(args[0], "-"), "-"), "=")
		args = args[1:]
		switch {
		case name == "" && !hasValue: // "--" ends the flags
			return call.operands(args)
		case valued(name) && hasValue, boolean(name) && !hasValue:
		case valued(name) && len(args) > 0:
			value, args = args[0], args[1:]
		default:
			return call, ErrUnknown
		}
		if call.has(name) { // which of two counts is the full program's rule
			return call, ErrUnknown
		}
		call.Flags = append(call.Flags, Flag{name, value})
	}
	return call.operands(args)
}

func (c Call) operands(args []string) (Call, error) {
	switch {
	case c.Command == Push && len(args) == 1:
		c.Path = args[0]
		c.File = filepath.Base(c.Path)
	case c.Command == Fetch && len(args) == 2:
		c.File, c.Path = args[0], args[1]
	default:
		return c, ErrUnknown
	}
	if c.File == "" || c.Path == "" {
		return c, ErrUnknown
	}
	return c, nil
}

func (c Call) has(name string) bool {
	for _, f := range c.Flags {
		if f.Name == name {
			return true
		}
	}
	return false
}

// value returns the flag of this name, else the environment variable, else "".
func (c Call) value(name string, environ []string) string {
	for _, f := range c.Flags {
		if f.Name == name {
			return f.Value
		}
	}
	return lookup(environ, "PGSTOW_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_")))
}

func lookup(environ []string, name string) string {
	for _, entry := range environ {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}

// DataDirectory returns the data directory that the call is about: what --pgdata or PGSTOW_PGDATA says, else the parent of %p's
// folder (links unresolved: pg_wal may be one), else the working directory. The last two count only if they are one. PostgreSQL runs
// both commands in the data directory and gives a relative path, pg_rewind in any directory and gives an absolute one.
func (c Call) DataDirectory(environ []string) (string, error) {
	if dir := c.value("pgdata", environ); dir != "" {
		return dir, nil
	}
	dir, _, err := c.identify(environ)
	return dir, err
}

// identify finds the data directory and tells it from others.
func (c Call) identify(environ []string) (dir string, id spool.DataDirectory, err error) {
	if dir = c.value("pgdata", environ); dir != "" {
		id, err = spool.IdentifyData(dir)
		return dir, id, err
	}
	candidates := []string{"."}
	if folder := filepath.Dir(c.Path); folder != "." {
		candidates = []string{filepath.Dir(folder), "."}
	}
	for _, dir := range candidates {
		if id, err := spool.IdentifyData(dir); err == nil {
			return dir, id, nil
		}
	}
	return "", id, spool.ErrNoDataDirectory
}
