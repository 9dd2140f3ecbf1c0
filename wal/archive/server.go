package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"pgstow/catalog"
	"pgstow/wal"
	"pgstow/wal/pgcontrol"
)

// server is what is known of the server whose WAL this is.
type server struct {
	ref     catalog.ClusterRef
	control *pgcontrol.Control // nil without a data directory
}

// errNoServer says that nothing tells whose WAL is meant.
var errNoServer = errors.New("it is not known which server is meant")

// findServer reads pg_control of the data directory.
func findServer(ctx context.Context, o *Options) (server, error) {
	s := server{ref: catalog.ClusterRef{Name: o.Cluster, SystemID: o.SystemID}}
	if o.PGData != "" {
		control, err := readControl(ctx, o.PGData)
		switch {
		case err == nil:
			s.control = &control
		case o.SystemID == 0 || !errors.Is(err, os.ErrNotExist):
			return s, err
		}
	}
	switch {
	case s.control == nil && o.SystemID == 0:
		return s, &catalog.HintError{Err: errNoServer, Hint: "name its data directory by --pgdata or PGSTOW_PGDATA"}
	case s.control == nil:
	case o.SystemID == 0:
		s.ref.SystemID = s.control.SystemID
	case o.SystemID != s.control.SystemID:
		return s, fmt.Errorf("system id %d is wanted, but %s is of %d", o.SystemID, o.PGData, s.control.SystemID)
	}
	return s, s.ref.Check()
}

const (
	controlTries = 20
	controlPause = 10 * time.Millisecond
)

// readControl reads pg_control while the server may write it: the file is not replaced but written in place, so a torn read is
// read again.
func readControl(ctx context.Context, pgdata string) (pgcontrol.Control, error) {
	path := filepath.Join(pgdata, "global", "pg_control")
	for try := 1; ; try++ {
		control, err := parseControl(path)
		if err == nil || !errors.Is(err, pgcontrol.ErrCRC) || try == controlTries {
			return control, err
		}
		if err := pause(ctx, controlPause); err != nil {
			return control, err
		}
	}
}

func parseControl(path string) (pgcontrol.Control, error) {
	f, err := os.Open(path)
	if err != nil {
		return pgcontrol.Control{}, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, pgcontrol.FileSize))
	if err != nil {
		return pgcontrol.Control{}, err
	}
	control, err := pgcontrol.Parse(b)
	if err != nil {
		return control, fmt.Errorf("%s: %w", path, err)
	}
	return control, nil
}

// clusterInfo is what the archive's cluster.json is to say of the server. seg is the header of a segment, for servers of which only
// WAL is left; nil if there is none.
func (s server) clusterInfo(seg *wal.SegmentHeader, now time.Time, host string) (catalog.ClusterInfo, bool) {
	info := catalog.ClusterInfo{Name: s.ref.Name, SystemID: s.ref.SystemID, Created: now, Host: host}
	switch {
	case s.control != nil:
		c := s.control
		checksums := c.DataChecksumVersion != 0
		info.PostgresMajor, info.SegmentSize, info.PageSize, info.RelSegSize = c.Major(), c.WALSegmentSize, c.BlockSize, c.RelSegSize
		info.Checksums = &checksums
	case seg != nil:
		info.PostgresMajor, info.SegmentSize = seg.Major, seg.SegmentSize
	default:
		return info, false
	}
	return info, true
}

// pause waits, unless ctx ends before.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
