package source

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// FS is what the engine needs of the operating system. OS is the real one;
// tests put another in front of it to change files at a chosen moment.
type FS interface {
	// Names calls each with every name in the directory, in any order.
	Names(dir string, each func(name string)) error
	// Lstat does not follow a symbolic link.
	Lstat(path string) (fs.FileInfo, error)
	// Readlink returns where a symbolic link points.
	Readlink(path string) (string, error)
	// Open opens a file for reading; it follows symbolic links.
	Open(path string) (File, error)
}

// File is an open file. Its methods are those of *os.File.
type File interface {
	io.ReaderAt
	io.Closer
	Stat() (fs.FileInfo, error)
}

// OS is the file system of the machine.
type OS struct{}

var _ FS = OS{}

// namesAtOnce bounds how many names of a directory are held as strings.
const namesAtOnce = 1024

// Names reads the directory in portions.
func (OS) Names(dir string, each func(name string)) (err error) {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	for {
		names, err := d.Readdirnames(namesAtOnce)
		for _, n := range names {
			each(n)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read directory %s: %w", dir, err)
		}
	}
}

// Lstat is os.Lstat.
func (OS) Lstat(path string) (fs.FileInfo, error) { return os.Lstat(path) }

// Readlink is os.Readlink.
func (OS) Readlink(path string) (string, error) { return os.Readlink(path) }

// Open is os.Open.
func (OS) Open(path string) (File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err // not f: a nil *os.File in an interface is not nil
	}
	return f, nil
}
