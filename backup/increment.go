package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"

	"pgstow/backup/backupmanifest"
	"pgstow/backup/changes"
	"pgstow/backup/source"
	"pgstow/backup/stream"
	"pgstow/catalog"
)

// offer gives the server the reference from which it can tell what changed since (17 and
// newer). Where that cannot be, there is no reference, and why says why; the backup then
// has everything sent.
func (s *streaming) offer(ctx context.Context) (r *reference, why string, err error) {
	switch {
	case s.o.Full:
		return nil, "", nil
	case s.o.Scan:
		return nil, "a scan was asked for", nil
	case s.major < 17:
		return nil, fmt.Sprintf("PostgreSQL %d cannot send what changed", s.major), nil
	case !s.server.Summarizes:
		return nil, "summarize_wal is off", nil
	}
	_, end, err := s.beside.Position(ctx)
	if err != nil {
		return nil, "", err
	}
	control := s.control
	control.Redo = end // the checkpoint that the backup begins with is later; the server checks
	if r, why, err = s.findReference(ctx, beginning{start: end, history: s.history, control: control}); r == nil || err != nil {
		return nil, why, err
	}
	if why := r.unfit(); why != "" {
		return nil, why, nil
	}
	err = s.server.Upload(ctx, r.manifestFor(s.ref.SystemID))
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		return nil, refused.Message, s.reconnect(ctx)
	}
	if err != nil {
		return nil, "", fmt.Errorf("tell the server of backup %s: %w", r.header.ID, err)
	}
	r.sent = true
	return r, "", nil
}

// reconnect is for a connection on which something has failed.
func (s *streaming) reconnect(ctx context.Context) error {
	again, err := s.server.Again(ctx)
	if err == nil {
		s.server.Close()
		s.server = again
	}
	return err
}

// unfit says why what the server would send since the reference is not enough: pages that
// did not change are not sent, so damaged ones could not be taken again (RULES-physical
// C2), nor those of packs that are too old or hold too little (D4).
func (r *reference) unfit() string {
	if r.header.Damaged > 0 {
		return fmt.Sprintf("backup %s has damaged pages, which are read again", r.header.ID)
	}
	if r.header.Timeline != r.header.StopTimeline {
		return fmt.Sprintf("backup %s begins on another timeline than it ends", r.header.ID)
	}
	var pages, live int64
	for _, p := range r.packs {
		if r.expired(p) && (p.LivePages > 0 || p.Map) {
			return fmt.Sprintf("packs that backup %s refers to are too old", r.header.ID)
		}
		if p.LivePages > 0 {
			pages, live = pages+p.Pages, live+p.LivePages
		}
	}
	if 2*live < pages {
		return fmt.Sprintf("of the packs that backup %s refers to less than half is in use", r.header.ID)
	}
	return ""
}

// manifestFor writes the reference's backup_manifest as the server needs it: names, sizes
// and the range of WAL.
func (r *reference) manifestFor(systemID uint64) func(io.Writer) error {
	return func(w io.Writer) error {
		m := backupmanifest.NewWriter(w, backupmanifest.Version(r.header.PostgresMajor), systemID)
		for line, err := range r.manifest.Files() {
			if err != nil {
				return fmt.Errorf("files of backup %s: %w", r.header.ID, err)
			}
			if line.Type != catalog.TypeFile {
				continue
			}
			if err := m.AddFile(backupmanifest.File{Path: line.Path, Size: line.Size, Modified: line.ModTime}); err != nil {
				return err
			}
		}
		err := m.AddWALRange(backupmanifest.WALRange{
			Timeline: uint32(r.header.StopTimeline), Start: uint64(r.header.Start), End: uint64(r.header.Stop),
		})
		return errors.Join(err, m.Close())
	}
}

// increment takes the pages of a relation's file that changed.
func (f *feeder) increment(sent stream.Entry, e source.Entry) error {
	size := f.control.BlockSize
	inc, err := f.b.ReadIncrement(sent, size, f.control.RelSegSize)
	if err != nil {
		return err
	}
	old, err := f.known.take(e.Path)
	if err != nil {
		return err
	}
	e.Size = int64(inc.Pages()) * int64(size)
	it := item{entry: e, old: old}
	if e.Relation.Fork == source.ForkVM {
		// The WAL does not say all that happened to it. A map that is empty says nothing that
		// is not true (RULES-physical A1).
		it.entry.Size = 0
		return f.put(part{item: it, kind: partPages, last: true, held: &held{entry: it.entry}})
	}
	had := uint32(0)
	if old != nil {
		if old.m == nil {
			return fmt.Errorf("%s: the server sends changes of a file that had no pages in backup %s", e.Path, f.ref.header.ID)
		}
		it.do, old.start = doWanted, f.ref.header.Start
		had = min(uint32(old.m.Pages()), inc.Kept)
	}
	f.report.passed.Add(max(e.Size-int64(len(inc.Blocks))*int64(size), 0))
	left, total := inc.Blocks, inc.Pages()
	for first := uint32(0); ; {
		var b []byte
		if len(left) > 0 {
			if b, err = f.room(int(min(int64(len(left))*int64(size), frameSize))); err != nil {
				return err
			}
		}
		n := min(len(left), len(b)/int(size))
		b = b[:n*int(size)]
		if err := f.b.ReadFull(b); err != nil {
			return err
		}
		mine, end := left[:n], total
		if left = left[n:]; len(left) > 0 {
			end = left[0]
		}
		it.wanted = wantedOf(mine, max(had, first), end)
		p := part{item: it, kind: partPages, first: first, pages: end - first, last: len(left) == 0}
		p.held = &scattered{held{entry: e, data: b}, mine, int64(size)}
		if err := f.put(p); err != nil || p.last {
			return err
		}
		first = end
	}
}

// wantedOf are the runs of single pages, and of all pages from one on to another.
func wantedOf(blocks []uint32, from, to uint32) (runs []changes.Run) {
	for _, n := range blocks {
		runs = changes.Join(runs, changes.Run{First: n, Pages: 1})
	}
	if from < to {
		runs = changes.Merge(runs, []changes.Run{{First: from, Pages: to - from}})
	}
	return runs
}

// scattered are pages of a file, in memory; the others are zero.
type scattered struct {
	held
	blocks []uint32
	size   int64
}

// ReadAt reads whole pages.
func (s *scattered) ReadAt(b []byte, at int64) (int, error) {
	if at%s.size != 0 || int64(len(b))%s.size != 0 {
		return 0, fmt.Errorf("%s: %w: %d bytes at %d", s.entry.Path, fs.ErrInvalid, len(b), at)
	}
	n := int(min(int64(len(b)), max(s.entry.Size-at, 0)))
	first := uint32(at / s.size)
	i, _ := slices.BinarySearch(s.blocks, first)
	for to := 0; to < n; to += int(s.size) {
		page := b[to : to+int(s.size)]
		if i < len(s.blocks) && s.blocks[i] == first+uint32(int64(to)/s.size) {
			copy(page, s.data[int64(i)*s.size:])
			i++
		} else {
			clear(page)
		}
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}
