package backup

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"pgstow/catalog"
	"pgstow/wal"
)

// The past of a server is told by its WAL and not by LSNs: a disk that was set back to
// a snapshot goes over the same numbers again, on the same timeline, and where little
// is written even its backups begin at the same ones (RULES-physical A4). So each
// backup notes two things that no other past has: the WAL in the segment in which it
// ended, and when its server wrote the WAL summary that ends where it began.

// witness notes both in the header. What cannot be read is not noted.
func (c *creation) witness(h *catalog.BackupHeader) error {
	history := h.TimelineHistory()
	sum, err := walUntil(walDir(c.dir), history, history, h.WALSegmentSize, h.Stop)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("WAL at the end of the backup: %w", err)
	}
	h.StopWAL = sum
	h.SummaryMade = summaryMade(c.dir, h.Timeline, h.Start)
	return nil
}

// otherPast says why the WAL summaries may be of another past than the reference, which
// only the pages themselves can tell then; "" if they are of the same one.
//
// Where the archive has the WAL of both backups it has refused all other WAL of these
// names. A backup that holds its own WAL has nobody to refuse it.
func (c *creation) otherPast(h catalog.BackupHeader, history wal.History) (string, error) {
	sum, err := walUntil(walDir(c.dir), h.TimelineHistory(), history, h.WALSegmentSize, h.Stop)
	switch {
	case err == nil && !h.StopWAL.IsZero() && sum == h.StopWAL:
		return "", nil
	case err == nil && !h.StopWAL.IsZero():
		return fmt.Sprintf("the server's WAL before %s is not that in which backup %s ended: its past is another one", h.Stop, h.ID), nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("WAL at the end of backup %s: %w", h.ID, err)
	case c.o.WAL != WALInclude && !h.WALIncluded:
		return "", nil
	}
	if made := summaryMade(c.dir, h.Timeline, h.Start); !made.IsZero() && made.Equal(h.SummaryMade) {
		return "", nil
	}
	return fmt.Sprintf("the server has removed the WAL in which backup %s ended, so nothing shows that its WAL summaries are of the same past", h.ID), nil
}

// walUntil is the SHA-256 of the WAL before stop in the segment that ends with it, or
// holds it. The segment has the name that it had in the one history or has in the other:
// of one in which a timeline was left there are two, alike up to there. fs.ErrNotExist
// if there is neither, or no WAL before stop in it.
func walUntil(dir string, then, now wal.History, size wal.SegmentSize, stop wal.LSN) (sum catalog.Digest, err error) {
	n := size.PrevSegmentOf(stop)
	f, err := os.Open(filepath.Join(dir, wal.SegmentName(then.TimelineOfSegment(n, size), n, size).String()))
	if errors.Is(err, fs.ErrNotExist) {
		f, err = os.Open(filepath.Join(dir, wal.SegmentName(now.TimelineOfSegment(n, size), n, size).String()))
	}
	if err != nil {
		return sum, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	hash := sha256.New()
	length := int64(stop - size.Start(n))
	if _, err := io.CopyN(hash, f, length); errors.Is(err, io.EOF) || length == 0 {
		return sum, fs.ErrNotExist
	} else if err != nil {
		return sum, err
	}
	hash.Sum(sum[:0])
	return sum, nil
}

// summaryMade is when the server, or the one that its directory was copied from, wrote
// the WAL summary that ends at an LSN; zero if it has none.
func summaryMade(dir string, tli wal.TimelineID, end wal.LSN) time.Time {
	// <timeline><start><end>.summary: OpenWalSummaryFile in backend/backup/walsummary.c
	first, last := fmt.Sprintf("%08X", uint32(tli)), fmt.Sprintf("%016X.summary", uint64(end))
	entries, err := os.ReadDir(filepath.Join(walDir(dir), "summaries"))
	if err != nil {
		return time.Time{}
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), first) || !strings.HasSuffix(e.Name(), last) {
			continue
		}
		if info, err := e.Info(); err == nil {
			return info.ModTime().UTC()
		}
	}
	return time.Time{}
}
