package catalog

import (
	"fmt"
	"strings"
)

// ComparePaths orders paths as a manifest has them: part by part, each by its bytes; what lies in a folder follows the
// folder at once. It is the order of a walk that sorts each folder by bytes.
func ComparePaths(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] == b[i] {
			continue
		}
		switch {
		case a[i] == '/':
			return -1
		case b[i] == '/':
			return 1
		case a[i] < b[i]:
			return -1
		default:
			return 1
		}
	}
	return len(a) - len(b)
}

// maxPath bounds a path in a manifest, in bytes: PATH_MAX of Linux.
const maxPath = 4096

// CheckPath returns an error unless path stays below the data directory whatever is done with it: relative, no NUL, no
// empty, "." or ".." part.
func CheckPath(path string) error {
	switch {
	case path == "":
		return fmt.Errorf("path is empty")
	case len(path) > maxPath:
		return fmt.Errorf("path of %d bytes is too long", len(path))
	case strings.IndexByte(path, 0) >= 0:
		return fmt.Errorf("path %q has a NUL", path)
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." || part == ".." {
			return fmt.Errorf("path %q is not a plain relative one", path)
		}
	}
	return nil
}

// pathOrder checks the sequence of a manifest's entries: strictly ascending, and nothing below a file or a link, so that
// no entry can be written through a link that another entry made.
type pathOrder struct {
	last    string
	leaf    string // the last entry that is no folder
	hasLeaf bool
}

func (o *pathOrder) add(path string, typ FileType) error {
	if err := CheckPath(path); err != nil {
		return err
	}
	if o.last != "" && ComparePaths(o.last, path) >= 0 {
		return fmt.Errorf("path %q comes after %q", path, o.last)
	}
	if o.hasLeaf && strings.HasPrefix(path, o.leaf) && path[len(o.leaf)] == '/' {
		return fmt.Errorf("path %q is below %q, which is no folder", path, o.leaf)
	}
	o.last = path
	// The links of tablespaces and pg_wal are made by the restore itself, which knows where they point to.
	if typ != TypeDir && !ownLink(path, typ) {
		o.leaf, o.hasLeaf = path, true
	}
	return nil
}

func ownLink(path string, typ FileType) bool {
	return typ == TypeLink && (path == "pg_wal" || strings.HasPrefix(path, "pg_tblspc/") && strings.Count(path, "/") == 1)
}
