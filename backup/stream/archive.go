package stream

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"
)

// Entry is a file, folder or link that the server sends.
type Entry struct {
	// Path below the data directory; that of what is in a tablespace begins with pg_tblspc/<oid>/.
	Path string
	Dir  bool
	// Link is where a symbolic link points; "" for what is none.
	Link    string
	Mode    fs.FileMode // permission bits
	Size    int64       // of files
	ModTime time.Time   // whole seconds
}

// archive is the tar file of one tablespace.
type archive struct {
	*tar.Reader
	prefix string
}

// Next goes to the next entry of the backup; io.EOF after the last one. What was not read of the entry before is passed over.
func (b *Backup) Next() (Entry, error) {
	for {
		if b.tar == nil {
			if err := b.nextArchive(); err != nil {
				return Entry{}, err
			}
			b.tar = &archive{Reader: tar.NewReader(b)}
			if oid := b.Tablespaces[b.at].OID; oid != 0 {
				b.tar.prefix = fmt.Sprintf("pg_tblspc/%d/", oid)
			}
		}
		h, err := b.tar.Next()
		if errors.Is(err, io.EOF) { // up to 14 there are no zero blocks at the end, which is the same to the reader
			b.tar = nil
			continue
		}
		if err != nil {
			return Entry{}, fmt.Errorf("read the server's archive: %w", err)
		}
		return b.tar.entry(h)
	}
}

func (a *archive) entry(h *tar.Header) (Entry, error) {
	e := Entry{Path: a.prefix + strings.TrimSuffix(strings.TrimPrefix(h.Name, "./"), "/"), Mode: fs.FileMode(h.Mode) & fs.ModePerm, ModTime: h.ModTime.UTC()}
	if !validPath(e.Path) {
		return e, fmt.Errorf("the server sends a file with the name %q", h.Name)
	}
	switch h.Typeflag {
	case tar.TypeReg:
		e.Size = h.Size
	case tar.TypeDir:
		e.Dir = true
	case tar.TypeSymlink:
		e.Link = h.Linkname
	default:
		return e, fmt.Errorf("the server sends %s as an entry of the unknown type %q", e.Path, h.Typeflag)
	}
	return e, nil
}

// validPath is fs.ValidPath for names in any encoding.
func validPath(path string) bool {
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." || part == ".." {
			return false
		}
	}
	return true
}

// ReadFull reads the next bytes of the current file.
func (b *Backup) ReadFull(p []byte) error {
	_, err := io.ReadFull(b.tar, p)
	if err != nil {
		return fmt.Errorf("read the server's archive: %w", err)
	}
	return nil
}
