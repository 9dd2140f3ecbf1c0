package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/object"
	"pgstow/wal"
)

// errMisplaced says that an object is sound but not what its key says.
var errMisplaced = errors.New("the object is another one than its key says")

// localError is a failure of this host's own files: a full disk is not the store's fault, and trying again does not help.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

var errPlain = &catalog.HintError{
	Err:  fmt.Errorf("it is not encrypted, which this host does not allow: %w", catalog.ErrRecipients),
	Hint: "set encryption = \"none\", if plain backups are what you want",
}

// get reads an object into place. storage.ErrNotExist is passed on.
func (f *fetch) get(ctx context.Context, w *watch, key string) error {
	body, _, err := f.Store.Get(ctx, key, storage.Range{})
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	w.moved()
	err = f.receive(w, w.reader(body))
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

// receive decodes, checks and installs the object in r.
func (f *fetch) receive(w *watch, r io.Reader) error {
	s, err := object.DecodeStream(r, f.Pins.Identities, 0)
	if err != nil {
		return err
	}
	if err := f.checkHeader(s.Header(), f.name.String()); err != nil {
		return err
	}
	if f.found != nil {
		f.found()
	}
	t, err := f.open()
	if err != nil {
		return &localError{err}
	}
	defer t.close()
	head, body := &headKeeper{}, io.Writer(t)
	if f.cut > 0 {
		body = &cutter{t, f.cut}
	}
	if _, err := s.WriteTo(io.MultiWriter(head, body, w)); err != nil {
		return err
	}
	if err := f.checkContent(s.Header(), head.b); err != nil {
		return err
	}
	return t.install()
}

// checkHeader compares an object's header with what was asked for, and with what this host expects of the repository: whoever may write
// there must not be able to hand plain text to a host that expects encryption.
func (f *fetch) checkHeader(h object.Header, name string) error {
	switch {
	case !h.Encrypted && !f.Pins.EncryptionNone:
		return errPlain
	case h.Name != name:
		return fmt.Errorf("%w: it is %q", errMisplaced, h.Name)
	case h.SystemID != f.server.ref.SystemID:
		return fmt.Errorf("%w: it is of the server with system id %d", errMisplaced, h.SystemID)
	case h.Timeline != uint32(f.name.Timeline):
		return fmt.Errorf("%w: it is of timeline %d", errMisplaced, h.Timeline)
	case h.Kind != kindOf(f.name.Kind) && h.Kind != object.KindPiece:
		return fmt.Errorf("%w: it is a %s", errMisplaced, h.Kind)
	}
	return nil
}

// checkContent looks at the first bytes of what was decoded; all bytes were verified against the hash that the pusher took after his
// own inspection.
func (f *fetch) checkContent(h object.Header, head []byte) error {
	if f.name.Kind != wal.Segment && f.name.Kind != wal.Partial {
		return nil
	}
	seg, err := wal.ParseSegmentHeader(head)
	if err != nil {
		return fmt.Errorf("%w: %w", errMisplaced, err)
	}
	return f.checkSegment(seg, h.PlainSize)
}

func (f *fetch) checkSegment(seg wal.SegmentHeader, size int64) error {
	switch {
	case seg.SystemID != f.server.ref.SystemID:
		return fmt.Errorf("%w: it holds WAL of the server with system id %d", errMisplaced, seg.SystemID)
	case size != int64(seg.SegmentSize):
		return fmt.Errorf("%w: it has %d bytes, a segment has %d", errMisplaced, size, seg.SegmentSize)
	case f.name.CheckSize(seg.SegmentSize) != nil, seg.Addr != f.name.Start(seg.SegmentSize):
		return fmt.Errorf("%w: it holds the WAL from %s on", errMisplaced, seg.Addr)
	case seg.Timeline > f.name.Timeline:
		return fmt.Errorf("%w: it holds WAL of timeline %d", errMisplaced, seg.Timeline)
	case f.server.control != nil && seg.SegmentSize != f.server.control.WALSegmentSize:
		return fmt.Errorf("%w: its segments have %d bytes, this server's have %d", errMisplaced, seg.SegmentSize, f.server.control.WALSegmentSize)
	}
	return nil
}

// headKeeper keeps the first bytes of what is written.
type headKeeper struct{ b []byte }

func (k *headKeeper) Write(p []byte) (int, error) {
	if n := wal.LongHeaderSize - len(k.b); n > 0 {
		k.b = append(k.b, p[:min(n, len(p))]...)
	}
	return len(p), nil
}

// temporary is the file beside the destination that becomes it. Its name is fixed, so that one left by a killed fetch is used again and
// never piles up; a lock keeps two fetches for one destination apart.
type temporary struct {
	f    *os.File
	path string
	done bool
}

const temporarySuffix = ".pgstow"

func openTemporary(dst string) (*temporary, error) {
	path := dst + temporarySuffix
	for range 10 {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
		if err != nil {
			return nil, err
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
			_ = f.Close()
			return uniqueTemporary(dst) // another fetch is at work
		}
		// The one that held the lock before may have renamed the file: then it is not ours to write into.
		if same(f, path) {
			if err := f.Truncate(0); err != nil {
				_ = f.Close()
				return nil, err
			}
			return &temporary{f: f, path: path}, nil
		}
		_ = f.Close()
	}
	return uniqueTemporary(dst)
}

func uniqueTemporary(dst string) (*temporary, error) {
	f, err := os.CreateTemp(filepath.Dir(dst), filepath.Base(dst)+temporarySuffix+".*")
	if err != nil {
		return nil, err
	}
	return &temporary{f: f, path: f.Name()}, nil
}

func same(f *os.File, path string) bool {
	a, err1 := f.Stat()
	b, err2 := os.Lstat(path)
	return err1 == nil && err2 == nil && a.Mode().IsRegular() && os.SameFile(a, b)
}

// Write marks errors as local.
func (t *temporary) Write(p []byte) (int, error) {
	n, err := t.f.Write(p)
	if err != nil {
		err = &localError{err}
	}
	return n, err
}

// install makes the file the destination: synced first, unless the server does that itself before it gives a restored file its final name
// (KeepFileRestoredFromArchive in src/backend/access/transam/xlogarchive.c renames durably, and what was left of an earlier try is removed).
func (t *temporary) install(dst string) error {
	if base := filepath.Base(dst); base != recoveryFile && base != recoveryHistory {
		if err := t.f.Sync(); err != nil {
			return &localError{err}
		}
	}
	if err := os.Rename(t.path, dst); err != nil {
		return &localError{err}
	}
	t.done = true
	return nil
}

// close removes the file unless it was installed.
func (t *temporary) close() {
	if !t.done {
		_ = os.Remove(t.path)
	}
	_ = t.f.Close()
}
