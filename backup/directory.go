package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"pgstow/backup/source"
	"pgstow/wal/pgcontrol"
)

// pidFile is postmaster.pid (CreateLockFile in backend/utils/init/miscinit.c).
type pidFile struct {
	dataDirectory string
	started       time.Time // whole seconds
	port          int
}

func parsePIDFile(b []byte) (pidFile, error) {
	lines := strings.Split(string(b), "\n")
	if len(lines) < 4 {
		return pidFile{}, errors.New("postmaster.pid has too few lines")
	}
	started, err := strconv.ParseInt(strings.TrimSpace(lines[2]), 10, 64)
	if err != nil {
		return pidFile{}, fmt.Errorf("postmaster.pid: start time: %w", err)
	}
	port, err := strconv.Atoi(strings.TrimSpace(lines[3]))
	if err != nil {
		return pidFile{}, fmt.Errorf("postmaster.pid: port: %w", err)
	}
	return pidFile{dataDirectory: lines[1], started: time.Unix(started, 0), port: port}, nil
}

// startSlack is how much later than its process PostgreSQL may note its start: it
// opens sockets and makes shared memory between.
const startSlack = 2 * time.Minute

// checkDirectory proves that dir is the data directory of the server behind the
// session (RULES-physical B1): standbys and clones on one host have the same
// system identifier.
func checkDirectory(dir string, f facts) error {
	b, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if errors.Is(err, fs.ErrNotExist) {
		return hint(fmt.Errorf("no server runs in %s: the connection leads to another one, or the server is on another host", dir),
			"give the server's own data directory and connection; use --offline for a server that was shut down")
	}
	if err != nil {
		return fmt.Errorf("is this the server's directory: %w", err)
	}
	pid, err := parsePIDFile(b)
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	differs := func(what string, ours, theirs any) error {
		return hint(fmt.Errorf("%s is not the directory of the server that the connection leads to: %s is %v there and %v on the server", dir, what, ours, theirs),
			"give the data directory and the connection of one and the same server")
	}
	late := f.started.Sub(pid.started)
	switch {
	case !samePath(pid.dataDirectory, f.dataDirectory):
		return differs("the data directory", pid.dataDirectory, f.dataDirectory)
	case pid.port != f.port:
		return differs("the port", pid.port, f.port)
	case late < -time.Second || late > startSlack:
		return differs("the start time", pid.started.UTC().Format(time.RFC3339), f.started.UTC().Format(time.RFC3339))
	}
	return nil
}

func samePath(a, b string) bool {
	if filepath.Clean(a) == filepath.Clean(b) {
		return true
	}
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}

// readControl reads pg_control until it is whole (RULES-physical A12).
func readControl(ctx context.Context, f source.FS, dir string) (pgcontrol.Control, []byte, error) {
	var c pgcontrol.Control
	var fatal error
	b, err := source.ReadStable(ctx, f, filepath.Join(dir, filepath.FromSlash(source.ControlPath)), func(b []byte) (err error) {
		if c, err = pgcontrol.Parse(b); err != nil && !errors.Is(err, pgcontrol.ErrCRC) {
			fatal, err = err, nil // reading it again would not help
		}
		return err
	})
	if err == nil {
		err = fatal
	}
	if err != nil {
		return c, nil, fmt.Errorf("read pg_control of %s: %w", dir, err)
	}
	return c, b, nil
}

// readMajor reads PG_VERSION.
func readMajor(dir string) (int, error) {
	b, err := os.ReadFile(filepath.Join(dir, "PG_VERSION"))
	if err != nil {
		return 0, fmt.Errorf("%s is not a data directory: %w", dir, err)
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || major < 13 || major > 18 {
		return 0, fmt.Errorf("%s has PG_VERSION %q: pgstow knows 13 to 18", dir, strings.TrimSpace(string(b)))
	}
	return major, nil
}

// readTablespaces lists the tablespaces that exist now (RULES-physical B6).
func readTablespaces(dir string) ([]source.Tablespace, error) {
	top := filepath.Join(dir, "pg_tblspc")
	entries, err := os.ReadDir(top)
	if err != nil {
		return nil, fmt.Errorf("list tablespaces: %w", err)
	}
	var out []source.Tablespace
	for _, e := range entries {
		oid, err := strconv.ParseUint(e.Name(), 10, 32)
		if err != nil {
			continue
		}
		t := source.Tablespace{OID: uint32(oid), InPlace: e.IsDir()}
		if !t.InPlace {
			if t.Location, err = os.Readlink(filepath.Join(top, e.Name())); errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				return nil, fmt.Errorf("list tablespaces: %w", err)
			}
		}
		out = append(out, t)
	}
	return out, nil
}
