package spool

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Spool is one open spool folder. All methods work on a nil *Spool, which holds nothing and keeps nothing. Safe for concurrent use,
// also by several processes.
type Spool struct {
	dir string
	run [runSize]byte // see ForRun
}

// ErrNone says that there is no such spool (yet).
var ErrNone = errors.New("no spool")

// UnsafeError says why a folder must not be trusted as a spool: whoever can write into it could say "stored" or plant WAL. The
// caller warns and goes on without a spool.
type UnsafeError struct {
	Path   string
	Reason string
}

func (e *UnsafeError) Error() string { return "the spool " + e.Path + " is ignored: " + e.Reason }

// Open opens the folder name below the first of roots that has it. It creates nothing. The error is ErrNone or an *UnsafeError.
func Open(name string, roots ...string) (*Spool, error) {
	failure := ErrNone
	for _, root := range roots {
		switch _, err := os.Lstat(filepath.Join(root, name)); {
		case err == nil:
			return open(root, name)
		case !errors.Is(err, os.ErrNotExist):
			failure = &UnsafeError{Path: root, Reason: err.Error()}
		}
	}
	return nil, failure
}

// Create opens the folder name, or makes it below the first of roots where that is possible, folders above it included. It also
// removes a few folders beside it that nobody used for a day: they belong to configurations that are gone.
func Create(name string, roots ...string) (*Spool, error) {
	s, err := Open(name, roots...)
	if err == nil {
		sweepTemporary(s.dir, sweepLimit, time.Hour)
		return s, nil
	}
	for _, root := range roots {
		if !filepath.IsAbs(root) {
			err = &UnsafeError{Path: root, Reason: "it is not an absolute path"}
			continue
		}
		if err = os.MkdirAll(root, 0o700); err != nil {
			continue
		}
		if err = os.Mkdir(filepath.Join(root, name), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			continue
		}
		if s, err = open(root, name); err == nil {
			sweep(root, name, time.Now())
			return s, nil
		}
	}
	return nil, err
}

func open(root, name string) (*Spool, error) {
	if err := checkRoot(root); err != nil {
		return nil, err
	}
	dir := filepath.Join(root, name)
	if err := checkFolder(dir); err != nil {
		return nil, err
	}
	return &Spool{dir: dir}, nil
}

// Dir returns the folder, "" for none.
func (s *Spool) Dir() string {
	if s == nil {
		return ""
	}
	return s.dir
}

// checkRoot refuses a root where somebody else could exchange our folder for his.
func checkRoot(root string) error {
	st, err := lstat(root)
	if err != nil {
		return err
	}
	switch {
	case st.Mode&syscall.S_IFMT != syscall.S_IFDIR:
		return &UnsafeError{Path: root, Reason: "it is not a directory (or it is a link to one)"}
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return &UnsafeError{Path: root, Reason: "it belongs to another user"}
	case st.Mode&0o022 != 0 && st.Mode&syscall.S_ISVTX == 0:
		return &UnsafeError{Path: root, Reason: "others may write into it (chmod go-w)"}
	}
	return nil
}

func checkFolder(dir string) error {
	st, err := lstat(dir)
	if err != nil {
		return err
	}
	switch {
	case st.Mode&syscall.S_IFMT != syscall.S_IFDIR:
		return &UnsafeError{Path: dir, Reason: "it is not a directory (or it is a link to one)"}
	case int(st.Uid) != os.Geteuid():
		return &UnsafeError{Path: dir, Reason: "it belongs to another user"}
	case st.Mode&0o7777 != 0o700:
		return &UnsafeError{Path: dir, Reason: "its mode is not 0700"}
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return &UnsafeError{Path: dir, Reason: err.Error()}
	}
	if remote(uint32(fs.Type)) { //nolint:gosec // the kernel's magic numbers have 32 bits
		return &UnsafeError{Path: dir, Reason: "it is not on a local file system"}
	}
	return nil
}

func lstat(path string) (*syscall.Stat_t, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, &UnsafeError{Path: path, Reason: err.Error()}
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, &UnsafeError{Path: path, Reason: "its owner is unknown"}
	}
	return st, nil
}

// remote knows the file systems on which another machine may write, or on which rename and locks mean less (linux/magic.h).
func remote(magic uint32) bool {
	switch magic {
	case 0x6969, // NFS
		0x517b,                 // SMB
		0xff534d42, 0xfe534d42, // CIFS, SMB 2
		0x65735546,             // FUSE: sshfs, glusterfs, s3fs
		0x01021997,             // 9P
		0x00c36400,             // Ceph
		0x5346414f, 0x6b414653, // AFS
		0x0bd00bd0,             // Lustre
		0x47504653,             // GPFS
		0x01161970, 0x7461636f: // GFS2, OCFS2
		return true
	}
	return false
}

const (
	temporaryPrefix = ".new-"

	sweepLimit = 64
	sweepAge   = 24 * time.Hour
)

// sweep removes spools below root that nobody used for a day, looking at no more than sweepLimit entries. One that is used all the
// same only loses a cache.
func sweep(root, keep string, now time.Time) {
	folder, err := os.Open(root)
	if err != nil {
		return
	}
	defer func() { _ = folder.Close() }()
	entries, _ := folder.ReadDir(sweepLimit)
	for _, entry := range entries {
		dir := filepath.Join(root, entry.Name())
		if entry.Name() == keep || !isName(entry.Name()) || checkFolder(dir) != nil {
			continue
		}
		used := modified(dir)
		for _, file := range []string{marksFile, readyFolder} {
			if t := modified(filepath.Join(dir, file)); t.After(used) {
				used = t
			}
		}
		if now.Sub(used) > sweepAge {
			_ = os.RemoveAll(dir)
		}
	}
}

// sweepTemporary removes what a killed writer left behind longer ago than age, looking at no more than limit entries, or at all with -1.
func sweepTemporary(dir string, limit int, age time.Duration) {
	folder, err := os.Open(dir)
	if err != nil {
		return
	}
	defer func() { _ = folder.Close() }()
	names, _ := folder.Readdirnames(limit)
	for _, name := range names {
		path := filepath.Join(dir, name)
		if strings.HasPrefix(name, temporaryPrefix) && time.Since(modified(path)) > age {
			_ = os.Remove(path)
		}
	}
}

func modified(path string) time.Time {
	info, err := os.Lstat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

func isName(s string) bool {
	if len(s) != nameLength {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
