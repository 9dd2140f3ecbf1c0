package receive

import (
	"errors"
	"fmt"
	"regexp"
	"time"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/object"
	"pgstow/wal"
)

// Defaults of Options.
const (
	DefaultName           = "pgstow" // of the slot and of the application
	DefaultFlushInterval  = time.Second
	DefaultStallTimeout   = 30 * time.Second
	DefaultStopTimeout    = 20 * time.Second
	DefaultStatusInterval = 10 * time.Second
	DefaultWindow         = 2
)

// Options say what is received and where it goes. Store and Cluster are required.
type Options struct {
	// Store is the repository's store. The caller wraps it in storage/retry with a generous total: StallTimeout decides how long it may
	// fail before the server is let go.
	Store   storage.Store
	Pins    catalog.Pins
	Cluster string // the name under which the server's WAL lies in the repository
	// SystemID refuses another server than this one; 0: any, but the same one as long as Run lasts.
	SystemID uint64

	// DSN is a connection string of libpq's kind; what it leaves out comes from libpq's environment.
	DSN string
	// Slot is the name of the physical replication slot.
	Slot string
	// CreateSlot makes the slot if it is missing, also on a server that was failed over to.
	CreateSlot bool
	// ApplicationName is what synchronous_standby_names may name; "" is the DSN's, else DefaultName.
	ApplicationName string

	// Synchronous stores what has arrived at once, not after FlushInterval.
	Synchronous bool
	// FlushInterval is how long WAL waits before a piece of it is stored.
	FlushInterval time.Duration
	// FlushBytes: so much WAL does not wait for the interval. It matters for segments larger than that.
	FlushBytes int
	// Window is how many pieces are on their way to the store at once. WAL that arrives meanwhile shares the next one.
	Window int
	// StallTimeout is how old WAL may become that the store has not confirmed: then the connection is closed, so that the server can
	// stop, and a quorum of standbys can go on without us. It is made again when the store has taken what waited.
	StallTimeout time.Duration
	// StopTimeout bounds how long the last pieces may take when ctx has ended.
	StopTimeout time.Duration
	// StatusInterval is how often the server is told the position, and a StatusEvent comes, when nothing happens.
	StatusInterval time.Duration
	// Until ends Run once all WAL up to this position is stored; 0: never.
	Until wal.LSN
	// Once ends Run when the connection is lost.
	Once bool

	Level object.Level
	// Host and Program tell others who stored the WAL.
	Host, Program string
	// Dir is where segments larger than 16 MiB are assembled, in a file without a name; "" is the temporary folder.
	Dir string
	// Now is the host's clock; nil for time.Now.
	Now func() time.Time
	// Events gets what happens, from several goroutines; it must not block for long. nil: nobody does.
	Events func(Event)
}

// slotName is what PostgreSQL takes for one (ReplicationSlotValidateName in src/backend/replication/slot.c).
var slotName = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

// Check finds what can be seen to be wrong without asking anybody.
func (o *Options) Check() error {
	switch {
	case o.Store == nil:
		return errors.New("receive: no store")
	case o.Slot == "":
		return errors.New("a receiver needs a replication slot: without one the server removes WAL before it is stored")
	case !slotName.MatchString(o.Slot):
		return fmt.Errorf("slot name %q: PostgreSQL allows lower case letters, digits and underscores, at most 63", o.Slot)
	}
	if err := catalog.CheckClusterName(o.Cluster); err != nil {
		return err
	}
	_, err := o.config()
	return err
}

func (o *Options) setDefaults() {
	if o.Slot == "" {
		o.Slot = DefaultName
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&o.FlushInterval, DefaultFlushInterval},
		{&o.StallTimeout, DefaultStallTimeout},
		{&o.StopTimeout, DefaultStopTimeout},
		{&o.StatusInterval, DefaultStatusInterval},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if o.FlushBytes <= 0 || o.FlushBytes > maxPending {
		o.FlushBytes = defaultFlushBytes
	}
	if o.Window <= 0 {
		o.Window = DefaultWindow
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Events == nil {
		o.Events = func(Event) {}
	}
}

// maxPending is how much WAL of one segment may wait for a piece before the server is held up, and so the largest piece.
const (
	maxPending        = 32 << 20
	defaultFlushBytes = 16 << 20
)
