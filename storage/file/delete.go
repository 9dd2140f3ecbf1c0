package file

import (
	"context"
	"errors"
	"os"
	"path"

	"pgstow/storage"
)

// Delete removes objects, and the folders that this leaves empty.
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	var errs []error
	for _, key := range keys {
		if err := storage.CheckKey(key); err != nil {
			errs = append(errs, wrap("delete", key, s, err))
		}
	}
	if len(errs) > 0 || len(keys) == 0 {
		return errors.Join(errs...)
	}
	r, err := s.open(ctx)
	if err != nil {
		return wrap("delete", keys[0], s, err)
	}
	defer func() { _ = r.Close() }()
	if err := s.mark(r); err != nil {
		return wrap("delete", keys[0], s, err)
	}
	l, err := lock(ctx, r, false)
	if err != nil {
		return wrap("delete", keys[0], s, err)
	}
	defer func() { _ = l.Close() }()

	touched := make(map[string]bool)
	for _, key := range keys {
		err := context.Cause(ctx)
		if err == nil {
			err = remove(r, key, touched)
		}
		if err != nil {
			errs = append(errs, wrap("delete", key, s, err))
		}
	}
	for dir := range touched {
		if err := tidy(r, dir); err != nil {
			errs = append(errs, wrap("delete", dir, s, err))
		}
	}
	return errors.Join(errs...)
}

func remove(r *os.Root, key string, touched map[string]bool) error {
	info, err := r.Lstat(key)
	if absent(err) || err == nil && info.IsDir() {
		return nil
	}
	if err != nil {
		return err
	}
	if err := r.Remove(key); err != nil && !absent(err) {
		return err
	}
	touched[path.Dir(key)] = true
	return nil
}

// tidy removes the folder if it is empty, then those above, and makes the change durable. A Put that loses the folder it
// was about to use makes it again.
func tidy(r *os.Root, dir string) error {
	for dir != "." {
		err := r.Remove(dir)
		if err != nil && !absent(err) {
			break // not empty
		}
		dir = path.Dir(dir)
	}
	if err := syncFolder(r, dir); err != nil && !absent(err) {
		return err
	}
	return nil
}
