package backup

import (
	"context"
	"fmt"
	"slices"
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
// manifest lines. Beside a reference it does so in two passes: the lines of the
// first one wait until it is known which packs are worth being kept.
type collector struct {
	packs    *packStore
	sink     manifestSink
	pageSize int
	emit     func(Event)
	// hold keeps back what comes behind the folder pg_wal: its files are known
	// when the backup has ended.
	hold bool
	ref  *reference // nil: a full backup
	// pending takes the lines of the first pass; nil in the last one.
	pending interface{ add(r record) error }

	maps   mapWriter
	cache  *refCache // also takes the maps; may be nil
	file   openFile
	held   []catalog.FileEntry
	live   map[pagemap.PackRef]int64 // live pages of data packs
	lentBy map[int]bool              // packs of the reference's table that lines refer to
	// mapBytes is how much of the reference's map packs is in use, by index.
	mapBytes map[int]int64
	totals   totals
	// control is the entry of pg_control and the number of the pack kept for it.
	control     catalog.FileEntry
	controlPack uint32
}

// totals are what the manifest's header says.
type totals struct {
	files, damaged, torn int64
	pages                int64 // stored since they changed, or nothing was known of them
	refreshed            int64 // stored again
	sample               []catalog.DamagedRef
}

// openFile is a relation's file whose parts are being put together.
type openFile struct {
	open  bool
	ended bool // truncated or gone while read
	entry source.Entry
	do    doing
	m     pagemap.Map
	bad   []uint32
	old   *prior
	// kept is the number of pages so far, all of which lie where they lay; -1 when
	// one does not.
	kept   int
	cursor pagemap.Cursor
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
		return c.add(p.entry, entryOf(p.entry), nil)
	case partLine:
		return c.line(ctx, p)
	case partControl:
		return c.reserveControl(p)
	case partBlob:
		if p.vanished {
			return nil
		}
		e := entryOf(p.entry)
		e.Size, e.SHA256 = p.size, p.digest
		if p.same {
			var err error
			if e.Blob, err = c.lendSlices(p.old.line.Blob); err != nil {
				return err
			}
			return c.add(p.entry, e, nil)
		}
		for _, s := range j.slices[p.slices.from:p.slices.to] {
			at := j.frames[s.frame]
			index, err := c.own(at.pack)
			if err != nil {
				return err
			}
			e.Blob = append(e.Blob, catalog.Slice{Pack: index, Frame: int(at.frame), Offset: s.offset, Length: s.length})
		}
		return c.add(p.entry, e, nil)
	}
	return c.pages(ctx, j, p)
}

// line takes a file of which nothing was read, or one that is gone.
func (c *collector) line(ctx context.Context, p *part) error {
	if p.do == doForget {
		c.count(p.old.m, -1)
		return nil
	}
	if c.pending == nil {
		return c.emitOld(ctx, p.old.line, p.old.m, p.old.lent)
	}
	e := entryOf(p.entry)
	e.Size, e.Map, e.Damaged = p.old.line.Size, p.old.line.Map, p.old.line.Damaged
	return c.addOld(p.entry, e)
}

// addOld takes a line whose map stays where the reference has it.
func (c *collector) addOld(from source.Entry, e catalog.FileEntry) error {
	if e.Map != nil {
		c.mapBytes[e.Map.Pack] += int64(e.Map.Length)
	}
	return c.pending.add(record{Line: e, File: from.File, Lent: true})
}

// lendSlices refers to parts of a blob by the reference's packs.
func (c *collector) lendSlices(old []catalog.Slice) ([]catalog.Slice, error) {
	out := make([]catalog.Slice, len(old))
	for i, s := range old {
		index, err := c.lend(s.Pack)
		if err != nil {
			return nil, err
		}
		s.Pack = index
		out[i] = s
	}
	return out, nil
}

// lend is the index, in this manifest's table, of a pack of the reference's table.
func (c *collector) lend(i int) (int, error) {
	c.lentBy[i] = true
	return c.sink.AddPack(c.ref.packs[i])
}

// count adds the map's pages, or takes them away.
func (c *collector) count(m *pagemap.Map, sign int64) {
	m.Uses(func(p pagemap.PackRef, pages uint32) { c.live[p] += sign * int64(pages) })
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
		f.open, f.ended, f.entry, f.do, f.old, f.kept = !p.vanished, false, p.entry, p.do, p.old, 0
		f.m.Reset()
		f.bad = f.bad[:0]
		if p.do == doRefresh {
			f.open = true // what it had stays
			f.bad = append(f.bad, p.old.line.Damaged...)
		}
		if f.old != nil {
			f.cursor = pagemap.NewCursor(f.old.m)
		}
		if !f.open && f.old != nil {
			c.count(f.old.m, -1)
		}
	}
	if f.open && !f.ended {
		c.takeRuns(j, p)
		f.ended = p.short && p.do != doRefresh
	}
	if !p.last || !f.open {
		return nil
	}
	f.open = false
	return c.endFile(ctx)
}

func (c *collector) takeRuns(j *job, p *part) {
	f := &c.file
	if p.vanished && p.do == doRefresh {
		f.keep(int(p.first), int(p.pages))
		return
	}
	hashes := j.hashes[p.hashes.from:p.hashes.to]
	if p.do == doRefresh {
		c.totals.refreshed += int64(len(hashes))
	} else {
		c.totals.pages += int64(len(hashes)) - p.again
		c.totals.refreshed += p.again
	}
	for _, r := range j.runs[p.runs.from:p.runs.to] {
		n := int(r.pages)
		if r.frame == oldPages {
			f.keep(int(r.first), n)
			continue
		}
		f.leave()
		if r.frame == noFrame {
			f.m.AppendZero(hashes[:n])
		} else {
			at := j.frames[r.frame]
			f.m.Append(pagemap.PackRef{Backup: c.packs.id, Pack: at.pack}, at.frame, r.first, hashes[:n])
		}
		hashes = hashes[n:]
	}
	c.takeDamage(p)
	if p.trailing != 0 {
		c.emit(SkippedEvent{Path: p.entry.Path, Reason: fmt.Sprintf("%d bytes behind its last whole page", p.trailing)})
	}
}

// keep adds pages that stay where the earlier map has them.
func (f *openFile) keep(first, n int) {
	if f.kept >= 0 {
		f.kept += n // and first was the number so far
		return
	}
	f.cursor.Append(&f.m, first, n)
}

// leave says that a page comes that lies elsewhere than before.
func (f *openFile) leave() {
	if f.kept > 0 {
		f.cursor.Append(&f.m, 0, f.kept)
	}
	f.kept = -1
}

func (c *collector) takeDamage(p *part) {
	c.file.bad = append(c.file.bad, p.damaged...)
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
}

// endFile completes the map of a file whose parts are all there, and its line.
func (c *collector) endFile(ctx context.Context) error {
	f := &c.file
	e := entryOf(f.entry)
	if len(f.bad) > 0 {
		slices.Sort(f.bad)
		e.Damaged = slices.Compact(append([]uint32(nil), f.bad...))
	}
	if f.old != nil && f.kept == f.old.m.Pages() {
		e.Size, e.Map = f.old.line.Size, f.old.line.Map
		if c.pending == nil {
			return c.emitOld(ctx, e, f.old.m, f.old.lent)
		}
		return c.addOld(f.entry, e)
	}
	f.leave()
	if f.old != nil {
		c.count(f.old.m, -1)
	}
	c.count(&f.m, 1)
	e.Size = int64(f.m.Pages()) * int64(c.pageSize)
	if c.pending == nil {
		return c.emitNew(ctx, e, &f.m)
	}
	return c.add(f.entry, e, &f.m)
}

// emitNew writes a map and the line of its file.
func (c *collector) emitNew(ctx context.Context, e catalog.FileEntry, m *pagemap.Map) error {
	e.Map = nil
	if m.Pages() > 0 {
		ref, err := c.maps.add(ctx, c, m)
		if err != nil {
			return err
		}
		e.Map = &ref
	}
	return c.write(e)
}

// emitOld writes a line whose map, if it has one, is known already: m is written,
// unless it is nil, which stands for the map where the reference has it.
func (c *collector) emitOld(ctx context.Context, e catalog.FileEntry, m *pagemap.Map, lent bool) error {
	switch {
	case e.Map == nil && m == nil:
		return c.write(e)
	case !lent || m != nil && c.ref.dropsMap(e.Map.Pack):
		return c.emitNew(ctx, e, m)
	}
	index, err := c.lend(e.Map.Pack)
	if err != nil {
		return err
	}
	ref := *e.Map
	ref.Pack = index
	e.Map = &ref
	return c.write(e)
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
	return c.add(p.entry, e, nil)
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

// add takes a line, with its map if it is a relation's.
func (c *collector) add(from source.Entry, e catalog.FileEntry, m *pagemap.Map) (err error) {
	if c.pending == nil {
		return c.write(e)
	}
	r := record{Line: e, File: from.File}
	if m != nil && m.Pages() > 0 {
		if r.Map, err = m.AppendEncode(nil); err != nil {
			return err
		}
	}
	return c.pending.add(r)
}

// write puts a line into the manifest.
func (c *collector) write(e catalog.FileEntry) error {
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

// finish gives the manifest the facts of all packs: ours are stored now, and of the
// others it is known what is used.
func (c *collector) finish() error {
	for _, p := range c.packs.entries() {
		if !p.Map {
			p.LivePages = c.live[pagemap.PackRef{Backup: p.Backup, Pack: uint32(p.N)}]
		}
		if _, err := c.sink.AddPack(p); err != nil {
			return err
		}
	}
	if c.ref == nil {
		return nil
	}
	for i, p := range c.ref.packs {
		p.LivePages = c.live[pagemap.PackRef{Backup: p.Backup, Pack: uint32(p.N)}]
		if p.LivePages < 0 || p.LivePages > p.Pages {
			return fmt.Errorf("pack %s/%d: %d of its %d pages would be in use: backup %s does not say the truth about it",
				p.Backup, p.N, p.LivePages, p.Pages, c.ref.header.ID)
		}
		if p.LivePages == 0 && !c.lentBy[i] {
			continue
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
	if err := c.cache.frame(w.buf); err != nil {
		return err
	}
	w.buf = w.buf[:0]
	if w.pack.w.PlainSize() >= packPlain || w.pack.w.StoredSize() >= packStored {
		return w.end(c)
	}
	return nil
}

// end hands the pack on to be stored.
func (w *mapWriter) end(c *collector) error {
	p := w.pack
	w.pack = nil
	c.packs.finish(p)
	return c.cache.end(p.number, c.packs.ref.SystemID)
}

// close stores what is left.
func (w *mapWriter) close(c *collector) error {
	if err := w.flush(c); err != nil {
		return err
	}
	if w.pack != nil {
		return w.end(c)
	}
	return nil
}
