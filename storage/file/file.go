// Package file keeps objects as files below one folder, on a local disk or a mounted file system such as NFS.
//
// # Layout
//
// The object "a/b" is the file a/b below the root. Two names that begin with a dot are the store's own: .tmp holds files
// being written, and .pgstow.lock serves as lock file and as the sign that the folder is mounted. Any other name that
// storage.CheckKey refuses is left alone and never listed.
//
// # Atomicity
//
// An object is written to .tmp, fsynced, and brought to its name by link(2), which fails if the name exists, or by
// rename(2). Then its folder and those above are fsynced, so that what Put acknowledged survives a power cut; a Put that
// finds the name taken fsyncs them too before it says so, because its caller will rely on what is there.
//
// Compare-and-swap has no system call. IfMatch holds .pgstow.lock exclusively (flock) while it compares and renames;
// Puts without a condition and Deletes hold it shared for the moment of the rename or unlink. On NFS, Linux turns flock
// into a byte-range lock on the server, so this also holds between hosts, unless the file system is mounted with nolock
// or local_lock=flock or =all: then IfMatch is exact only among processes of one host. IfAbsent needs no lock anywhere.
//
// # Absence
//
// Every call opens the root and each folder on the way anew, which makes an NFS client ask the server whether its cached
// knowledge of these folders, and of names that do not exist, is still good. Mount with lookupcache=positive or none to
// be sure. If the root is missing, or lacks the .pgstow.lock that this Store has seen before (an unmounted folder looks
// empty), the answer is ErrNoStore and never ErrNotExist.
//
// # ETags
//
// The ETag is the SHA-256 of the content, in hexadecimal digits. Put always returns it; Get and Stat do up to 64 KiB,
// which covers all objects that change, and leave it empty beyond, since it would mean reading the whole object. List
// never gives it.
package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"pgstow/storage"
)

const (
	tmpDir   = ".tmp"
	lockFile = ".pgstow.lock"
)

// Options says where the objects are.
type Options struct {
	Root string // the folder; a relative one is taken from the current folder at the time of Open
	// Late opens a folder that is not there (yet): calls are ErrNoStore until it is.
	Late bool
}

// Store keeps objects below a folder. It implements storage.Store.
type Store struct {
	root   string
	marked atomic.Bool // lockFile was seen, so from now on a root without it is not our root
	sweep  sync.Once
}

var (
	_ storage.Store    = (*Store)(nil)
	_ storage.Presence = (*Store)(nil)
)

// Open opens an existing folder as a store. It writes nothing. A missing folder is ErrNoStore, unless it may come later.
func Open(o Options) (*Store, error) {
	root, err := filepath.Abs(o.Root)
	if err != nil || o.Root == "" {
		return nil, fmt.Errorf("open store %q: no such path: %w", o.Root, errors.Join(storage.ErrNoStore, err))
	}
	s := &Store{root: root}
	r, err := s.open(context.Background())
	switch {
	case err == nil:
		return s, r.Close()
	case o.Late && errors.Is(err, storage.ErrNoStore):
		return s, nil
	}
	return nil, fmt.Errorf("open store %s: %w", root, err)
}

// Create makes the folder, with the folders above it, for its owner only, and opens it. If it exists already Create only
// opens it. New files and folders in it will take its owner, group and mode, so these may be changed afterwards.
func Create(o Options) (*Store, error) {
	if o.Root != "" {
		if err := os.MkdirAll(o.Root, 0o700); err != nil {
			return nil, fmt.Errorf("create store %s: %w", o.Root, explain(err))
		}
		if err := syncPath(filepath.Dir(o.Root)); err != nil {
			return nil, fmt.Errorf("create store %s: %w", o.Root, explain(err))
		}
	}
	s, err := Open(o)
	if err != nil {
		return nil, err
	}
	r, err := s.open(context.Background())
	if err != nil {
		return nil, fmt.Errorf("create store %s: %w", s.root, err)
	}
	err = s.mark(r)
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, fmt.Errorf("create store %s: %w", s.root, explain(err))
	}
	return s, nil
}

func (s *Store) String() string { return "file://" + s.root }

// open opens the root for one call and checks that it is still ours.
func (s *Store) open(ctx context.Context) (*os.Root, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	// Stat first: OpenRoot has no errno for what is not a folder.
	info, err := os.Stat(s.root)
	switch {
	case absent(err):
		return nil, fmt.Errorf("%w: %w", storage.ErrNoStore, err)
	case err == nil && !info.IsDir():
		return nil, fmt.Errorf("%w: %s is not a folder", storage.ErrNoStore, s.root)
	}
	r, err := os.OpenRoot(s.root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", storage.ErrNoStore, err)
	}
	if err != nil {
		return nil, explain(err)
	}
	marked := s.marked.Load() // before the look: another goroutine may put the file there right after it
	switch _, err := r.Lstat(lockFile); {
	case err == nil:
		s.marked.Store(true)
	case errors.Is(err, fs.ErrNotExist) && !marked:
	case errors.Is(err, fs.ErrNotExist):
		_ = r.Close()
		return nil, fmt.Errorf("%w: %s has lost its %s: is it still mounted?", storage.ErrNoStore, s.root, lockFile)
	default:
		_ = r.Close()
		return nil, explain(err)
	}
	return r, nil
}

// CheckPresent looks for lockFile. See storage.Presence.
func (s *Store) CheckPresent(ctx context.Context) error {
	r, err := s.open(ctx)
	if err != nil {
		return fmt.Errorf("look at %s: %w", s, err)
	}
	defer func() { _ = r.Close() }()
	if !s.marked.Load() {
		return fmt.Errorf("%w: %s has no %s: is it mounted?", storage.ErrNoStore, s.root, lockFile)
	}
	return nil
}

// mark puts lockFile into a root that never had one. Readers do not, so that a read-only mount works.
func (s *Store) mark(r *os.Root) error {
	if s.marked.Load() {
		return nil
	}
	p, err := patternOf(r)
	if err != nil {
		return err
	}
	f, err := r.OpenFile(lockFile, os.O_RDWR|os.O_CREATE|os.O_EXCL, p.file)
	switch {
	case errors.Is(err, fs.ErrExist): // another process was faster
	case err != nil:
		return err
	default:
		err = p.applyTo(f, p.file)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			_ = r.Remove(lockFile)
			return err
		}
	}
	if err := syncFolder(r, "."); err != nil {
		return err
	}
	s.marked.Store(true)
	return nil
}

func syncPath(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}
