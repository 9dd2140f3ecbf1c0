package spool

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// A waiting file has a companion with its size and checksum. The companion is written last and taken first; without it, or when the
// file does not fit it (rename without fsync leaves zeros after a power cut), nothing is waiting.
//
//	 0  8  magic
//	 8  8  size
//	16  4  CRC32C of the file
//	20  1  length of the name
//	21 75  name, zero padded
//	96  4  CRC32C of bytes 0..95; all integers little endian
const (
	readyFolder = "ready"
	sumSuffix   = ".sum"
	sumMagic    = "pgstowF1"
	sumSize     = 100
)

// AddReady puts a whole, verified WAL file into the spool for the restore_command to come. Never a padded or otherwise incomplete one.
func (s *Spool) AddReady(name string, content []byte) error {
	if s == nil {
		return nil
	}
	if !validName(name) {
		return &os.PathError{Op: "spool", Path: name, Err: syscall.EINVAL}
	}
	folder := filepath.Join(s.dir, readyFolder)
	if err := os.Mkdir(folder, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := s.replace(filepath.Join(readyFolder, name), content); err != nil {
		return err
	}
	sum := encodeSum(name, int64(len(content)), crc32.Checksum(content, castagnoli()))
	return s.replace(filepath.Join(readyFolder, name+sumSuffix), sum[:])
}

// DropReady removes a waiting file.
func (s *Spool) DropReady(name string) {
	if s != nil && validName(name) {
		_ = os.Remove(filepath.Join(s.dir, readyFolder, name+sumSuffix))
		_ = os.Remove(filepath.Join(s.dir, readyFolder, name))
	}
}

// Take hands the waiting file of this name over to dst, after it was read and found whole; false means that none is waiting or that
// it is not good, and then dst was not touched. An error says that dst could not be written, and that it was not.
func (s *Spool) Take(name, dst string) (bool, error) {
	if s == nil || !validName(name) {
		return false, nil
	}
	path := filepath.Join(s.dir, readyFolder, name)
	f, size, sum, ok := s.ready(name)
	if !ok {
		return false, nil
	}
	defer func() { _ = f.Close() }()
	if got, n, err := checksum(io.Discard, f); err != nil || n != size || got != sum {
		s.DropReady(name)
		return false, nil
	}
	err := os.Rename(path, dst)
	switch {
	case err == nil:
	case errors.Is(err, syscall.EXDEV):
		if err := copyTo(f, dst, size, sum); err != nil {
			return false, err
		}
	case errors.Is(err, os.ErrNotExist) && !exists(path):
		return false, nil // somebody else took it
	default:
		return false, err
	}
	s.DropReady(name)
	return true, nil
}

func (s *Spool) ready(name string) (f *os.File, size int64, sum uint32, ok bool) {
	path := filepath.Join(s.dir, readyFolder, name)
	record, err := os.OpenFile(path+sumSuffix, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, 0, false
	}
	defer func() { _ = record.Close() }()
	var b [sumSize]byte
	if _, err := io.ReadFull(record, b[:]); err != nil {
		return nil, 0, 0, false
	}
	size, sum = int64(binary.LittleEndian.Uint64(b[8:])), binary.LittleEndian.Uint32(b[16:])
	if b != encodeSum(name, size, sum) {
		return nil, 0, 0, false
	}
	f, err = os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, 0, false
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() != size {
		_ = f.Close()
		return nil, 0, 0, false
	}
	return f, size, sum, true
}

// copyTo is the way over to another file system: a fixed name beside dst, then a rename, so that dst is never half a file. What was
// written is summed again while it is written.
func copyTo(f *os.File, dst string, size int64, sum uint32) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	temporary := dst + ".pgstow"
	_ = os.Remove(temporary)
	out, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	got, n, err := checksum(out, f)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err == nil && (n != size || got != sum) {
		err = &os.PathError{Op: "copy", Path: f.Name(), Err: syscall.EIO}
	}
	if err == nil {
		err = os.Rename(temporary, dst)
	}
	if err != nil {
		_ = os.Remove(temporary)
	}
	return err
}

func checksum(w io.Writer, r io.Reader) (sum uint32, n int64, err error) {
	buf := make([]byte, 256<<10)
	for {
		k, err := r.Read(buf)
		if k > 0 {
			sum = crc32.Update(sum, castagnoli(), buf[:k])
			n += int64(k)
			if _, err := w.Write(buf[:k]); err != nil {
				return 0, n, err
			}
		}
		if err == io.EOF {
			return sum, n, nil
		}
		if err != nil {
			return 0, n, err
		}
	}
}

func encodeSum(name string, size int64, sum uint32) [sumSize]byte {
	var b [sumSize]byte
	copy(b[0:], sumMagic)
	binary.LittleEndian.PutUint64(b[8:], uint64(size))
	binary.LittleEndian.PutUint32(b[16:], sum)
	b[20] = byte(len(name))
	copy(b[21:21+maxNameSize], name)
	binary.LittleEndian.PutUint32(b[96:], crc32.Checksum(b[:96], castagnoli()))
	return b
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
