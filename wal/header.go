package wal

import (
	"encoding/binary"
	"fmt"
)

// Sizes of page headers in bytes (include/access/xlog_internal.h, XLogPageHeaderData and XLogLongPageHeaderData).
const (
	ShortHeaderSize = 24 // every page but a segment's first
	LongHeaderSize  = 40 // a segment's first page
)

// Bits of PageHeader.Flags (XLP_*).
const (
	FirstIsContrecord          uint16 = 0x0001 // the page begins with the rest of a record from the page before
	LongHeader                 uint16 = 0x0002
	BackupBlocksRemovable      uint16 = 0x0004
	FirstIsOverwriteContrecord uint16 = 0x0008 // the record from the page before was abandoned by crash recovery
	allFlags                          = FirstIsContrecord | LongHeader | BackupBlocksRemovable | FirstIsOverwriteContrecord
)

// magicOf maps PostgreSQL majors to XLOG_PAGE_MAGIC.
var magicOf = [...]struct {
	major int
	magic uint16
}{{13, 0xD106}, {14, 0xD10D}, {15, 0xD110}, {16, 0xD113}, {17, 0xD116}, {18, 0xD118}}

// MajorOf gives the PostgreSQL major version that writes pages with this magic; 0 if we know none.
func MajorOf(magic uint16) int {
	for _, m := range magicOf {
		if m.magic == magic {
			return m.major
		}
	}
	return 0
}

// PageHeader is the header of one WAL page.
type PageHeader struct {
	Magic    uint16
	Flags    uint16
	Timeline TimelineID // that wrote the page: older than the segment's name says on pages copied at a fork
	Addr     LSN        // of the page's first byte
	RemLen   uint32     // bytes left of the record from the page before, with FirstIsContrecord
}

// SegmentHeader is the long header of a segment's first page.
type SegmentHeader struct {
	PageHeader
	Major       int // PostgreSQL major version, by the magic
	SystemID    uint64
	SegmentSize SegmentSize
	BlockSize   uint32 // of a WAL page in bytes (XLOG_BLCKSZ)
}

// parsePageHeader reads the fields of a page header without judging them. b must have ShortHeaderSize bytes.
func parsePageHeader(b []byte) PageHeader {
	_ = b[ShortHeaderSize-1]
	return PageHeader{
		Magic:    binary.LittleEndian.Uint16(b[0:]),
		Flags:    binary.LittleEndian.Uint16(b[2:]),
		Timeline: TimelineID(binary.LittleEndian.Uint32(b[4:])),
		Addr:     LSN(binary.LittleEndian.Uint64(b[8:])),
		RemLen:   binary.LittleEndian.Uint32(b[16:]),
	}
}

// ParseSegmentHeader reads the header of a segment from its first LongHeaderSize bytes (more are ignored) and checks
// what XLogReaderValidatePageHeader (backend/access/transam/xlogreader.c) checks without knowing the file's name. Its
// errors are *SegmentError.
func ParseSegmentHeader(first []byte) (SegmentHeader, error) {
	var h SegmentHeader
	if len(first) < LongHeaderSize {
		return h, &SegmentError{Reason: ReasonSize, Detail: fmt.Sprintf("%d bytes are too few for a WAL segment's header", len(first))}
	}
	h.PageHeader = parsePageHeader(first)
	h.Major = MajorOf(h.Magic)
	h.SystemID = binary.LittleEndian.Uint64(first[24:])
	h.SegmentSize = SegmentSize(binary.LittleEndian.Uint32(first[32:]))
	h.BlockSize = binary.LittleEndian.Uint32(first[36:])
	if reason, detail := h.check(); reason != "" {
		return h, &SegmentError{Reason: reason, LSN: h.Addr, Detail: detail}
	}
	return h, nil
}

func (h *SegmentHeader) check() (r Reason, detail string) {
	switch {
	case h.Major == 0 && h.Magic>>8 != 0xD1 && h.Magic&0xFF == 0xD1:
		return ReasonByteOrder, fmt.Sprintf("page magic %04X: written on a machine with the other byte order", h.Magic)
	case h.Major == 0 && h.Magic>>8 == 0xD1:
		return ReasonVersion, fmt.Sprintf("page magic %04X: not WAL of PostgreSQL 13 to 18", h.Magic)
	case h.Major == 0:
		return ReasonMagic, fmt.Sprintf("page magic %04X: not a WAL segment", h.Magic)
	case h.Flags&^allFlags != 0 || h.Flags&LongHeader == 0:
		return ReasonHeader, fmt.Sprintf("the first page's header has flags %04X", h.Flags)
	case h.SystemID == 0:
		return ReasonSystemID, "the first page has no system identifier"
	case !h.SegmentSize.Valid():
		return ReasonHeader, fmt.Sprintf("the first page says that segments have %d bytes", uint32(h.SegmentSize))
	case h.BlockSize < 1<<10 || h.BlockSize > 1<<16 || h.BlockSize&(h.BlockSize-1) != 0:
		return ReasonHeader, fmt.Sprintf("the first page says that pages have %d bytes", h.BlockSize)
	case h.SegmentSize.Offset(h.Addr) != 0:
		return ReasonAddress, fmt.Sprintf("the first page says it is at %s, which is not the start of a segment", h.Addr)
	case h.Timeline == 0:
		return ReasonTimeline, "the first page says it is of timeline 0"
	}
	return "", ""
}

// Number is the segment the header says it begins.
func (h SegmentHeader) Number() SegmentNumber { return h.SegmentSize.SegmentOf(h.Addr) }
