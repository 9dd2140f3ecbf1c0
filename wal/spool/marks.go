package spool

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// FileID tells one state of one file from every other: a recycled segment has a new name and a new mtime, a copy another inode, and
// whatever writes to the file moves ctime.
type FileID struct {
	Size   int64
	MTime  int64 // nanoseconds since the Unix epoch
	CTime  int64 // nanoseconds since the Unix epoch
	Inode  uint64
	Device uint64
}

// Stat returns the FileID of the file at path, links followed.
func Stat(path string) (FileID, error) {
	info, err := os.Stat(path)
	if err != nil {
		return FileID{}, err
	}
	return IDOf(info)
}

// IDOf returns the FileID of a file of which the os.FileInfo is known.
func IDOf(info os.FileInfo) (FileID, error) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		return FileID{}, &os.PathError{Op: "stat", Path: info.Name(), Err: syscall.EINVAL}
	}
	return FileID{
		Size: st.Size, MTime: syscall.TimespecToNsec(st.Mtim), CTime: syscall.TimespecToNsec(st.Ctim), Inode: st.Ino, Device: st.Dev,
	}, nil
}

// Marks live in one file of fixed slots, so they need no cleaning: a mark is only of use for the seconds until PostgreSQL asks for
// that file, and a later name in the same slot simply replaces it. A torn or half-written slot fails its CRC.
//
//	 0  8  magic
//	 8  8  size
//	16  8  mtime, ns
//	24  8  ctime, ns
//	32  8  inode
//	40  8  device
//	48  1  length of the name
//	49 75  name, zero padded
//	124 4  CRC32C of bytes 0..123; all integers little endian
const (
	marksFile   = "marks"
	markSlots   = 1024
	markSize    = 128
	markMagic   = "pgstowM1"
	maxNameSize = 75
)

// Stored tells whether the file of this name and in this very state was marked as stored in the archive. Any doubt is false.
func (s *Spool) Stored(name string, id FileID) bool {
	if s == nil || !validName(name) {
		return false
	}
	f, err := os.OpenFile(filepath.Join(s.dir, marksFile), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	var got [markSize]byte
	if n, err := f.ReadAt(got[:], markOffset(name)); err != nil || n != markSize {
		return false
	}
	return got == encodeMark(name, id)
}

// MarkStored notes that the archive has confirmed the file. id is the state of the file before it was read; the caller has made sure
// that it was still the same afterwards.
func (s *Spool) MarkStored(name string, id FileID) error {
	if s == nil {
		return nil
	}
	if !validName(name) {
		return &os.PathError{Op: "mark", Path: name, Err: syscall.EINVAL}
	}
	f, err := os.OpenFile(filepath.Join(s.dir, marksFile), os.O_WRONLY|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return err
	}
	mark := encodeMark(name, id)
	if _, err := f.WriteAt(mark[:], markOffset(name)); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

// markOffset is where the mark of a name lies. Segments that follow each other, of whatever size, must not meet in one slot as far as anybody
// runs ahead, so it comes from the numbers in their names; logStep is near the golden section of markSlots, so that logs of few
// segments stay apart too.
func markOffset(name string) int64 {
	slot := uint64(crc32.Checksum([]byte(name), castagnoli()))
	if len(name) == nameOfSegment {
		log, err1 := strconv.ParseUint(name[8:16], 16, 32)
		segment, err2 := strconv.ParseUint(name[16:], 16, 32)
		if err1 == nil && err2 == nil {
			slot = log*logStep + segment
		}
	}
	return int64(slot%markSlots) * markSize
}

const (
	nameOfSegment = 24 // length of the name of a whole segment: timeline, log and segment in hex
	logStep       = 633
)

func encodeMark(name string, id FileID) [markSize]byte {
	var b [markSize]byte
	copy(b[0:], markMagic)
	binary.LittleEndian.PutUint64(b[8:], uint64(id.Size))
	binary.LittleEndian.PutUint64(b[16:], uint64(id.MTime))
	binary.LittleEndian.PutUint64(b[24:], uint64(id.CTime))
	binary.LittleEndian.PutUint64(b[32:], id.Inode)
	binary.LittleEndian.PutUint64(b[40:], id.Device)
	b[48] = byte(len(name))
	copy(b[49:49+maxNameSize], name)
	binary.LittleEndian.PutUint32(b[124:], crc32.Checksum(b[:124], castagnoli()))
	return b
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// validName keeps names inside the spool folder: WAL file names are letters, digits and dots, and never begin with a dot.
func validName(name string) bool {
	if name == "" || len(name) > maxNameSize || name[0] == '.' {
		return false
	}
	for _, c := range []byte(name) {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '.', c == '-':
		default:
			return false
		}
	}
	return true
}
