package backup

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path"

	"golang.org/x/time/rate"

	"pgstow/backup/pagemap"
	"pgstow/backup/source"
	"pgstow/wal/page"
)

// reader is what all workers share.
type reader struct {
	fs       source.FS
	check    *source.Checker
	packs    *packStore
	limiter  *rate.Limiter // bytes a second; nil: no limit
	pageSize int
	relSeg   uint32
	zeroHash uint64
	// onRead is told of bytes read and files done.
	onRead func(bytes int64, files int64)
	// onPass is told of the size of a file that need not be read.
	onPass func(bytes int64)
}

// worker does jobs, one at a time, with buffers of its own.
type worker struct {
	*reader
	job   *job
	pack  *pack
	pages chunk
	blobs chunk
	sha   hash.Hash
	scan  []byte // pages that may not be kept
	spare []byte // a page, read again
}

// scanSize is how much is read at once to be compared, in bytes.
const scanSize = 512 << 10

// chunk is a frame that is being filled, by one job after the other, so that few
// changed pages make no small frames. Its place in the pack is fixed when it begins,
// since the results of jobs do not wait for it.
type chunk struct {
	buf   []byte // frameSize
	fill  int
	begun bool
	ref   frameRef
	frame int32 // the job's number of it; noFrame: the job has not used it
}

func newWorker(r *reader) *worker {
	return &worker{
		reader: r, sha: sha256.New(),
		pages: chunk{buf: make([]byte, max(frameSize, r.pageSize))}, blobs: chunk{buf: make([]byte, frameSize)},
		scan: make([]byte, max(scanSize/r.pageSize, 1)*r.pageSize), spare: make([]byte, r.pageSize),
	}
}

// run does the job. Where its frames lie is fixed when it returns; they may still
// wait for more pages.
func (w *worker) run(ctx context.Context, j *job) error {
	w.job = j
	w.pages.frame, w.blobs.frame = noFrame, noFrame
	for i := range j.parts {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := w.part(ctx, &j.parts[i]); err != nil {
			return fmt.Errorf("back up %s: %w", j.parts[i].entry.Path, err)
		}
	}
	return nil
}

// close ends what the worker has begun. Its last pack is on its way to the store
// then, not yet there.
func (w *worker) close() error {
	if err := errors.Join(w.flush(&w.pages), w.flush(&w.blobs)); err != nil {
		return err
	}
	w.closePack()
	return nil
}

func (w *worker) part(ctx context.Context, p *part) (err error) {
	p.hashes.from, p.runs.from, p.slices.from = len(w.job.hashes), len(w.job.runs), len(w.job.slices)
	defer func() {
		p.hashes.to, p.runs.to, p.slices.to = len(w.job.hashes), len(w.job.runs), len(w.job.slices)
	}()
	switch {
	case p.kind == partLine && p.do == doKeep && p.entry.Class != 0:
		w.onPass(p.entry.Size)
		return nil
	case p.kind == partEntry || p.kind == partControl || p.kind == partLine:
		return nil
	}
	if p.kind == partBlob && path.Base(p.entry.Path) == "pg_filenode.map" {
		return w.relMap(ctx, p)
	}
	f, err := w.open(p)
	if errors.Is(err, fs.ErrNotExist) {
		p.vanished, p.short = true, true
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	switch {
	case p.kind == partBlob:
		return w.blob(ctx, p, f, info.Size())
	case p.do == doRead:
		return w.relation(ctx, p, f, info.Size())
	}
	return w.changed(ctx, p, f, info.Size())
}

func (w *worker) open(p *part) (source.File, error) {
	if p.held != nil {
		return p.held, nil
	}
	return w.fs.Open(p.entry.File)
}

// room is the free part of the chunk.
func (w *worker) room(c *chunk) []byte { return c.buf[c.fill:] }

// place begins the chunk's frame, if that was not done, and gives its number in the
// job.
func (w *worker) place(ctx context.Context, c *chunk) (int32, error) {
	if !c.begun {
		if w.pack == nil {
			p, err := w.packs.begin(ctx, false)
			if err != nil {
				return 0, err
			}
			w.pack = p
		}
		c.ref, c.begun, c.frame = frameRef{pack: w.pack.number, frame: w.pack.next}, true, noFrame
		w.pack.next++
	}
	if c.frame == noFrame {
		c.frame = int32(len(w.job.frames))
		w.job.frames = append(w.job.frames, c.ref)
	}
	return c.frame, nil
}

// flush compresses the chunk into its frame of the current pack, after the other
// chunk if that has an earlier one.
func (w *worker) flush(c *chunk) error {
	if !c.begun {
		return nil
	}
	other := &w.pages
	if c == other {
		other = &w.blobs
	}
	if other.begun && other.ref.frame < c.ref.frame {
		if err := w.add(other); err != nil {
			return err
		}
	}
	if err := w.add(c); err != nil {
		return err
	}
	if w.pack.w.PlainSize() < packPlain && w.pack.w.StoredSize() < packStored {
		return nil
	}
	if other.begun {
		if err := w.add(other); err != nil {
			return err
		}
	}
	w.closePack()
	return nil
}

func (w *worker) add(c *chunk) error {
	i, err := w.pack.w.AddFrame(c.buf[:c.fill])
	if err != nil {
		return err
	}
	if uint32(i) != c.ref.frame {
		return fmt.Errorf("frame %d of pack %d became frame %d", c.ref.frame, c.ref.pack, i)
	}
	if c == &w.pages {
		w.pack.pages += int64(c.fill / w.pageSize)
	}
	c.fill, c.begun = 0, false
	return nil
}

func (w *worker) closePack() {
	if w.pack != nil {
		w.packs.finish(w.pack)
		w.pack = nil
	}
}

// readAt fills buf from the file and counts. It returns fewer bytes only at the
// end of the file.
func (w *worker) readAt(ctx context.Context, f source.File, buf []byte, at int64) (int, error) {
	if w.limiter != nil {
		if err := w.limiter.WaitN(ctx, len(buf)); err != nil {
			return 0, err
		}
	}
	n, err := f.ReadAt(buf, at)
	w.onRead(int64(n), 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err == nil && n < len(buf) {
		// io.ReaderAt promises an error for a short read; this is the end of file.
		return n, nil
	}
	return n, err
}

// blob reads a whole file of the size it had when it was opened. What is
// appended later is not a part of this backup.
func (w *worker) blob(ctx context.Context, p *part, f source.File, size int64) error {
	if p.old != nil && p.old.line.Size == size {
		same, err := w.sameBlob(ctx, p, f, size)
		if err != nil || same {
			return err
		}
	}
	w.sha.Reset()
	for at := int64(0); at < size; {
		buf := w.room(&w.blobs)
		buf = buf[:min(int64(len(buf)), size-at)]
		n, err := w.readAt(ctx, f, buf, at)
		if err != nil {
			return err
		}
		if err := w.take(ctx, buf[:n]); err != nil {
			return err
		}
		at += int64(n)
		if n < len(buf) {
			break // it shrank
		}
	}
	w.endBlob(p)
	return nil
}

// take makes the bytes, which lie in the blob chunk's free part, a slice of the
// current blob.
func (w *worker) take(ctx context.Context, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	w.sha.Write(b)
	frame, err := w.place(ctx, &w.blobs)
	if err != nil {
		return err
	}
	w.job.slices = append(w.job.slices, slice{frame: frame, offset: w.blobs.fill, length: len(b)})
	w.blobs.fill += len(b)
	if w.blobs.fill == len(w.blobs.buf) {
		return w.flush(&w.blobs)
	}
	return nil
}

func (w *worker) endBlob(p *part) {
	for _, s := range w.job.slices[p.slices.from:] {
		p.size += int64(s.length)
	}
	w.sha.Sum(p.digest[:0])
	w.onRead(0, 1)
}

// relMap reads a pg_filenode.map, which must be whole.
func (w *worker) relMap(ctx context.Context, p *part) error {
	b, err := w.relMapBytes(ctx, p)
	if errors.Is(err, fs.ErrNotExist) {
		p.vanished = true
		return nil
	}
	if err != nil {
		return err
	}
	w.sha.Reset()
	w.onRead(int64(len(b)), 0)
	for len(b) > 0 {
		n := copy(w.room(&w.blobs), b)
		if err := w.take(ctx, w.blobs.buf[w.blobs.fill:w.blobs.fill+n]); err != nil {
			return err
		}
		b = b[n:]
	}
	w.endBlob(p)
	return nil
}

func (w *worker) relMapBytes(ctx context.Context, p *part) ([]byte, error) {
	check := func(b []byte) error {
		if !source.RelMapValid(b) {
			return errors.New("its checksum does not match")
		}
		return nil
	}
	if p.held == nil {
		return source.ReadStable(ctx, w.fs, p.entry.File, check)
	}
	b := make([]byte, p.entry.Size)
	if _, err := p.held.ReadAt(b, 0); err != nil {
		return nil, err
	}
	return b, check(b)
}

// relation reads the part's pages; the last part reads to the end that the file
// had when it was opened.
func (w *worker) relation(ctx context.Context, p *part, f source.File, size int64) error {
	ps := int64(w.pageSize)
	at, end := p.first, p.first+p.pages
	if p.last {
		end = max(uint32(size/ps), p.first)
	}
	for at < end {
		buf := w.room(&w.pages)
		n := min(len(buf)/w.pageSize, int(end-at))
		buf = buf[:n*w.pageSize]
		got, err := w.readAt(ctx, f, buf, int64(at)*ps)
		if err != nil {
			return err
		}
		whole := got / w.pageSize
		kept, err := w.takePages(ctx, p, f, buf[:whole*w.pageSize], at)
		if err != nil {
			return err
		}
		at += uint32(kept)
		if kept < n {
			p.short = true // truncated meanwhile: recovery knows the rest
			break
		}
	}
	return w.endRelation(p, f, size)
}

// endRelation looks for a piece of a page at the end, and counts the file.
func (w *worker) endRelation(p *part, f source.File, size int64) error {
	ps := int64(w.pageSize)
	if p.last && size%ps != 0 {
		info, err := f.Stat() // it may just have been growing
		if err != nil {
			return err
		}
		p.trailing = info.Size() % ps
	}
	if p.last || p.short {
		w.onRead(0, 1)
	}
	return nil
}

// takePages checks and hashes pages that lie in the page chunk's free part, and
// keeps those that are not zero. It returns how many pages the file still has.
func (w *worker) takePages(ctx context.Context, p *part, f source.File, buf []byte, first uint32) (int, error) {
	ps := w.pageSize
	base := p.entry.Relation.Segment * w.relSeg
	kept := 0 // bytes that stay in the chunk
	n := len(buf) / ps
	for i := range n {
		b := buf[i*ps : (i+1)*ps]
		verdict := w.check.Check(b, base+first+uint32(i))
		if !verdict.OK() {
			gone, err := w.recheck(ctx, p, f, b, first+uint32(i), base)
			if err != nil {
				return 0, err
			}
			if gone {
				n = i
				break
			}
			verdict = w.check.Check(b, base+first+uint32(i))
		}
		if verdict == page.New {
			w.addRun(p, noFrame, 0)
			w.job.hashes = append(w.job.hashes, w.zeroHash)
			continue
		}
		frame, err := w.place(ctx, &w.pages)
		if err != nil {
			return 0, err
		}
		w.job.hashes = append(w.job.hashes, pagemap.Hash(b))
		w.addRun(p, frame, uint32((w.pages.fill+kept)/ps))
		if kept != i*ps {
			copy(buf[kept:], b)
		}
		kept += ps
	}
	w.pages.fill += kept
	if w.pages.fill > len(w.pages.buf)-ps {
		if err := w.flush(&w.pages); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// addRun adds one page to the part's last run, if it goes on there.
func (w *worker) addRun(p *part, frame int32, at uint32) {
	if n := len(w.job.runs); n > p.runs.from {
		r := &w.job.runs[n-1]
		if r.frame == frame && (frame == noFrame || r.first+r.pages == at) {
			r.pages++
			return
		}
	}
	w.job.runs = append(w.job.runs, run{pages: 1, frame: frame, first: at})
}

// recheck reads a faulty page again, into b, and records what it is. gone: the
// file ends before it now.
func (w *worker) recheck(ctx context.Context, p *part, f source.File, b []byte, number, base uint32) (gone bool, err error) {
	outcome, fault, err := w.check.Recheck(ctx, f, int64(number)*int64(w.pageSize), w.spare, base+number)
	if err != nil || outcome == source.Gone {
		return outcome == source.Gone, err
	}
	copy(b, w.spare)
	switch outcome {
	case source.Torn:
		p.torn++
	case source.Damaged:
		p.damaged = append(p.damaged, base+number)
		if len(p.damage) < damageSamples {
			p.damage = append(p.damage, fault)
		}
	case source.Sound, source.Gone:
	}
	return false, nil
}

// damageSamples bounds the descriptions that are kept of a part's damage.
const damageSamples = 100
