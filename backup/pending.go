package backup

import (
	"bufio"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"

	"pgstow/catalog"
)

// record is a line of the manifest that waits for the second pass.
type record struct {
	Line catalog.FileEntry
	// File is where it lies on this machine.
	File string
	// Lent: Line.Map is a place in the reference's pack table.
	Lent bool
	// Map is the file's new map, encoded; empty if it has none, or the old one.
	Map []byte
}

// pending keeps the lines of the first pass in a nameless file, since there may be a
// million of them, and the maps of all that changed.
type pending struct {
	f   *os.File
	buf *bufio.Writer
	enc *gob.Encoder
	n   int64
}

// newPending makes the file in dir; "" is the folder for temporary files.
func newPending(dir string) (*pending, error) {
	f, err := nameless(dir)
	if err != nil {
		return nil, err
	}
	p := &pending{f: f, buf: bufio.NewWriterSize(f, 1<<20)}
	p.enc = gob.NewEncoder(p.buf)
	return p, nil
}

func (p *pending) add(r record) error {
	p.n++
	if err := p.enc.Encode(r); err != nil {
		return fmt.Errorf("keep the lines of the manifest: %w", err)
	}
	return nil
}

// each gives the records in their order. No more can be added.
func (p *pending) each(yield func(record, error) bool) {
	err := p.buf.Flush()
	if err == nil {
		_, err = p.f.Seek(0, io.SeekStart)
	}
	dec := gob.NewDecoder(bufio.NewReaderSize(p.f, 1<<20))
	for ; err == nil && p.n > 0; p.n-- {
		var r record
		if err = dec.Decode(&r); err != nil {
			break
		}
		if !yield(r, nil) {
			return
		}
	}
	if err != nil {
		yield(record{}, fmt.Errorf("read the lines of the manifest again: %w", err))
	}
}

func (p *pending) close() error { return p.f.Close() }

// nameless makes a file that is gone when it is closed; dir "" is the folder for
// temporary files.
func nameless(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "pgstow-backup-")
	if err != nil {
		return nil, fmt.Errorf("temporary file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("temporary file: %w", err), f.Close())
	}
	return f, nil
}
