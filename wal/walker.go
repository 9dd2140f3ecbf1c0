package wal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// recordHeaderSize is SizeOfXLogRecord; records begin at multiples of recordAlign (include/access/xlogrecord.h).
const (
	recordHeaderSize = 24
	recordAlign      = 8
	crcOffset        = 20 // of xl_crc, which the checksum leaves out
)

// walker goes through the pages and records of one segment as XLogDecodeNextRecord
// (backend/access/transam/xlogreader.c) does, with what lies before the segment unknown.
type walker struct {
	seg         []byte
	head        SegmentHeader
	table       *crc32.Table
	block       int
	maxTLI      TimelineID // a page of a later timeline is refused
	tli         TimelineID // of the page entered last: it never goes back
	pos         int        // where the next record begins, or a page boundary
	prev        LSN        // start of the last whole record; 0: unknown, it lies in an earlier segment
	good        int        // everything before this offset is proven
	switched    bool
	switchLSN   LSN
	maybeSwitch LSN // a switch record may have begun here, in the segment before
	err         *SegmentError
	split       [recordHeaderSize]byte // the header of a record that pages cut, put together
}

func align(n int) int { return (n + recordAlign - 1) &^ (recordAlign - 1) }

// newWalker expects a whole segment of which the header has been checked.
func newWalker(seg []byte, head SegmentHeader, maxTLI TimelineID) *walker {
	return &walker{seg: seg, head: head, table: crc32.MakeTable(crc32.Castagnoli), block: int(head.BlockSize), maxTLI: maxTLI}
}

func (w *walker) lsn(off int) LSN { return w.head.Addr + LSN(off) }

// fail notes why the walk ends at off. It gives false, for the callers' return.
func (w *walker) fail(r Reason, off int, format string, args ...any) bool {
	w.err = &SegmentError{Reason: r, LSN: w.lsn(off), Detail: fmt.Sprintf(format, args...)}
	return false
}

// enterPage checks the header of the page at off (XLogReaderValidatePageHeader) and gives it with its size.
func (w *walker) enterPage(off int) (h PageHeader, size int, ok bool) {
	h = parsePageHeader(w.seg[off:])
	size = ShortHeaderSize
	if h.Flags&LongHeader != 0 {
		size = LongHeaderSize
	}
	switch {
	case h.Magic != w.head.Magic || h.Addr != w.lsn(off):
		return h, size, w.fail(ReasonIncomplete, off, "%s", w.foreignPage(h, off))
	case h.Flags&^allFlags != 0 || (off == 0) != (h.Flags&LongHeader != 0):
		return h, size, w.fail(ReasonDamaged, off, "the page's header has flags %04X", h.Flags)
	case h.Timeline > w.maxTLI:
		return h, size, w.fail(ReasonTimeline, off, "the page was written on timeline %d, after the one in the name", h.Timeline)
	case h.Timeline < w.tli:
		return h, size, w.fail(ReasonDamaged, off, "the page is of timeline %d, after one of timeline %d", h.Timeline, w.tli)
	}
	w.tli = h.Timeline
	return h, size, true
}

func (w *walker) foreignPage(h PageHeader, off int) string {
	switch {
	case allZero(w.seg[off : off+ShortHeaderSize]):
		return "the WAL stops here: the page is empty"
	case h.Magic == w.head.Magic:
		return fmt.Sprintf("the WAL stops here: the page is an old one, of %s", h.Addr)
	}
	return fmt.Sprintf("the WAL stops here: the page begins with %04X", h.Magic)
}

// start skips the rest of a record that began in an earlier segment. It must be called once, before next.
func (w *walker) start() bool {
	h, size, ok := w.enterPage(0)
	if !ok {
		return false
	}
	if h.Flags&FirstIsContrecord == 0 {
		w.pos, w.good = size, size
		return true
	}
	if h.RemLen == 0 {
		return w.fail(ReasonDamaged, 0, "the page begins with the rest of a record, of no bytes")
	}
	w.maybeSwitch = w.switchBefore(size, int(h.RemLen))
	rem := int(h.RemLen)
	for page := 0; ; {
		n := min(rem, w.block-size)
		rem -= n
		w.good = page + size + n
		if rem == 0 {
			w.pos = page + align(size+n)
			return true
		}
		page += w.block
		if page == len(w.seg) {
			w.pos = page
			return true
		}
		if h, size, ok = w.enterPage(page); !ok {
			return false
		}
		if h.Flags&FirstIsOverwriteContrecord != 0 {
			w.pos = page
			return true
		}
		if !w.checkRest(h, page, rem) {
			return false
		}
	}
}

// switchBefore gives the LSN of the switch record of which the last rem bytes stand at off, if they may be that. A switch
// record is a header alone; it can straddle the boundary, and then the whole segment after it is unused
// (ReserveXLogSwitch in backend/access/transam/xlog.c). Its first bytes are in the other segment, so this is a guess, used
// only where no record follows.
func (w *walker) switchBefore(off, rem int) LSN {
	if rem != 8 && rem != 16 {
		return 0
	}
	last := w.seg[off+rem-8:]
	if last[0]&^infoMask != infoSwitch || Rmgr(last[1]) != RmgrXLOG || last[2] != 0 || last[3] != 0 {
		return 0
	}
	return w.head.Addr - LSN(recordHeaderSize-rem)
}

// checkRest checks that the page goes on with the rem bytes that a record still lacks.
func (w *walker) checkRest(h PageHeader, page, rem int) bool {
	if h.Flags&FirstIsContrecord == 0 {
		return w.fail(ReasonDamaged, page, "the page does not go on with the record that the page before began")
	}
	if int64(h.RemLen) != int64(rem) {
		return w.fail(ReasonDamaged, page, "the page goes on with %d bytes of a record that lacks %d", h.RemLen, rem)
	}
	return true
}

// next finds the next record that begins in the segment. It gives false at the end, or at a fault, and then err is set.
func (w *walker) next(r *Record) bool {
	for w.pos < len(w.seg) && w.err == nil {
		if w.pos%w.block == 0 {
			h, size, ok := w.enterPage(w.pos)
			if !ok {
				break
			}
			if h.Flags&FirstIsContrecord != 0 {
				w.fail(ReasonDamaged, w.pos, "the page begins with the rest of a record where a new one should begin")
				break
			}
			w.pos += size
		}
		found, again := w.record(r)
		if found {
			return true
		}
		if !again {
			break
		}
	}
	if w.err != nil && w.maybeSwitch != 0 && w.prev == 0 {
		w.switched, w.switchLSN, w.err, w.pos = true, w.maybeSwitch, nil, len(w.seg)
	}
	return false
}

// record reads the record at pos, which is inside a page. again is true when the record was abandoned by crash recovery
// and the walk goes on at the page that says so.
func (w *walker) record(r *Record) (found, again bool) {
	b := w.seg[w.pos:]
	avail := w.block - w.pos%w.block
	total := int(binary.LittleEndian.Uint32(b))
	if total < recordHeaderSize {
		if total == 0 {
			return w.fail(ReasonIncomplete, w.pos, "the WAL stops here: no record follows"), false
		}
		return w.fail(ReasonDamaged, w.pos, "the record says it has %d bytes", total), false
	}
	*r = Record{LSN: w.lsn(w.pos), TotalLength: uint32(total), seg: w.seg, off: w.pos, block: w.block}
	if avail >= recordHeaderSize && !w.header(r, b) {
		return false, false
	}
	end := w.pos + align(total)
	if total <= avail {
		sum := crc32.Update(0, w.table, b[recordHeaderSize:total])
		if !w.checksum(r, sum, b, end) {
			return false, false
		}
	} else {
		var whole bool
		end, whole, again = w.longRecord(r, total, avail)
		if again || w.err != nil {
			return false, again
		}
		if !whole {
			w.pos, w.good = end, end
			return true, false
		}
	}
	w.finish(r, end)
	return true, false
}

// finish accepts the whole record r, after which the next one begins at end.
func (w *walker) finish(r *Record, end int) {
	r.Complete = true
	r.End = w.lsn(end)
	w.prev = r.LSN
	w.pos, w.good = end, end
	if r.IsSwitch() {
		// The reader goes to the next segment from here, whatever follows: zeros, or after a crash old pages.
		w.switched, w.switchLSN = true, r.LSN
		w.pos = len(w.seg)
	}
}

// header takes the fields of a record's header and checks them as ValidXLogRecordHeader does.
func (w *walker) header(r *Record, b []byte) bool {
	r.XID = binary.LittleEndian.Uint32(b[4:])
	r.Prev = LSN(binary.LittleEndian.Uint64(b[8:]))
	r.Info = b[16]
	r.Rmgr = Rmgr(b[17])
	if w.prev != 0 && r.Prev != w.prev {
		return w.fail(ReasonDamaged, r.off, "the record says that the one before it is at %s, which is at %s", r.Prev, w.prev)
	}
	if r.Prev >= r.LSN {
		return w.fail(ReasonDamaged, r.off, "the record says that the one before it is at %s, which is not before it", r.Prev)
	}
	return true
}

// longRecord follows a record over page boundaries and checks it if it ends in the segment. end is the offset after it.
func (w *walker) longRecord(r *Record, total, avail int) (end int, whole, again bool) {
	hb := w.split[:]
	have := copy(hb, w.seg[w.pos:w.pos+avail])
	sum := crc32.Update(0, w.table, w.seg[w.pos+have:w.pos+avail])
	rem := total - avail
	for page := w.pos + avail; ; page += w.block {
		if page == len(w.seg) {
			return page, false, false
		}
		h, size, ok := w.enterPage(page)
		if !ok {
			return page, false, false
		}
		if h.Flags&FirstIsOverwriteContrecord != 0 {
			w.pos = page
			return page, false, true
		}
		if !w.checkRest(h, page, rem) {
			return page, false, false
		}
		b := w.seg[page+size : page+size+min(rem, w.block-size)]
		rem -= len(b)
		if have < recordHeaderSize {
			n := copy(hb[have:], b)
			if have += n; have == recordHeaderSize && !w.header(r, hb) {
				return page, false, false
			}
			sum = crc32.Update(sum, w.table, b[n:])
		} else {
			sum = crc32.Update(sum, w.table, b)
		}
		if rem == 0 {
			end = page + align(size+len(b))
			return end, w.checksum(r, sum, hb, end), false
		}
	}
}

// checksum ends the CRC-32C of a record, begun over what follows its header, with the header (ValidXLogRecord).
func (w *walker) checksum(r *Record, sum uint32, header []byte, end int) bool {
	sum = crc32.Update(sum, w.table, header[:crcOffset])
	if sum == binary.LittleEndian.Uint32(header[crcOffset:]) {
		return true
	}
	if allZero(w.seg[end:]) {
		return w.fail(ReasonIncomplete, r.off, "the WAL stops in the middle of a record, and nothing follows")
	}
	return w.fail(ReasonDamaged, r.off, "the record's checksum does not fit it")
}

// allZero reports whether b has no other bytes than zeros.
func allZero(b []byte) bool {
	for len(b) >= 8 {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
