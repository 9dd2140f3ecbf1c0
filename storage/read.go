package storage

import (
	"context"
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
