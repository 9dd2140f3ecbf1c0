package backup_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"pgstow/backup"
	"pgstow/backup/source"
	"pgstow/test/pg"
)

// crowdFS is a cluster with a database 5 of many relations of one page, which
// exist in memory only.
type crowdFS struct {
	source.OS
	n      int
	page   []byte
	opened func()
}

func (c crowdFS) Names(dir string, each func(string)) error {
	switch {
	case strings.HasSuffix(dir, "/base/77777"):
		for i := range c.n {
			each(fmt.Sprint(100000 + i))
		}
		return nil
	case filepath.Base(dir) == "base":
		each("77777")
	}
	return c.OS.Names(dir, each)
}

func (c crowdFS) Lstat(path string) (fs.FileInfo, error) {
	switch {
	case strings.HasSuffix(path, "/base/77777"):
		return memoryInfo{name: "77777", dir: true}, nil
	case strings.Contains(path, "/base/77777/"):
		return memoryInfo{name: filepath.Base(path), size: int64(len(c.page))}, nil
	}
	return c.OS.Lstat(path)
}

func (c crowdFS) Open(path string) (source.File, error) {
	if strings.Contains(path, "/base/77777/") {
		c.opened()
		return memoryFile{bytes.NewReader(c.page)}, nil
	}
	return c.OS.Open(path)
}

type memoryFile struct{ *bytes.Reader }

func (f memoryFile) Stat() (fs.FileInfo, error) { return memoryInfo{size: f.Size()}, nil }
func (memoryFile) Close() error                 { return nil }

type memoryInfo struct {
	name string
	size int64
	dir  bool
}

func (i memoryInfo) Name() string     { return i.name }
func (i memoryInfo) Size() int64      { return i.size }
func (memoryInfo) ModTime() time.Time { return time.Unix(1_700_000_000, 0) }
func (i memoryInfo) IsDir() bool      { return i.dir }
func (memoryInfo) Sys() any           { return nil }

func (i memoryInfo) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o700
	}
	return 0o600
}

// Ten times as many files take no more memory but for their names and the
// compressed manifest.
func TestMemoryOfManyFiles(t *testing.T) {
	pg.Long(t, "writes 200,000 files")
	repo, _ := newRepo(t)
	dir := newCluster(t)
	peak := func(n int) (most uint64) {
		var mu sync.Mutex
		opened := 0
		f := crowdFS{n: n, page: soundPages(0, 1), opened: func() {
			mu.Lock()
			defer mu.Unlock()
			if opened++; opened%(n/20) == 0 {
				runtime.GC()
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapAlloc)
			}
		}}
		h, err := backup.Create(t.Context(), repo, backup.CreateOptions{Cluster: "main", PGData: dir, Offline: true, FS: f, Workers: 2})
		if err != nil {
			t.Fatal(err)
		}
		if opened != n || h.Files < int64(n) {
			t.Fatalf("%d files read, %d in the manifest", opened, h.Files)
		}
		return most
	}
	few, many := peak(20_000), peak(200_000)
	again := peak(200_000) // beside a reference with as many files
	t.Logf("heap: %d MiB for 20,000 files, %d MiB for 200,000, %d MiB once more", few>>20, many>>20, again>>20)
	if most := max(many, again); most > 128<<20 || most > few+64<<20 {
		t.Errorf("heap: %d MiB for 20,000 files, %d MiB for 200,000, %d MiB once more", few>>20, many>>20, again>>20)
	}
}
