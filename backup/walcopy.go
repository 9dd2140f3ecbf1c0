package backup

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"pgstow/catalog"
	"pgstow/wal"
)

// walFile is a WAL file of the backup: its name, and, when it was the last one
// and not whole, how much of it is WAL.
type walFile struct {
	name  wal.FileName
	entry catalog.FileEntry
}

// walCopier copies WAL files from pg_wal into the backup.
type walCopier struct {
	c    *collector
	dir  string
	size wal.SegmentSize
	sys  uint64
	// bring fetches a file into dir, from where it is removed when it has been copied;
	// nil: dir is the server's pg_wal. What is not there is fs.ErrNotExist.
	bring func(ctx context.Context, name wal.FileName, to string) error

	pack  *pack
	buf   []byte // of a segment
	files []walFile
}

// copyRange copies the segments from start to stop, by the history's names, each
// checked like one that is archived. The last one may end early, but not before
// stop; what follows the WAL in it is cleared.
func (w *walCopier) copyRange(ctx context.Context, h wal.History, start, stop wal.LSN) error {
	last := w.size.PrevSegmentOf(stop)
	for n := w.size.SegmentOf(start); n <= last; n++ {
		name := wal.SegmentName(h.TimelineOfSegment(n, w.size), n, w.size)
		end, err := w.segment(ctx, name, n == last)
		if err != nil {
			return err
		}
		if n == last && end < stop {
			return fmt.Errorf("%s holds WAL up to %s only, and the backup ends at %s", name, end, stop)
		}
	}
	return w.histories(ctx, h)
}

// copyAll copies from the segment of start on to the end of the WAL, which is
// returned. It is for a server that does not run.
func (w *walCopier) copyAll(ctx context.Context, h wal.History, start wal.LSN) (end wal.LSN, err error) {
	for n := w.size.SegmentOf(start); ; n++ {
		name := wal.SegmentName(h.TimelineOfSegment(n, w.size), n, w.size)
		if end != 0 && !w.holds(name) {
			break // recycled for later, or not there
		}
		if end, err = w.segment(ctx, name, true); err != nil {
			return 0, err
		}
		if end < w.size.End(n) {
			break
		}
	}
	return end, w.histories(ctx, h)
}

// holds says whether the file of that name begins with the page it should.
func (w *walCopier) holds(name wal.FileName) bool {
	f, err := os.Open(filepath.Join(w.dir, name.String()))
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, wal.LongHeaderSize)
	if _, err := io.ReadFull(f, b); err != nil {
		return false
	}
	h, err := wal.ParseSegmentHeader(b)
	return err == nil && h.Addr == name.Start(w.size) && h.SystemID == w.sys
}

// segment copies one segment and returns where the WAL in it ends.
func (w *walCopier) segment(ctx context.Context, name wal.FileName, mayEnd bool) (end wal.LSN, err error) {
	path := filepath.Join(w.dir, name.String())
	if w.bring != nil {
		if err := w.bring(ctx, name, path); err != nil {
			return 0, fmt.Errorf("copy WAL: %w", err)
		}
		defer func() { err = errors.Join(err, os.Remove(path)) }()
	}
	data, info, release, err := w.load(path)
	if err != nil {
		return 0, fmt.Errorf("copy WAL: %w", err)
	}
	defer func() { err = errors.Join(err, release()) }()
	seg, err := wal.InspectSegment(data, name)
	var bad *wal.SegmentError
	if errors.As(err, &bad) && mayEnd && (bad.Reason == wal.ReasonIncomplete || bad.Reason == wal.ReasonDamaged) {
		err = nil // the rest of a recycled segment looks like damage
	}
	if err != nil {
		return 0, fmt.Errorf("copy WAL: %w", err)
	}
	if seg.Header.SystemID != w.sys {
		return 0, fmt.Errorf("copy WAL: %s is of system %d, the server is %d", name, seg.Header.SystemID, w.sys)
	}
	used := len(data)
	if off := seg.CompleteTo - w.size.Start(name.Number(w.size)); off < wal.LSN(used) {
		used = int(off)
	}
	return seg.CompleteTo, w.store(ctx, name, data[:used], int64(len(data)), info.ModTime())
}

// mapBelow is the size up to which a file is read; a larger one is mapped.
const mapBelow = 64 << 20

// load gives the contents of a file that nobody shortens, until the next load.
func (w *walCopier) load(path string) (data []byte, info fs.FileInfo, release func() error, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if info, err = f.Stat(); err != nil {
		return nil, nil, nil, err
	}
	if info.Size() <= mapBelow {
		w.buf = slices.Grow(w.buf[:0], int(info.Size()))
		data = w.buf[:info.Size()]
		_, err = io.ReadFull(f, data)
		return data, info, func() error { return nil }, err
	}
	data, err = unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return nil, nil, nil, &fs.PathError{Op: "mmap", Path: path, Err: err}
	}
	return data, info, func() error { return unix.Munmap(data) }, nil
}

// histories copies the history files of the timelines on the way.
func (w *walCopier) histories(ctx context.Context, h wal.History) error {
	for _, e := range h {
		if e.Timeline == 1 {
			continue
		}
		name := wal.HistoryName(e.Timeline)
		b, err := w.history(ctx, name)
		if errors.Is(err, fs.ErrNotExist) && e.Timeline != h.Timeline() {
			continue // an ancestor's is not needed: the newest names all of them
		}
		if err != nil {
			return fmt.Errorf("copy WAL: %w", err)
		}
		if err := w.store(ctx, name, b, int64(len(b)), time.Time{}); err != nil {
			return err
		}
	}
	if w.pack != nil {
		w.c.packs.finish(w.pack)
		w.pack = nil
	}
	return nil
}

func (w *walCopier) history(ctx context.Context, name wal.FileName) ([]byte, error) {
	path := filepath.Join(w.dir, name.String())
	if w.bring != nil {
		if err := w.bring(ctx, name, path); err != nil {
			return nil, err
		}
	}
	return os.ReadFile(path)
}

// store adds a file of size bytes that begins with data and goes on with zeros.
func (w *walCopier) store(ctx context.Context, name wal.FileName, data []byte, size int64, modified time.Time) error {
	e := catalog.FileEntry{
		Path: "pg_wal/" + name.String(), Type: catalog.TypeFile, Mode: 0o600, Size: size, ModTime: modified,
	}
	sum := sha256.New()
	buf := make([]byte, frameSize)
	for at := int64(0); at < size; {
		n := min(frameSize, size-at)
		frame := buf[:n]
		clear(frame)
		if at < int64(len(data)) {
			copy(frame, data[at:])
		}
		sum.Write(frame)
		s, err := w.frame(ctx, frame)
		if err != nil {
			return err
		}
		e.Blob = append(e.Blob, s)
		at += n
	}
	sum.Sum(e.SHA256[:0])
	w.files = append(w.files, walFile{name: name, entry: e})
	return nil
}

func (w *walCopier) frame(ctx context.Context, b []byte) (catalog.Slice, error) {
	if w.pack == nil {
		p, err := w.c.packs.begin(ctx, false)
		if err != nil {
			return catalog.Slice{}, err
		}
		w.pack = p
	}
	i, err := w.pack.w.AddFrame(b)
	if err != nil {
		return catalog.Slice{}, err
	}
	index, err := w.c.own(w.pack.number)
	if err != nil {
		return catalog.Slice{}, err
	}
	s := catalog.Slice{Pack: index, Frame: i, Length: len(b)}
	if w.pack.w.PlainSize() >= jobPlain || w.pack.w.StoredSize() >= packStored {
		w.c.packs.finish(w.pack)
		w.pack = nil
	}
	return s, nil
}

// addTo writes the manifest lines of the files, in the manifest's order.
func (w *walCopier) addTo(c *collector) (names []string, err error) {
	slices.SortFunc(w.files, func(a, b walFile) int {
		switch {
		case a.entry.Path < b.entry.Path:
			return -1
		case a.entry.Path > b.entry.Path:
			return 1
		}
		return 0
	})
	for _, f := range w.files {
		c.totals.files++
		if err := c.sink.AddFile(f.entry); err != nil {
			return nil, fmt.Errorf("manifest line of %s: %w", f.entry.Path, err)
		}
		names = append(names, f.name.String())
	}
	return names, nil
}

// readHistory reads the history of a timeline from pg_wal.
func readHistory(dir string, tli wal.TimelineID) (wal.History, error) {
	if tli == 1 {
		return wal.NewHistory(1), nil
	}
	b, err := os.ReadFile(filepath.Join(dir, wal.HistoryName(tli).String()))
	if err != nil {
		return nil, fmt.Errorf("history of timeline %d: %w", tli, err)
	}
	return wal.ParseHistory(tli, b)
}
