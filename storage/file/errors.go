package file

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"pgstow/storage"
)

// explain adds the sentinel of storage that fits an error of the file system. ENOENT is not among them: what is missing,
// an object or the store, only the caller knows.
func explain(err error) error {
	switch {
	case err == nil, errors.Is(err, storage.ErrPermission), errors.Is(err, storage.ErrNoStore):
		return err
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w: %w", storage.ErrPermission, err)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%w: its file system is full: %w", storage.ErrFull, err)
	default:
		return err
	}
}

func isNotDir(err error) bool   { return errors.Is(err, unix.ENOTDIR) }
func isNotEmpty(err error) bool { return errors.Is(err, unix.ENOTEMPTY) }

// absent reports whether err says that there is no file of this name: the name, or a folder on the way, is missing or an
// object stands in the place of a folder.
func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) || isNotDir(err) }
