package object

import (
	"hash/crc32"
	"sync"
	"sync/atomic"
)

// Encode makes a whole object of plain, cut into frames of FrameSize, Concurrency
// of them at a time. It resets the writer first; the result stays valid until
// the next Reset or Encode.
func (w *Writer) Encode(h Header, plain []byte) ([]byte, error) {
	w.Reset()
	if err := w.Add(plain); err != nil {
		return nil, err
	}
	return w.Finish(h)
}

// EncodeAll is NewWriter and Encode in one. Header.PlainSHA256 is computed unless
// h has it already.
func EncodeAll(o WriterOptions, h Header, plain []byte) ([]byte, error) {
	o.Hash = o.Hash || h.PlainSHA256 == [32]byte{}
	w, err := NewWriter(o)
	if err != nil {
		return nil, err
	}
	return w.Encode(h, plain)
}

// Add cuts plain into frames of FrameSize, the last one shorter, and adds them,
// Concurrency at a time. An empty plain adds none.
func (w *Writer) Add(plain []byte) error {
	if w.o.Concurrency > 1 && len(plain) > FrameSize {
		return w.addParallel(plain)
	}
	for part := range parts(plain) {
		if _, err := w.AddFrame(part); err != nil {
			return err
		}
	}
	return w.err
}

// parts yields plain in pieces of FrameSize.
func parts(plain []byte) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(plain) > 0 {
			n := min(len(plain), FrameSize)
			if !yield(plain[:n]) {
				return
			}
			plain = plain[n:]
		}
	}
}

// slot carries one compressed frame from a worker to the writer.
type slot struct {
	stored []byte
	err    error
}

// addParallel compresses out of order and adds in order. Two buffers a worker
// circulate: a worker takes a buffer before it takes the next frame's number, so
// that the frame that is waited for always has one.
func (w *Writer) addParallel(plain []byte) error {
	if w.err != nil {
		return w.err
	}
	all := make([][]byte, 0, (len(plain)+FrameSize-1)/FrameSize)
	done := make([]chan slot, 0, cap(all))
	for part := range parts(plain) {
		all = append(all, part)
		done = append(done, make(chan slot, 1))
	}
	workers := min(w.o.Concurrency, len(all))
	for len(w.slots) < 2*workers {
		w.slots = append(w.slots, nil)
	}
	free := make(chan []byte, 2*workers)
	for _, buf := range w.slots[:2*workers] {
		free <- buf
	}
	var group sync.WaitGroup
	if w.sha != nil {
		group.Go(func() { w.sha.Write(plain) })
	}
	var next atomic.Int64
	for id := range workers {
		group.Go(func() {
			for buf := range free {
				i := int(next.Add(1)) - 1
				if i >= len(all) {
					free <- buf
					return
				}
				stored, err := w.compress(id, all[i], buf)
				done[i] <- slot{stored, err}
			}
		})
	}
	for i, part := range all {
		s := <-done[i]
		if w.err == nil {
			w.err = s.err
		}
		if w.err == nil {
			if !w.encrypted() {
				w.buf = append(w.buf, s.stored...)
			}
			w.err = w.add(s.stored, part, false)
		}
		free <- s.stored
	}
	group.Wait()
	for i := range w.slots[:2*workers] {
		w.slots[i] = <-free
	}
	return w.err
}

// compress makes a frame for worker id and verifies it, if that was asked for.
func (w *Writer) compress(id int, plain, buf []byte) ([]byte, error) {
	stored := w.enc.EncodeAll(plain, buf[:0])
	if !w.o.Verify {
		return stored, nil
	}
	e := entry{Frame{len(stored), len(plain)}, crc32.Checksum(stored, castagnoli)}
	var err error
	w.checks[id], err = verifyFrame(stored, e, plain, w.checks[id])
	return stored, err
}
