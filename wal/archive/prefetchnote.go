package archive

import (
	"encoding/binary"
	"time"

	"pgstow/wal"
	"pgstow/wal/spool"
)

// fetchClaim is the kind of claim on a segment that is on its way out of the archive.
const fetchClaim = "fetch"

// Records of the spool that fetch and the prefetcher tell each other by.
const (
	fetchedRecord  = "fetched"          // where the reader is, as far as the spool did not serve it
	troubleOfFetch = "prefetch-trouble" // why the last prefetcher could not go on, for the server's log
	noteAge        = time.Hour          // how long a note says something about where recovery is now
)

// note says which segment a call asked the store for last, and how the calls before it went.
type note struct {
	name   wal.FileName
	size   wal.SegmentSize
	streak int           // calls in a row that asked for what follows, and got it; 0: it was absent
	pace   time.Duration // from the call before; 0: not known
	at     time.Time
}

// number is the segment's.
func (n note) number() wal.SegmentNumber { return n.name.Number(n.size) }

// near is how far two calls that ask the store may be apart while the spool served those between.
const near = 64

// follows tells whether a call for name, at that time, goes on where the note was written.
func (n note) follows(name wal.FileName) bool {
	at, last := name.Number(n.size), n.number()
	return name.Timeline == n.name.Timeline && at > last && at <= last+near
}

// next is the note of a call that got name.
func (n note) next(name wal.FileName, size wal.SegmentSize, now time.Time) note {
	out := note{name: name, size: size, streak: 1, at: now}
	if n.size == size && n.follows(name) {
		out.streak = min(n.streak+1, near)
		out.pace = max(0, now.Sub(n.at)/time.Duration(name.Number(size)-n.number()))
	}
	return out
}

const noteSize = 32

func (n note) encode() []byte {
	b := make([]byte, 0, noteSize+24)
	b = binary.LittleEndian.AppendUint64(b, uint64(n.at.UnixNano()))
	b = binary.LittleEndian.AppendUint64(b, uint64(n.pace))
	b = binary.LittleEndian.AppendUint64(b, uint64(n.size))
	b = binary.LittleEndian.AppendUint64(b, uint64(n.streak))
	return append(b, n.name.String()...)
}

func decodeNote(b []byte) (note, bool) {
	if len(b) < noteSize {
		return note{}, false
	}
	name, err := wal.ParseFileName(string(b[noteSize:]))
	n := note{
		at: time.Unix(0, int64(binary.LittleEndian.Uint64(b))), pace: time.Duration(binary.LittleEndian.Uint64(b[8:])),
		size: wal.SegmentSize(binary.LittleEndian.Uint64(b[16:])), streak: int(binary.LittleEndian.Uint64(b[24:])), name: name,
	}
	return n, err == nil && name.Kind == wal.Segment && n.size.Valid() && name.CheckSize(n.size) == nil && n.streak >= 0 && n.streak <= near
}

// readNote is the zero note where there is none.
func readNote(s *spool.Spool, now time.Time) (note, bool) {
	b, ok := s.Record(fetchedRecord, noteAge, now)
	if !ok {
		return note{}, false
	}
	return decodeNote(b)
}
