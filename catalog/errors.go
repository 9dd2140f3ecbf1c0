package catalog

import (
	"errors"
	"fmt"
)

// Errors that callers tell apart with errors.Is. The number is the exit code of DESIGN §11.
var (
	ErrNoRepository    = errors.New("no repository here")                       // 10
	ErrFormatTooNew    = errors.New("written by a newer version of pgstow")     // 10
	ErrRecipients      = errors.New("encryption disagrees with the repository") // 12
	ErrUnsafeStore     = errors.New("the store has no conditional writes")      // 12
	ErrPlaintext       = errors.New("refusing to write plain bytes into an encrypted repository")
	ErrClusterMismatch = errors.New("the repository has another cluster under this name") // 12
	ErrNoCluster       = errors.New("cluster is not in the repository")                   // 12, never the absence of a WAL file
	ErrNoBackup        = errors.New("backup does not exist")
	ErrAborted         = errors.New("backup was declared dead by a sweep") // its manifest key is taken
	ErrCondemned       = errors.New("reference was deleted meanwhile")     // 1, run the backup again
	ErrLeaseHeld       = errors.New("lease is held")                       // 11
	ErrLeaseLost       = errors.New("lease was lost")                      // 11
	ErrInUse           = errors.New("in use")                              // 11
	ErrManifest        = errors.New("manifest is not valid")
)

// HintError is an error that knows what the operator can do about it. Its text is that of Err alone; cmd prints the hint
// on a line of its own.
type HintError struct {
	Err  error
	Hint string
}

func (e *HintError) Error() string { return e.Err.Error() }

// Unwrap returns the error that the hint is about.
func (e *HintError) Unwrap() error { return e.Err }

func hint(err error, format string, args ...any) error {
	return &HintError{Err: err, Hint: fmt.Sprintf(format, args...)}
}

// Hint returns the hint of the outermost HintError that err wraps, or "".
func Hint(err error) string {
	var h *HintError
	if errors.As(err, &h) {
		return h.Hint
	}
	return ""
}
