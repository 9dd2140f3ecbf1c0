package backup

import (
	"context"
	"fmt"
	"strings"

	"pgstow/backup/pagemap"
	"pgstow/backup/source"
	"pgstow/catalog"
)

// manifestSink takes the lines of the manifest in their order.
type manifestSink interface {
	AddFile(e catalog.FileEntry) error
	AddPack(p catalog.PackEntry) (index int, err error)
}

// collector turns the results of jobs, which it gets in order, into page maps and
// manifest lines.
type collector struct {
	packs    *packStore
	sink     manifestSink
	pageSize int
	emit     func(Event)
	// hold keeps back what comes behind the folder pg_wal: its files are known
	// when the backup has ended.
	hold bool

	maps   mapWriter
	file   openFile
	held   []catalog.FileEntry
	live   map[uint32]int64 // live pages of our data packs, by number
	totals totals
	// control is the entry of pg_control and the number of the pack kept for it.
	control     catalog.FileEntry
	controlPack uint32
}

// totals are what the manifest's header says.
type totals struct {
	files, damaged, torn, pages int64
	sample                      []catalog.DamagedRef
}

// openFile is a relation's file whose parts are being put together.
type openFile struct {
	open  bool
	ended bool // truncated or gone while read
	entry source.Entry
	m     pagemap.Map
	bad   []uint32
}

// job takes the results of one job.
func (c *collector) job(ctx context.Context, j *job) error {
	for i := range j.parts {
		p := &j.parts[i]
		if err := c.part(ctx, j, p); err != nil {
			return fmt.Errorf("manifest line of %s: %w", p.entry.Path, err)
		}
	}
	return nil
}

func (c *collector) part(ctx context.Context, j *job, p *part) error {
	switch p.kind {
	case partEntry:
		return c.add(entryOf(p.entry))
	case partControl:
		return c.reserveControl(p)
	case partBlob:
		if p.vanished {
			return nil
		}
		e := entryOf(p.entry)
		e.Size, e.SHA256 = p.size, p.digest
		for _, s := range j.slices[p.slices.from:p.slices.to] {
			at := j.frames[s.frame]
			index, err := c.own(at.pack)
			if err != nil {
				return err
			}
			e.Blob = append(e.Blob, catalog.Slice{Pack: index, Frame: int(at.frame), Offset: s.offset, Length: s.length})
		}
		return c.add(e)
	}
	return c.pages(ctx, j, p)
}

// own is the index of a pack of this backup in the manifest's table. The facts of
// the pack follow when it is stored.
func (c *collector) own(n uint32) (int, error) {
	return c.sink.AddPack(catalog.PackEntry{Backup: c.packs.id, N: int(n)})
}

func entryOf(e source.Entry) catalog.FileEntry {
	out := catalog.FileEntry{Path: e.Path, Mode: catalog.FileMode(e.Mode), ModTime: e.ModTime}
	switch e.Class {
	case source.Dir:
		out.Type = catalog.TypeDir
	case source.Link:
		out.Type, out.Target = catalog.TypeLink, e.Target
	case source.Relation, source.Blob:
		out.Type = catalog.TypeFile
	}
	return out
}

// pages takes a part of a relation's file.
func (c *collector) pages(ctx context.Context, j *job, p *part) error {
	f := &c.file
	if p.first == 0 {
		f.open, f.ended, f.entry = !p.vanished, false, p.entry
		f.m.Reset()
		f.bad = f.bad[:0]
	}
	if f.open && !f.ended {
		c.takeRuns(j, p)
		f.ended = p.short
	}
	if !p.last || !f.open {
		return nil
	}
	f.open = false
	return c.endFile(ctx)
}

func (c *collector) takeRuns(j *job, p *part) {
	f := &c.file
	hashes := j.hashes[p.hashes.from:p.hashes.to]
	for _, r := range j.runs[p.runs.from:p.runs.to] {
		n := int(r.pages)
		if r.frame == noFrame {
			f.m.AppendZero(hashes[:n])
		} else {
			at := j.frames[r.frame]
			f.m.Append(pagemap.PackRef{Backup: c.packs.id, Pack: at.pack}, at.frame, r.first, hashes[:n])
			c.live[at.pack] += int64(n)
		}
		hashes = hashes[n:]
	}
	f.bad = append(f.bad, p.damaged...)
	c.totals.torn += int64(p.torn)
	c.totals.damaged += int64(len(p.damaged))
	for i, block := range p.damaged {
		what := "like the pages before it"
		if i < len(p.damage) {
			what = p.damage[i]
			c.emit(DamageEvent{Path: p.entry.Path, Block: block, What: what})
		}
		if len(c.totals.sample) < damageSamples {
			c.totals.sample = append(c.totals.sample, catalog.DamagedRef{Path: p.entry.Path, Page: block, What: what})
		}
	}
	if p.trailing != 0 {
		c.emit(SkippedEvent{Path: p.entry.Path, Reason: fmt.Sprintf("%d bytes behind its last whole page", p.trailing)})
	}
}

// endFile writes the map of a file whose parts are all there, and its line.
func (c *collector) endFile(ctx context.Context) error {
	f := &c.file
	e := entryOf(f.entry)
	e.Size = int64(f.m.Pages()) * int64(c.pageSize)
	if len(f.bad) > 0 {
		e.Damaged = append([]uint32(nil), f.bad...)
	}
	c.totals.pages += int64(f.m.Pages())
	if f.m.Pages() > 0 {
		ref, err := c.maps.add(ctx, c, &f.m)
		if err != nil {
			return err
		}
		e.Map = &ref
	}
	return c.add(e)
}

// reserveControl writes pg_control's line in its place. Its bytes go into a pack
// of its own at the end of the backup; they are whole by their own checksum.
func (c *collector) reserveControl(p *part) error {
	c.controlPack = c.packs.reserve()
	index, err := c.own(c.controlPack)
	if err != nil {
		return err
	}
	e := entryOf(p.entry)
	e.Size = p.entry.Size
	e.Blob = []catalog.Slice{{Pack: index, Length: int(p.entry.Size)}}
	c.control = e
	return c.add(e)
}

// storeControl stores pg_control, read after everything else.
func (c *collector) storeControl(ctx context.Context, b []byte) error {
	if c.control.Path == "" {
		return fmt.Errorf("%s was not found in the data directory", source.ControlPath)
	}
	if int64(len(b)) != c.control.Size {
		return fmt.Errorf("%s had %d bytes and has %d now", source.ControlPath, c.control.Size, len(b))
	}
	pk, err := c.packs.beginAs(ctx, c.controlPack)
	if err != nil {
		return err
	}
	if _, err := pk.w.AddFrame(b); err != nil {
		return err
	}
	c.packs.finish(pk)
	return nil
}

func (c *collector) add(e catalog.FileEntry) error {
	c.totals.files++
	if c.hold && afterWAL(e.Path) {
		c.held = append(c.held, e)
		return nil
	}
	return c.sink.AddFile(e)
}

// afterWAL says whether a path comes behind the contents of pg_wal in the
// manifest's order.
func afterWAL(path string) bool {
	top, _, _ := strings.Cut(path, "/")
	return top > "pg_wal"
}

// finish gives the manifest the facts of all packs, which are stored now.
func (c *collector) finish() error {
	for _, p := range c.packs.entries() {
		if !p.Map {
			p.LivePages = c.live[uint32(p.N)]
		}
		if _, err := c.sink.AddPack(p); err != nil {
			return err
		}
	}
	return nil
}

// release writes the lines that were held back.
func (c *collector) release() error {
	for _, e := range c.held {
		if err := c.sink.AddFile(e); err != nil {
			return fmt.Errorf("manifest line of %s: %w", e.Path, err)
		}
	}
	c.hold, c.held = false, nil
	return nil
}

// mapWriter collects page maps into frames of packs of their own, so that a
// restore reads few objects.
type mapWriter struct {
	pack  *pack
	index int
	buf   []byte
	one   []byte
}

// add stores a map and says where.
func (w *mapWriter) add(ctx context.Context, c *collector, m *pagemap.Map) (catalog.MapRef, error) {
	var err error
	if w.one, err = m.AppendEncode(w.one[:0]); err != nil {
		return catalog.MapRef{}, err
	}
	if len(w.buf) > 0 && len(w.buf)+len(w.one) > frameSize {
		if err := w.flush(c); err != nil {
			return catalog.MapRef{}, err
		}
	}
	if w.pack == nil {
		if w.pack, err = c.packs.begin(ctx, true); err != nil {
			return catalog.MapRef{}, err
		}
		if w.index, err = c.own(w.pack.number); err != nil {
			return catalog.MapRef{}, err
		}
	}
	ref := catalog.MapRef{Pack: w.index, Frame: w.pack.w.Frames(), Offset: len(w.buf), Length: len(w.one)}
	w.buf = append(w.buf, w.one...)
	return ref, nil
}

// flush ends the frame, and the pack when it is full.
func (w *mapWriter) flush(c *collector) error {
	if len(w.buf) == 0 {
		return nil
	}
	if _, err := w.pack.w.AddFrame(w.buf); err != nil {
		return err
	}
	w.buf = w.buf[:0]
	if w.pack.w.PlainSize() >= jobPlain || w.pack.w.StoredSize() >= packStored {
		c.packs.finish(w.pack)
		w.pack = nil
	}
	return nil
}

// close stores what is left.
func (w *mapWriter) close(c *collector) error {
	if err := w.flush(c); err != nil {
		return err
	}
	if w.pack != nil {
		c.packs.finish(w.pack)
		w.pack = nil
	}
	return nil
}
