package object

import (
	"bytes"
	"errors"
	"io"
)

// PeekSize is a prefix in which Peek finds the first frame of any object whose
// first frame is small: header, age's header and one whole chunk of age's.
const PeekSize = 96 << 10

// ErrPrefix says that the first frame does not lie in the prefix that Peek got.
var ErrPrefix = errors.New("object prefix is too short for the first frame")

// Peek returns the header and the plain bytes of the first frame, verified, of an
// object of which only a prefix is at hand; io.EOF if it has no frame. That the
// rest of the object is there and sound it does not say. Errors otherwise as
// [Open] has them, and ErrPrefix: read more. A damaged age header shows as
// ErrWrongIdentity, since the checksum that would tell covers the whole object.
func Peek(prefix []byte, ids []Identity) (Header, []byte, error) {
	h, err := ParseHeader(prefix)
	if err != nil {
		return h, nil, err
	}
	var r io.Reader = bytes.NewReader(prefix)
	if int64(len(prefix)) < h.StoredSize {
		r = io.MultiReader(r, prefixEnd{})
	}
	s, err := DecodeStream(r, ids, 0)
	if err != nil {
		return h, nil, err
	}
	if err := s.next(); err != nil {
		return h, nil, err
	}
	return h, s.unread, nil
}

type prefixEnd struct{}

func (prefixEnd) Read([]byte) (int, error) { return 0, ErrPrefix }

// CheckStored reads a stored object to its end and compares its length and its
// checksum with its header. It needs no identity: damage is found where nothing
// can be decrypted. Errors of r are returned as they are, others are
// *CorruptError and ErrFormat.
func CheckStored(r io.Reader) (Header, error) {
	src := &source{r: r, budget: -1}
	var head [HeaderSize]byte
	n, err := io.ReadFull(src, head[:])
	if src.err != nil {
		return Header{}, src.err
	}
	if err != nil {
		return Header{}, corrupt(int64(n), "header is cut: %d of %d bytes", n, HeaderSize)
	}
	h, err := ParseHeader(head[:])
	if err != nil {
		return h, err
	}
	src.crc = 0
	if _, err := io.Copy(io.Discard, src); err != nil {
		return h, err
	}
	return h, checkStored(h, src.size, src.crc)
}
