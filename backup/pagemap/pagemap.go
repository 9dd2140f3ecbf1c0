// Package pagemap is the codec of page maps: for one relation segment file a
// map says where each of its pages lies now, and what each page's content is.
//
// A map covers the file exactly. Extents, in page order, either point at a run
// of pages inside one frame of a pack or stand for a run of all-zero pages,
// which are stored nowhere. Beside them lies one 64-bit hash per page, so that
// the next backup and a delta restore can tell equal pages from changed ones
// without reading packs.
//
// A map is whole: it never refers to another map. That is what makes every
// backup restore like a full one. The bytes are specified in docs/format.md,
// section "Page map".
package pagemap

import (
	"errors"
	"fmt"

	"github.com/zeebo/xxh3"
)

// Limits of the format. PostgreSQL's largest segment file has 131072 pages of
// 8 KiB by default; a server built with --with-segsize may have more.
const (
	// MaxPages is the greatest number of pages of one map.
	MaxPages = 1 << 26
	// MaxIDLength is the greatest length of a backup id in bytes.
	MaxIDLength = 128
)

// ErrCorrupt is wrapped by every error of Decode and Validate.
var ErrCorrupt = errors.New("page map is corrupt")

// PackRef names a pack: the backup that wrote it and its number there.
type PackRef struct {
	Backup string
	Pack   uint32
}

// Extent is a run of consecutive pages of the file.
type Extent struct {
	// Pages is the length of the run, at least 1.
	Pages uint32
	// Zero says that all of these pages are zero bytes; the other fields are
	// then zero too.
	Zero bool
	// Backup is the index into Map.Backups of the backup that wrote the pack.
	Backup uint32
	// Pack is the pack's number under that backup, Frame the frame in the pack,
	// First the first page of the run inside the frame's plain bytes (in pages).
	Pack, Frame, First uint32
}

// follows says that e is the plain continuation of p, so that both are one extent.
func (e Extent) follows(p Extent) bool {
	if e.Zero || p.Zero {
		return e.Zero && p.Zero
	}
	return e.Backup == p.Backup && e.Pack == p.Pack && e.Frame == p.Frame && e.First == p.First+p.Pages
}

// Map is the page map of one relation segment file. The zero Map is that of an
// empty file. Use Append to build one: it keeps the canonical form.
type Map struct {
	// Backups is the table of the ids of backups whose packs are used, each
	// once, in the order of first use.
	Backups []string
	// Extents cover the pages in order; neighbours that could be one are one.
	Extents []Extent
	// Hashes holds Hash of each page, zero pages included.
	Hashes []uint64
}

// Hash is the hash of one page's content as maps keep it: XXH3-64, seed 0.
func Hash(page []byte) uint64 { return xxh3.Hash(page) }

// Pages is the number of pages that the map covers.
func (m *Map) Pages() int { return len(m.Hashes) }

// Pack names the pack that extent e of this map points into.
func (m *Map) Pack(e Extent) PackRef {
	return PackRef{Backup: m.Backups[e.Backup], Pack: e.Pack}
}

// Reset empties the map and keeps its memory.
func (m *Map) Reset() {
	m.Backups, m.Extents, m.Hashes = m.Backups[:0], m.Extents[:0], m.Hashes[:0]
}

// AppendZero adds len(hashes) all-zero pages with their hashes.
func (m *Map) AppendZero(hashes []uint64) {
	if len(hashes) == 0 {
		return
	}
	m.append(Extent{Pages: uint32(len(hashes)), Zero: true}, hashes)
}

// Append adds len(hashes) pages that lie in frame of the pack, from page first on.
func (m *Map) Append(p PackRef, frame, first uint32, hashes []uint64) {
	if len(hashes) == 0 {
		return
	}
	m.append(Extent{
		Pages: uint32(len(hashes)), Backup: m.backupIndex(p.Backup), Pack: p.Pack, Frame: frame, First: first,
	}, hashes)
}

func (m *Map) append(e Extent, hashes []uint64) {
	m.Hashes = append(m.Hashes, hashes...)
	if n := len(m.Extents); n > 0 && e.follows(m.Extents[n-1]) {
		m.Extents[n-1].Pages += e.Pages
		return
	}
	m.Extents = append(m.Extents, e)
}

// backupIndex finds or adds an id. Maps refer to few backups, so it is linear.
func (m *Map) backupIndex(id string) uint32 {
	for i, b := range m.Backups {
		if b == id {
			return uint32(i)
		}
	}
	m.Backups = append(m.Backups, id)
	return uint32(len(m.Backups) - 1)
}

// Truncate cuts the map to its first n pages. It does nothing when the map has
// no more than that.
func (m *Map) Truncate(n int) {
	if n >= len(m.Hashes) {
		return
	}
	m.Hashes = m.Hashes[:n]
	left, kept, used := uint32(n), m.Extents[:0], 0
	for _, e := range m.Extents {
		if left == 0 {
			break
		}
		e.Pages = min(e.Pages, left)
		left -= e.Pages
		if !e.Zero {
			used = max(used, int(e.Backup)+1)
		}
		kept = append(kept, e)
	}
	m.Extents = kept
	m.Backups = m.Backups[:used] // ids stand in the order of first use
}

// Find returns the extent that holds page and the page's offset within it.
func (m *Map) Find(page int) (e Extent, offset int, ok bool) {
	if page < 0 || page >= len(m.Hashes) {
		return Extent{}, 0, false
	}
	for _, e := range m.Extents {
		if page < int(e.Pages) {
			return e, page, true
		}
		page -= int(e.Pages)
	}
	return Extent{}, 0, false
}

// Validate checks that the map is whole and in canonical form: extents cover
// exactly the hashed pages, none is empty or mergeable, and ids are used, each
// once, in the order of the table.
func (m *Map) Validate() error {
	if len(m.Hashes) > MaxPages {
		return fmt.Errorf("%w: %d pages", ErrCorrupt, len(m.Hashes))
	}
	var pages uint64
	var used uint32
	for i, e := range m.Extents {
		if err := m.validateExtent(i, used); err != nil {
			return err
		}
		if !e.Zero && e.Backup == used {
			used++
		}
		pages += uint64(e.Pages)
	}
	if pages != uint64(len(m.Hashes)) {
		return fmt.Errorf("%w: extents cover %d pages of %d", ErrCorrupt, pages, len(m.Hashes))
	}
	if int(used) != len(m.Backups) {
		return fmt.Errorf("%w: %d backup ids, %d used", ErrCorrupt, len(m.Backups), used)
	}
	return m.validateIDs()
}

func (m *Map) validateExtent(i int, used uint32) error {
	e := m.Extents[i]
	switch {
	case e.Pages == 0:
		return fmt.Errorf("%w: extent %d is empty", ErrCorrupt, i)
	case e.Zero && e != Extent{Pages: e.Pages, Zero: true}:
		return fmt.Errorf("%w: zero extent %d points somewhere", ErrCorrupt, i)
	case !e.Zero && (e.Backup > used || int(e.Backup) >= len(m.Backups)):
		return fmt.Errorf("%w: extent %d uses backup id %d out of order", ErrCorrupt, i, e.Backup)
	case uint64(e.First)+uint64(e.Pages) > MaxPages:
		return fmt.Errorf("%w: extent %d reaches beyond any frame", ErrCorrupt, i)
	case i > 0 && e.follows(m.Extents[i-1]):
		return fmt.Errorf("%w: extent %d continues the one before", ErrCorrupt, i)
	}
	return nil
}

func (m *Map) validateIDs() error {
	for i, id := range m.Backups {
		if id == "" || len(id) > MaxIDLength {
			return fmt.Errorf("%w: backup id of %d bytes", ErrCorrupt, len(id))
		}
		for _, other := range m.Backups[:i] {
			if id == other {
				return fmt.Errorf("%w: backup id %q twice", ErrCorrupt, id)
			}
		}
	}
	return nil
}
