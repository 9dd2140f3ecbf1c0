package restore

import (
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// need is how much would be written below a path, which need not exist yet.
type need struct {
	path  string
	bytes int64
}

// checkSpace compares what is needed with what is free, file system by file system.
func checkSpace(needs []need) error {
	type total struct {
		paths       []string
		bytes, free int64
	}
	var devices []uint64
	totals := make(map[uint64]*total)
	for _, n := range needs {
		dir := existing(n.path)
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			return &fs.PathError{Op: "stat", Path: dir, Err: err}
		}
		device := st.Dev
		t := totals[device]
		if t == nil {
			var vfs unix.Statfs_t
			if err := unix.Statfs(dir, &vfs); err != nil {
				return &fs.PathError{Op: "statfs", Path: dir, Err: err}
			}
			t = &total{free: int64(vfs.Bavail) * vfs.Bsize}
			totals[device] = t
			devices = append(devices, device)
		}
		t.paths = append(t.paths, n.path)
		t.bytes += n.bytes
	}
	for _, d := range devices {
		if t := totals[d]; t.bytes > t.free {
			return &SpaceError{Paths: t.paths, Need: t.bytes, Free: t.free}
		}
	}
	return nil
}

// existing is path, or the nearest directory above it that exists.
func existing(path string) string {
	for {
		if _, err := os.Stat(path); err == nil || path == "/" || path == "." {
			return path
		}
		path = filepath.Dir(path)
	}
}
