package spool

import (
	"encoding/binary"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// A record is something that was found out with requests to the store and need not be asked again for a while.
//
//	 0 8  magic
//	 8 8  when it was found out, ns since the Unix epoch
//	16 4  length of the payload
//	20 n  payload
//	   4  CRC32C of all before, and of the record's kind; all integers little endian
const (
	recordMagic  = "pgstowR1"
	recordHead   = 20
	recordSuffix = ".record"
	maxRecord    = 64 << 10
)

// Record returns the payload of the record of this kind if it is whole and not older than maxAge at now. A record from the future
// (the clock was set back) is not believed.
func (s *Spool) Record(kind string, maxAge time.Duration, now time.Time) ([]byte, bool) {
	if s == nil || !validName(kind) {
		return nil, false
	}
	f, err := os.OpenFile(filepath.Join(s.dir, kind+recordSuffix), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, false
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err != nil || len(b) < recordHead+4 || len(b) > maxRecord || string(b[:8]) != recordMagic {
		return nil, false
	}
	end := len(b) - 4
	if uint64(binary.LittleEndian.Uint32(b[16:])) != uint64(end-recordHead) || binary.LittleEndian.Uint32(b[end:]) != recordSum(b[:end], kind) {
		return nil, false
	}
	age := now.UnixNano() - int64(binary.LittleEndian.Uint64(b[8:]))
	if age < 0 || age > int64(maxAge) {
		return nil, false
	}
	return b[recordHead:end], true
}

// PutRecord keeps payload as the record of this kind, found out at now.
func (s *Spool) PutRecord(kind string, payload []byte, now time.Time) error {
	if s == nil {
		return nil
	}
	if !validName(kind) || len(payload) > maxRecord-recordHead-4 {
		return &os.PathError{Op: "record", Path: kind, Err: syscall.EINVAL}
	}
	b := make([]byte, 0, recordHead+len(payload)+4)
	b = append(b, recordMagic...)
	b = binary.LittleEndian.AppendUint64(b, uint64(now.UnixNano()))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	b = append(b, payload...)
	b = binary.LittleEndian.AppendUint32(b, recordSum(b, kind))
	return s.replace(kind+recordSuffix, b)
}

// Forget removes the record of this kind.
func (s *Spool) Forget(kind string) {
	if s != nil && validName(kind) {
		_ = os.Remove(filepath.Join(s.dir, kind+recordSuffix))
	}
}

func recordSum(b []byte, kind string) uint32 {
	return crc32.Update(crc32.Checksum(b, castagnoli()), castagnoli(), []byte(kind))
}

// replace writes a small file under a temporary name and renames it, so that readers see the old or the new one. It is not synced:
// a power cut leaves something that fails its CRC.
func (s *Spool) replace(name string, b []byte) error {
	f, err := os.CreateTemp(s.dir, temporaryPrefix+"*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(s.dir, name))
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
