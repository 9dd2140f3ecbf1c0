package file

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"

	"pgstow/storage"
)

// smallObject is up to which size Get and Stat read the object to give its ETag.
const smallObject = 64 << 10

// Get opens an object. What it reads is one version, also while the object is replaced.
func (s *Store) Get(ctx context.Context, key string, rg storage.Range) (io.ReadCloser, storage.Info, error) {
	body, info, err := s.get(ctx, key, rg)
	if err != nil {
		return nil, storage.Info{}, wrap("get", key, s, err)
	}
	return body, info, nil
}

func (s *Store) get(ctx context.Context, key string, rg storage.Range) (io.ReadCloser, storage.Info, error) {
	f, info, small, err := s.openObject(ctx, key)
	if err != nil {
		return nil, storage.Info{}, err
	}
	offset, length, err := rg.Resolve(info.Size)
	if err != nil {
		_ = f.Close()
		return nil, storage.Info{}, err
	}
	var src io.Reader = io.NewSectionReader(f, offset, length)
	if small != nil {
		src = bytes.NewReader(small[offset : offset+length])
	}
	return storage.NewBody(&reader{ctx: ctx, Reader: src, f: f}, length), info, nil
}

// Stat describes an object.
func (s *Store) Stat(ctx context.Context, key string) (storage.Info, error) {
	f, info, _, err := s.openObject(ctx, key)
	if err != nil {
		return storage.Info{}, wrap("stat", key, s, err)
	}
	_ = f.Close()
	return info, nil
}

// openObject opens the file of key. A small one is read at once, so that its ETag belongs to the bytes served.
func (s *Store) openObject(ctx context.Context, key string) (*os.File, storage.Info, []byte, error) {
	var none storage.Info
	if err := storage.CheckKey(key); err != nil {
		return nil, none, nil, err
	}
	r, err := s.open(ctx)
	if err != nil {
		return nil, none, nil, err
	}
	defer func() { _ = r.Close() }()
	f, err := r.Open(key)
	if absent(err) {
		return nil, none, nil, storage.ErrNotExist
	}
	if err != nil {
		return nil, none, nil, err
	}
	info, small, err := describe(f, key)
	if err != nil {
		_ = f.Close()
		return nil, none, nil, err
	}
	return f, info, small, nil
}

func describe(f *os.File, key string) (storage.Info, []byte, error) {
	st, err := f.Stat()
	if err != nil {
		return storage.Info{}, nil, err
	}
	if st.IsDir() {
		return storage.Info{}, nil, storage.ErrNotExist
	}
	info := storage.Info{Key: key, Size: st.Size(), Modified: st.ModTime()}
	if info.Size > smallObject {
		return info, nil, nil
	}
	small := make([]byte, info.Size)
	if _, err := io.ReadFull(f, small); err != nil {
		return storage.Info{}, nil, err
	}
	sum := sha256.Sum256(small)
	info.ETag, info.SHA256 = etag(sum), &sum
	return info, small, nil
}

func wrap(op, key string, s *Store, err error) error {
	return fmt.Errorf("%s %s in %s: %w", op, key, s, explain(err))
}

// reader ends with the context.
type reader struct {
	ctx context.Context
	io.Reader
	f *os.File
}

func (r *reader) Read(p []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

func (r *reader) Close() error { return r.f.Close() }
