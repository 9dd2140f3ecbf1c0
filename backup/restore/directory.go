package restore

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// MarkerName is the file that marks a data directory as half restored. It is there from the first write to the last.
const MarkerName = "pgstow.restore"

// maxMarker bounds what is read of a marker.
const maxMarker = 1 << 20

// Marker is what the marker file holds.
type Marker struct {
	Format      int               `json:"format"`
	Repository  string            `json:"repository"`
	Cluster     string            `json:"cluster"`
	SystemID    uint64            `json:"system_id,string"`
	Backup      string            `json:"backup"`
	Target      string            `json:"target"`
	Timeline    uint32            `json:"timeline"`
	Standby     bool              `json:"standby,omitempty"`
	Tablespaces map[string]string `json:"tablespaces,omitempty"` // OID to location
	Delta       bool              `json:"delta,omitempty"`       // over an older copy, of which parts may still be there
	LeftOut     []uint32          `json:"left_out,omitempty"`    // OIDs of databases
}

// equal reports whether both describe the same restore.
func (m Marker) equal(other Marker) bool {
	a, errA := json.Marshal(m)
	b, errB := json.Marshal(other)
	return errA == nil && errB == nil && string(a) == string(b)
}

// flag is what the command needs so that it is the same restore.
func (m Marker) flag() string {
	if m.Delta {
		return "--delta "
	}
	return ""
}

// describe is for messages.
func (m Marker) describe() string {
	return fmt.Sprintf("backup %s of %s to %s on timeline %d", m.Backup, m.Cluster, m.Target, m.Timeline)
}

// checkDirectory decides whether want may be restored into dir (RULES-physical E7). resume is true if an interrupted
// restore of the same plan is to go on there.
func checkDirectory(dir string, want Marker, force bool) (resume bool, err error) {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, checkParent(dir)
	}
	if err != nil {
		return false, err
	}
	if !info.IsDir() {
		return false, refuse(dir, "", "it is not a directory")
	}
	names, err := readNames(dir)
	if err != nil {
		return false, err
	}
	// A restore that was killed while it wrote its marker had not written anything else.
	if len(names) == 0 || len(names) == 1 && names[0] == MarkerName+temporarySuffix {
		return false, nil
	}
	if err := checkStopped(dir, force); err != nil {
		return false, err
	}
	return checkMarker(dir, names, want)
}

func checkParent(dir string) error {
	parent := filepath.Dir(dir)
	info, err := os.Stat(parent)
	if err == nil && info.IsDir() {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return refuse(dir, "create it, or mount the file system that belongs there", "there is no directory %s to create it in", parent)
}

func checkMarker(dir string, names []string, want Marker) (bool, error) {
	raw, err := readLimited(filepath.Join(dir, MarkerName), maxMarker)
	if errors.Is(err, fs.ErrNotExist) {
		advice := "give an empty or a new directory; with --delta an older copy of the cluster is overwritten"
		if len(names) == 1 && names[0] == "lost+found" {
			advice = "it is a mount point: use a directory below it, as PostgreSQL advises"
		}
		return false, refuse(dir, advice, "it is not empty (%s)", someNames(names))
	}
	if err != nil {
		return false, err
	}
	var have Marker
	if err := json.Unmarshal(raw, &have); err != nil || have.Format != want.Format {
		return false, refuse(dir, "empty the directory and its tablespaces first", "it holds a half-done restore whose %s cannot be read", MarkerName)
	}
	if !have.equal(want) {
		return false, refuse(dir, fmt.Sprintf("run that one again (%s--backup %s), give --delta to make another one of it, or empty the directory and its tablespaces", have.flag(), have.Backup),
			"it holds a half-done restore of another plan: %s", have.describe())
	}
	return true, nil
}

// readNames lists dir.
func readNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	names, err := f.Readdirnames(-1)
	return names, errors.Join(err, f.Close())
}

func someNames(names []string) string {
	if len(names) > 3 {
		return strings.Join(names[:3], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}

func readLimited(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("read %s: not a regular file of at most %d bytes", path, limit)
	}
	return os.ReadFile(path)
}

// realPath resolves links in path, whose last element need not exist.
func realPath(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(abs)
	if err == nil {
		return real, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if _, lerr := os.Lstat(abs); lerr == nil {
		return "", refuse(abs, "", "it is a link that leads nowhere")
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if errors.Is(err, fs.ErrNotExist) {
		return abs, nil // checkParent says it better
	}
	return filepath.Join(parent, filepath.Base(abs)), err
}

// inside reports whether path is dir or lies below it; both are clean and absolute.
func inside(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}
