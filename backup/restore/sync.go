package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// syncer brings everything written to some file systems onto stable storage.
//
// syncfs reports an error of writing back that happened since its descriptor was opened (Linux 5.8 and newer), so the
// descriptors are opened before the first byte is written.
type syncer struct {
	roots []syncRoot
	walk  bool // an older kernel: syncfs would not tell of errors, so each file is fsynced
}

type syncRoot struct {
	dir    *os.File
	device uint64
}

// newSyncer opens one descriptor per file system that holds any of dirs.
func newSyncer(dirs []string) (*syncer, error) {
	s := &syncer{walk: !syncfsReports()}
	for _, path := range dirs {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return nil, errors.Join(&fs.PathError{Op: "stat", Path: path, Err: err}, s.close())
		}
		if !s.walk && s.has(st.Dev) {
			continue
		}
		d, err := os.Open(path)
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		s.roots = append(s.roots, syncRoot{dir: d, device: st.Dev})
	}
	return s, nil
}

func (s *syncer) has(device uint64) bool {
	for _, r := range s.roots {
		if r.device == device {
			return true
		}
	}
	return false
}

// sync returns when all is on stable storage, or with the first error.
func (s *syncer) sync(ctx context.Context) error {
	for _, r := range s.roots {
		if err := ctx.Err(); err != nil {
			return err
		}
		if s.walk {
			if err := syncTree(ctx, r.dir.Name()); err != nil {
				return err
			}
			continue
		}
		if err := unix.Syncfs(int(r.dir.Fd())); err != nil {
			return noSpace(fmt.Errorf("sync the file system of %s: %w", r.dir.Name(), err))
		}
	}
	return nil
}

func (s *syncer) close() error {
	var errs []error
	for _, r := range s.roots {
		errs = append(errs, r.dir.Close())
	}
	s.roots = nil
	return errors.Join(errs...)
}

// syncTree fsyncs every file and directory below root; links are not followed.
func syncTree(ctx context.Context, root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if !d.IsDir() && !d.Type().IsRegular() {
			return nil
		}
		return noSpace(syncDir(path))
	})
}

// syncfsReports tells whether this kernel's syncfs returns errors of writing back.
func syncfsReports() bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	return kernelAtLeast(unix.ByteSliceToString(u.Release[:]), 5, 8)
}

func kernelAtLeast(release string, major, minor int) bool {
	parts := strings.FieldsFunc(release, func(r rune) bool { return r < '0' || r > '9' })
	if len(parts) < 2 {
		return false
	}
	a, errA := strconv.Atoi(parts[0])
	b, errB := strconv.Atoi(parts[1])
	return errA == nil && errB == nil && (a > major || a == major && b >= minor)
}
