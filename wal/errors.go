package wal

import "fmt"

// Reason says in one word why a segment was refused; stable, for branching and for JSON.
type Reason string

// The reasons.
const (
	ReasonSize       Reason = "size"       // the file is not as long as its own header says a segment is
	ReasonMagic      Reason = "magic"      // not WAL at all
	ReasonVersion    Reason = "version"    // WAL of a PostgreSQL this package does not know
	ReasonByteOrder  Reason = "byte-order" // WAL of a big-endian machine
	ReasonHeader     Reason = "header"     // a field of the first page's header is impossible
	ReasonSystemID   Reason = "system-id"  // no system identifier
	ReasonAddress    Reason = "address"    // the file is another segment than its name says
	ReasonTimeline   Reason = "timeline"   // the pages are of a later timeline than the name says
	ReasonIncomplete Reason = "incomplete" // the WAL in it stops before its end (padded or recycled) and no switch record says so
	ReasonDamaged    Reason = "damaged"    // a record's checksum or the chain of records and pages is broken
)

// SegmentError says why a segment is not what its name promises.
type SegmentError struct {
	Name   string // of the segment; "" where the caller gave none
	Reason Reason
	LSN    LSN // where it was found out; the cause may lie before it, see SegmentInfo.CompleteTo. 0: unknown
	Detail string
}

// Error names file, place and cause.
func (e *SegmentError) Error() string {
	s := "WAL segment"
	if e.Name != "" {
		s += " " + e.Name
	}
	if e.LSN != 0 {
		s += fmt.Sprintf(" at %s", e.LSN)
	}
	return s + ": " + e.Detail
}
