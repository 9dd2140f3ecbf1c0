// Package page reads the header of PostgreSQL's data pages and verifies their checksums.
//
// The layout is PageHeaderData of include/storage/bufpage.h, the same on majors 13 to 18, on a little-endian machine.
package page

import (
	"encoding/binary"

	"pgstow/wal"
)

// HeaderSize is the size of a page's header in bytes, without line pointers (SizeOfPageHeaderData).
const HeaderSize = 24

// validFlags are the bits of Header.Flags in use (PD_VALID_FLAG_BITS).
const validFlags = 0x0007

// Header is a page's header.
type Header struct {
	LSN      wal.LSN // end of the last record that changed the page
	Checksum uint16
	Flags    uint16
	Lower    uint16 // end of the line pointers
	Upper    uint16 // start of the tuples; 0: a new page
	Special  uint16 // start of the special space
	Size     uint16 // of the page in bytes
	Version  uint8  // of the layout: 4
}

// ParseHeader reads the header of a page, of at least HeaderSize bytes, without judging it.
func ParseHeader(b []byte) Header {
	_ = b[HeaderSize-1]
	le := binary.LittleEndian
	sizeVersion := le.Uint16(b[18:])
	return Header{
		// PageXLogRecPtr: the upper half comes first.
		LSN:      wal.LSN(le.Uint32(b))<<32 | wal.LSN(le.Uint32(b[4:])),
		Checksum: le.Uint16(b[8:]),
		Flags:    le.Uint16(b[10:]),
		Lower:    le.Uint16(b[12:]),
		Upper:    le.Uint16(b[14:]),
		Special:  le.Uint16(b[16:]),
		Size:     sizeVersion &^ 0xFF,
		Version:  uint8(sizeVersion),
	}
}

// New says whether PostgreSQL takes the page for one that was never used (PageIsNew).
func (h Header) New() bool { return h.Upper == 0 }

// Verdict is what a check says of a page.
type Verdict uint8

// The verdicts. Good and New are in order; the others are damage, unless the page was read while it was being written.
const (
	Good        Verdict = iota
	New                 // all zero: allocated, never used
	NotZero             // pd_upper is 0, as on a new page, but the page is not all zero
	BadHeader           // the header's offsets are impossible
	BadChecksum         // the checksum does not fit the contents and the block number
)

// OK says whether the page is in order.
func (v Verdict) OK() bool { return v <= New }

// String names the verdict for messages.
func (v Verdict) String() string {
	return [...]string{"good", "new", "new but not all zero", "impossible header", "wrong checksum"}[v]
}

// Check judges a page of a cluster with data checksums, as PageIsVerified does (backend/storage/page/bufpage.c). block is
// the page's number in its relation fork, counted over all files of the fork. The page's length must be a multiple of 128
// bytes, as every block size PostgreSQL can be built with is.
func Check(page []byte, block uint32) Verdict {
	h := ParseHeader(page)
	if !h.New() && Checksum(page, block) != h.Checksum {
		return BadChecksum
	}
	return checkHeader(page, h)
}

// CheckHeader judges a page of a cluster without data checksums: by its header alone.
func CheckHeader(page []byte) Verdict { return checkHeader(page, ParseHeader(page)) }

func checkHeader(page []byte, h Header) Verdict {
	const maxAlign = 8
	switch {
	case h.New() && allZero(page):
		return New
	case h.New():
		return NotZero
	case h.Flags&^validFlags != 0, h.Lower > h.Upper, h.Upper > h.Special, int(h.Special) > len(page), h.Special%maxAlign != 0:
		return BadHeader
	}
	return Good
}

// allZero reports whether a page, of a multiple of 8 bytes, has no other bytes than zeros.
func allZero(b []byte) bool {
	for ; len(b) >= 8; b = b[8:] {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
	}
	return true
}
