package stream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/jackc/pglogrepl"
)

// Upload gives the server the backup_manifest of an earlier backup, which write writes, so that the next backup on this connection can be
// incremental.
func (s *Server) Upload(ctx context.Context, write func(w io.Writer) error) error {
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := write(w)
		_ = w.CloseWithError(err) // nil is io.EOF to the reader
		written <- err
	}()
	err := pglogrepl.UploadManifest(ctx, s.conn, r)
	_ = r.CloseWithError(io.ErrClosedPipe)
	if werr := <-written; werr != nil && !errors.Is(werr, io.ErrClosedPipe) {
		return werr
	}
	return err
}

// incrementalPrefix is put before the names of files that are sent in parts (INCREMENTAL_PREFIX in src/include/backup/basebackup_incremental.h).
const incrementalPrefix = "INCREMENTAL."

// Whole is the path of the relation's file of which an entry of an incremental backup has the changed pages; ok is false for other files.
func (e Entry) Whole() (file string, ok bool) {
	dir, name := path.Split(e.Path)
	name, ok = strings.CutPrefix(name, incrementalPrefix)
	return dir + name, ok && !e.Dir && e.Link == ""
}

// Increment is the head of a file of changed pages, which follow it in the order of Blocks.
type Increment struct {
	// Blocks are the numbers of the pages in the file, ascending.
	Blocks []uint32
	// Kept is the length of the file, in pages, up to which pages that are not among Blocks are those of the earlier backup. Where that has
	// none, and behind Kept, they are zero.
	Kept uint32
}

// Pages is the length of the file.
func (i Increment) Pages() uint32 {
	if n := len(i.Blocks); n > 0 {
		return max(i.Kept, i.Blocks[n-1]+1)
	}
	return i.Kept
}

// incrementalMagic begins the head, in the server's byte order, which is ours (INCREMENTAL_MAGIC).
const incrementalMagic = 0xd3ae1f0d

// ReadIncrement reads the head of the current file. limit is the number of pages that a file can have.
func (b *Backup) ReadIncrement(e Entry, pageSize, limit uint32) (inc Increment, err error) {
	head := make([]byte, 12)
	if err := b.ReadFull(head); err != nil {
		return inc, err
	}
	n := binary.LittleEndian.Uint32(head[4:])
	inc.Kept = binary.LittleEndian.Uint32(head[8:])
	size := int64(12) + 4*int64(n)
	if n > 0 {
		size += (int64(pageSize) - size%int64(pageSize)) % int64(pageSize)
	}
	bad := func(what string) error { return fmt.Errorf("%s as the server sends it: %s", e.Path, what) }
	switch {
	case binary.LittleEndian.Uint32(head) != incrementalMagic:
		return inc, bad("not a file of changed pages")
	case n > limit || inc.Kept > limit:
		return inc, bad(fmt.Sprintf("%d changed pages, %d kept, of at most %d", n, inc.Kept, limit))
	case e.Size != size+int64(n)*int64(pageSize):
		return inc, bad(fmt.Sprintf("%d bytes for %d pages", e.Size, n))
	}
	list := make([]byte, size-12)
	if err := b.ReadFull(list); err != nil {
		return inc, err
	}
	inc.Blocks = make([]uint32, n)
	for i := range inc.Blocks {
		inc.Blocks[i] = binary.LittleEndian.Uint32(list[4*i:])
		if inc.Blocks[i] >= limit || i > 0 && inc.Blocks[i] <= inc.Blocks[i-1] {
			return inc, bad(fmt.Sprintf("page %d is out of order", inc.Blocks[i]))
		}
	}
	return inc, nil
}
