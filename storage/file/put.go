package file

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pgstow/storage"
)

// tmpAge is how long a file in .tmp may be written before it is taken for the leftover of a dead process.
const tmpAge = 24 * time.Hour

// maxRace bounds how often a Put starts again because a Delete removed the folder that it had just made.
const maxRace = 100

// Put stores an object as described at the package.
func (s *Store) Put(ctx context.Context, key string, body []byte, cond storage.Condition) (storage.Info, error) {
	if err := storage.CheckKey(key); err != nil {
		return storage.Info{}, fmt.Errorf("put: %w", err)
	}
	info, err := s.put(ctx, key, body, cond)
	if err != nil {
		return storage.Info{}, fmt.Errorf("put %s in %s: %w", key, s, explain(err))
	}
	return info, nil
}

func (s *Store) put(ctx context.Context, key string, body []byte, cond storage.Condition) (storage.Info, error) {
	r, err := s.open(ctx)
	if err != nil {
		return storage.Info{}, err
	}
	defer func() { _ = r.Close() }()
	if err := s.mark(r); err != nil {
		return storage.Info{}, err
	}
	if cond.IsAbsent() { // spares the writing; the link below decides
		if info, err := r.Lstat(key); err == nil {
			return storage.Info{}, taken(r, key, info)
		}
	}
	p, err := patternOf(r)
	if err != nil {
		return storage.Info{}, err
	}
	if err := p.mkdir(r, tmpDir); err != nil {
		return storage.Info{}, err
	}
	s.sweep.Do(func() { sweep(r, time.Now()) })

	tmp := tmpName()
	defer func() { _ = r.Remove(tmp) }()
	written, err := writeTmp(ctx, r, p, tmp, body)
	if err != nil {
		return storage.Info{}, err
	}
	if err := place(ctx, r, p, tmp, key, cond); err != nil {
		return storage.Info{}, err
	}
	if err := syncChain(r, key); err != nil {
		return storage.Info{}, err
	}
	sum := sha256.Sum256(body)
	return storage.Info{
		Key: key, Size: int64(len(body)), ETag: etag(sum), SHA256: &sum,
		// The file system stamped it just now, on NFS with the server's clock.
		Modified: written.ModTime(), Now: written.ModTime(),
	}, nil
}

func etag(sum [32]byte) string { return hex.EncodeToString(sum[:]) }

func tmpName() string { return tmpDir + "/." + rand.Text() }

// writeTmp writes and fsyncs a file that nobody sees yet.
func writeTmp(ctx context.Context, r *os.Root, p pattern, name string, body []byte) (fs.FileInfo, error) {
	f, err := r.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, p.file|0o200)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if err := p.applyTo(f, p.file); err != nil {
		return nil, err
	}
	for rest := body; len(rest) > 0; {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		n, err := f.Write(rest[:min(len(rest), storage.ProgressStep)])
		if err != nil {
			return nil, err
		}
		if err := storage.Progress(ctx, n); err != nil {
			return nil, err
		}
		rest = rest[n:]
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return info, f.Close() // NFS may report a full disk only here
}

// place brings the finished file to its name under the condition.
func place(ctx context.Context, r *os.Root, p pattern, tmp, key string, cond storage.Condition) error {
	for try := 0; ; try++ {
		err := mkdirs(r, p, key)
		if err == nil {
			err = placeOnce(ctx, r, tmp, key, cond)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist) && try < maxRace && context.Cause(ctx) == nil:
			continue // a Delete found the folder empty; make it again
		case isNotDir(err):
			return fmt.Errorf("%w: a part of it is the name of an object: %w", storage.ErrInvalidKey, err)
		default:
			return err
		}
	}
}

func placeOnce(ctx context.Context, r *os.Root, tmp, key string, cond storage.Condition) error {
	if cond.IsAbsent() {
		return link(r, tmp, key)
	}
	want, swap := cond.Match()
	l, err := lock(ctx, r, swap)
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	if swap {
		if err := compare(r, key, want); err != nil {
			return err
		}
	}
	err = r.Rename(tmp, key)
	if err == nil {
		return nil
	}
	if info, serr := r.Lstat(key); serr == nil && info.IsDir() {
		return fmt.Errorf("%w: it is a folder of other objects: %w", storage.ErrInvalidKey, err)
	}
	return err
}

// link is the atomic create. Over NFS the request may be sent again after its reply was lost; the second one finds the
// first one's work and fails, but then our own file has two names.
func link(r *os.Root, tmp, key string) error {
	err := r.Link(tmp, key)
	switch {
	case errors.Is(err, fs.ErrExist):
		there, serr := r.Lstat(key)
		if serr != nil {
			return serr // gone again; place tries anew
		}
		ours, serr := r.Lstat(tmp)
		if serr != nil {
			return serr
		}
		if linkCount(ours) == 2 && os.SameFile(ours, there) {
			return nil
		}
		return taken(r, key, there)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
		return fmt.Errorf("%w: the file system has no hard links, which creating an object only if it is absent needs: %w",
			storage.ErrUnsupported, err)
	default:
		return err
	}
}

func linkCount(info fs.FileInfo) uint64 { return uint64(info.Sys().(*syscall.Stat_t).Nlink) } //nolint:unconvert // not uint64 on every system

// taken is the answer to IfAbsent when the name exists. Its caller may act on what is there, so that is made durable
// first: whoever created it may have died before it could.
func taken(r *os.Root, key string, there fs.FileInfo) error {
	if there.IsDir() {
		return fmt.Errorf("%w: it is a folder of other objects", storage.ErrInvalidKey)
	}
	if err := syncChain(r, key); err != nil {
		return err
	}
	return fmt.Errorf("%w: the object exists", storage.ErrExist)
}

// compare reads the whole object, whatever its size: only the content tells exactly.
func compare(r *os.Root, key, want string) error {
	f, err := r.Open(key)
	if absent(err) {
		return fmt.Errorf("%w: the object does not exist", storage.ErrExist)
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		return fmt.Errorf("%w: the object has changed (ETag %s, expected %q)", storage.ErrExist, got, want)
	}
	return nil
}

// mkdirs makes the folders of key that are missing.
func mkdirs(r *os.Root, p pattern, key string) error {
	dir := path.Dir(key)
	if info, err := r.Lstat(dir); err == nil && info.IsDir() {
		return nil
	}
	for i := range len(dir) + 1 {
		if i < len(dir) && dir[i] != '/' {
			continue
		}
		if err := p.mkdir(r, dir[:i]); err != nil {
			return err
		}
	}
	return nil
}

// syncChain makes the entry of key durable, and those of all folders on the way, since any of them may be new and not yet
// fsynced by the process that made it.
func syncChain(r *os.Root, key string) error {
	for dir := key; dir != "."; {
		dir = path.Dir(dir)
		if err := syncFolder(r, dir); err != nil {
			return err
		}
	}
	return nil
}

func syncFolder(r *os.Root, dir string) error {
	d, err := r.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

// sweep removes what dead processes left in .tmp. Failing is harmless: another process, or the next one, will.
func sweep(r *os.Root, now time.Time) {
	d, err := r.Open(tmpDir)
	if err != nil {
		return
	}
	defer func() { _ = d.Close() }()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return
	}
	for _, name := range names {
		if !strings.HasPrefix(name, ".") {
			continue
		}
		name = tmpDir + "/" + name
		if info, err := r.Lstat(name); err == nil && now.Sub(info.ModTime()) > tmpAge {
			_ = r.Remove(name)
		}
	}
}
