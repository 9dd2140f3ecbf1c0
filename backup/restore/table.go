package restore

import (
	"fmt"
	"io/fs"
	"sync/atomic"

	"pgstow/backup/backupmanifest"
)

// fileID is a file's place in the table.
type fileID uint32

// fileState is what Run remembers of each file. It is kept small (a cluster may have a million files) and free of
// pointers, so the collector never walks it.
type fileState struct {
	path     uint32 // start in table.paths; the next file's start ends it
	mode     uint32 // permission bits to give
	size     int64
	modified int64              // seconds since 1970
	pending  atomic.Int64       // bytes not yet written
	created  atomic.Bool        // exists with its full length, mode and owner
	hollow   bool               // made as a hole: it is not restored
	sum      backupmanifest.Sum // of what was written
}

// table holds all regular files of the backup in manifest order.
type table struct {
	paths []byte
	files []fileState
}

func newTable(files int) *table {
	return &table{files: make([]fileState, 0, files), paths: make([]byte, 0, files*24)}
}

// add appends a file; its pending bytes are set by whoever finds out where they come from.
func (t *table) add(path string, size int64, mode fs.FileMode, modified int64) (fileID, error) {
	if len(t.paths)+len(path) > 1<<32-1 || len(t.files) >= 1<<32-1 {
		return 0, fmt.Errorf("%s: too many files in one backup", path)
	}
	id := fileID(len(t.files))
	t.files = append(t.files, fileState{path: uint32(len(t.paths)), size: size, mode: uint32(mode), modified: modified})
	t.paths = append(t.paths, path...)
	return id, nil
}

func (t *table) len() int { return len(t.files) }

func (t *table) state(id fileID) *fileState { return &t.files[id] }

func (t *table) path(id fileID) string {
	end := len(t.paths)
	if int(id)+1 < len(t.files) {
		end = int(t.files[id+1].path)
	}
	return string(t.paths[t.files[id].path:end])
}
