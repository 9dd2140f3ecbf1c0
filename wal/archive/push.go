package archive

import (
	"context"
	"time"

	"pgstow/storage/object"
)

// Defaults of PushOptions. PostgreSQL asks again for ever, and waits for a running command when it is shut down: so a push gives up
// early.
const (
	DefaultPushDeadline = 60 * time.Second
	DefaultPushStall    = 15 * time.Second
)

// PushOptions are those of a push.
type PushOptions struct {
	Options
	Level object.Level
	// Deadline is the most time a push takes; files of more than 16 MiB get one second more for each further MiB. 0: the default.
	Deadline time.Duration
	// Stall is the most time without any byte moving to or from the store. 0: the default.
	Stall time.Duration
	// Host and Program tell others who stored the file.
	Host, Program string
	// SkipVerify leaves out decoding what was just encoded.
	SkipVerify bool
	// StartWorker is called, at most once, when other files wait to be archived too: it may start a process that calls [RunWorker] and
	// return at once. nil: there is no worker.
	StartWorker func() error
	// Beside is how many of the waiting files this call stores at a time beside its own, where no worker can: it stays at most as long
	// again as its own file took. 0: none.
	Beside int
}

// Outcome says how a push came to its success.
type Outcome int

// The outcomes.
const (
	Stored  Outcome = iota + 1 // by this call
	Existed                    // the archive had these very bytes
	Marked                     // the spool knew that this very file is stored
)

func (o Outcome) String() string {
	switch o {
	case Stored:
		return "stored"
	case Existed:
		return "already stored"
	case Marked:
		return "known to be stored"
	}
	return "nothing"
}

// PushResult tells what a successful push did.
type PushResult struct {
	Name    string
	Outcome Outcome
	// Key, PlainSize and StoredSize (bytes) are zero for Marked.
	Key                   string
	PlainSize, StoredSize int64
	// AsPartial: the file has the name of a full segment but ends at the fork where its timeline was left, as a standby with
	// archive_mode=always leaves it. It was stored as the .partial file that it is.
	AsPartial bool
}

// Push stores the file at path, which must bear its name from pg_wal. It returns nil only when the archive has confirmed exactly these
// bytes. A *RefusedError says that no retry will help.
func Push(ctx context.Context, o PushOptions, path string) (PushResult, error) {
	return push(ctx, o, path)
}
