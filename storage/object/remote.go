package object

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
)

// ReadAt reads n bytes of one stored object from offset off. It returns fewer
// only where the object ends; a failure to read is an error.
type ReadAt func(ctx context.Context, off, n int64) ([]byte, error)

// tailProbe is what is read of a large object's end: the footer of 5000 frames.
const tailProbe = 64 << 10

// maxWhole bounds an encrypted object that is read as a whole; larger ones are
// for DecodeStream.
const maxWhole = MaxPlain + MaxPlain>>6

// Remote is an object opened through ranged reads: header and footer are here,
// frames are read when they are asked for. An encrypted object, and one of at most
// 64 KiB, is here as a whole. Its methods are safe for concurrent use if ReadAt is.
type Remote struct {
	index
	ra    ReadAt
	whole *Object // nil: frames are read from ra
}

// OpenAt opens an object with at most two requests (three if it has more than
// 5000 frames). size is the object's length, as a listing or a manifest gives it;
// 0 if it is not known. Without identities an encrypted object is ErrNoIdentity
// after one request for its header, and one of more than 1 GiB ErrTooLarge. Errors
// of ra are returned as they are, others as [Open] has them.
func OpenAt(ctx context.Context, ra ReadAt, size int64, ids []Identity) (*Remote, error) {
	first := int64(HeaderSize)
	if size <= tailProbe {
		first = tailProbe
		if size > 0 {
			first = size
		}
	}
	head, err := ra(ctx, 0, first)
	if err != nil {
		return nil, err
	}
	h, err := ParseHeader(head)
	if err != nil {
		return nil, err
	}
	if size > 0 && size != h.StoredSize {
		return nil, corrupt(offStoredSize, "object of %d bytes has %d", h.StoredSize, size)
	}
	size = h.StoredSize
	if size <= int64(len(head)) {
		return openWhole(head, ids)
	}
	if int64(len(head)) < first {
		return nil, corrupt(int64(len(head)), "object is cut: %d of %d bytes", len(head), size)
	}
	if h.Encrypted {
		if len(ids) == 0 {
			return nil, ErrNoIdentity
		}
		if size > maxWhole {
			return nil, fmt.Errorf("%w: %d stored bytes", ErrTooLarge, size)
		}
		stored, err := ra(ctx, 0, size)
		if err != nil {
			return nil, err
		}
		if !bytes.HasPrefix(stored, head[:HeaderSize]) {
			return nil, corrupt(0, "object changed while it was read")
		}
		return openWhole(stored, ids)
	}
	return openTail(ctx, ra, h, head)
}

func openWhole(stored []byte, ids []Identity) (*Remote, error) {
	o, err := Open(stored, ids)
	if err != nil {
		return nil, err
	}
	return &Remote{index: o.index, whole: o}, nil
}

// openTail reads the footer of an object that is not encrypted.
func openTail(ctx context.Context, ra ReadAt, h Header, head []byte) (*Remote, error) {
	end := h.StoredSize
	read := func(n int64) ([]byte, error) {
		b, err := ra(ctx, end-n, n)
		if err == nil && int64(len(b)) != n {
			err = corrupt(end-n+int64(len(b)), "object is cut")
		}
		return b, err
	}
	tail, err := read(min(tailProbe, end-HeaderSize))
	if err != nil {
		return nil, err
	}
	n, err := footerLength(tail, end)
	if err != nil {
		return nil, err
	}
	if n > int64(len(tail)) {
		if tail, err = read(n); err != nil {
			return nil, err
		}
	}
	f, err := parseFooter(tail[int64(len(tail))-n:], h, sha256.Sum256(head[:tieEnd]), end-n-HeaderSize)
	if err != nil {
		return nil, err
	}
	return &Remote{index: newIndex(h, f), ra: ra}, nil
}

// InHand tells whether the whole object is in memory, so that Frame costs no
// request and Extent and Decode are of no use.
func (r *Remote) InHand() bool { return r.whole != nil }

// Object returns the whole object if it is in memory, else nil.
func (r *Remote) Object() *Object { return r.whole }

// Extent returns the byte range of the stored object that frames first to last
// fill, for a caller who reads several at once and gives each to Decode.
func (r *Remote) Extent(first, last int) (off, n int64, err error) {
	if r.whole != nil {
		return 0, 0, fmt.Errorf("object is in memory: it has no extents to read")
	}
	if _, err := r.entryOf(first); err != nil {
		return 0, 0, err
	}
	e, err := r.entryOf(last)
	if err != nil {
		return 0, 0, err
	}
	if last < first {
		return 0, 0, fmt.Errorf("object extent: frame %d lies before %d", last, first)
	}
	return r.offs[first], r.offs[last] + int64(e.Stored) - r.offs[first], nil
}

// Decode returns the plain bytes of frame i, verified, from its stored bytes. dst
// as in [Object.Frame].
func (r *Remote) Decode(i int, stored, dst []byte) ([]byte, error) {
	e, err := r.entryOf(i)
	if err != nil {
		return nil, err
	}
	return decodeFrame(stored, e, r.offs[i], dst)
}

// Frame reads frame i and returns its plain bytes, verified. dst as in
// [Object.Frame].
func (r *Remote) Frame(ctx context.Context, i int, dst []byte) ([]byte, error) {
	if r.whole != nil {
		return r.whole.Frame(i, dst)
	}
	off, n, err := r.Extent(i, i)
	if err != nil {
		return nil, err
	}
	stored, err := r.ra(ctx, off, n)
	if err != nil {
		return nil, err
	}
	return r.Decode(i, stored, dst)
}
