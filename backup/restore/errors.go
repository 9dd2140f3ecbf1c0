package restore

import (
	"errors"
	"fmt"
	"strings"

	"pgstow/catalog"
)

// DirectoryError says why the restore must not write where it was told to.
type DirectoryError struct {
	Path string // the data directory, or a tablespace's location
	Why  string
}

func (e *DirectoryError) Error() string { return fmt.Sprintf("restore into %s: %s", e.Path, e.Why) }

// refuse is a DirectoryError with advice.
func refuse(path, advice, why string, args ...any) error {
	return &catalog.HintError{Err: &DirectoryError{Path: path, Why: fmt.Sprintf(why, args...)}, Hint: advice}
}

// SpaceError is a file system with too little free space for what would be written to it.
type SpaceError struct {
	Paths []string // what would be written there: the data directory, tablespaces
	Need  int64    // bytes
	Free  int64    // bytes
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("restore into %s: needs %d bytes, its file system has %d bytes free", strings.Join(e.Paths, ", "), e.Need, e.Free)
}

// ErrOptions is wrapped by every complaint about the options themselves.
var ErrOptions = errors.New("restore options")

// CorruptError is an object of the repository that does not hold what the manifest says.
type CorruptError struct {
	Key string
	Err error
}

func (e *CorruptError) Error() string { return fmt.Sprintf("object %s is damaged: %v", e.Key, e.Err) }

// Unwrap returns the cause.
func (e *CorruptError) Unwrap() error { return e.Err }
