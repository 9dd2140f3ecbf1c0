package restore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"pgstow/catalog"
)

const (
	// bigFile is the size in bytes from which a file is fsynced by itself as soon as it is complete: that overlaps with
	// reading the next ones. Smaller ones wait for one syncfs.
	bigFile = 16 << 20
	// maxOpen is how many files one worker keeps open.
	maxOpen = 64
)

// writer puts bytes into the files of the table, below dir. It is safe for concurrent use through openFiles, one each.
type writer struct {
	dir   string
	table *table
	modes modes
	owner Owner

	// pg_control is kept in memory until the very end.
	controlID fileID
	control   []byte
}

// place is where a path of the manifest lies. Tablespaces are reached through their links.
func (w *writer) place(path string) string { return filepath.Join(w.dir, path) }

// isControl reports whether id is global/pg_control.
func (w *writer) isControl(id fileID) bool { return w.control != nil && id == w.controlID }

// open opens a file of the table for writing and, the first time, gives it its length (as a hole), mode and owner. Two
// workers may do that at once: both do the same.
func (w *writer) open(id fileID) (*os.File, error) {
	state := w.table.state(id)
	f, err := openFile(w.place(w.table.path(id)))
	if err != nil || state.created.Load() {
		return f, err
	}
	if state.hollow { // nothing of what was there stays
		if err := f.Truncate(0); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	if err := w.dress(f, fs.FileMode(state.mode), state.size); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	state.created.Store(true)
	return f, nil
}

// openFile opens or creates a regular file. A link is not followed: nothing of the manifest lies behind one.
func openFile(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
}

// dress gives a new file its length, mode and owner; the umask has no say.
func (w *writer) dress(f *os.File, mode fs.FileMode, size int64) error {
	if err := f.Truncate(size); err != nil {
		return noSpace(err)
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if w.owner.Set {
		return f.Chown(w.owner.UID, w.owner.GID)
	}
	return nil
}

// makeDir makes a directory with the cluster's mode and owner; it may exist.
func (w *writer) makeDir(path string) error {
	if err := os.Mkdir(path, w.modes.dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return noSpace(err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return refuse(path, "", "it is not a directory")
	}
	if err := os.Chmod(path, w.modes.dir); err != nil {
		return err
	}
	if w.owner.Set {
		return os.Lchown(path, w.owner.UID, w.owner.GID)
	}
	return nil
}

// temporarySuffix ends the name of a file that is not yet whole.
const temporarySuffix = ".pgstow"

// writeFile replaces a file by these bytes, durably: under another name first, then by rename.
func (w *writer) writeFile(path string, data []byte, mode fs.FileMode) error {
	return w.create(path, mode, func(out io.Writer) error {
		_, err := out.Write(data)
		return err
	})
}

// create is writeFile for contents that are made while they are written.
func (w *writer) create(path string, mode fs.FileMode, fill func(io.Writer) error) error {
	full := w.place(path)
	temp := full + temporarySuffix
	f, err := openFile(temp)
	if err != nil {
		return noSpace(err)
	}
	err = w.dress(f, mode, 0)
	if err == nil {
		err = fill(f)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return noSpace(err)
	}
	if err := os.Rename(temp, full); err != nil {
		return noSpace(err)
	}
	return syncDir(filepath.Dir(full))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// noSpace adds the advice for a full disk.
func noSpace(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return &catalog.HintError{Err: err, Hint: "make room and run the same restore again: it goes on where it stopped"}
	}
	return err
}

// openFiles are the files that one worker has open.
type openFiles struct {
	w     *writer
	files map[fileID]*os.File
	order []fileID // oldest first
}

func (w *writer) openFiles() *openFiles { return &openFiles{w: w, files: make(map[fileID]*os.File)} }

// writeAt writes p at offset of a file and counts it; with the last missing byte the file is finished. It returns
// whether it was.
func (o *openFiles) writeAt(id fileID, offset int64, p []byte) (finished bool, err error) {
	state := o.w.table.state(id)
	if offset < 0 || offset > state.size || int64(len(p)) > state.size-offset {
		return false, fmt.Errorf("write %s: %d bytes at %d do not fit into its %d bytes", o.w.table.path(id), len(p), offset, state.size)
	}
	if o.w.isControl(id) {
		copy(o.w.control[offset:], p)
		return state.pending.Add(-int64(len(p))) == 0, nil
	}
	f, err := o.get(id)
	if err != nil {
		return false, noSpace(err)
	}
	if _, err := f.WriteAt(p, offset); err != nil {
		return false, noSpace(err)
	}
	state.sum.Add(state.size, offset, p)
	if state.pending.Add(-int64(len(p))) != 0 {
		return false, nil
	}
	// The file is complete. fsync concerns the whole file, whoever wrote the rest.
	if state.size >= bigFile {
		if err := f.Sync(); err != nil {
			return false, noSpace(err)
		}
	}
	delete(o.files, id)
	return true, noSpace(f.Close())
}

func (o *openFiles) get(id fileID) (*os.File, error) {
	if f := o.files[id]; f != nil {
		return f, nil
	}
	for len(o.files) >= maxOpen {
		oldest := o.order[0]
		o.order = o.order[1:]
		if f := o.files[oldest]; f != nil {
			delete(o.files, oldest)
			if err := f.Close(); err != nil {
				return nil, err
			}
		}
	}
	f, err := o.w.open(id)
	if err != nil {
		return nil, err
	}
	o.files[id] = f
	o.order = append(o.order, id)
	return f, nil
}

// close closes what is still open.
func (o *openFiles) close() error {
	var errs []error
	for _, f := range o.files {
		errs = append(errs, f.Close())
	}
	clear(o.files)
	o.order = o.order[:0]
	return noSpace(errors.Join(errs...))
}

// ensure makes a file that nothing is written to: an empty one, or one that is all zeros or all there.
func (w *writer) ensure(id fileID) error {
	if w.isControl(id) || w.table.state(id).created.Load() {
		return nil
	}
	f, err := w.open(id)
	if err != nil {
		return noSpace(err)
	}
	return noSpace(f.Close())
}
