package catalog

import (
	"fmt"
	"strconv"
	"strings"

	"pgstow/wal"
)

// WALObjectKind says what lies under a key of the archive.
type WALObjectKind uint8

// What can lie below <cluster>/<system-id>/wal/.
const (
	WALSegment WALObjectKind = iota + 1 // a full segment
	WALPiece                            // some bytes of a segment that was not yet full when they were streamed
	WALPartial                          // the last segment of an ended timeline, as PostgreSQL archives it at promotion
	WALBackup                           // the .backup file that ends a base backup of a primary
	WALHistory                          // a timeline's history
)

// String is the kind's name in messages and JSON.
func (k WALObjectKind) String() string {
	switch k {
	case WALSegment:
		return "segment"
	case WALPiece:
		return "piece"
	case WALPartial:
		return "partial"
	case WALBackup:
		return "backup"
	case WALHistory:
		return "history"
	default:
		return fmt.Sprintf("kind %d", uint8(k))
	}
}

// WALObject is what a key of the archive says.
type WALObject struct {
	Kind     WALObjectKind
	Name     wal.FileName // of a piece: its segment
	From, To wal.LSN      // pieces only: the first byte and the one behind the last
	Hash8    string       // partial files only
}

// ParseWALKey is the inverse of ClusterRef.WALKey, HistoryKey and PieceKey: ok only for a key that one of them makes.
func ParseWALKey(ref ClusterRef, key string) (WALObject, bool) {
	rest, ok := strings.CutPrefix(key, ref.WALPrefix())
	if !ok {
		return WALObject{}, false
	}
	o, ok := parseWALName(rest[strings.LastIndexByte(rest, '/')+1:])
	if !ok {
		return WALObject{}, false
	}
	var again string
	if o.Kind == WALPiece {
		again = ref.PieceKey(o.Name, o.From, o.To)
	} else {
		again = ref.WALKey(o.Name, o.Hash8)
	}
	return o, again == key
}

// segmentNameLength is the length of a segment's name: three times 8 hex digits.
const segmentNameLength = 24

func parseWALName(base string) (WALObject, bool) {
	if i := len(base) - 8; i > 0 && strings.HasSuffix(base[:i], ".partial.") && isLowerHex(base[i:]) {
		name, err := wal.ParseFileName(base[:i-1])
		return WALObject{Kind: WALPartial, Name: name, Hash8: base[i:]}, err == nil && name.Kind == wal.Partial
	}
	if len(base) == segmentNameLength+1+16+1+16 && base[segmentNameLength] == '.' {
		from, err1 := strconv.ParseUint(base[25:41], 16, 64)
		to, err2 := strconv.ParseUint(base[42:], 16, 64)
		name, err3 := wal.ParseFileName(base[:segmentNameLength])
		ok := err1 == nil && err2 == nil && err3 == nil && name.Kind == wal.Segment && from < to
		return WALObject{Kind: WALPiece, Name: name, From: wal.LSN(from), To: wal.LSN(to)}, ok
	}
	name, err := wal.ParseFileName(base)
	if err != nil {
		return WALObject{}, false
	}
	switch name.Kind {
	case wal.Segment:
		return WALObject{Kind: WALSegment, Name: name}, true
	case wal.HistoryFile:
		return WALObject{Kind: WALHistory, Name: name}, true
	case wal.BackupHistory:
		return WALObject{Kind: WALBackup, Name: name}, true
	default:
		return WALObject{}, false
	}
}

func isLowerHex(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
