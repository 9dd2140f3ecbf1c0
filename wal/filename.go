package wal

import (
	"fmt"
	"strconv"
)

// FileKind says which of the four kinds of file that PostgreSQL archives a name belongs to.
type FileKind uint8

// The kinds. The zero value is no kind at all.
const (
	Segment       FileKind = iota + 1 // 000000010000000000000002
	Partial                           // 000000010000000000000002.partial: last segment of a timeline, cut by a promotion
	BackupHistory                     // 000000010000000000000002.00000028.backup
	HistoryFile                       // 00000002.history
)

// String names the kind for messages.
func (k FileKind) String() string {
	switch k {
	case Segment:
		return "segment"
	case Partial:
		return "partial segment"
	case BackupHistory:
		return "backup history file"
	case HistoryFile:
		return "timeline history file"
	}
	return "unknown kind " + strconv.Itoa(int(k))
}

// FileName is a parsed name from pg_wal. It is comparable; names of one kind and timeline sort as their strings do.
type FileName struct {
	Kind     FileKind
	Timeline TimelineID
	Log, Seg uint32 // second and third group of the name; 0 for HistoryFile
	Offset   uint32 // BackupHistory: offset of the backup's start inside its first segment, in bytes
}

const (
	partialSuffix = ".partial"
	backupSuffix  = ".backup"
	historySuffix = ".history"
	segmentDigits = 24
)

// ParseFileName takes the exact names that PostgreSQL archives (IsXLogFileName, IsPartialXLogFileName,
// IsTLHistoryFileName, IsBackupHistoryFileName in include/access/xlog_internal.h): upper case digits only, no
// folder, timeline not 0. It does not know the segment size; see CheckSize.
func ParseFileName(s string) (FileName, error) {
	f, ok := parseFileName(s)
	if !ok {
		return FileName{}, fmt.Errorf("%q is not the name of a WAL segment, .partial, .backup or .history file", s)
	}
	if f.Timeline == 0 {
		return FileName{}, fmt.Errorf("%q names timeline 0, which does not exist", s)
	}
	return f, nil
}

func parseFileName(s string) (f FileName, ok bool) {
	tli, ok := parseHex8(s)
	if !ok {
		return f, false
	}
	f.Timeline = TimelineID(tli)
	if s[8:] == historySuffix {
		f.Kind = HistoryFile
		return f, true
	}
	var ok1, ok2 bool
	f.Log, ok1 = parseHex8(s[8:])
	if !ok1 {
		return f, false
	}
	f.Seg, ok2 = parseHex8(s[16:])
	if !ok2 {
		return f, false
	}
	switch tail := s[segmentDigits:]; {
	case tail == "":
		f.Kind = Segment
	case tail == partialSuffix:
		f.Kind = Partial
	case len(tail) == 1+8+len(backupSuffix) && tail[0] == '.' && tail[9:] == backupSuffix:
		f.Kind = BackupHistory
		f.Offset, ok = parseHex8(tail[1:])
		return f, ok
	default:
		return f, false
	}
	return f, true
}

// parseHex8 reads the first eight characters of s, which must be upper case hexadecimal digits.
func parseHex8(s string) (uint32, bool) {
	if len(s) < 8 {
		return 0, false
	}
	var v uint32
	for i := range 8 {
		c := s[i]
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		v = v<<4 | uint32(c)
	}
	return v, true
}

// String is the name as PostgreSQL writes it; the inverse of ParseFileName.
func (f FileName) String() string {
	if f.Kind == HistoryFile {
		return fmt.Sprintf("%08X.history", uint32(f.Timeline))
	}
	s := fmt.Sprintf("%08X%08X%08X", uint32(f.Timeline), f.Log, f.Seg)
	switch f.Kind {
	case Partial:
		s += partialSuffix
	case BackupHistory:
		s += fmt.Sprintf(".%08X.backup", f.Offset)
	case Segment, HistoryFile:
	}
	return s
}

// Number is the segment the name speaks of, for segments of the given (Valid) size. 0 for HistoryFile.
func (f FileName) Number(size SegmentSize) SegmentNumber {
	return SegmentNumber(uint64(f.Log)*uint64(size.PerLog()) + uint64(f.Seg))
}

// Start is the LSN of the first byte of the named segment; for a BackupHistory name the LSN of the backup's start.
func (f FileName) Start(size SegmentSize) LSN {
	return size.Start(f.Number(size)) + LSN(f.Offset)
}

// CheckSize says whether the name can exist in a cluster with segments of this size: the third group must be below
// PerLog and the offset inside the segment.
func (f FileName) CheckSize(size SegmentSize) error {
	if err := size.Check(); err != nil {
		return err
	}
	if f.Kind == HistoryFile {
		return nil
	}
	if f.Seg >= size.PerLog() {
		return fmt.Errorf("%s cannot exist with WAL segments of %d bytes: its last group is above %08X", f, uint32(size), size.PerLog()-1)
	}
	if f.Offset >= uint32(size) {
		return fmt.Errorf("%s cannot exist with WAL segments of %d bytes: its offset is outside the segment", f, uint32(size))
	}
	return nil
}

// Segment gives the name of the full segment that this name (.partial, .backup) belongs to.
func (f FileName) Segment() FileName {
	return FileName{Kind: Segment, Timeline: f.Timeline, Log: f.Log, Seg: f.Seg}
}

// SegmentName is the name of segment n of timeline tli. The size must be Valid.
func SegmentName(tli TimelineID, n SegmentNumber, size SegmentSize) FileName {
	per := uint64(size.PerLog())
	return FileName{Kind: Segment, Timeline: tli, Log: uint32(uint64(n) / per), Seg: uint32(uint64(n) % per)}
}

// PartialName is the name under which PostgreSQL archives segment n of timeline tli cut by a promotion.
func PartialName(tli TimelineID, n SegmentNumber, size SegmentSize) FileName {
	f := SegmentName(tli, n, size)
	f.Kind = Partial
	return f
}

// BackupHistoryName is the name of the backup history file of a backup that started at start (BackupHistoryFileName).
func BackupHistoryName(tli TimelineID, start LSN, size SegmentSize) FileName {
	f := SegmentName(tli, size.SegmentOf(start), size)
	f.Kind, f.Offset = BackupHistory, size.Offset(start)
	return f
}

// HistoryName is the name of the history file of timeline tli.
func HistoryName(tli TimelineID) FileName { return FileName{Kind: HistoryFile, Timeline: tli} }
