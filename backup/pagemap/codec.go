package pagemap

import (
	"encoding/binary"
	"fmt"

	"github.com/zeebo/xxh3"
)

// magic opens every map; its last byte is the version of the layout.
const magic = "PGM\x01"

// sumSize is the length of the checksum at the end of a map.
const sumSize = 8

// AppendEncode appends the map's bytes to dst:
//
//	magic "PGM" 01
//	uvarint page count
//	uvarint id count,     then each: uvarint length, bytes
//	uvarint extent count, then each: uvarint pages,
//	                                 uvarint 0 (zero pages) or 1 + id index,
//	                                 and unless zero: uvarint pack, frame, first
//	8 bytes XXH3-64 of each page, little endian
//	8 bytes XXH3-64 of all bytes before, little endian
//
// It fails when the map is not valid.
func (m *Map) AppendEncode(dst []byte) ([]byte, error) {
	if err := m.Validate(); err != nil {
		return dst, err
	}
	start := len(dst)
	dst = append(dst, magic...)
	dst = binary.AppendUvarint(dst, uint64(len(m.Hashes)))
	dst = binary.AppendUvarint(dst, uint64(len(m.Backups)))
	for _, id := range m.Backups {
		dst = binary.AppendUvarint(dst, uint64(len(id)))
		dst = append(dst, id...)
	}
	dst = binary.AppendUvarint(dst, uint64(len(m.Extents)))
	for _, e := range m.Extents {
		dst = binary.AppendUvarint(dst, uint64(e.Pages))
		if e.Zero {
			dst = append(dst, 0)
			continue
		}
		dst = binary.AppendUvarint(dst, uint64(e.Backup)+1)
		dst = binary.AppendUvarint(dst, uint64(e.Pack))
		dst = binary.AppendUvarint(dst, uint64(e.Frame))
		dst = binary.AppendUvarint(dst, uint64(e.First))
	}
	for _, h := range m.Hashes {
		dst = binary.LittleEndian.AppendUint64(dst, h)
	}
	return binary.LittleEndian.AppendUint64(dst, xxh3.Hash(dst[start:])), nil
}

// Decode reads a map that fills b exactly. Only the canonical bytes are
// accepted, so equal maps have equal bytes. Every error wraps ErrCorrupt.
func Decode(b []byte) (*Map, error) {
	m := new(Map)
	if err := m.Decode(b); err != nil {
		return nil, err
	}
	return m, nil
}

// Decode is the function Decode into a map whose memory is used again.
func (m *Map) Decode(b []byte) error {
	m.Reset()
	if len(b) < len(magic)+sumSize {
		return fmt.Errorf("%w: %d bytes", ErrCorrupt, len(b))
	}
	if string(b[:len(magic)]) != magic {
		return fmt.Errorf("%w: begins with %x", ErrCorrupt, b[:len(magic)])
	}
	body := b[:len(b)-sumSize]
	if xxh3.Hash(body) != binary.LittleEndian.Uint64(b[len(body):]) {
		return fmt.Errorf("%w: checksum differs", ErrCorrupt)
	}
	d := decoder{rest: body[len(magic):]}
	pages := d.uvarint(MaxPages)
	m.decodeIDs(&d)
	m.decodeExtents(&d)
	if d.bad != "" {
		return fmt.Errorf("%w: %s", ErrCorrupt, d.bad)
	}
	if uint64(len(d.rest)) != pages*8 {
		return fmt.Errorf("%w: %d bytes of hashes for %d pages", ErrCorrupt, len(d.rest), pages)
	}
	for ; len(d.rest) > 0; d.rest = d.rest[8:] {
		m.Hashes = append(m.Hashes, binary.LittleEndian.Uint64(d.rest))
	}
	return m.Validate()
}

func (m *Map) decodeIDs(d *decoder) {
	for n := d.count(2); n > 0 && d.bad == ""; n-- {
		m.Backups = append(m.Backups, string(d.bytes(d.uvarint(MaxIDLength))))
	}
}

func (m *Map) decodeExtents(d *decoder) {
	const max32 = 1<<32 - 1
	for n := d.count(2); n > 0 && d.bad == ""; n-- {
		e := Extent{Pages: uint32(d.uvarint(MaxPages))}
		if kind := d.uvarint(max32); kind == 0 {
			e.Zero = true
		} else {
			e.Backup = uint32(kind - 1)
			e.Pack = uint32(d.uvarint(max32))
			e.Frame = uint32(d.uvarint(max32))
			e.First = uint32(d.uvarint(max32))
		}
		m.Extents = append(m.Extents, e)
	}
}

// decoder takes values off the front of rest; the first failure stays in bad.
type decoder struct {
	rest []byte
	bad  string
}

// uvarint reads one number up to limit, in its shortest form only.
func (d *decoder) uvarint(limit uint64) uint64 {
	if d.bad != "" {
		return 0
	}
	v, n := binary.Uvarint(d.rest)
	switch {
	case n <= 0:
		d.bad = "number is cut short or too long"
		return 0
	case n > 1 && d.rest[n-1] == 0:
		d.bad = "number is not in its shortest form"
		return 0
	case v > limit:
		d.bad = fmt.Sprintf("number %d is above %d", v, limit)
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// count reads the number of items that take at least size bytes each, so that
// a wrong count is found before memory is asked for.
func (d *decoder) count(size int) int { return int(d.uvarint(uint64(len(d.rest) / size))) }

func (d *decoder) bytes(n uint64) []byte {
	if uint64(len(d.rest)) < n {
		d.bad = "cut short"
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}
