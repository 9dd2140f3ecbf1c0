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
	cut := func(most int) {
		if len(names) > most {
			slices.SortFunc(names, archiveOrder)
			names, more = names[:batchNames], true
		}
	}
	err = eachWaiting(dir, func(name string) bool {
		names = append(names, name)
		cut(4 * batchNames) // in a long queue only its beginning is kept
		return true
	})
	if err != nil {
		return nil, false, err
	}
	cut(batchNames)
	slices.SortFunc(names, archiveOrder)
	return names, more, nil
}

// eachWaiting calls do for the files that wait to be archived, in no order, until it returns false.
func eachWaiting(dir string, do func(name string) bool) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	for {
		entries, err := f.Readdirnames(readAtOnce)
		for _, entry := range entries {
			if name, ok := strings.CutSuffix(entry, readySuffix); ok && archivable(name) && !do(name) {
				return nil
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
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

// othersWait tells whether a file other than name waits to be archived. Where that cannot be read, nobody is to be helped.
func othersWait(dir, name string) (found bool) {
	err := eachWaiting(dir, func(other string) bool {
		found = other != name
		return !found
	})
	return err == nil && found
}

// isReady tells whether the server still waits for a file.
func isReady(dir, name string) bool {
	_, err := os.Lstat(filepath.Join(dir, name+readySuffix))
	return err == nil
}

// statusChanges are what is to be looked at: files that come and go, and the folder itself.
const statusChanges = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE | unix.IN_MOVE_SELF | unix.IN_DELETE_SELF

// statusEvery is how often the folder is looked at although nothing was told: it may have been exchanged for another one.
const statusEvery = time.Second
