package wal

import "encoding/binary"

// PrevOfFirst gives the LSN of the record before the first one that begins in a segment, as that first one says (xl_prev): the segment goes on
// from another only if that is where the other's last record begins. begin is the segment's beginning, as much of it as there is, its header
// checked. known is false if the first record is not in it; prev is 0 where nothing is said, since crash recovery has abandoned the record before.
func PrevOfFirst(begin []byte) (prev LSN, known bool) {
	if len(begin) < LongHeaderSize {
		return 0, false
	}
	h, size := parsePageHeader(begin), LongHeaderSize
	block, end := int(binary.LittleEndian.Uint32(begin[36:])), int(binary.LittleEndian.Uint32(begin[32:]))
	if block < LongHeaderSize {
		return 0, false
	}
	rem := 0
	if h.Flags&FirstIsContrecord != 0 {
		rem = int(h.RemLen)
	}
	for page := 0; page < end; {
		if h.Flags&FirstIsOverwriteContrecord != 0 {
			return 0, true
		}
		n := min(rem, block-size)
		rem -= n
		if at := size + align(n); rem == 0 && at < block {
			return prevAt(begin, page+at, block)
		}
		if page += block; len(begin) < page+ShortHeaderSize {
			return 0, false
		}
		h, size = parsePageHeader(begin[page:]), ShortHeaderSize
	}
	return 0, false
}

// prevAt reads xl_prev of the record at pos. Its second eight bytes may lie on the next page.
func prevAt(begin []byte, pos, block int) (prev LSN, known bool) {
	at := pos + recordAlign
	if at%block == 0 {
		at += ShortHeaderSize
	}
	if len(begin) < at+8 || binary.LittleEndian.Uint32(begin[pos:]) < recordHeaderSize {
		return 0, false
	}
	return LSN(binary.LittleEndian.Uint64(begin[at:])), true
}
