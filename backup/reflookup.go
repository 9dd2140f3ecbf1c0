package backup

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/zeebo/xxh3"

	"pgstow/backup/pagemap"
	"pgstow/catalog"
)

// lookup finds the reference's lines, with their maps, by their paths: a server sends its
// files in an order of its own. It is a nameless file of some 0.1 % of the database, and
// a table of places in it.
type lookup struct {
	f     *os.File
	buf   *bufio.Writer
	end   int64
	hash  func(path string) uint64
	at    map[uint64]int64 // hash of the path -> place
	twins map[string]int64 // those of which the hash is another's
	read  []byte
}

// newLookup copies what is worth being known of the reference.
func newLookup(ctx context.Context, r *reference, dir string) (l *lookup, err error) {
	l = &lookup{hash: xxh3.HashString, at: make(map[uint64]int64), twins: make(map[string]int64)}
	if l.f, err = nameless(dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	l.buf = bufio.NewWriterSize(l.f, 1<<20)
	for line, err := range r.manifest.Files() {
		if err != nil {
			return nil, fmt.Errorf("files of backup %s: %w", r.header.ID, err)
		}
		var m []byte
		switch {
		case line.Map != nil:
			if m, err = r.maps.encoded(ctx, *line.Map); err != nil {
				return nil, mapError(line, r, err)
			}
		case !r.blobStays(line, line.Size):
			continue
		}
		if err := l.put(line, m); err != nil {
			return nil, fmt.Errorf("keep the page maps of backup %s: %w", r.header.ID, err)
		}
	}
	return l, l.buf.Flush()
}

func (l *lookup) put(line catalog.FileEntry, m []byte) error {
	b := binary.AppendUvarint(nil, uint64(len(line.Path)))
	b = append(b, line.Path...)
	b = binary.AppendUvarint(b, uint64(line.Size))
	if line.Map != nil {
		b = append(b, 1)
		b = appendInts(b, line.Map.Pack, line.Map.Frame, line.Map.Offset, line.Map.Length)
		b = binary.AppendUvarint(b, uint64(len(line.Damaged)))
		for _, d := range line.Damaged {
			b = binary.AppendUvarint(b, uint64(d))
		}
		b = append(b, m...)
	} else {
		b = append(append(b, 0), line.SHA256[:]...)
		b = binary.AppendUvarint(b, uint64(len(line.Blob)))
		for _, s := range line.Blob {
			b = appendInts(b, s.Pack, s.Frame, s.Offset, s.Length)
		}
	}
	hash := l.hash(line.Path)
	if _, taken := l.at[hash]; taken {
		l.twins[line.Path] = l.end
	} else {
		l.at[hash] = l.end
	}
	for _, x := range [][]byte{binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b} {
		n, err := l.buf.Write(x)
		l.end += int64(n)
		if err != nil {
			return err
		}
	}
	return nil
}

func appendInts(b []byte, list ...int) []byte {
	for _, n := range list {
		b = binary.AppendUvarint(b, uint64(n))
	}
	return b
}

// take finds a line by its path and forgets it; nil if there is none.
func (l *lookup) take(path string) (*prior, error) {
	if at, ok := l.twins[path]; ok {
		delete(l.twins, path)
		return l.get(at)
	}
	hash := l.hash(path)
	at, ok := l.at[hash]
	if !ok {
		return nil, nil
	}
	p, err := l.get(at)
	if err != nil || p.line.Path != path {
		return nil, err
	}
	delete(l.at, hash)
	return p, nil
}

// rest gives the lines with maps that nobody has taken.
func (l *lookup) rest(each func(p *prior)) error {
	var places []int64
	for _, at := range l.at {
		places = append(places, at)
	}
	for _, at := range l.twins {
		places = append(places, at)
	}
	slices.Sort(places)
	for _, at := range places {
		p, err := l.get(at)
		if err != nil {
			return err
		}
		if p.m != nil {
			each(p)
		}
	}
	return nil
}

// guess is how much is read at once of a line of unknown length.
const guess = 4 << 10

func (l *lookup) get(at int64) (*prior, error) {
	l.read = slices.Grow(l.read[:0], guess)[:guess]
	n, err := l.f.ReadAt(l.read, at)
	if err != nil && !errors.Is(err, io.EOF) || n < 4 {
		return nil, fmt.Errorf("read what is known of the reference: %w", err)
	}
	size := 4 + int(binary.LittleEndian.Uint32(l.read))
	if size > n {
		l.read = slices.Grow(l.read[:n], size-n)[:size]
		if _, err := l.f.ReadAt(l.read[n:], at+int64(n)); err != nil {
			return nil, fmt.Errorf("read what is known of the reference: %w", err)
		}
	}
	return parseKnown(l.read[4:size])
}

// parseKnown reads what put wrote.
func parseKnown(b []byte) (*prior, error) {
	d := &numbers{b: b}
	p := &prior{}
	path := d.next()
	p.line = catalog.FileEntry{Path: string(d.take(path)), Type: catalog.TypeFile, Size: int64(d.next())}
	if kind := d.take(1); len(kind) == 1 && kind[0] == 1 {
		p.line.Map = &catalog.MapRef{Pack: int(d.next()), Frame: int(d.next()), Offset: int(d.next()), Length: int(d.next())}
		for range d.next() {
			p.line.Damaged = append(p.line.Damaged, uint32(d.next()))
		}
		m, err := pagemap.Decode(d.b)
		if err != nil {
			return nil, fmt.Errorf("page map of %s: %w", p.line.Path, err)
		}
		p.m, p.lent = m, true
	} else {
		copy(p.line.SHA256[:], d.take(uint64(len(p.line.SHA256))))
		for range d.next() {
			p.line.Blob = append(p.line.Blob, catalog.Slice{Pack: int(d.next()), Frame: int(d.next()), Offset: int(d.next()), Length: int(d.next())})
		}
	}
	if d.bad {
		return nil, errors.New("what is known of the reference was cut off")
	}
	return p, nil
}

// numbers reads varints one after the other. After an error all are 0.
type numbers struct {
	b   []byte
	bad bool
}

func (d *numbers) next() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.b, d.bad = nil, true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *numbers) take(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.b, d.bad = nil, true
		return nil
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

func (l *lookup) close() error { return l.f.Close() }
