package object

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// Kind says what an object holds. The numbers are part of the format.
type Kind uint16

// The kinds. A reader that meets another one answers ErrFormat.
const (
	KindWAL          Kind = 1 // a whole WAL segment
	KindPartial      Kind = 2 // a .partial file
	KindHistory      Kind = 3 // a timeline history file
	KindBackupLabel  Kind = 4 // a .backup file
	KindPiece        Kind = 5 // a byte range of a segment that is not yet full
	KindPack         Kind = 6 // frames of pages, files and page maps of a physical backup
	KindManifest     Kind = 7 // the manifest of a physical backup
	KindDumpPack     Kind = 8 // frames of a logical backup
	KindDumpManifest Kind = 9 // the manifest of a logical backup

	kindEnd Kind = 10
)

var kindNames = [kindEnd]string{
	"kind 0", "segment", "partial segment", "history file", "backup history file",
	"piece", "pack", "manifest", "dump pack", "dump manifest",
}

// String names the kind for messages.
func (k Kind) String() string {
	if k < kindEnd {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint16(k))
}

// Flags of [Header.Flags]. They tell about the contents and help to find things
// without reading them; a reader ignores bits that it does not know.
const (
	// FlagSwitch: the segment ends in an XLOG_SWITCH record.
	FlagSwitch uint32 = 1 << 0
	// FlagRestorePoint: the segment holds at least one named restore point.
	FlagRestorePoint uint32 = 1 << 1
	// FlagAborted: the manifest says that its backup was given up and must never
	// be committed.
	FlagAborted uint32 = 1 << 2
)

// Wire constants: do not change them, stored objects depend on each. See
// docs/format.md, "Header" and "Footer".
const (
	// HeaderSize is the length of the header in bytes: one zstd skippable frame
	// that is never encrypted.
	HeaderSize = 512

	headerMagic  = 0x184D2A57 // zstd skippable frame number 7
	headerMark   = "pgstow\r\n"
	version      = 1
	formEncrypt  = 1 << 0
	tieEnd       = 496 // the footer repeats the SHA-256 of the header up to here
	reservedFrom = 472

	offMark, offVersion, offKind, offForm      = 8, 16, 18, 20
	offGeneration, offFlags, offPlainSize      = 24, 28, 32
	offSystemID, offFrom, offTo, offLastRecord = 40, 48, 56, 64
	offFirstCommit, offLastCommit, offTime     = 72, 80, 88
	offTimeline, offMaxXID, offPlainSHA        = 96, 100, 104
	offName, offHost, offDir, offProgram       = 136, 264, 328, 440
	offStoredSize, offStoredCRC, offHeaderCRC  = 496, 504, 508
)

// Longest strings, in bytes of UTF-8, that the header carries. Longer ones are
// cut, but for the name, which is refused by [Writer.Finish].
const (
	MaxName          = offHost - offName
	MaxHost          = offDir - offHost
	MaxDataDirectory = offProgram - offDir
	MaxProgram       = reservedFrom - offProgram
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Header is what is known of an object without opening it: 512 bytes in the
// clear, so that a host that cannot decrypt compares and lists what is stored.
type Header struct {
	// Kind of the object.
	Kind Kind
	// Name is the object's own: WAL file name, backup id, tail of a pack's key.
	// An object that lies under another name is found out by it.
	Name string

	// Encrypted and KeyGeneration (the n of repo/<n>.json the recipients came
	// from; 0 when not encrypted) are filled in by the writer.
	Encrypted     bool
	KeyGeneration uint32
	// PlainSize is the number of plain bytes, filled in by the writer.
	PlainSize int64
	// PlainSHA256 of all plain bytes; all zero: not computed.
	PlainSHA256 [32]byte

	// SystemID and Timeline of the cluster.
	SystemID uint64
	Timeline uint32
	// From and To are LSNs. Segment: its first byte and its end; piece: the byte
	// range; manifest: start and stop of the backup; else 0.
	From, To uint64
	// LastRecord is the LSN of the last WAL record that begins in the segment; 0: none.
	LastRecord uint64
	// FirstCommit and LastCommit are the least and the greatest time of a commit
	// or abort in the segment, in microseconds since the Unix epoch; 0: none.
	FirstCommit, LastCommit int64
	// MaxXID is the greatest transaction id that commits or aborts in the segment; 0: none.
	MaxXID uint32
	// Flags: FlagSwitch, ….
	Flags uint32

	// Time of writing by the writer's clock, to the microsecond; it decides nothing.
	Time time.Time
	// Host, DataDirectory and Program say who wrote the object, for messages. They
	// are cut to fit, and control characters in them become '?'.
	Host, DataDirectory, Program string

	// StoredSize is the length of the whole stored object, this header included,
	// and StoredCRC the CRC32C of all that follows the header. The writer fills
	// them in; with them a host without identities can tell damage.
	StoredSize int64
	StoredCRC  uint32
}

// Encode returns the header's only encoding. It does not fail: what does not fit
// is cut ([Writer.Finish] refuses what must not be cut).
func (h Header) Encode() [HeaderSize]byte {
	var b [HeaderSize]byte
	le := binary.LittleEndian
	le.PutUint32(b[0:], headerMagic)
	le.PutUint32(b[4:], HeaderSize-8)
	copy(b[offMark:], headerMark)
	le.PutUint16(b[offVersion:], version)
	le.PutUint16(b[offKind:], uint16(h.Kind))
	if h.Encrypted {
		le.PutUint32(b[offForm:], formEncrypt)
	}
	le.PutUint32(b[offGeneration:], h.KeyGeneration)
	le.PutUint32(b[offFlags:], h.Flags)
	le.PutUint64(b[offPlainSize:], uint64(h.PlainSize))
	le.PutUint64(b[offSystemID:], h.SystemID)
	le.PutUint64(b[offFrom:], h.From)
	le.PutUint64(b[offTo:], h.To)
	le.PutUint64(b[offLastRecord:], h.LastRecord)
	le.PutUint64(b[offFirstCommit:], uint64(h.FirstCommit))
	le.PutUint64(b[offLastCommit:], uint64(h.LastCommit))
	if !h.Time.IsZero() {
		le.PutUint64(b[offTime:], uint64(h.Time.UnixMicro()))
	}
	le.PutUint32(b[offTimeline:], h.Timeline)
	le.PutUint32(b[offMaxXID:], h.MaxXID)
	copy(b[offPlainSHA:], h.PlainSHA256[:])
	copy(b[offName:], fitText(h.Name, MaxName))
	copy(b[offHost:], fitText(h.Host, MaxHost))
	copy(b[offDir:], fitText(h.DataDirectory, MaxDataDirectory))
	copy(b[offProgram:], fitText(h.Program, MaxProgram))
	le.PutUint64(b[offStoredSize:], uint64(h.StoredSize))
	le.PutUint32(b[offStoredCRC:], h.StoredCRC)
	le.PutUint32(b[offHeaderCRC:], crc32.Checksum(b[:offHeaderCRC], castagnoli))
	return b
}

// ParseHeader reads the header at the beginning of b, which must hold at least
// [HeaderSize] bytes. It accepts nothing but what [Header.Encode] writes. The
// errors are *CorruptError, and ErrFormat for a sound header of a newer format.
func ParseHeader(b []byte) (Header, error) {
	var h Header
	if len(b) < HeaderSize {
		return h, corrupt(int64(len(b)), "header is cut: %d of %d bytes", len(b), HeaderSize)
	}
	b = b[:HeaderSize]
	if err := checkHeaderFrame(b); err != nil {
		return h, err
	}
	le := binary.LittleEndian
	h.Kind = Kind(le.Uint16(b[offKind:]))
	form := le.Uint32(b[offForm:])
	h.Encrypted = form&formEncrypt != 0
	h.KeyGeneration = le.Uint32(b[offGeneration:])
	h.Flags = le.Uint32(b[offFlags:])
	h.SystemID = le.Uint64(b[offSystemID:])
	h.From = le.Uint64(b[offFrom:])
	h.To = le.Uint64(b[offTo:])
	h.LastRecord = le.Uint64(b[offLastRecord:])
	h.FirstCommit = int64(le.Uint64(b[offFirstCommit:]))
	h.LastCommit = int64(le.Uint64(b[offLastCommit:]))
	if t := int64(le.Uint64(b[offTime:])); t != 0 {
		h.Time = time.UnixMicro(t).UTC()
	}
	h.Timeline = le.Uint32(b[offTimeline:])
	h.MaxXID = le.Uint32(b[offMaxXID:])
	copy(h.PlainSHA256[:], b[offPlainSHA:])
	h.StoredCRC = le.Uint32(b[offStoredCRC:])

	plain, stored := le.Uint64(b[offPlainSize:]), le.Uint64(b[offStoredSize:])
	switch {
	case form&^formEncrypt != 0:
		return Header{}, corrupt(offForm, "header has reserved bits set")
	case h.Kind == 0:
		return Header{}, corrupt(offKind, "header has no kind")
	case h.Kind >= kindEnd:
		return Header{}, fmt.Errorf("%w: %v", ErrFormat, h.Kind)
	case !h.Encrypted && h.KeyGeneration != 0:
		return Header{}, corrupt(offGeneration, "header names a key generation but is not encrypted")
	case plain > math.MaxInt64:
		return Header{}, corrupt(offPlainSize, "header has an impossible plain size")
	case stored > math.MaxInt64:
		return Header{}, corrupt(offStoredSize, "header has an impossible stored size")
	case !allZero(b[reservedFrom:tieEnd]):
		return Header{}, corrupt(reservedFrom, "header has reserved bytes set")
	}
	h.PlainSize, h.StoredSize = int64(plain), int64(stored)
	for _, f := range []struct {
		s        *string
		from, to int
	}{
		{&h.Name, offName, offHost},
		{&h.Host, offHost, offDir},
		{&h.DataDirectory, offDir, offProgram},
		{&h.Program, offProgram, reservedFrom},
	} {
		s := strings.TrimRight(string(b[f.from:f.to]), "\x00")
		if s != fitText(s, f.to-f.from) {
			return Header{}, corrupt(int64(f.from), "header has a malformed string")
		}
		*f.s = s
	}
	return h, nil
}

// checkHeaderFrame checks what all versions of the format have in common.
func checkHeaderFrame(b []byte) error {
	le := binary.LittleEndian
	if le.Uint32(b) != headerMagic || le.Uint32(b[4:]) != HeaderSize-8 || string(b[offMark:offMark+8]) != headerMark {
		return corrupt(0, "header is not one of pgstow")
	}
	if le.Uint32(b[offHeaderCRC:]) != crc32.Checksum(b[:offHeaderCRC], castagnoli) {
		return corrupt(offHeaderCRC, "header checksum does not match")
	}
	switch v := le.Uint16(b[offVersion:]); {
	case v == 0:
		return corrupt(offVersion, "header has version 0")
	case v > version:
		return fmt.Errorf("%w: version %d, known is %d", ErrFormat, v, version)
	}
	return nil
}

// fitText makes s what a header may carry: valid UTF-8 without control
// characters (messages print it), at most limit bytes, cut between characters.
func fitText(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
