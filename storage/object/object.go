package object

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"filippo.io/age"
)

// MaxPlain is the greatest object that Plain returns in one piece: 1 GiB, the
// largest WAL segment.
const MaxPlain = 1 << 30

// index is what header and footer say: everything but the frames themselves.
type index struct {
	header Header
	table  []entry
	offs   []int64 // of each frame in the object, as if it were not encrypted
}

func newIndex(h Header, f footer) index {
	x := index{header: h, table: f.frames, offs: make([]int64, len(f.frames))}
	at := int64(HeaderSize)
	for i, e := range f.frames {
		x.offs[i] = at
		at += int64(e.Stored)
	}
	return x
}

// Header returns the object's header.
func (x *index) Header() Header { return x.header }

// Frames lists the frames in order; the plain bytes are theirs, one after the other.
func (x *index) Frames() []Frame {
	out := make([]Frame, len(x.table))
	for i, e := range x.table {
		out[i] = e.Frame
	}
	return out
}

// entryOf returns frame i, whose number may come from another, hostile object.
func (x *index) entryOf(i int) (entry, error) {
	if i < 0 || i >= len(x.table) {
		return entry{}, corrupt(HeaderSize, "there is no frame %d among %d", i, len(x.table))
	}
	return x.table[i], nil
}

// Object is an opened object in memory. Its methods are safe for concurrent use.
type Object struct {
	index
	clear []byte // everything that follows the header, decrypted
}

// Open checks the whole of stored (its length, its checksum, header and footer)
// and decrypts it if need be, which takes as much memory again. Frames are
// decoded when they are asked for. stored must not change while the object is in
// use. Errors: *CorruptError, ErrFormat, ErrNoIdentity, ErrWrongIdentity.
func Open(stored []byte, ids []Identity) (*Object, error) {
	h, err := ParseHeader(stored)
	if err != nil {
		return nil, err
	}
	if err := checkStored(h, int64(len(stored)), crc32.Checksum(stored[HeaderSize:], castagnoli)); err != nil {
		return nil, err
	}
	body := stored[HeaderSize:]
	if h.Encrypted {
		if body, err = decrypt(body, ids); err != nil {
			return nil, err
		}
	}
	end := HeaderSize + int64(len(body))
	n, err := footerLength(body, end)
	if err != nil {
		return nil, err
	}
	cut := int64(len(body)) - n
	f, err := parseFooter(body[cut:], h, sha256.Sum256(stored[:tieEnd]), cut)
	if err != nil {
		return nil, err
	}
	return &Object{newIndex(h, f), body[:cut]}, nil
}

// checkStored compares what is stored with what the header says of it.
func checkStored(h Header, size int64, crc uint32) error {
	switch {
	case size < h.StoredSize:
		return corrupt(size, "object is cut: %d of %d bytes", size, h.StoredSize)
	case size > h.StoredSize:
		return corrupt(h.StoredSize, "object of %d bytes has %d", h.StoredSize, size)
	case crc != h.StoredCRC:
		return corrupt(HeaderSize, "checksum of the stored bytes does not match")
	}
	return nil
}

// decrypt opens an age file whose bytes are known to be undamaged.
func decrypt(sealed []byte, ids []Identity) ([]byte, error) {
	if len(ids) == 0 {
		return nil, ErrNoIdentity
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), ids...)
	if err != nil {
		return nil, ageError(err)
	}
	out := make([]byte, len(sealed)) // age only ever adds
	n := 0
	for {
		m, err := r.Read(out[n:])
		n += m
		switch {
		case err == io.EOF:
			return out[:n], nil
		case err != nil:
			return nil, ageError(err)
		}
	}
}

func ageError(err error) error {
	var none *age.NoIdentityMatchError
	if errors.As(err, &none) {
		return ErrWrongIdentity
	}
	return &CorruptError{What: "encrypted part does not open", Offset: HeaderSize, Err: err}
}

// Frame returns the plain bytes of frame i, verified. They replace what is in
// dst, whose memory is used when its capacity suffices.
func (o *Object) Frame(i int, dst []byte) ([]byte, error) {
	e, err := o.entryOf(i)
	if err != nil {
		return nil, err
	}
	at := o.offs[i]
	return decodeFrame(o.clear[at-HeaderSize:][:e.Stored], e, at, dst)
}

// WriteTo writes all plain bytes to w. The SHA-256 of the header, when it is set,
// is checked last: on an error what was written is not to be used.
func (o *Object) WriteTo(w io.Writer) (int64, error) {
	var n int64
	var buf []byte
	sum := sha256.New()
	for i := range o.table {
		var err error
		if buf, err = o.Frame(i, buf); err != nil {
			return n, err
		}
		sum.Write(buf)
		m, err := w.Write(buf)
		n += int64(m)
		if err != nil {
			return n, err
		}
	}
	return n, checkPlain(o.header, sum.Sum(nil))
}

func checkPlain(h Header, sum []byte) error {
	if h.PlainSHA256 != [32]byte{} && !bytes.Equal(sum, h.PlainSHA256[:]) {
		return corrupt(offPlainSHA, "plain bytes have another SHA-256 than the header says")
	}
	return nil
}

// Plain returns all plain bytes, verified, decoded on all processors. An object
// of more than MaxPlain is ErrTooLarge: use WriteTo or DecodeStream.
func (o *Object) Plain() ([]byte, error) {
	if o.header.PlainSize > MaxPlain {
		return nil, fmt.Errorf("%w: %d plain bytes", ErrTooLarge, o.header.PlainSize)
	}
	// Before memory is taken for what the frames claim, see that they can hold it.
	for i, e := range o.table {
		at := o.offs[i]
		if _, err := checkFrame(o.clear[at-HeaderSize:][:e.Stored]); err != nil {
			return nil, &CorruptError{What: "frame is malformed", Offset: at, Err: err}
		}
	}
	plain := make([]byte, o.header.PlainSize)
	done := make([]chan error, len(o.table))
	dst := make([][]byte, len(o.table))
	rest := plain
	for i, e := range o.table {
		done[i] = make(chan error, 1)
		dst[i], rest = rest[:0:e.Plain], rest[e.Plain:]
	}
	var next atomic.Int64
	var group sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(o.table)) {
		group.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(dst)); i = next.Add(1) - 1 {
				_, err := o.Frame(int(i), dst[i])
				done[i] <- err
			}
		})
	}
	// The hash follows the decoders, frame by frame.
	var err error
	sum := sha256.New()
	for i, e := range o.table {
		if bad := <-done[i]; err == nil {
			err = bad
		}
		if err == nil {
			sum.Write(dst[i][:e.Plain])
		}
	}
	group.Wait()
	if err == nil {
		err = checkPlain(o.header, sum.Sum(nil))
	}
	if err != nil {
		return nil, err
	}
	return plain, nil
}
