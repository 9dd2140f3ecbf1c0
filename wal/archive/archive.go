package archive

import (
	"errors"
	"fmt"
	"time"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/object"
	"pgstow/wal"
	"pgstow/wal/spool"
)

// Options say which archive is meant and who is asking. Store and Cluster are required, and one of PGData and SystemID.
type Options struct {
	// Store is the repository's store. The caller wraps it in storage/retry with a generous total: every call is ended by its
	// context when the deadlines below say so.
	Store storage.Store
	Pins  catalog.Pins
	// Cluster is the name under which the cluster lies in the repository.
	Cluster string
	// PGData is the data directory of the server: its pg_control says whose WAL this is.
	PGData string
	// SystemID is for WAL without a data directory; with one, it must agree.
	SystemID uint64
	// Spool is nil where there is none.
	Spool *spool.Spool
	// Now is the host's clock; nil for time.Now.
	Now func() time.Time
	// Warn gets lines for the server's log about what is not (yet) an error; nil: nobody does.
	Warn func(text string)
}

func (o *Options) setDefaults() {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
}

func (o *Options) warn(format string, args ...any) { o.Warn(fmt.Sprintf(format, args...)) }

// ErrAbsent says that a file is proven not to be in the archive. Nothing else is the end of WAL.
var ErrAbsent = errors.New("not in the archive")

// ErrUnreachable says, in standby mode only, that the store did not answer in time. A standby goes on asking and streaming, so it is
// told "not now" although nothing is proven.
var ErrUnreachable = errors.New("unreachable, not absent")

// RefusedError says why a file must not be stored. The server goes on asking and keeps the file until a person has decided; see
// [catalog.Hint] for what there is to do.
type RefusedError struct {
	Name   string
	Reason string
	Key    string  // of the object in the way; "" if there is none
	Writer *Writer // who stored that object; nil if that is not known
	Err    error   // what was wrong with the file; may be nil
}

// Writer is who stored an object, as its header says.
type Writer struct {
	Host          string
	DataDirectory string
	Program       string
	Time          time.Time // by the writer's clock
}

func writerOf(h object.Header) *Writer {
	return &Writer{Host: h.Host, DataDirectory: h.DataDirectory, Program: h.Program, Time: h.Time}
}

func (w *Writer) String() string {
	host, dir := w.Host, w.DataDirectory
	if host == "" {
		host = "an unknown host"
	}
	if dir == "" {
		dir = "an unknown data directory"
	}
	return fmt.Sprintf("%s (%s, at %s)", host, dir, w.Time.UTC().Format(time.RFC3339))
}

func (e *RefusedError) Error() string {
	text := "refused: " + e.Reason
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	if e.Writer != nil {
		text += "; it was stored by " + e.Writer.String()
	}
	return text
}

// Unwrap returns what was wrong with the file.
func (e *RefusedError) Unwrap() error { return e.Err }

// HoleError says that a file is missing while the archive goes on behind it: recovery must not take that for the end.
type HoleError struct {
	Name string // what is missing
	Next string // where the archive goes on
}

func (e *HoleError) Error() string {
	return fmt.Sprintf("hole at %s: the archive continues at %s", e.Name, e.Next)
}

// Exit codes of push (src/backend/archive/shell_archive.c): a code above 125 restarts the archiver process and is not counted in
// pg_stat_archiver, so there is none.
const (
	pushDone    = 0
	pushFailed  = 1
	pushRefused = 12
)

// Exit codes of fetch (RestoreArchivedFile in src/backend/access/transam/xlogarchive.c): up to 125 is "not in the archive".
const (
	fetchDone   = 0
	fetchAbsent = 1
	fetchFailed = 126
)

// PushExit is the exit code of a push that ended with err: 0, 1 to be tried again, or 12 refused.
func PushExit(err error) int {
	var refused *RefusedError
	switch {
	case err == nil:
		return pushDone
	case errors.As(err, &refused), errors.Is(err, catalog.ErrRecipients), errors.Is(err, catalog.ErrClusterMismatch),
		errors.Is(err, catalog.ErrUnsafeStore), errors.Is(err, catalog.ErrPlaintext):
		return pushRefused
	default:
		return pushFailed
	}
}

// FetchExit is the exit code of a fetch that ended with err: 0, 1 for proven absence (and for a store that a standby cannot reach
// now), 126 for everything else.
func FetchExit(err error) int {
	switch {
	case err == nil:
		return fetchDone
	case errors.Is(err, ErrAbsent), errors.Is(err, ErrUnreachable):
		return fetchAbsent
	default:
		return fetchFailed
	}
}

// kindOf is the kind of object in which a file is stored.
func kindOf(k wal.FileKind) object.Kind {
	switch k {
	case wal.Segment:
		return object.KindWAL
	case wal.Partial:
		return object.KindPartial
	case wal.HistoryFile:
		return object.KindHistory
	case wal.BackupHistory:
		return object.KindBackupLabel
	}
	return 0
}
