package receive

import (
	"fmt"
	"time"

	"pgstow/wal"
)

// Event is something that happened: one of the types of this file. Its String is for a log.
type Event interface{ String() string }

// Routine tells whether an event is one of those that come all the time.
func Routine(e Event) bool {
	switch e.(type) {
	case StoredEvent, DeletedEvent, StatusEvent:
		return true
	}
	return false
}

type (
	// ConnectedEvent says that a server answered.
	ConnectedEvent struct {
		Server   string // address
		SystemID uint64
		Major    int
		Timeline wal.TimelineID
	}
	// SlotEvent says that the slot was made, or made anew since it held no WAL.
	SlotEvent struct {
		Slot string
		Lost bool
	}
	// StreamingEvent says that WAL comes from Start on, of which the archive has what is before Stored.
	StreamingEvent struct {
		Timeline      wal.TimelineID
		Start, Stored wal.LSN
	}
	// StoredEvent says that an object was stored, or found to be there.
	StoredEvent struct {
		Key      string
		From, To wal.LSN // 0 for a history file
		Whole    bool    // a full segment
		Bytes    int     // as stored
		Took     time.Duration
	}
	// DeletedEvent says that pieces were deleted, since what covers them is stored.
	DeletedEvent struct{ Pieces int }
	// StatusEvent comes at least every Options.StatusInterval, and while something is waited for: it shows that Run is alive.
	StatusEvent struct {
		Connected bool
		Timeline  wal.TimelineID
		Received  wal.LSN
		Stored    wal.LSN       // end of the contiguous stored prefix
		ServerEnd wal.LSN       // of the server's WAL, as it said last
		Behind    time.Duration // age of the oldest WAL that is received and not stored
		Pieces    int64         // stored since the beginning of Run
		Segments  int64
	}
	// SwitchEvent says that the server's timeline ended at At, and Next goes on.
	SwitchEvent struct {
		Timeline, Next wal.TimelineID
		At             wal.LSN
	}
	// MissingEvent says that the server no longer has the WAL with which the archive would go on. There is a hole, and it is for ever
	// unless another copy of that WAL is pushed.
	MissingEvent struct {
		Timeline    wal.TimelineID
		From, To    wal.LSN
		First, Last string // names of the missing segments
	}
	// StalledEvent says that the store has not confirmed WAL for Age: the connection is closed until it does.
	StalledEvent struct{ Age time.Duration }
	// StoreEvent says that the store failed while WAL waits for it; the same is tried again after Wait.
	StoreEvent struct {
		Key  string
		Err  error
		Wait time.Duration
	}
	// RecoveredEvent says that the store has taken what waited.
	RecoveredEvent struct{}
	// RetryEvent says that there is no connection; the next is tried after Wait.
	RetryEvent struct {
		Err  error
		Wait time.Duration
	}
	// StoppingEvent says that Run has been told to end and stores what it has.
	StoppingEvent struct{}
	// NoteEvent is a word to the operator.
	NoteEvent struct{ Text string }
)

func (e ConnectedEvent) String() string {
	return fmt.Sprintf("connected to PostgreSQL %d at %s, system id %d, timeline %d", e.Major, e.Server, e.SystemID, e.Timeline)
}

func (e SlotEvent) String() string {
	if e.Lost {
		return fmt.Sprintf("replication slot %s held no WAL any more (the server gave it up, or it never reserved any): it was made anew", e.Slot)
	}
	return fmt.Sprintf("replication slot %s was made", e.Slot)
}

func (e StreamingEvent) String() string {
	return fmt.Sprintf("receiving timeline %d from %s, stored up to %s", e.Timeline, e.Start, e.Stored)
}

func (e StoredEvent) String() string {
	return fmt.Sprintf("stored %s, %d bytes, in %s", e.Key, e.Bytes, e.Took.Round(time.Millisecond))
}

func (e DeletedEvent) String() string { return fmt.Sprintf("deleted %d pieces", e.Pieces) }

func (e StatusEvent) String() string {
	if !e.Connected {
		return "not connected"
	}
	text := fmt.Sprintf("timeline %d: stored up to %s, received %s", e.Timeline, e.Stored, e.Received)
	if e.ServerEnd > e.Stored {
		text += fmt.Sprintf(", %d bytes behind the server", e.ServerEnd-e.Stored)
	}
	if e.Behind >= time.Second {
		text += fmt.Sprintf(", for %s", e.Behind.Round(time.Second))
	}
	return text
}

func (e SwitchEvent) String() string {
	return fmt.Sprintf("timeline %d ended at %s, timeline %d goes on", e.Timeline, e.At, e.Next)
}

func (e MissingEvent) String() string {
	return fmt.Sprintf("WAL IS MISSING: the archive goes on at %s, but the server no longer has timeline %d before %s: %s to %s are a hole that recovery cannot cross; take a new backup, and see whether pg_wal of a standby still has them",
		e.From, e.Timeline, e.To, e.First, e.Last)
}

func (e StalledEvent) String() string {
	return fmt.Sprintf("the store has not confirmed WAL for %s: the connection is closed, the slot keeps what follows", e.Age.Round(time.Second))
}

func (e StoreEvent) String() string {
	return fmt.Sprintf("store %s: %s; the next try in %s", e.Key, e.Err, e.Wait.Round(time.Millisecond))
}

func (e RecoveredEvent) String() string { return "the store has taken what waited" }

func (e RetryEvent) String() string {
	return fmt.Sprintf("%s; the next try in %s", e.Err, e.Wait.Round(time.Millisecond))
}

func (e StoppingEvent) String() string { return "stopping: storing what has arrived" }

func (e NoteEvent) String() string { return e.Text }
