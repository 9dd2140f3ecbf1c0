package archive

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"pgstow/wal"
)

const (
	readySuffix = ".ready"
	// batchNames is how many names one reading of archive_status gives at most. pgarch.c takes 64 at a time (NUM_FILES_PER_DIRECTORY_SCAN).
	batchNames = 256
	readAtOnce = 1024
)

// archiveStatus is where the server says what is to be archived. Nobody but the server may change anything there.
func archiveStatus(pgdata string) string { return filepath.Join(pgdata, "pg_wal", "archive_status") }

// waitingFiles reads the names of the files that wait to be archived, in the order in which the server will ask for them, the first
// batchNames of them; more tells whether there are others behind.
func waitingFiles(dir string) (names []string, more bool, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, false, err
	}
	defer func() { _ = f.Close() }()
	for {
		entries, err := f.Readdirnames(readAtOnce)
		for _, entry := range entries {
			if name, ok := strings.CutSuffix(entry, readySuffix); ok && archivable(name) {
				names = append(names, name)
			}
		}
		if len(names) > 2*batchNames { // in a long queue only its beginning is kept
			slices.SortFunc(names, archiveOrder)
			names, more = names[:batchNames], true
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, false, err
		}
	}
	slices.SortFunc(names, archiveOrder)
	if len(names) > batchNames {
		names, more = names[:batchNames], true
	}
	return names, more, nil
}

func archivable(name string) bool {
	_, err := wal.ParseFileName(name)
	return err == nil
}

// archiveOrder is that of ready_file_comparator in src/backend/postmaster/pgarch.c: history files first, then by name.
func archiveOrder(a, b string) int {
	ha, hb := strings.HasSuffix(a, ".history"), strings.HasSuffix(b, ".history")
	switch {
	case ha && !hb:
		return -1
	case hb && !ha:
		return 1
	}
	return strings.Compare(a, b)
}

// othersWait tells whether a file other than name waits to be archived.
func othersWait(dir, name string) bool {
	f, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	for {
		entries, err := f.Readdirnames(readAtOnce)
		for _, entry := range entries {
			if other, ok := strings.CutSuffix(entry, readySuffix); ok && other != name && archivable(other) {
				return true
			}
		}
		if err != nil {
			return false
		}
	}
}

// isReady tells whether the server still waits for a file.
func isReady(dir, name string) bool {
	_, err := os.Lstat(filepath.Join(dir, name+readySuffix))
	return err == nil
}

// changes tells when something changes in a folder, by inotify(7).
type changes struct {
	f *os.File
	c chan struct{}
}

// watchFolder begins to watch. Where the kernel has no more watches to give, nothing is ever told: who waits looks by himself now and then.
func watchFolder(dir string) *changes {
	w := &changes{c: make(chan struct{}, 1)}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return w
	}
	const what = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE | unix.IN_MOVE_SELF | unix.IN_DELETE_SELF | unix.IN_ONLYDIR
	if _, err := unix.InotifyAddWatch(fd, dir, what); err != nil {
		_ = unix.Close(fd)
		return w
	}
	w.f = os.NewFile(uintptr(fd), "inotify")
	go w.read()
	return w
}

func (w *changes) read() {
	buf := make([]byte, 16<<10)
	for {
		if _, err := w.f.Read(buf); err != nil {
			return
		}
		select {
		case w.c <- struct{}{}:
		default:
		}
	}
}

func (w *changes) close() {
	if w.f != nil {
		_ = w.f.Close()
	}
}

// statusEvery is how often the folder is looked at although nothing was told: it may have been exchanged for another one.
const statusEvery = time.Second
