package retry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"pgstow/storage"
)

// errChanged: a body broke off and the object is not the same any more. The reader must begin again.
var errChanged = errors.New("the object was replaced while it was read")

// Get is storage.Store's; see the package comment for what happens when the body breaks off.
func (s *Store) Get(ctx context.Context, key string, r storage.Range) (io.ReadCloser, storage.Info, error) {
	b := &body{s: s, ctx: ctx, key: key}
	c := s.newCall("get", key)
	err := c.run(ctx, func(ctx context.Context) error {
		info, err := b.open(ctx, c, r, nil)
		if err != nil {
			return err
		}
		b.info = info
		return nil
	})
	if err != nil {
		return nil, storage.Info{}, err
	}
	if b.next, b.left, err = r.Resolve(b.info.Size); err != nil {
		_ = b.Close()
		return nil, storage.Info{}, err
	}
	return b, b.info, nil
}

// body reads an object through as many requests as it takes.
type body struct {
	s   *Store
	ctx context.Context
	key string

	info       storage.Info // of the first request
	next, left int64        // first byte not yet given out, and how many there are from it on

	cur    io.ReadCloser // nil when it broke off
	w      *watch        // of cur
	broken error         // why it broke off
	closed bool
}

// open makes one request for a part. limit ends the request, but not the reading afterwards. first, if not nil, is
// called to read the beginning of the body before the request counts as a success.
func (b *body) open(limit context.Context, c *call, r storage.Range, first func(io.Reader) error) (storage.Info, error) {
	ctx, w := b.s.newWatch(b.ctx, func(n int) { c.moved(n, 0) })
	release := context.AfterFunc(limit, func() { w.cancel(context.Cause(limit)) })
	cur, info, err := b.s.inner.Get(ctx, b.key, r) //nolint:contextcheck // the body outlives the call whose time is limited
	if err == nil && first != nil {
		if err = b.same(info); err == nil {
			err = first(cur)
		}
	}
	w.stop()
	if !release() && err == nil { // too late by a hair
		err = context.Cause(limit)
	}
	if err == nil {
		b.cur, b.w = cur, w
		return info, nil
	}
	err = w.explain(err)
	if cur != nil {
		_ = cur.Close()
	}
	w.end()
	return storage.Info{}, err
}

// same checks that a later request reads the object of the first one.
func (b *body) same(now storage.Info) error {
	if now.Size != b.info.Size || now.ETag != b.info.ETag || now.ETag == "" && !now.Modified.Equal(b.info.Modified) {
		return fmt.Errorf("get %s: %w", b.key, errChanged)
	}
	return nil
}

func (b *body) Read(p []byte) (int, error) {
	switch {
	case b.closed:
		return 0, fmt.Errorf("get %s: read after close", b.key)
	case b.left == 0:
		return 0, io.EOF
	case len(p) == 0:
		return 0, nil
	}
	if b.cur != nil {
		begin := b.w.beforeRead()
		n, err := b.cur.Read(p)
		b.w.afterRead(begin, n)
		if err == io.EOF && int64(n) < b.left {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && err != io.EOF {
			b.drop(b.w.explain(err))
		}
		if n > 0 {
			b.next, b.left = b.next+int64(n), b.left-int64(n)
			return n, nil
		}
		if b.cur != nil {
			return 0, nil
		}
	}
	return b.resume(p)
}

// resume goes on behind the last byte that was read.
func (b *body) resume(p []byte) (int, error) {
	c := b.s.newCall("get", b.key)
	if err := c.next(b.ctx, b.broken); err != nil {
		return 0, err
	}
	n := 0
	err := c.run(b.ctx, func(ctx context.Context) error {
		_, err := b.open(ctx, c, storage.Range{Offset: b.next, Length: b.left}, func(r io.Reader) error {
			var err error
			n, err = io.ReadAtLeast(r, p, 1)
			return err
		})
		return err
	})
	if err != nil {
		b.broken = err
		return 0, err
	}
	b.next, b.left = b.next+int64(n), b.left-int64(n)
	return n, nil
}

func (b *body) drop(err error) {
	_ = b.cur.Close()
	b.w.end()
	b.cur, b.w, b.broken = nil, nil, err
}

func (b *body) Close() error {
	b.closed = true
	if b.cur == nil {
		return nil
	}
	err := b.cur.Close()
	b.w.end()
	b.cur, b.w = nil, nil
	return err
}

// List is storage.Store's. It goes on behind the last object it gave when it breaks off.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		last := after
		c := s.newCall("list", prefix)
		for {
			var failed error
			watched, w := c.watch(ctx)
			for info, err := range s.inner.List(watched, prefix, last) {
				w.stop()
				if err != nil {
					failed = w.explain(err)
					break
				}
				if !yield(info, nil) {
					w.end()
					return
				}
				last = info.Key
				c = s.newCall("list", prefix) // each object is a new beginning
				w.start(w.limit)
			}
			w.end()
			if failed == nil {
				return
			}
			if err := c.next(ctx, failed); err != nil {
				yield(storage.Info{}, err)
				return
			}
		}
	}
}
