package spool

import (
	"crypto/sha256"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A waiting file lies in the folder ready, with a companion of its size and of a checksum for each of its chunks. The companion is written
// last and taken first; without it, or when the file does not fit it (rename without fsync leaves zeros after a power cut), nothing is
// waiting. So neither needs an fsync.
const (
	readyFolder = "ready"
	sumSuffix   = ".sum"
	// forgotten is when a half-written file belongs to nobody any more.
	forgotten = time.Minute
)

// ForRun returns the same spool for one run of the server, as its postmaster.pid tells it from others: what was made ready in one run is
// not there in another. Without a running server start is "".
func (s *Spool) ForRun(start string) *Spool {
	if s == nil {
		return nil
	}
	bound := *s
	bound.run = [runSize]byte{}
	if start != "" {
		sum := sha256.Sum256([]byte(start))
		copy(bound.run[:], sum[:])
	}
	return &bound
}

// Ready is a WAL file on its way into the spool. It is written from its beginning to its end, and then Finish'ed or Discard'ed.
type Ready struct {
	s    *Spool
	name string
	f    *os.File
	sums summer
	done bool
}

// NewReady begins a file. Only whole, verified WAL files are to be finished, never a padded or otherwise incomplete one.
func (s *Spool) NewReady(name string) (*Ready, error) {
	if s == nil || !validName(name) {
		return nil, &os.PathError{Op: "spool", Path: name, Err: syscall.EINVAL}
	}
	f, err := os.CreateTemp(s.MakeReady(), temporaryPrefix+"*")
	if err != nil {
		return nil, err
	}
	return &Ready{s: s, name: name, f: f}, nil
}

// MakeReady makes the folder of waiting files, if that is possible, and returns it: to be watched.
func (s *Spool) MakeReady() string {
	if s == nil {
		return ""
	}
	_ = os.Mkdir(s.readyDir(), 0o700) // who uses it will see
	return s.readyDir()
}

// Write adds bytes.
func (r *Ready) Write(p []byte) (int, error) {
	n, err := r.f.Write(p)
	r.sums.add(p[:n])
	return n, err
}

// Finish makes the file waiting.
func (r *Ready) Finish() error {
	path := r.s.readyPath(r.name)
	record, err := encodeSum(r.name, r.s.run, r.sums.size, r.sums.finish())
	if err != nil {
		return err
	}
	// The companion of an older file of the name must not meet the new file.
	if err := os.Remove(path + sumSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Rename(r.f.Name(), path); err != nil {
		return err
	}
	r.done = true
	_ = r.f.Close() // nothing is buffered, and what the disk says later the checksums find
	if err := r.s.replace(filepath.Join(readyFolder, r.name+sumSuffix), record); err != nil {
		_ = os.Remove(path)
		return err
	}
	return nil
}

// Discard ends what was not finished, and removes it.
func (r *Ready) Discard() {
	if !r.done {
		r.done = true
		_ = os.Remove(r.f.Name())
		_ = r.f.Close()
	}
}

// AddReady puts a file into the spool whose bytes are all here.
func (s *Spool) AddReady(name string, content []byte) error {
	if s == nil {
		return nil
	}
	r, err := s.NewReady(name)
	if err != nil {
		return err
	}
	defer r.Discard()
	if _, err := r.Write(content); err != nil {
		return err
	}
	return r.Finish()
}

// HasReady tells whether a file of this name waits. Whether it is good shows when it is taken.
func (s *Spool) HasReady(name string) bool {
	return s != nil && validName(name) && exists(s.readyPath(name)) && exists(s.readyPath(name)+sumSuffix)
}

// DropReady removes a waiting file.
func (s *Spool) DropReady(name string) {
	if s != nil && validName(name) {
		_ = os.Remove(s.readyPath(name) + sumSuffix)
		_ = os.Remove(s.readyPath(name))
	}
}

// DropOthers removes all waiting files but those that keep wants, and what killed writers left. A nil keep wants none, and then also what
// others are writing now goes.
func (s *Spool) DropOthers(keep func(name string) bool) {
	if s == nil {
		return
	}
	entries, err := os.ReadDir(s.readyDir())
	if err != nil {
		return
	}
	for _, entry := range entries {
		name, path := entry.Name(), filepath.Join(s.readyDir(), entry.Name())
		switch {
		case keep == nil, !strings.HasPrefix(name, temporaryPrefix) && !keep(strings.TrimSuffix(name, sumSuffix)),
			strings.HasPrefix(name, temporaryPrefix) && time.Since(modified(path)) > forgotten:
			_ = os.RemoveAll(path)
		}
	}
	if keep == nil {
		_ = os.Remove(s.readyDir())
	}
}

func (s *Spool) readyDir() string             { return filepath.Join(s.dir, readyFolder) }
func (s *Spool) readyPath(name string) string { return filepath.Join(s.dir, readyFolder, name) }

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// open opens a waiting file, and reads its companion.
func (s *Spool) open(name string) (f *os.File, info sumRecord, ok bool) {
	info, ok = s.readSum(name)
	if !ok {
		return nil, info, false
	}
	f, err := os.OpenFile(s.readyPath(name), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, info, false
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() || st.Size() != info.size {
		_ = f.Close()
		return nil, info, false
	}
	return f, info, true
}

func castagnoliOf(b []byte) uint32 { return crc32.Checksum(b, castagnoli()) }
