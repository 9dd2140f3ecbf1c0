package archive

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"pgstow/wal"
)

// rateWindow is how far back Backlog.Rate looks, and rateLeast how long it must have looked: what a server writes in its first moments, or for
// a check, says nothing of the hours to come.
const (
	rateWindow = time.Hour
	rateLeast  = time.Minute
)

// Backlog is what a server keeps in pg_wal because it is not archived yet, and how long that can go on (RULES-archive B8).
type Backlog struct {
	Files map[string]bool // names of the files that wait
	Bytes int64           // of them
	Since time.Time       // when the oldest began to wait; zero if none does
	Free  int64           // bytes that the server may still use on the file system of pg_wal
	Rate  float64         // bytes of WAL a second, of the last hour; 0 if less than two segments were written, or all within a minute
}

// UntilFull is when the file system is full if nothing is archived from now on, at the present rate; ok is false without a rate.
func (b Backlog) UntilFull() (d time.Duration, ok bool) {
	const longest = 10 * 365 * 24 * time.Hour
	if b.Rate <= 0 {
		return 0, false
	}
	return time.Duration(min(float64(b.Free)/b.Rate, longest.Seconds()) * float64(time.Second)), true
}

// ReadBacklog looks into the pg_wal of a data directory. It changes nothing, and a server may work there meanwhile.
func ReadBacklog(pgdata string, now time.Time) (Backlog, error) {
	b := Backlog{Files: map[string]bool{}}
	dir := filepath.Join(pgdata, "pg_wal")
	status, err := os.ReadDir(archiveStatus(pgdata))
	if err != nil {
		return b, err
	}
	for _, e := range status {
		name, ready := strings.CutSuffix(e.Name(), readySuffix)
		if !ready {
			continue
		}
		mark, err := e.Info()
		file, ferr := os.Stat(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(ferr, fs.ErrNotExist) {
			continue // archived meanwhile
		}
		if err := errors.Join(err, ferr); err != nil {
			return b, err
		}
		b.Files[name] = true
		b.Bytes += file.Size()
		if b.Since.IsZero() || mark.ModTime().Before(b.Since) {
			b.Since = mark.ModTime()
		}
	}
	if b.Rate, err = walRate(dir, now); err != nil {
		return b, err
	}
	var space unix.Statfs_t
	if err := unix.Statfs(dir, &space); err != nil {
		return b, fmt.Errorf("%s: %w", dir, err)
	}
	b.Free = int64(space.Bavail) * space.Bsize
	return b, nil
}

// walRate counts the segments that were written in the last hour, from when the oldest of them was full on. A segment's time is that of its
// last write: the server makes old ones into future ones by renaming, which keeps their time. What a checkpoint has removed is not seen, and
// neither is the time before it.
func walRate(dir string, now time.Time) (float64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	count, size, oldest := 0, int64(0), now
	for _, e := range entries {
		if name, err := wal.ParseFileName(e.Name()); err != nil || name.Kind != wal.Segment {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		written := info.ModTime()
		if now.Sub(written) >= rateWindow {
			continue
		}
		count++
		size = info.Size()
		if written.Before(oldest) {
			oldest = written
		}
	}
	took := now.Sub(oldest).Seconds()
	if count < 2 || took < rateLeast.Seconds() {
		return 0, nil
	}
	return float64(count-1) * float64(size) / took, nil
}
