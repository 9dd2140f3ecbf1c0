// Package pgcontrol reads PostgreSQL's control file, global/pg_control, of majors 13 to 18.
//
// Layouts are those of ControlFileData in include/catalog/pg_control.h of each major, on a little-endian machine with
// 8-byte alignment.
package pgcontrol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"pgstow/wal"
)

// FileSize is the size of the file in bytes; most of it is unused (PG_CONTROL_FILE_SIZE).
const FileSize = 8192

// State is the state of the server as the control file has it (DBState).
type State uint32

// The states.
const (
	StateStartup            State = 0 // never started
	StateShutDown           State = 1 // as a primary
	StateShutDownInRecovery State = 2 // as a standby
	StateShuttingDown       State = 3
	StateCrashRecovery      State = 4
	StateArchiveRecovery    State = 5
	StateInProduction       State = 6
)

var stateNames = [...]string{
	"starting up", "shut down", "shut down in recovery", "shutting down", "in crash recovery", "in archive recovery", "in production",
}

// String is pg_controldata's wording.
func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("unrecognized status code %d", uint32(s))
}

// Stopped says whether the server was shut down cleanly.
func (s State) Stopped() bool { return s == StateShutDown || s == StateShutDownInRecovery }

// WALLevel is the wal_level in force (include/access/xlog.h).
type WALLevel uint32

// The levels.
const (
	WALMinimal WALLevel = 0
	WALReplica WALLevel = 1
	WALLogical WALLevel = 2
)

// String is the setting's word.
func (l WALLevel) String() string {
	switch l {
	case WALMinimal:
		return "minimal"
	case WALReplica:
		return "replica"
	case WALLogical:
		return "logical"
	}
	return fmt.Sprintf("wal_level %d", uint32(l))
}

// Control is what pgstow uses of a control file.
type Control struct {
	SystemID       uint64
	Version        uint32 // PG_CONTROL_VERSION: 1300 for majors 13 to 16, 1700 for 17, 1800 for 18
	CatalogVersion uint32
	State          State
	Modified       time.Time // last write of the file, UTC, whole seconds

	Checkpoint     wal.LSN // the record of the last checkpoint or restartpoint
	Redo           wal.LSN // where replay from it starts
	Timeline       wal.TimelineID
	PrevTimeline   wal.TimelineID
	FullPageWrites bool
	NextXID        uint64 // with the epoch in the upper half
	OldestXID      uint32
	CheckpointTime time.Time

	MinRecoveryPoint    wal.LSN // a standby is consistent from here on; 0 on a primary
	MinRecoveryTimeline wal.TimelineID
	BackupStart         wal.LSN // of the backup being recovered from
	BackupEnd           wal.LSN
	BackupEndRequired   bool

	WALLevel   WALLevel
	LogHints   bool // wal_log_hints
	MaxAlign   uint32
	BlockSize  uint32 // of a data page in bytes
	RelSegSize uint32 // blocks per file of a relation

	WALBlockSize        uint32 // of a WAL page in bytes
	WALSegmentSize      wal.SegmentSize
	DataChecksumVersion uint32 // 0: data checksums are off
}

// Errors of Parse, for errors.Is.
var (
	// ErrCRC says that the checksum is wrong: the file is read while it is written (read it again), damaged, or cut.
	ErrCRC = errors.New("the checksum of pg_control is wrong")
	// ErrVersion says that the file is sound but of a PostgreSQL this package does not know.
	ErrVersion = errors.New("pg_control is of a PostgreSQL version that is not supported")
	// ErrByteOrder says that the file comes from a machine with the other byte order.
	ErrByteOrder = errors.New("pg_control was written on a machine with the other byte order")
)

// crcOffset gives the offset of the checksum, which ends the used part, by control version.
func crcOffset(version uint32) (int, bool) {
	switch version {
	case 1300, 1700:
		return 288, true
	case 1800: // default_char_signedness came before the nonce
		return 292, true
	}
	return 0, false
}

// Parse reads a control file, of which the first 296 bytes suffice. Like get_controlfile (common/controldata_utils.c) it
// trusts nothing before the CRC-32C is right.
func Parse(b []byte) (Control, error) {
	le := binary.LittleEndian
	if len(b) < 16 {
		return Control{}, fmt.Errorf("%w: it has only %d bytes", ErrCRC, len(b))
	}
	version := le.Uint32(b[8:])
	at, ok := crcOffset(version)
	if !ok {
		if _, swapped := crcOffset(binary.BigEndian.Uint32(b[8:])); swapped {
			return Control{}, ErrByteOrder
		}
		return Control{}, fmt.Errorf("%w: control version %d", ErrVersion, version)
	}
	if len(b) < at+4 {
		return Control{}, fmt.Errorf("%w: it has only %d bytes", ErrCRC, len(b))
	}
	if crc32.Checksum(b[:at], crc32.MakeTable(crc32.Castagnoli)) != le.Uint32(b[at:]) {
		return Control{}, ErrCRC
	}
	c := decode(b, version)
	if err := c.check(); err != nil {
		return Control{}, err
	}
	return c, nil
}

// decode reads the fields, which all versions have at the same offsets.
func decode(b []byte, version uint32) Control {
	le := binary.LittleEndian
	lsn := func(at int) wal.LSN { return wal.LSN(le.Uint64(b[at:])) }
	seconds := func(at int) time.Time { return time.Unix(int64(le.Uint64(b[at:])), 0).UTC() }
	return Control{
		SystemID:       le.Uint64(b[0:]),
		Version:        version,
		CatalogVersion: le.Uint32(b[12:]),
		State:          State(le.Uint32(b[16:])),
		Modified:       seconds(24),
		Checkpoint:     lsn(32),

		// 40: checkPointCopy
		Redo:           lsn(40),
		Timeline:       wal.TimelineID(le.Uint32(b[48:])),
		PrevTimeline:   wal.TimelineID(le.Uint32(b[52:])),
		FullPageWrites: b[56] != 0,
		NextXID:        le.Uint64(b[64:]),
		OldestXID:      le.Uint32(b[84:]),
		CheckpointTime: seconds(104),

		// 128: unloggedLSN
		MinRecoveryPoint:    lsn(136),
		MinRecoveryTimeline: wal.TimelineID(le.Uint32(b[144:])),
		BackupStart:         lsn(152),
		BackupEnd:           lsn(160),
		BackupEndRequired:   b[168] != 0,
		WALLevel:            WALLevel(le.Uint32(b[172:])),
		LogHints:            b[176] != 0,
		MaxAlign:            le.Uint32(b[204:]),
		BlockSize:           le.Uint32(b[216:]),
		RelSegSize:          le.Uint32(b[220:]),
		WALBlockSize:        le.Uint32(b[224:]),
		WALSegmentSize:      wal.SegmentSize(le.Uint32(b[228:])),
		DataChecksumVersion: le.Uint32(b[252:]),
	}
}

// check refuses values that no server writes, with a right checksum: sizes that later arithmetic divides by.
func (c *Control) check() error {
	switch {
	case c.MaxAlign != 8:
		return fmt.Errorf("%w: it aligns data to %d bytes, not 8", ErrVersion, c.MaxAlign)
	case !powerOfTwo(c.BlockSize, 1<<10, 1<<15):
		return fmt.Errorf("%w: data pages of %d bytes", ErrVersion, c.BlockSize)
	case !powerOfTwo(c.WALBlockSize, 1<<10, 1<<16):
		return fmt.Errorf("%w: WAL pages of %d bytes", ErrVersion, c.WALBlockSize)
	case c.RelSegSize == 0:
		return fmt.Errorf("%w: relation files of 0 blocks", ErrVersion)
	}
	if err := c.WALSegmentSize.Check(); err != nil {
		return fmt.Errorf("%w: %w", ErrVersion, err)
	}
	return nil
}

func powerOfTwo(n, low, high uint32) bool { return n >= low && n <= high && n&(n-1) == 0 }

// Major is the PostgreSQL major version, by the catalog version of its releases (include/catalog/catversion.h). Betas have
// other catalog versions: for them it is 0, unknown, and the file PG_VERSION has to say it.
func (c *Control) Major() int {
	switch c.CatalogVersion {
	case 202007201:
		return 13
	case 202107181:
		return 14
	case 202209061:
		return 15
	case 202307071:
		return 16
	case 202406281:
		return 17
	case 202506291:
		return 18
	}
	return 0
}
