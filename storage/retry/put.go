package retry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"pgstow/storage"
)

// Put is storage.Store's. After a lost reply the Info comes from Stat, which may leave the ETag of a large object empty.
func (s *Store) Put(ctx context.Context, key string, body []byte, cond storage.Condition) (storage.Info, error) {
	var info storage.Info
	c := s.newCall("put", key)
	uncertain := false // an earlier try may have stored the object
	err := c.run(ctx, func(ctx context.Context) error {
		ctx, w := c.watch(ctx)
		defer w.end()
		var err error
		info, err = s.inner.Put(ctx, key, body, cond)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, storage.ErrExist) && uncertain && !cond.IsAny():
			info, err = s.ours(ctx, key, body, cond, err)
		case !definite(err):
			uncertain = true
		}
		return w.explain(err)
	})
	if err != nil {
		return storage.Info{}, err
	}
	return info, nil
}

// ours decides whether what is stored under key is what this call put there. refused is the store's last answer.
func (s *Store) ours(ctx context.Context, key string, body []byte, cond storage.Condition, refused error) (storage.Info, error) {
	info, err := s.inner.Stat(ctx, key)
	if errors.Is(err, storage.ErrNotExist) {
		if cond.IsAbsent() {
			return storage.Info{}, fmt.Errorf("%s was there and is gone (%s)", key, refused.Error()) // retryable: put it again
		}
		return storage.Info{}, refused
	}
	if err != nil {
		return storage.Info{}, err
	}
	sum := sha256.Sum256(body)
	equal := info.Size == int64(len(body))
	if equal && info.SHA256 != nil {
		equal = *info.SHA256 == sum
	} else if equal {
		var stored []byte
		stored, _, err = storage.ReadAll(ctx, s.inner, key, info.Size)
		if err != nil {
			return storage.Info{}, err
		}
		equal = bytes.Equal(stored, body)
	}
	if !equal {
		return storage.Info{}, refused
	}
	info.SHA256 = &sum
	return info, nil
}
