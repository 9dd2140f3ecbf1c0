package object

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"
)

// Level is how hard the compressor works.
type Level int

// The levels: fastest costs the least processor time; default gives some 10–20 %
// smaller objects for a third more of it. Harder ones do not pay.
const (
	LevelFastest Level = iota
	LevelDefault
)

// ParseLevel reads "fastest" or "default".
func ParseLevel(s string) (Level, error) {
	switch s {
	case "fastest":
		return LevelFastest, nil
	case "default":
		return LevelDefault, nil
	}
	return 0, fmt.Errorf("compression level %q: want fastest or default", s)
}

// String is the inverse of ParseLevel.
func (l Level) String() string {
	if l == LevelDefault {
		return "default"
	}
	return "fastest"
}

func (l Level) encoderLevel() zstd.EncoderLevel {
	if l == LevelDefault {
		return zstd.SpeedDefault
	}
	return zstd.SpeedFastest
}

// WriterOptions configure a Writer. The zero value writes unencrypted objects,
// fastest, on one processor, without a hash of the plain bytes.
type WriterOptions struct {
	Level Level
	// Recipients to encrypt to. Nil: not encrypted. Not nil but empty is an error.
	Recipients []Recipient
	// KeyGeneration is written into the header when the object is encrypted.
	KeyGeneration uint32
	// Hash computes Header.PlainSHA256. If Finish gets one, it must agree.
	Hash bool
	// Verify decodes each frame right after encoding and compares it with the
	// plain bytes, so that what is uploaded is known to decode.
	Verify bool
	// Concurrency is how many frames Add, Encode and FileWriter compress at a
	// time; 0 means 1. Each needs some 4 to 6 MiB.
	Concurrency int
}

var (
	errFinished = errors.New("object writer: already finished")
	errEmpty    = errors.New("object writer: a frame needs 1 byte to 64 MiB")
)

// Writer builds one object in memory. It keeps its buffers and its compressor
// for the next object: call Reset. Frames are compressed as they are added. After
// an error every call returns it until Reset. Not safe for concurrent use.
type Writer struct {
	o   WriterOptions
	enc *zstd.Encoder

	buf     []byte // stored bytes from offset flushed on; begins with room for the header
	flush   func([]byte) error
	flushed int64
	crc     uint32 // of the body's flushed bytes

	seal    io.WriteCloser // encrypts into buf; nil before the first frame
	prelude int64          // length of age's own header
	frames  []entry
	body    int64 // sum of the frames' stored lengths
	plain   int64
	sha     hash.Hash

	scratch []byte   // a frame between compression and encryption
	checks  [][]byte // decoded again, one per concurrent frame
	slots   [][]byte // compressed out of order, see Add
	err     error
}

// NewWriter makes a Writer with nothing in it.
func NewWriter(o WriterOptions) (*Writer, error) {
	if o.Recipients != nil && len(o.Recipients) == 0 {
		return nil, errors.New("object writer: encryption asked for without a recipient")
	}
	o.Concurrency = max(o.Concurrency, 1)
	enc, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(o.Level.encoderLevel()),
		zstd.WithEncoderConcurrency(o.Concurrency),
		// Frames are FrameSize by habit: a larger window would find nothing more
		// and cost memory for each worker.
		zstd.WithWindowSize(FrameSize),
		zstd.WithEncoderCRC(true),
		zstd.WithSingleSegment(true))
	if err != nil {
		return nil, fmt.Errorf("object writer: %w", err)
	}
	w := &Writer{o: o, enc: enc, checks: make([][]byte, o.Concurrency)}
	w.Reset()
	return w, nil
}

// Reset makes the writer empty, whatever state it was in. What Finish returned
// is no longer valid.
func (w *Writer) Reset() {
	if cap(w.buf) < HeaderSize {
		w.buf = make([]byte, HeaderSize, 64<<10)
	}
	w.buf = w.buf[:HeaderSize]
	clear(w.buf)
	w.flushed, w.crc = 0, 0
	w.seal, w.prelude = nil, 0
	w.frames, w.body, w.plain = w.frames[:0], 0, 0
	w.sha = nil
	if w.o.Hash {
		w.sha = sha256.New()
	}
	w.err = nil
}

func (w *Writer) encrypted() bool { return len(w.o.Recipients) > 0 }

// AddFrame compresses plain, 1 byte to MaxFrame, into one frame and returns its
// index. plain is not kept.
func (w *Writer) AddFrame(plain []byte) (index int, err error) {
	if w.err != nil {
		return 0, w.err
	}
	if len(plain) == 0 || len(plain) > MaxFrame {
		w.err = errEmpty
		return 0, w.err
	}
	if w.sha != nil {
		w.sha.Write(plain)
	}
	if w.encrypted() {
		w.scratch = w.enc.EncodeAll(plain, w.scratch[:0])
		w.err = w.add(w.scratch, plain, true)
	} else {
		start := len(w.buf)
		w.buf = w.enc.EncodeAll(plain, w.buf)
		w.err = w.add(w.buf[start:], plain, true)
	}
	return len(w.frames) - 1, w.err
}

// add takes a compressed frame into the object. Unencrypted, stored lies at the
// end of buf already. check: verify it, if that was asked for.
func (w *Writer) add(stored, plain []byte, check bool) error {
	e := entry{Frame{len(stored), len(plain)}, crc32.Checksum(stored, castagnoli)}
	if len(stored) > maxStored(len(plain)) {
		return fmt.Errorf("object writer: frame of %d bytes became %d", len(plain), len(stored))
	}
	if check && w.o.Verify {
		var err error
		if w.checks[0], err = verifyFrame(stored, e, plain, w.checks[0]); err != nil {
			return err
		}
	}
	if w.encrypted() {
		if err := w.encrypt(stored); err != nil {
			return err
		}
	}
	w.frames = append(w.frames, e)
	w.body += int64(len(stored))
	w.plain += int64(len(plain))
	return w.drain(false)
}

// verifyFrame proves that stored decodes to plain.
func verifyFrame(stored []byte, e entry, plain, buf []byte) ([]byte, error) {
	got, err := decodeWith(comparingDecoder, stored, e, 0, buf)
	if err != nil {
		return buf, fmt.Errorf("object writer: frame does not decode after encoding: %w", err)
	}
	if string(got) != string(plain) {
		return got, errors.New("object writer: frame decodes to other bytes than were encoded")
	}
	return got, nil
}

// encrypt writes p into the age file, which it begins if need be.
func (w *Writer) encrypt(p []byte) error {
	if w.seal == nil {
		start := w.flushed + int64(len(w.buf))
		seal, err := age.Encrypt(sealed{w}, w.o.Recipients...)
		if err != nil {
			return fmt.Errorf("object writer: encrypt: %w", err)
		}
		w.seal, w.prelude = seal, w.flushed+int64(len(w.buf))-start
	}
	if _, err := w.seal.Write(p); err != nil {
		return fmt.Errorf("object writer: encrypt: %w", err)
	}
	return nil
}

// sealed receives the age file.
type sealed struct{ w *Writer }

func (s sealed) Write(p []byte) (int, error) {
	s.w.buf = append(s.w.buf, p...)
	return len(p), nil
}

// drain hands what is in buf on to flush, if there is one, once it is worth it.
func (w *Writer) drain(all bool) error {
	if w.flush == nil || len(w.buf) < FrameSize && !all {
		return nil
	}
	if err := w.flush(w.buf); err != nil {
		return err
	}
	w.crc = crc32.Update(w.crc, castagnoli, w.buf[max(0, HeaderSize-w.flushed):])
	w.flushed += int64(len(w.buf))
	w.buf = w.buf[:0]
	return nil
}

// Frames is the number of frames added.
func (w *Writer) Frames() int { return len(w.frames) }

// PlainSize is the number of plain bytes added.
func (w *Writer) PlainSize() int64 { return w.plain }

// StoredSize is the length that the object would have if it were finished now.
func (w *Writer) StoredSize() int {
	n := w.body + footerMin + footerEntry*int64(len(w.frames))
	if w.encrypted() {
		n = w.prelude + ageSize(n)
	}
	return HeaderSize + int(n)
}

const (
	ageChunk = 64 << 10
	ageTag   = 16
)

// ageSize is the length of age's payload, without header and nonce, for n bytes.
func ageSize(n int64) int64 { return n + ageTag*max(1, (n+ageChunk-1)/ageChunk) }

// Finish completes the object and returns its bytes, which stay valid until
// Reset. It fills in PlainSize, Encrypted, KeyGeneration, StoredSize, StoredCRC,
// and PlainSHA256 when the options say Hash; all else in h is the caller's. Once
// finished, the writer refuses everything but Reset.
func (w *Writer) Finish(h Header) ([]byte, error) {
	header, err := w.finish(h)
	if err != nil {
		return nil, err
	}
	copy(w.buf, header[:])
	return w.buf, nil
}

// finish writes the footer and returns the header, which goes to offset 0.
func (w *Writer) finish(h Header) (header [HeaderSize]byte, err error) {
	if w.err != nil {
		return header, w.err
	}
	defer func() {
		if w.err = err; err == nil {
			w.err = errFinished
		}
	}()
	if h.Kind == 0 || h.Kind >= kindEnd {
		return header, fmt.Errorf("object writer: cannot write %v", h.Kind)
	}
	if fitText(h.Name, MaxName) != h.Name {
		return header, fmt.Errorf("object writer: name %q does not fit", h.Name)
	}
	if w.sha != nil {
		sum := [32]byte(w.sha.Sum(nil))
		if h.PlainSHA256 != [32]byte{} && h.PlainSHA256 != sum {
			return header, errors.New("object writer: plain bytes have another SHA-256 than was given")
		}
		h.PlainSHA256 = sum
	}
	h.PlainSize = w.plain
	h.Encrypted, h.KeyGeneration = w.encrypted(), 0
	if h.Encrypted {
		h.KeyGeneration = w.o.KeyGeneration
	}
	h.StoredSize, h.StoredCRC = 0, 0
	header = h.Encode()
	f := footer{tie: tieOf(&header), frames: w.frames, plain: w.plain}
	if h.Encrypted {
		w.scratch = appendFooter(w.scratch[:0], f)
		if err := w.encrypt(w.scratch); err != nil {
			return header, err
		}
		if err := w.seal.Close(); err != nil {
			return header, fmt.Errorf("object writer: encrypt: %w", err)
		}
	} else {
		w.buf = appendFooter(w.buf, f)
	}
	if err := w.drain(true); err != nil {
		return header, err
	}
	h.StoredSize, h.StoredCRC = w.flushed+int64(len(w.buf)), w.crc
	if w.flush == nil {
		h.StoredCRC = crc32.Checksum(w.buf[HeaderSize:], castagnoli)
	}
	return h.Encode(), nil
}
