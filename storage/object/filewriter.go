package object

import (
	"fmt"
	"io"
)

// FileWriter builds one object in a file, with memory bounded by the
// concurrency, for objects too large to hold (a 1 GiB WAL segment); the caller
// maps the file for the store. The header is written last: a file that was not
// finished is not an object. Not safe for concurrent use; used once.
type FileWriter struct {
	w       *Writer
	f       io.WriterAt
	pending []byte // plain bytes that do not yet fill a batch
}

// NewFileWriter begins an object at offset 0 of f, which should be empty.
func NewFileWriter(o WriterOptions, f io.WriterAt) (*FileWriter, error) {
	w, err := NewWriter(o)
	if err != nil {
		return nil, err
	}
	fw := &FileWriter{w: w, f: f}
	w.flush = func(b []byte) error {
		if _, err := f.WriteAt(b, w.flushed); err != nil {
			return fmt.Errorf("object writer: %w", err)
		}
		return nil
	}
	batch := FrameSize
	if w.o.Concurrency > 1 {
		batch = 4 * w.o.Concurrency * FrameSize
	}
	fw.pending = make([]byte, 0, batch)
	return fw, nil
}

// Write takes plain bytes; they are cut into frames of FrameSize, however they
// come. p is not kept.
func (fw *FileWriter) Write(p []byte) (int, error) {
	if fw.w.err != nil {
		return 0, fw.w.err
	}
	total := len(p)
	for len(p) > 0 {
		n := min(len(p), cap(fw.pending)-len(fw.pending))
		fw.pending = append(fw.pending, p[:n]...)
		p = p[n:]
		if len(fw.pending) == cap(fw.pending) {
			if err := fw.w.Add(fw.pending); err != nil {
				return total - len(p), err
			}
			fw.pending = fw.pending[:0]
		}
	}
	return total, nil
}

// Finish completes the object as [Writer.Finish] does and returns its length.
// The file is neither synced nor closed.
func (fw *FileWriter) Finish(h Header) (size int64, err error) {
	if err := fw.w.Add(fw.pending); err != nil {
		return 0, err
	}
	fw.pending = fw.pending[:0]
	header, err := fw.w.finish(h)
	if err != nil {
		return 0, err
	}
	if _, err := fw.f.WriteAt(header[:], 0); err != nil {
		fw.w.err = fmt.Errorf("object writer: %w", err)
		return 0, fw.w.err
	}
	return fw.w.flushed, nil
}
