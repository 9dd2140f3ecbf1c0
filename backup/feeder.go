package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"pgstow/backup/changes"
	"pgstow/backup/pagemap"
	"pgstow/backup/source"
	"pgstow/backup/stream"
)

// feeder makes jobs of what a server sends. The files' contents come with the jobs, in
// buffers that workers give back; a large file that is no relation comes in buffers one
// after the other, while its job is being done.
type feeder struct {
	*copier
	b     *stream.Backup
	major int
	// modeOfFolders is the data directory's.
	modeOfFolders fs.FileMode
	cancel        context.CancelCauseFunc // ends the stream

	known   *lookup // nil: a full backup
	refresh map[pagemap.PackRef]bool

	ctx         context.Context
	jobs, order chan<- *job
	idle        <-chan *job
	free        chan []byte
	job         *job
	filled      int // bytes of the job's buffer

	// What is not stored as other files are.
	controlFile, label, tablespaceMap []byte
}

// feedBuffer is the size of a buffer. There are two more of them than workers.
const feedBuffer = 4 << 20

// runStream stores what the server sends. The lines come in the server's order.
func (c *copier) runStream(ctx context.Context, f *feeder) (lines *sorted, err error) {
	lines = newSorted(c.o.TempDir, sortMemory)
	defer func() {
		if err != nil {
			err = errors.Join(err, lines.close())
		}
	}()
	if c.ref != nil {
		if f.known, err = newLookup(ctx, c.ref, c.o.TempDir); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, f.known.close()) }()
		if !c.ref.sent {
			f.refresh = c.ref.wornPacks()
		}
	}
	f.free = make(chan []byte, c.o.Workers+2)
	for range cap(f.free) {
		f.free <- make([]byte, feedBuffer)
	}
	c.collect.pending = lines
	err = c.work(ctx, f.feed, func(j *job) {
		if j.buf != nil {
			f.free <- j.buf
			j.buf = nil
		}
	})
	c.collect.pending = nil
	if err == nil && f.known != nil {
		err = f.known.rest(func(p *prior) { c.collect.count(p.m, -1) })
	}
	return lines, err
}

// wornPacks are the worn ones as the reference uses them. What lives of them comes by
// anyway, so it is stored again. What this backup leaves of the others is not known before
// all has been sent: that is for the next one.
func (r *reference) wornPacks() map[pagemap.PackRef]bool {
	out := make(map[pagemap.PackRef]bool)
	for _, p := range r.packs {
		if !p.Map && p.LivePages > 0 && r.worn(p, p.LivePages, p.Pages) {
			out[pagemap.PackRef{Backup: p.Backup, Pack: uint32(p.N)}] = true
		}
	}
	return out
}

// writeLines puts the lines into the manifest, and the maps that changed into packs.
func (c *copier) writeLines(ctx context.Context, lines *sorted) error {
	if c.ref != nil {
		c.collect.notWorth() // of map packs
	}
	if err := c.pass(ctx, c.ref.again(ctx, lines.each, nil), false); err != nil {
		return err
	}
	return c.collect.maps.close(c.collect)
}

// feed hands out jobs until the server has sent all.
func (f *feeder) feed(ctx context.Context, jobs, order chan<- *job, idle <-chan *job) error {
	f.ctx, f.jobs, f.order, f.idle = ctx, jobs, order, idle
	stop := context.AfterFunc(ctx, func() { f.cancel(context.Cause(ctx)) })
	defer stop()
	for {
		e, err := f.b.Next()
		if errors.Is(err, io.EOF) {
			return f.end()
		}
		if err == nil {
			err = f.entry(e)
		}
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
	}
}

// end hands out the last job.
func (f *feeder) end() error {
	slices.SortFunc(f.source.Tablespaces, func(a, b source.Tablespace) int { return cmp.Compare(a.OID, b.OID) })
	for _, t := range f.source.Tablespaces {
		if err := f.tablespace(t); err != nil {
			return err
		}
	}
	return f.hand()
}

// tablespace adds its link or folder in pg_tblspc. Whether the server sends these depends
// on its version, so what it sends of them is not used.
func (f *feeder) tablespace(t source.Tablespace) error {
	e := source.Entry{Path: fmt.Sprintf("pg_tblspc/%d", t.OID), Class: source.Link, Target: t.Location, Mode: fs.ModePerm}
	if t.InPlace {
		e.Class, e.Target, e.Mode = source.Dir, "", f.modeOfFolders
	}
	return f.put(part{item: item{entry: e}, kind: partEntry})
}

// inPlace is a tablespace that is a folder in pg_tblspc, which a server up to 15 sends as
// any other folder.
func (f *feeder) inPlace(path string) {
	if name, ok := strings.CutPrefix(path, "pg_tblspc/"); ok {
		if oid, err := strconv.ParseUint(name, 10, 32); err == nil && !slices.ContainsFunc(f.source.Tablespaces, func(t source.Tablespace) bool { return uint64(t.OID) == oid }) {
			f.source.Tablespaces = append(f.source.Tablespaces, source.Tablespace{OID: uint32(oid), InPlace: true})
		}
	}
}

// entry takes one file, folder or link.
func (f *feeder) entry(e stream.Entry) error {
	switch e.Path {
	case "backup_label":
		return f.small(e, &f.label)
	case "tablespace_map":
		return f.small(e, &f.tablespaceMap)
	}
	whole, changed := e.Path, false
	if f.ref != nil && f.ref.sent {
		if whole, changed = e.Whole(); !changed {
			whole = e.Path
		}
	}
	class, rel, left := source.Sent(whole, e.Dir, f.major)
	if left {
		return nil
	}
	if changed && class == source.Relation {
		return f.increment(e, source.Entry{Path: whole, Class: class, Mode: e.Mode, ModTime: e.ModTime, Relation: rel})
	}
	if e.Link != "" {
		class = source.Link
	}
	x := source.Entry{Path: e.Path, Class: class, Mode: e.Mode, Size: e.Size, ModTime: e.ModTime, Target: e.Link, Relation: rel}
	switch {
	case strings.HasPrefix(e.Path, "pg_tblspc/") && strings.Count(e.Path, "/") == 1:
		if e.Dir {
			f.inPlace(e.Path)
		}
		return nil
	case class == source.Dir || class == source.Link:
		return f.put(part{item: item{entry: x}, kind: partEntry})
	case e.Path == source.ControlPath:
		if err := f.small(e, &f.controlFile); err != nil {
			return err
		}
		f.report.read(e.Size, 1)
		return f.put(part{item: item{entry: x}, kind: partControl})
	case class == source.Relation:
		return f.relation(x)
	case e.Size <= feedBuffer:
		return f.blob(x)
	}
	return f.flow(x)
}

// small reads a file that is kept apart.
func (f *feeder) small(e stream.Entry, into *[]byte) error {
	if e.Size > maxWALObject {
		return fmt.Errorf("the server sends a %s of %d bytes", e.Path, e.Size)
	}
	*into = make([]byte, e.Size)
	return f.b.ReadFull(*into)
}

// item says what to do with a file, by what is known of it.
func (f *feeder) item(e source.Entry) (item, error) {
	it := item{entry: e}
	if f.known == nil {
		return it, nil
	}
	old, err := f.known.take(e.Path)
	if err != nil || old == nil {
		return it, err
	}
	relation := e.Class == source.Relation
	switch {
	case old.m != nil && !relation: // the name was one of pages
		return it, f.put(part{item: item{entry: e, do: doForget, old: old}, kind: partLine})
	case old.m != nil:
		old.start = f.ref.header.Start
		if len(f.refresh) > 0 {
			old.m.Select(func(p pagemap.PackRef) bool { return f.refresh[p] }, func(first, pages uint32) {
				old.again = append(old.again, changes.Run{First: first, Pages: pages})
			})
		}
		it.do, it.old = doCompare, old
	case !relation && f.ref.blobStays(old.line, e.Size):
		it.do, it.old = doCompare, old
	}
	return it, nil
}

// blob takes a file that fits into a buffer.
func (f *feeder) blob(e source.Entry) error {
	it, err := f.item(e)
	if err != nil {
		return err
	}
	b, err := f.room(int(e.Size))
	if err != nil {
		return err
	}
	b = b[:e.Size]
	if err := f.b.ReadFull(b); err != nil {
		return err
	}
	return f.put(part{item: it, kind: partBlob, held: &held{entry: e, data: b}})
}

// flow takes a larger one: its job is under way while its contents come.
func (f *feeder) flow(e source.Entry) error {
	if err := f.hand(); err != nil {
		return err
	}
	x := &flow{entry: e, ctx: f.ctx, chunks: make(chan []byte), free: f.free}
	if err := f.put(part{item: item{entry: e}, kind: partBlob, held: x}); err != nil {
		return err
	}
	if err := f.hand(); err != nil {
		return err
	}
	for left := e.Size; left > 0; {
		b, err := f.buffer()
		if err != nil {
			return err
		}
		b = b[:min(left, feedBuffer)]
		if err := f.b.ReadFull(b); err != nil {
			return err
		}
		select {
		case x.chunks <- b:
		case <-f.ctx.Done():
			return context.Cause(f.ctx)
		}
		left -= int64(len(b))
	}
	return nil
}

// relation takes a file of pages, in parts where it does not fit into what is left of the
// buffer.
func (f *feeder) relation(e source.Entry) error {
	it, err := f.item(e)
	if err != nil {
		return err
	}
	size := int64(f.control.BlockSize)
	for first, total := uint32(0), uint32(e.Size/size); ; {
		left := total - first
		b, err := f.room(int(min(int64(left)*size, frameSize)))
		if err != nil {
			return err
		}
		n := min(left, uint32(int64(len(b))/size))
		b = b[:int64(n)*size]
		if err := f.b.ReadFull(b); err != nil {
			return err
		}
		last := n == left
		at := int64(first) * size
		if err := f.put(part{item: it, kind: partPages, first: first, pages: n, last: last, held: &held{entry: e, base: at, data: b}}); err != nil {
			return err
		}
		if last {
			return nil
		}
		first += n
	}
}

// room is the free part of the job's buffer, which has at least so many bytes.
func (f *feeder) room(n int) ([]byte, error) {
	if f.job != nil && f.job.buf != nil && feedBuffer-f.filled < n {
		if err := f.hand(); err != nil {
			return nil, err
		}
	}
	j := f.current()
	if j.buf == nil {
		b, err := f.buffer()
		if err != nil {
			return nil, err
		}
		j.buf, f.filled = b[:feedBuffer], 0
	}
	return j.buf[f.filled:], nil
}

// buffer waits for one that is free.
func (f *feeder) buffer() ([]byte, error) {
	select {
	case b := <-f.free:
		return b[:feedBuffer], nil
	case <-f.ctx.Done():
		return nil, context.Cause(f.ctx)
	}
}

func (f *feeder) current() *job {
	if f.job == nil {
		select {
		case f.job = <-f.idle:
		default:
			f.job = newJob()
		}
	}
	return f.job
}

// put adds a part to the job, and hands it on when it is full.
func (f *feeder) put(p part) error {
	j := f.current()
	if h, ok := p.held.(interface{ inBuffer() int }); ok {
		f.filled += h.inBuffer()
	}
	j.parts = append(j.parts, p)
	if len(j.parts) < maxParts && (j.buf == nil || f.filled < feedBuffer) {
		return nil
	}
	return f.hand()
}

// hand gives the job to the workers.
func (f *feeder) hand() error {
	j := f.job
	if j == nil {
		return nil
	}
	f.job, f.filled = nil, 0
	for _, to := range []chan<- *job{f.order, f.jobs} {
		select {
		case to <- j:
		case <-f.ctx.Done():
			return context.Cause(f.ctx)
		}
	}
	return nil
}

// held is a part of a file, in memory.
type held struct {
	entry source.Entry
	base  int64 // where in the file data begins
	data  []byte
}

// inBuffer is how much of the job's buffer it takes.
func (h *held) inBuffer() int { return len(h.data) }

// ReadAt, Stat and Close are source.File's.
func (h *held) ReadAt(b []byte, at int64) (int, error) {
	at -= h.base
	if at < 0 || at > int64(len(h.data)) {
		return 0, fmt.Errorf("%s: read at %d what is not here", h.entry.Path, at+h.base)
	}
	n := copy(b, h.data[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// Stat says what the server said.
func (h *held) Stat() (fs.FileInfo, error) { return sentInfo{h.entry}, nil }

// Close does nothing.
func (h *held) Close() error { return nil }

// flow is a file that is read once, from its beginning to its end, while it comes.
type flow struct {
	entry  source.Entry
	ctx    context.Context
	chunks chan []byte
	free   chan<- []byte
	at     int64
	chunk  []byte // as it came
	left   []byte // of it
}

// ReadAt gives the bytes that come next, at which it must be asked for.
func (f *flow) ReadAt(b []byte, at int64) (n int, err error) {
	if at != f.at {
		return 0, fmt.Errorf("%s: read at %d, and it comes once, from %d on", f.entry.Path, at, f.at)
	}
	for n < len(b) {
		if len(f.left) == 0 {
			if f.at == f.entry.Size {
				return n, io.EOF
			}
			select {
			case f.chunk = <-f.chunks:
				f.left = f.chunk
			case <-f.ctx.Done():
				return n, context.Cause(f.ctx)
			}
		}
		k := copy(b[n:], f.left)
		f.left = f.left[k:]
		n, f.at = n+k, f.at+int64(k)
		if len(f.left) == 0 {
			f.free <- f.chunk
		}
	}
	return n, nil
}

// Stat says what the server said.
func (f *flow) Stat() (fs.FileInfo, error) { return sentInfo{f.entry}, nil }

// Close does nothing.
func (f *flow) Close() error { return nil }

// sentInfo is what a server says of a file.
type sentInfo struct{ e source.Entry }

// Name, Size, Mode, ModTime, IsDir and Sys are fs.FileInfo's.
func (i sentInfo) Name() string       { return i.e.Path }
func (i sentInfo) Size() int64        { return i.e.Size }
func (i sentInfo) Mode() fs.FileMode  { return i.e.Mode }
func (i sentInfo) ModTime() time.Time { return i.e.ModTime }
func (i sentInfo) IsDir() bool        { return false }
func (i sentInfo) Sys() any           { return nil }
