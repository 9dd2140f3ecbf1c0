package restore

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"syscall"

	"pgstow/backup/pagemap"
	"pgstow/catalog"
)

// comparison says what of a relation's file is already in the directory.
type comparison struct {
	kept  []bool // by page; nil: there is no file, or none of it can be used
	bytes int64  // of the pages that are kept
	wipe  []int  // pages that must be zero and are not
	pages int    // whole pages that the file has, at most those of the map
}

// compareBuffer is what is read of a file at a time, in bytes.
const compareBuffer = 1 << 20

// comparePages compares what is there of a relation's file with its page map, page by page, by hash: 64 bits of the content;
// neither time nor size is believed. It writes nothing. What cannot be read counts as missing.
func (w *writer) comparePages(id fileID, m *pagemap.Map, pageSize int) (c comparison, err error) {
	f, err := openRegular(w.place(w.table.path(id)))
	if f == nil || err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	state := w.table.state(id)
	c.kept = make([]bool, m.Pages())
	zero := zeroPages(m)
	buf := make([]byte, max(compareBuffer/pageSize, 1)*pageSize)
	for page := 0; page < len(c.kept); {
		part := buf[:min(len(buf), (len(c.kept)-page)*pageSize)]
		n, err := f.ReadAt(part, int64(page)*int64(pageSize))
		if errors.Is(err, syscall.EIO) {
			// A bad sector: writing the pages anew may mend it.
			for range len(part) / pageSize {
				c.wipe = appendIf(c.wipe, page, zero[page])
				page++
			}
			c.pages = page
			continue
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return comparison{}, fmt.Errorf("read what is there: %w", err)
		}
		pages := n / pageSize
		if pages == 0 {
			break
		}
		for i := range pages {
			c.kept[page+i] = pagemap.Hash(buf[i*pageSize:(i+1)*pageSize]) == m.Hashes[page+i]
			c.wipe = appendIf(c.wipe, page+i, zero[page+i] && !c.kept[page+i])
		}
		// One sum for each run of pages that stay.
		for from := 0; from < pages; {
			to := from + 1
			for to < pages && c.kept[page+to] == c.kept[page+from] {
				to++
			}
			if c.kept[page+from] {
				state.sum.Add(state.size, int64(page+from)*int64(pageSize), buf[from*pageSize:to*pageSize])
				c.bytes += int64(to-from) * int64(pageSize)
			}
			from = to
		}
		page += pages
		c.pages = page
	}
	return c, nil
}

func appendIf(list []int, n int, yes bool) []int {
	if yes {
		return append(list, n)
	}
	return list
}

// mend makes zero what must be, so that only pages with content are left to be written: pages that are something else, and
// a part of a page at the end, which is cut off.
func (w *writer) mend(id fileID, c comparison, pageSize int) error {
	if c.kept == nil {
		return nil
	}
	end := int64(c.pages) * int64(pageSize)
	path := w.place(w.table.path(id))
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if len(c.wipe) == 0 && info.Size() == end {
		return nil
	}
	f, err := openFile(path)
	if err != nil {
		return err
	}
	if info.Size() > end {
		err = f.Truncate(end)
	}
	zeros := make([]byte, pageSize)
	for _, page := range c.wipe {
		if err == nil {
			_, err = f.WriteAt(zeros, int64(page)*int64(pageSize))
		}
	}
	return noSpace(errors.Join(err, f.Close()))
}

// keepBlob reports whether a file without page map is there as it must be: by its size and SHA-256.
func (w *writer) keepBlob(id fileID, want catalog.Digest) (same bool, err error) {
	f, err := openRegular(w.place(w.table.path(id)))
	if f == nil || err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	state := w.table.state(id)
	if info, err := f.Stat(); err != nil || info.Size() != state.size {
		return false, err
	}
	sum := sha256.New()
	buf := make([]byte, min(compareBuffer, state.size))
	for at := int64(0); at < state.size; {
		n, err := f.ReadAt(buf[:min(int64(len(buf)), state.size-at)], at)
		if n == 0 || err != nil && !errors.Is(err, io.EOF) {
			state.sum.Reset()
			if n == 0 || errors.Is(err, syscall.EIO) {
				return false, nil
			}
			return false, fmt.Errorf("read what is there: %w", err)
		}
		sum.Write(buf[:n])
		state.sum.Add(state.size, at, buf[:n])
		at += int64(n)
	}
	if catalog.Digest(sum.Sum(nil)) != want {
		state.sum.Reset()
		return false, nil
	}
	return true, nil
}

// openRegular opens a file for reading; it is nil if there is no regular file at this path. A link is not followed.
func openRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	for _, none := range []error{fs.ErrNotExist, syscall.ELOOP, syscall.ENOTDIR, syscall.ENXIO} {
		if errors.Is(err, none) {
			return nil, nil
		}
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Mode().IsRegular() {
		return f, nil
	}
	return nil, errors.Join(err, f.Close())
}

// zeroPages says of each page whether the map calls it zero.
func zeroPages(m *pagemap.Map) []bool {
	zero := make([]bool, 0, m.Pages())
	for _, e := range m.Extents {
		zero = append(zero, slices.Repeat([]bool{e.Zero}, int(e.Pages))...)
	}
	return zero
}
