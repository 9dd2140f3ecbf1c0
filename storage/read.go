package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// ReadAll reads a whole object of at most limit bytes; a larger one is an error before any of it is read.
func ReadAll(ctx context.Context, s Store, key string, limit int64) ([]byte, Info, error) {
	return ReadRange(ctx, s, key, Range{}, limit)
}

// ReadRange reads the part of an object that r names, of at most limit bytes. It never returns less than the part
// without an error.
func ReadRange(ctx context.Context, s Store, key string, r Range, limit int64) ([]byte, Info, error) {
	body, info, err := s.Get(ctx, key, r)
	if err != nil {
		return nil, Info{}, err
	}
	data, err := readBody(body, info, r, limit)
	if cerr := body.Close(); err == nil && cerr != nil {
		err = cerr
	}
	if err != nil {
		return nil, Info{}, fmt.Errorf("get %s: %w", key, err)
	}
	return data, info, nil
}

func readBody(body io.Reader, info Info, r Range, limit int64) ([]byte, error) {
	_, length, err := r.Resolve(info.Size)
	if err != nil {
		return nil, err
	}
	if length > limit {
		return nil, fmt.Errorf("%d bytes, at most %d are expected here", length, limit)
	}
	data := make([]byte, length)
	if _, err := io.ReadFull(body, data); err != nil {
		return nil, err
	}
	// One more read: it lets a reader report what it learns only at the end, and finds a body longer than announced.
	if n, err := io.Copy(io.Discard, body); err != nil {
		return nil, err
	} else if n > 0 {
		return nil, fmt.Errorf("%d bytes more than the store announced", n)
	}
	return data, nil
}

// NewBody guards the body of a Get: it gives exactly length bytes of r and then io.EOF; if r ends before, the error wraps
// io.ErrUnexpectedEOF and says how much is missing. Stores wrap what they return in it.
func NewBody(r io.ReadCloser, length int64) io.ReadCloser {
	return &body{ReadCloser: r, length: length, left: length}
}

type body struct {
	io.ReadCloser
	length, left int64
}

func (b *body) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	switch {
	case b.left == 0:
		return n, io.EOF // whatever else the source has to say, all bytes are here
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return n, fmt.Errorf("body ends %d bytes short of %d: %w", b.left, b.length, io.ErrUnexpectedEOF)
	default:
		return n, err
	}
}
