package spool

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
)

// Take hands the waiting file of this name over to dst, after it was read and found whole; false means that none is waiting or that
// it is not good, and then dst was not touched. An error says that dst could not be written, and that it was not.
func (s *Spool) Take(name, dst string) (bool, error) {
	if s == nil || !validName(name) {
		return false, nil
	}
	path := s.readyPath(name)
	f, sum, ok := s.open(name)
	if !ok {
		return false, nil
	}
	defer func() { _ = f.Close() }()
	if beyondFork(name, dst, sum.size) {
		return false, nil
	}
	err := error(syscall.EXDEV)
	if sameDevice(f, filepath.Dir(dst)) {
		if !sum.matches(f) {
			s.DropReady(name)
			return false, nil
		}
		err = os.Rename(path, dst)
	}
	switch {
	case err == nil:
		_ = os.Remove(path + sumSuffix)
		return true, nil
	case errors.Is(err, syscall.EXDEV):
		switch err := sum.copyTo(f, dst); {
		case errors.Is(err, errDamaged):
			s.DropReady(name)
			return false, nil
		case err != nil:
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

// sameDevice is a guess that saves checking a file that is to be checked again while it is copied: rename(2) knows better.
func sameDevice(f *os.File, dir string) bool {
	var a, b syscall.Stat_t
	return syscall.Fstat(int(f.Fd()), &a) != nil || syscall.Stat(dir, &b) != nil || a.Dev == b.Dev
}

// errDamaged says that a waiting file is not what its companion says.
var errDamaged = errors.New("the file in the spool is damaged")

// matches checks the bytes of the file, chunks in parallel. They are mapped: reading them costs half as much again.
func (r sumRecord) matches(f *os.File) bool {
	if r.size == 0 {
		return true
	}
	b, err := syscall.Mmap(int(f.Fd()), 0, int(r.size), syscall.PROT_READ, syscall.MAP_SHARED|syscall.MAP_POPULATE)
	if err != nil {
		return r.eachChunk(func(i int, buf []byte) error { return r.read(f, i, buf) }) == nil
	}
	defer func() { _ = syscall.Munmap(b) }()
	return r.each(func(i int) (err error) {
		// A file that is truncated meanwhile has no memory behind its end.
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		defer func() {
			if recover() != nil {
				err = errDamaged
			}
		}()
		if castagnoliOf(b[i*chunkSize:i*chunkSize+r.length(i)]) != r.chunks[i] {
			err = errDamaged
		}
		return err
	}) == nil
}

// copyTo is the way over to another file system: a fixed name beside dst, then a rename, so that dst is never half a file. What is written
// is what was checked. The error is errDamaged, or says that dst cannot be written.
func (r sumRecord) copyTo(f *os.File, dst string) error {
	temporary := dst + ".pgstow"
	_ = os.Remove(temporary)
	out, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	err = r.eachChunk(func(i int, buf []byte) error {
		if err := r.read(f, i, buf); err != nil {
			return err
		}
		_, err := out.WriteAt(buf, int64(i)*chunkSize)
		return err
	})
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(temporary, dst)
	}
	if err != nil {
		_ = os.Remove(temporary)
	}
	return err
}

// read reads and checks one chunk. What cannot be read is as good as damaged.
func (r sumRecord) read(f *os.File, i int, buf []byte) error {
	if n, _ := f.ReadAt(buf, int64(i)*chunkSize); n < len(buf) || castagnoliOf(buf) != r.chunks[i] {
		return errDamaged
	}
	return nil
}

func (r sumRecord) length(i int) int { return int(min(r.size-int64(i)*chunkSize, chunkSize)) }

// eachChunk is each with a buffer of the chunk's length.
func (r sumRecord) eachChunk(do func(i int, buf []byte) error) error {
	buffers := sync.Pool{New: func() any { b := make([]byte, chunkSize); return &b }}
	return r.each(func(i int) error {
		b, ok := buffers.Get().(*[]byte)
		if !ok {
			return errDamaged
		}
		defer buffers.Put(b)
		return do(i, (*b)[:r.length(i)])
	})
}

// mostCheckers bounds what one call starts: more do not make memory any faster.
const mostCheckers = 4

// each does something to all chunks, several at a time, and returns one of the errors.
func (r sumRecord) each(do func(i int) error) error {
	var next atomic.Int64
	var failure atomic.Pointer[error]
	work := func() {
		for failure.Load() == nil {
			i := int(next.Add(1)) - 1
			if i >= len(r.chunks) {
				return
			}
			if err := do(i); err != nil {
				failure.Store(&err)
			}
		}
	}
	var others sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), mostCheckers, len(r.chunks)) - 1 {
		others.Go(work)
	}
	work()
	others.Wait()
	if err := failure.Load(); err != nil {
		return *err
	}
	return nil
}
