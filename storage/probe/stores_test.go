package probe_test

import (
	"context"
	"iter"

	"pgstow/storage"
)

// lateRefusal stores first and looks at the condition afterwards.
type lateRefusal struct{ storage.Store }

func (s *lateRefusal) Put(ctx context.Context, key string, body []byte, cond storage.Condition) (storage.Info, error) {
	_, err := s.Stat(ctx, key)
	info, perr := s.Store.Put(ctx, key, body, storage.Any)
	if cond.IsAbsent() && err == nil && perr == nil {
		return storage.Info{}, storage.ErrExist
	}
	return info, perr
}

// hidingList shows each object only from the second list on.
type hidingList struct {
	storage.Store
	seen map[string]bool
}

func (s *hidingList) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		if s.seen == nil {
			s.seen = make(map[string]bool)
		}
		for info, err := range s.Store.List(ctx, prefix, after) {
			known := s.seen[info.Key]
			s.seen[info.Key] = true
			if (known || err != nil) && !yield(info, err) {
				return
			}
		}
	}
}
