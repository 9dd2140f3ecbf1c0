package backup

import (
	"time"

	"pgstow/catalog"
	"pgstow/wal"
)

// Event is one report of a running backup: a PhaseEvent, SourceEvent, MethodEvent, ProgressEvent,
// SkippedEvent, DamageEvent, NoteEvent or WaitingEvent. Events are delivered one
// at a time; the receiver must not block.
type Event interface{ event() }

// Phase is a part of a backup.
type Phase string

// The phases, in their order.
const (
	PhaseConnect    Phase = "connect"    // reach the server, find its directory
	PhaseCheckpoint Phase = "checkpoint" // wait for the checkpoint the backup starts with
	PhaseCopy       Phase = "copy"       // read, compress and store the files
	PhaseStop       Phase = "stop"       // end the backup on the server
	PhaseWAL        Phase = "wal"        // wait for the archive, or copy the WAL
	PhaseCommit     Phase = "commit"     // write the manifest
)

// PhaseEvent says that a phase begins.
type PhaseEvent struct{ Phase Phase }

// SourceEvent says that a backup streams though it was not asked to, and why.
type SourceEvent struct{ Why string }

// MethodEvent says how the backup finds what to store, before it reads files.
type MethodEvent struct {
	Method catalog.Method
	// Reference is the backup that it begins with; "" for a full one.
	Reference string
	// Why says why it is not done in a cheaper way; may be empty.
	Why string
}

// ProgressEvent says how far the copy is. It comes a few times a second and once
// at the end.
type ProgressEvent struct {
	// BytesDone were read, or need not be; BytesTotal is what there is to read, 0 as long as it
	// is not known. The total is an estimate: files grow and shrink meanwhile.
	BytesDone, BytesTotal int64
	// BytesStored are stored in packs.
	BytesStored int64
	// FilesDone counts files, FilesTotal is 0 as long as it is not known.
	FilesDone, FilesTotal int64
}

// SkippedEvent names something that is not in the backup and may be missed.
type SkippedEvent struct{ Path, Reason string }

// DamageEvent names a page that is damaged in the data directory. The backup
// goes on and ends with a *PartialError.
type DamageEvent struct {
	Path string
	// Block is the page's number in the relation, counted over all its files.
	Block uint32
	What  string
}

// NoteEvent is something that an operator should know; it is kept in the manifest.
type NoteEvent struct{ Text string }

// WaitingEvent says what the end of the backup waits for.
type WaitingEvent struct {
	// Missing are WAL files not yet proven in the archive, the first few of them.
	Missing []string
	// Left counts all that are missing.
	Left int
	// Waited is the time since the last progress.
	Waited time.Duration
	// LastFailed and LastFailedAt are what pg_stat_archiver says; zero if nothing.
	LastFailed   string
	LastFailedAt time.Time
	// Standby: on an idle primary the last segment is archived only after SELECT
	// pg_switch_wal() there.
	Standby bool
	// Received: a receiver is to bring the WAL; ReceiverGone: none is connected now.
	Received, ReceiverGone bool
	// Stop is the LSN that the archive must reach.
	Stop wal.LSN
}

func (PhaseEvent) event()    {}
func (SourceEvent) event()   {}
func (MethodEvent) event()   {}
func (ProgressEvent) event() {}
func (SkippedEvent) event()  {}
func (DamageEvent) event()   {}
func (NoteEvent) event()     {}
func (WaitingEvent) event()  {}
