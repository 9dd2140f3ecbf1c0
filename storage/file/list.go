package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path"
	"slices"
	"strings"

	"pgstow/storage"
)

// List walks the folders in the order of whole keys, which is not the order of names: "a-b" and "a.b" come before "a/b",
// so a folder is sorted as if its name ended in a slash. It holds the names of one folder per level in memory.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		err := s.list(ctx, prefix, after, yield)
		if err != nil && !errors.Is(err, errStopped) {
			yield(storage.Info{}, fmt.Errorf("list %q in %s: %w", prefix, s, explain(err)))
		}
	}
}

// errStopped ends a walk whose caller wants no more.
var errStopped = errors.New("stopped")

type walk struct {
	ctx           context.Context
	prefix, after string
	yield         func(storage.Info, error) bool
}

func (s *Store) list(ctx context.Context, prefix, after string, yield func(storage.Info, error) bool) error {
	if err := storage.CheckPrefix(prefix); err != nil {
		return err
	}
	r, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	w := walk{ctx: ctx, prefix: prefix, after: after, yield: yield}
	base := path.Dir(prefix + "x") // the deepest folder that the prefix names in full
	if base == "." {
		return w.folder(r, "")
	}
	return w.sub(r, base, base)
}

// sub walks the folder dir, whose name as seen from r is name.
func (w *walk) sub(r *os.Root, name, dir string) error {
	// OpenRoot has no errno for what is not a folder.
	if info, err := r.Lstat(name); absent(err) || err == nil && !info.IsDir() {
		return nil // never there
	}
	d, err := r.OpenRoot(name)
	if absent(err) {
		return nil // deleted meanwhile
	}
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return w.folder(d, dir+"/")
}

// folder yields what lies in d, whose keys begin with base.
func (w *walk) folder(d *os.Root, base string) error {
	entries, err := readDir(d)
	if err != nil {
		return err
	}
	keys := make([]string, 0, len(entries))
	for _, e := range entries {
		key := base + e.Name()
		if storage.CheckKey(key) != nil {
			continue
		}
		switch {
		case e.IsDir() && w.wantFolder(key+"/"):
			keys = append(keys, key+"/")
		case e.Type().IsRegular() && strings.HasPrefix(key, w.prefix) && key > w.after:
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		if err := w.entry(d, base, key); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) entry(d *os.Root, base, key string) error {
	if err := context.Cause(w.ctx); err != nil {
		return err
	}
	if dir, ok := strings.CutSuffix(key, "/"); ok {
		return w.sub(d, dir[len(base):], dir)
	}
	info, err := d.Lstat(key[len(base):])
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !w.yield(storage.Info{Key: key, Size: info.Size(), Modified: info.ModTime()}, nil) {
		return errStopped
	}
	return nil
}

// wantFolder reports whether keys that begin with dir, which ends in a slash, can match.
func (w *walk) wantFolder(dir string) bool {
	if !strings.HasPrefix(dir, w.prefix) && !strings.HasPrefix(w.prefix, dir) {
		return false
	}
	return dir > w.after || strings.HasPrefix(w.after, dir)
}

func readDir(r *os.Root) ([]fs.DirEntry, error) {
	d, err := r.Open(".")
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }()
	return d.ReadDir(-1)
}
