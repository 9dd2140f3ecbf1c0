package catalog

import (
	"context"
	"fmt"
	"strings"
	"time"

	"pgstow/wal"
)

// TargetKind says what ends recovery.
type TargetKind uint8

// The kinds.
const (
	TargetLatest    TargetKind = iota // the end of the archived WAL
	TargetImmediate                   // as soon as the backup is consistent
	TargetTime
	TargetLSN
	TargetXID
	TargetName
)

// String is the kind's name in messages and JSON.
func (k TargetKind) String() string {
	names := [...]string{"latest", "immediate", "time", "lsn", "xid", "name"}
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("target %d", uint8(k))
}

// TimelineChoice says which timeline recovery follows. The zero value is the latest one.
type TimelineChoice struct {
	ID      wal.TimelineID // a certain one
	Current bool           // the one on which the backup was taken
}

// String is what recovery_target_timeline calls it.
func (c TimelineChoice) String() string {
	switch {
	case c.Current:
		return "current"
	case c.ID != 0:
		return c.ID.String()
	default:
		return "latest"
	}
}

// Target is where recovery shall end.
type Target struct {
	Kind      TargetKind
	Time      time.Time
	LSN       wal.LSN
	XID       uint32
	Name      string
	Exclusive bool // stop before the target instead of after it; for time, LSN and xid
	Timeline  TimelineChoice
	// StopAtHole: with TargetLatest, a hole is as good as the end of the archive. The WAL behind it is given up.
	StopAtHole bool
}

// String is for messages: "time 2026-11-24 15:45:00 UTC on timeline latest".
func (t Target) String() string {
	var what string
	switch t.Kind {
	case TargetTime:
		what = "time " + t.Time.UTC().Format("2006-01-02 15:04:05.999999 MST")
	case TargetLSN:
		what = "LSN " + t.LSN.String()
	case TargetXID:
		what = fmt.Sprintf("transaction %d", t.XID)
	case TargetName:
		what = fmt.Sprintf("restore point %q", t.Name)
	default:
		what = t.Kind.String()
	}
	if t.Exclusive {
		what += " (exclusive)"
	}
	return what + " on timeline " + t.Timeline.String()
}

// BackupSelector says which backup to begin with. Zero: the newest one that reaches the target.
type BackupSelector struct {
	ID string // "" and "latest" leave the choice to the planner
}

// WALPart is a run of segments of one timeline that recovery reads.
type WALPart struct {
	Timeline    wal.TimelineID    `json:"timeline"`
	First, Last wal.SegmentNumber `json:"-"`
	FirstName   string            `json:"first"`
	LastName    string            `json:"last"`
	Pieces      bool              `json:"pieces,omitempty"` // only pieces of it are stored
}

// Plan is what a restore will do, and why that reaches the target.
type Plan struct {
	Backup   BackupSummary
	Target   Target
	Timeline wal.TimelineID // always a number: what recovery_target_timeline is set to
	History  wal.History    // of Timeline

	Path         []WALPart // WAL from the backup's start on, in order, as far as the archive reaches without a hole
	WALEnd       wal.LSN   // where that ends
	NeedsArchive bool      // false: the backup's own WAL is enough
	// AtEnd: the target is the end of a cold backup, and no WAL follows it. Recovery must be given no target: it ends there by
	// itself, and would fail for want of a record that tells it that the target is reached.
	AtEnd bool

	StopLSN    wal.LSN   // where recovery ends, if that is known in advance: LSN, name, immediate; else 0
	StopTime   time.Time // of the last commit in the archive for TargetLatest; of the restore point; zero if not known
	Candidates int       // backups that were looked at
	Notes      []string
}

// Point is a place that can be reached, for people who asked for one that cannot.
type Point struct {
	LSN  wal.LSN   `json:"lsn,omitzero"`
	Time time.Time `json:"time,omitzero"`
	Note string    `json:"note"`
}

// UnreachableError says that a target cannot be reached (exit code 13).
type UnreachableError struct {
	Target  Target
	Why     string
	Nearest []Point
}

func (e *UnreachableError) Error() string {
	s := fmt.Sprintf("%s cannot be reached: %s", e.Target, e.Why)
	for _, p := range e.Nearest {
		var at []string
		if p.LSN != 0 {
			at = append(at, p.LSN.String())
		}
		if !p.Time.IsZero() {
			at = append(at, p.Time.UTC().Format("2006-01-02 15:04:05.999999 MST"))
		}
		s += fmt.Sprintf("; %s: %s", p.Note, strings.Join(at, ", "))
	}
	return s
}

// GapError says that WAL is missing between the backup and the target, while later WAL is there (exit code 13).
type GapError struct {
	Backup      string
	Hole        Hole
	First, Last string    // names of the missing segments
	Next        string    // the segment with which the archive goes on
	Reached     wal.LSN   // recovery would get so far
	ReachedTime time.Time // the last commit before; zero if not known
}

func (e *GapError) Error() string {
	missing := "segment " + e.First + " is"
	if e.First != e.Last {
		missing = "segments " + e.First + " to " + e.Last + " are"
	}
	return fmt.Sprintf("%s missing in the archive, which goes on with %s: from backup %s only %s can be reached", missing, e.Next, e.Backup, e.Reached)
}

// PlanRestore chooses the backup and the timeline and proves that recovery gets to the target with what is stored. It is
// pure but for the reads behind f.Segments. Errors: *UnreachableError, *GapError, ErrNoBackup, and what Segments returns.
func PlanRestore(ctx context.Context, f Facts, t Target, want BackupSelector) (Plan, error) {
	return planRestore(ctx, f, t, want)
}
