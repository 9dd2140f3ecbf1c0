package receive

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"syscall"

	"pgstow/catalog"
	"pgstow/storage/object"
	"pgstow/wal"
	"pgstow/wal/archive"
)

// inMemory is the largest segment that is assembled in memory; a larger one lies in a file without a name, which the kernel can write back.
const inMemory = 16 << 20

// plainBuffer holds the plain bytes of one segment at a time: the inspection of a full segment, and its pieces, need them together.
type plainBuffer struct {
	bytes []byte // the whole of a segment's size
	f     *os.File
}

func newPlainBuffer(size wal.SegmentSize, dir string) (*plainBuffer, error) {
	if size <= inMemory {
		return &plainBuffer{bytes: make([]byte, size)}, nil
	}
	f, err := unnamedFile(dir)
	if err != nil {
		return nil, err
	}
	if err = f.Truncate(int64(size)); err == nil {
		var b []byte
		if b, err = syscall.Mmap(int(f.Fd()), 0, int(size), syscall.PROT_READ, syscall.MAP_SHARED); err == nil {
			return &plainBuffer{bytes: b, f: f}, nil
		}
	}
	_ = f.Close()
	return nil, fmt.Errorf("assemble segments of %d bytes: %w", uint32(size), err)
}

// unnamedFile is gone with this process whatever happens.
func unnamedFile(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, ".pgstow-receive-*")
	if err != nil && dir != "" {
		f, err = os.CreateTemp("", ".pgstow-receive-*")
	}
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// write puts p at an offset. A full disk is an error here, where a write through the mapping would be a signal.
func (b *plainBuffer) write(p []byte, at int) error {
	if b.f == nil {
		copy(b.bytes[at:], p)
		return nil
	}
	_, err := b.f.WriteAt(p, int64(at))
	return err
}

func (b *plainBuffer) release() {
	if b.f != nil {
		_ = syscall.Munmap(b.bytes)
		_ = b.f.Close()
	}
	b.bytes = nil
}

// storedPiece is a piece of the current segment that was in the archive when its reception began.
type storedPiece struct {
	key      string
	from, to wal.LSN
	header   object.Header
	compared bool
}

// link is a piece in the chain that this receiver has stored, or found; every mergeAfter pieces of one level are stored once more as one of
// the next level, so that a segment that lives for days does not end up in a hundred thousand pieces.
type link struct {
	key   string
	from  wal.LSN
	level int
}

// mergeAfter is how many pieces of one level become one of the next.
const mergeAfter = 64

// segment is the one that is being received.
type segment struct {
	name  wal.FileName
	start wal.LSN
	n     int // bytes received
	coded int // of these, in the encoder
	full  fullEncoder

	from   wal.LSN // pieces go on here: what is before is stored, or on its way
	prefix wal.LSN // end of the gapless bytes that were found
	same   wal.LSN // how much of that has been compared
	found  []storedPiece
	left   int // of these, how many are not compared yet
	chain  []link
	dead   []string // keys of pieces that the last merged one covers
}

// key of the chain's pieces and of those that were found: what a full segment makes superfluous.
func (g *segment) pieceKeys() []string {
	keys := append([]string(nil), g.dead...)
	for _, l := range g.chain {
		keys = append(keys, l.key)
	}
	for _, p := range g.found {
		keys = append(keys, p.key)
	}
	return keys
}

// merge gives the beginning and the level of the next piece, and the keys that it covers: those of the last mergeAfter pieces if they
// are of one level and the piece does not become too large, else none.
func (g *segment) merge(to wal.LSN) (from wal.LSN, level int, covers []string) {
	from = g.from
	if len(g.chain) < mergeAfter {
		return from, 0, nil
	}
	tail := g.chain[len(g.chain)-mergeAfter:]
	for _, l := range tail {
		if l.level != tail[0].level {
			return from, 0, nil
		}
	}
	if to-tail[0].from > maxPending {
		return from, 0, nil
	}
	for _, l := range tail {
		covers = append(covers, l.key)
	}
	return tail[0].from, tail[0].level + 1, covers
}

// add takes a piece into the chain that merge has described.
func (g *segment) add(l link, covered int) {
	g.chain = append(g.chain[:len(g.chain)-covered], l)
}

// checkStart looks at the first bytes of a segment before anything of it is stored.
func (g *segment) checkStart(plain []byte, ref catalog.ClusterRef, size wal.SegmentSize) error {
	h, err := wal.ParseSegmentHeader(plain)
	switch {
	case err != nil:
		return &archive.RefusedError{Name: g.name.String(), Reason: "the server sends what is no WAL segment", Err: err}
	case h.SystemID != ref.SystemID || h.SegmentSize != size || h.Addr != g.start || h.Timeline > g.name.Timeline:
		return &archive.RefusedError{
			Name: g.name.String(),
			Reason: fmt.Sprintf("the server sends a segment of system id %d, timeline %d, at %s, of %d bytes under this name",
				h.SystemID, h.Timeline, h.Addr, uint32(h.SegmentSize)),
		}
	}
	return nil
}

// compareFound compares what has arrived with the pieces that were stored before, by their hashes: no identity is needed.
func (g *segment) compareFound(plain []byte, own string) error {
	if g.left == 0 {
		return nil
	}
	for i := range g.found {
		p := &g.found[i]
		if p.compared || p.to > g.start+wal.LSN(g.n) {
			continue
		}
		sum := sha256.Sum256(plain[p.from-g.start : p.to-g.start])
		if !bytes.Equal(sum[:], p.header.PlainSHA256[:]) {
			return archive.Disagreement(&archive.RefusedError{
				Name: g.name.String(), Key: p.key, Writer: archive.WrittenBy(p.header),
				Reason: fmt.Sprintf("%s has streamed other bytes between %s and %s than the archive has", own, p.from, p.to),
			})
		}
		p.compared = true
		g.left--
	}
	for _, p := range g.found {
		if p.compared && p.from <= g.same {
			g.same = max(g.same, p.to)
		}
	}
	return nil
}

// fullEncoder makes the object of a full segment out of its bytes as they arrive; only compressed frames are kept.
type fullEncoder interface {
	add(frame []byte) error
	finish(h object.Header) (*encoded, error)
	drop()
}

// encoded is an object ready to be stored.
type encoded struct {
	bytes   []byte
	release func()
}

// memoryEncoder builds the object in memory, with a writer that is used again.
type memoryEncoder struct{ w *object.Writer }

func (m memoryEncoder) add(frame []byte) error {
	_, err := m.w.AddFrame(frame)
	return err
}

func (m memoryEncoder) finish(h object.Header) (*encoded, error) {
	b, err := m.w.Finish(h)
	if err != nil {
		return nil, err
	}
	return &encoded{bytes: bytes.Clone(b), release: func() {}}, nil
}

func (m memoryEncoder) drop() {}

// fileEncoder builds it in a file without a name.
type fileEncoder struct {
	w *object.FileWriter
	f *os.File
}

func newFileEncoder(o object.WriterOptions, dir string) (*fileEncoder, error) {
	f, err := unnamedFile(dir)
	if err != nil {
		return nil, err
	}
	w, err := object.NewFileWriter(o, f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &fileEncoder{w: w, f: f}, nil
}

func (e *fileEncoder) add(frame []byte) error {
	_, err := e.w.Write(frame)
	return err
}

func (e *fileEncoder) finish(h object.Header) (*encoded, error) {
	size, err := e.w.Finish(h)
	if err != nil {
		return nil, errors.Join(err, e.f.Close())
	}
	b, err := syscall.Mmap(int(e.f.Fd()), 0, int(size), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return nil, errors.Join(err, e.f.Close())
	}
	return &encoded{bytes: b, release: func() {
		_ = syscall.Munmap(b)
		_ = e.f.Close()
	}}, nil
}

func (e *fileEncoder) drop() { _ = e.f.Close() }
