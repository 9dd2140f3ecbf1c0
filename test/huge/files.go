package huge

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
)

// linksPerFile stays below what file systems allow (ext4: 65000).
const linksPerFile = 30_000

// MakeFiles makes names in the folder of a file store: links to empty files, which is the fastest way to make many. All are of one time.
func MakeFiles(root string, names Names, modified time.Time) error {
	var group errgroup.Group
	group.SetLimit(4)
	for first := 0; first < names.Len(); first += linksPerFile {
		group.Go(func() error { return makeLinks(root, names, first, min(first+linksPerFile, names.Len()), modified) })
	}
	return group.Wait()
}

func makeLinks(root string, names Names, first, end int, modified time.Time) error {
	source := filepath.Join(root, fmt.Sprintf(".source%d-%d", first, modified.UnixNano()))
	if err := os.WriteFile(source, nil, 0o600); err != nil {
		return err
	}
	if err := os.Chtimes(source, time.Time{}, modified); err != nil {
		return err
	}
	made := ""
	for i := first; i < end; i++ {
		path := filepath.Join(root, names.Key(i))
		if dir := filepath.Dir(path); dir != made {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return err
			}
			made = dir
		}
		if err := os.Link(source, path); err != nil {
			return err
		}
	}
	return os.Remove(source)
}
