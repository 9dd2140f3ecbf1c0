package archive_test

import (
	"context"
	"path"
	"strings"
	"time"

	"pgstow/storage"
	"pgstow/storage/fault"
)

// recordPuts keeps the order in which files are stored.
type recordPuts struct {
	*fault.Store
	names *[]string
}

func (s recordPuts) Put(ctx context.Context, key string, body []byte, cond storage.Condition) (storage.Info, error) {
	*s.names = append(*s.names, path.Base(key))
	return s.Store.Put(ctx, key, body, cond)
}

// slowPuts holds one file back until something is so.
type slowPuts struct {
	*fault.Store
	name  string
	until func() bool
}

func (s slowPuts) Put(ctx context.Context, key string, body []byte, cond storage.Condition) (storage.Info, error) {
	for strings.HasSuffix(key, s.name) && !s.until() {
		select {
		case <-ctx.Done():
			return storage.Info{}, context.Cause(ctx)
		case <-time.After(time.Millisecond):
		}
	}
	return s.Store.Put(ctx, key, body, cond)
}
