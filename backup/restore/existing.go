package restore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"pgstow/backup/pagemap"
)

// keepPages compares what an interrupted restore left of a relation's file with its page map, page by page, by hash. It
// returns which pages are right (nil: none, or there is no file), counts them as written, and clears pages that must be
// zero and are not. A page's hash is 64 bits of its content: neither time nor size is believed.
func (w *writer) keepPages(id fileID, m *pagemap.Map, pageSize int) (kept []bool, bytes int64, err error) {
	path := w.place(w.table.path(id))
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	kept, bytes, err = w.comparePages(f, id, m, pageSize)
	return kept, bytes, errors.Join(err, f.Close())
}

func (w *writer) comparePages(f *os.File, id fileID, m *pagemap.Map, pageSize int) ([]bool, int64, error) {
	state := w.table.state(id)
	kept := make([]bool, m.Pages())
	buf := make([]byte, max(1<<20/pageSize, 1)*pageSize)
	zero := zeroPages(m)
	var bytes int64
	for page := 0; page < len(kept); {
		n, err := f.ReadAt(buf[:min(len(buf), (len(kept)-page)*pageSize)], int64(page)*int64(pageSize))
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, 0, fmt.Errorf("read what is there: %w", err)
		}
		pages := n / pageSize
		for i := range pages {
			kept[page+i] = pagemap.Hash(buf[i*pageSize:(i+1)*pageSize]) == m.Hashes[page+i]
		}
		// One sum for each run of pages that stay.
		for from := 0; from < pages; {
			to := from + 1
			for to < pages && kept[page+to] == kept[page+from] {
				to++
			}
			if kept[page+from] {
				state.sum.Add(state.size, int64(page+from)*int64(pageSize), buf[from*pageSize:to*pageSize])
				bytes += int64(to-from) * int64(pageSize)
			}
			from = to
		}
		for i := range pages {
			if zero[page+i] && !kept[page+i] {
				if _, err := f.WriteAt(make([]byte, pageSize), int64(page+i)*int64(pageSize)); err != nil {
					return nil, 0, noSpace(err)
				}
			}
		}
		page += pages
		if pages == 0 {
			// A part of a page at the end is as good as none; the file is brought to its length when it is opened for
			// writing. Cut it, so that pages that must be zero are holes.
			if err := f.Truncate(int64(page) * int64(pageSize)); err != nil {
				return nil, 0, err
			}
			break
		}
	}
	return kept, bytes, nil
}

// zeroPages says of each page whether the map calls it zero.
func zeroPages(m *pagemap.Map) []bool {
	zero := make([]bool, m.Pages())
	page := 0
	for _, e := range m.Extents {
		for i := range int(e.Pages) {
			zero[page+i] = e.Zero
		}
		page += int(e.Pages)
	}
	return zero
}
