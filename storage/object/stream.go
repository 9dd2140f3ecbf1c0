package object

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"slices"

	"filippo.io/age"
)

// ageHeaderMax bounds age's own header, so that a hostile one is not read into
// memory without end: room for some 600 hybrid recipients.
const ageHeaderMax = 1 << 20

// Stream reads an object from its beginning to its end in bounded memory. Each
// frame is verified before its bytes are handed out; whether the object as a
// whole is complete shows at the end: only io.EOF says so. Not safe for
// concurrent use.
type Stream struct {
	header Header
	tie    [32]byte
	src    *source
	r      *bufio.Reader // the decrypted body
	limit  int64

	stored, plain []byte // the current frame
	unread        []byte // what of plain was not handed out

	count, body, total int64     // frames, their stored and their plain bytes
	table              hash.Hash // of the footer's table as it must be
	sha                hash.Hash // of the plain bytes
	complete           bool      // all is verified; err is io.EOF
	err                error
}

// DecodeStream reads the header of the object in r and makes ready to read its
// plain bytes. maxMemory bounds the buffers for one frame, stored and plain; 0
// accepts whatever the format allows (129 MiB); a larger frame is ErrTooLarge.
// Errors of r are returned as they are, others as [Open] has them, here or from
// Read.
func DecodeStream(r io.Reader, ids []Identity, maxMemory int64) (*Stream, error) {
	s := &Stream{
		src: &source{r: r, budget: -1}, limit: maxMemory,
		table: sha256.New(), sha: sha256.New(),
	}
	if s.limit <= 0 {
		s.limit = MaxFrame + int64(maxStored(MaxFrame))
	}
	var head [HeaderSize]byte
	n, err := io.ReadFull(s.src, head[:])
	if s.src.err != nil {
		return nil, s.src.err
	}
	if err != nil {
		return nil, corrupt(int64(n), "header is cut: %d of %d bytes", n, HeaderSize)
	}
	if s.header, err = ParseHeader(head[:]); err != nil {
		return nil, err
	}
	s.tie = tieOf(&head)
	s.src.crc, s.src.size = 0, HeaderSize
	var body io.Reader = s.src
	if s.header.Encrypted {
		if len(ids) == 0 {
			return nil, ErrNoIdentity
		}
		s.src.budget = ageHeaderMax
		if body, err = age.Decrypt(s.src, ids...); err != nil {
			if s.src.err != nil {
				return nil, s.src.err
			}
			return nil, s.openError(err)
		}
		s.src.budget = -1
	}
	s.r = bufio.NewReaderSize(body, 64<<10)
	return s, nil
}

// openError tells a wrong identity from a damaged age header, which look alike
// to age: the rest of the object is read and its checksum decides.
func (s *Stream) openError(err error) error {
	err = ageError(err)
	if !errors.Is(err, ErrWrongIdentity) {
		return err
	}
	s.src.budget = -1
	if _, ioErr := io.Copy(io.Discard, s.src); errors.Is(ioErr, ErrPrefix) {
		return err
	} else if ioErr != nil {
		return ioErr
	}
	if bad := checkStored(s.header, s.src.size, s.src.crc); bad != nil {
		return bad
	}
	return err
}

// Header returns the object's header.
func (s *Stream) Header() Header { return s.header }

// Read returns plain bytes, and io.EOF only when the whole object was verified:
// its footer, its length, its checksum and, when the header has it, the SHA-256
// of the plain bytes.
func (s *Stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(s.unread) == 0 {
		if s.err == nil {
			s.err = s.next()
		}
		if s.err != nil {
			return 0, s.err
		}
	}
	n := copy(p, s.unread)
	s.unread = s.unread[n:]
	return n, nil
}

// WriteTo writes the plain bytes to w, frame by frame; nil as [Stream.Read]'s io.EOF.
func (s *Stream) WriteTo(w io.Writer) (int64, error) {
	var n int64
	for {
		if len(s.unread) > 0 {
			m, err := w.Write(s.unread)
			n += int64(m)
			s.unread = s.unread[m:]
			if err != nil {
				return n, err
			}
		}
		if s.err == nil {
			s.err = s.next()
		}
		if s.complete {
			return n, nil
		}
		if s.err != nil {
			return n, s.err
		}
	}
}

// at is the offset of what is read next, as if the object were not encrypted.
func (s *Stream) at() int64 { return HeaderSize + s.body }

// next decodes the next frame into unread, or verifies the end.
func (s *Stream) next() error {
	magic, err := s.r.Peek(4)
	if err != nil {
		return s.cut(err)
	}
	switch binary.LittleEndian.Uint32(magic) {
	case frameMagic:
		return s.frame()
	case footerMagic:
		if err := s.footer(); err != nil {
			return err
		}
		s.complete = true
		return io.EOF
	}
	return corrupt(s.at(), "neither a frame nor the footer")
}

// cut makes an error of a read that did not give what must follow: the source's
// own if it failed; else the object ends early, or age found it damaged.
func (s *Stream) cut(err error) error {
	if s.src.err != nil {
		return s.src.err
	}
	return &CorruptError{What: "object is cut or damaged", Offset: s.at(), Err: err}
}

// take appends n bytes to stored.
func (s *Stream) take(n int) error {
	have := len(s.stored)
	s.stored = slices.Grow(s.stored, n)[:have+n]
	if _, err := io.ReadFull(s.r, s.stored[have:]); err != nil {
		return s.cut(err)
	}
	return nil
}

// frame reads one frame, of which only its own blocks tell the length.
func (s *Stream) frame() error {
	s.stored = s.stored[:0]
	malformed := func(err error) error {
		return &CorruptError{What: "frame is malformed", Offset: s.at(), Err: err}
	}
	plain, n, need, err := parseFrameHeader(nil)
	for err == nil && need > 0 {
		if err := s.take(need - len(s.stored)); err != nil {
			return err
		}
		plain, n, need, err = parseFrameHeader(s.stored)
	}
	if err != nil {
		return malformed(err)
	}
	if int64(plain)+int64(maxStored(plain)) > s.limit {
		return fmt.Errorf("%w: frame of %d bytes", ErrTooLarge, plain)
	}
	if err := s.take(n - len(s.stored)); err != nil {
		return err
	}
	for last := false; !last; {
		if err := s.take(3); err != nil {
			return err
		}
		blk, err := parseBlock(s.stored[len(s.stored)-3:])
		if err != nil {
			return malformed(err)
		}
		if len(s.stored)+blk.stored+frameChecksum > maxStored(plain) {
			return malformed(errors.New("zstd frame is padded"))
		}
		if err := s.take(blk.stored); err != nil {
			return err
		}
		last = blk.last
	}
	if err := s.take(frameChecksum); err != nil {
		return err
	}
	e := entry{Frame{len(s.stored), plain}, crc32.Checksum(s.stored, castagnoli)}
	if s.plain, err = decodeFrame(s.stored, e, s.at(), s.plain); err != nil {
		return err
	}
	s.sha.Write(s.plain)
	s.table.Write(appendEntry(nil, e))
	s.unread = s.plain
	s.count++
	s.body += int64(e.Stored)
	s.total += int64(plain)
	return nil
}

// footer reads the footer and everything behind it, which must be nothing, and
// checks it all against what was read. The table is compared by its hash, so that
// memory does not grow with the number of frames.
func (s *Stream) footer() error {
	le := binary.LittleEndian
	length := footerMin + footerEntry*s.count
	crc := crc32.New(castagnoli)
	table := sha256.New()
	r := io.TeeReader(s.r, crc)
	var front [footerFront]byte
	if _, err := io.ReadFull(r, front[:]); err != nil {
		return s.cut(err)
	}
	if int64(le.Uint32(front[4:])) != length-8 {
		return corrupt(s.at()+4, "footer lists other frames than there are")
	}
	if [32]byte(front[8:]) != s.tie {
		return corrupt(s.at()+8, "footer belongs to another header")
	}
	if _, err := io.CopyN(table, r, footerEntry*s.count); err != nil {
		return s.cut(err)
	}
	var sums [12]byte
	if _, err := io.ReadFull(r, sums[:]); err != nil {
		return s.cut(err)
	}
	var last [4 + footerTail]byte
	if _, err := io.ReadFull(s.r, last[:]); err != nil {
		return s.cut(err)
	}
	switch {
	case le.Uint32(last[:]) != crc.Sum32():
		return corrupt(s.at()+length-footerTail-4, "footer checksum does not match")
	case int64(le.Uint32(last[4:])) != length || string(last[8:]) != footerMark:
		return corrupt(s.at()+length-footerTail, "footer is malformed")
	case !bytes.Equal(table.Sum(nil), s.table.Sum(nil)) || int64(le.Uint32(sums[8:])) != s.count:
		return corrupt(s.at()+footerFront, "footer lists other frames than there are")
	case le.Uint64(sums[:]) != uint64(s.total) || s.total != s.header.PlainSize:
		return corrupt(offPlainSize, "frames, footer and header differ in the plain size")
	}
	if _, err := s.r.ReadByte(); err == nil {
		return corrupt(s.at()+length, "object goes on behind its footer")
	} else if err != io.EOF {
		return s.cut(err)
	}
	if err := checkStored(s.header, s.src.size, s.src.crc); err != nil {
		return err
	}
	return checkPlain(s.header, s.sha.Sum(nil))
}

// source counts and sums what is read of the stored object and remembers why
// reading failed, which age and bufio would hide.
type source struct {
	r      io.Reader
	size   int64
	crc    uint32
	budget int64 // what may still be read; negative: no bound
	err    error // of r, other than io.EOF
}

func (s *source) Read(p []byte) (int, error) {
	if s.budget == 0 {
		return 0, errors.New("age header is too long")
	}
	if s.budget > 0 {
		p = p[:min(int64(len(p)), s.budget)]
	}
	n, err := s.r.Read(p)
	if s.budget > 0 {
		s.budget -= int64(n)
	}
	s.size += int64(n)
	s.crc = crc32.Update(s.crc, castagnoli, p[:n])
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}
