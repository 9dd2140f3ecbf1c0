package wal

import (
	"bytes"
	"encoding/binary"
	"iter"
	"time"
)

// Rmgr is the resource manager of a record (include/access/rmgrlist.h); the same numbers on all supported majors.
type Rmgr uint8

// The two resource managers this package reads.
const (
	RmgrXLOG Rmgr = 0
	RmgrXact Rmgr = 1
)

// Kinds of record in the upper bits of Info (include/catalog/pg_control.h, include/access/xact.h).
const (
	infoMask         = 0x0F // XLR_INFO_MASK: bits that are not the resource manager's
	infoSwitch       = 0x40
	infoRestorePoint = 0x70

	xactMask           = 0x70
	xactCommit         = 0x00
	xactAbort          = 0x20
	xactCommitPrepared = 0x30
	xactAbortPrepared  = 0x40
	xactHasInfo        = 0x80
)

// Record is a record that begins in a segment.
type Record struct {
	LSN, End    LSN // End is where the next record may begin; 0 if the record goes on after the segment
	Prev        LSN // of the record before
	XID         uint32
	TotalLength uint32 // bytes, header included, page headers not
	Rmgr        Rmgr
	Info        uint8
	Complete    bool // it ends in the segment too and its checksum is right. Otherwise only LSN and TotalLength are certain.

	seg        []byte
	off, block int
}

// Records goes through the records that begin in a whole segment, in order, as PostgreSQL's reader does; records that crash
// recovery abandoned are left out. It ends at the segment's end or after a switch record. An error, a *SegmentError, comes
// last, with a zero Record. Records refer to seg, which must not change.
func Records(seg []byte) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		h, err := wholeSegment(seg)
		if err != nil {
			yield(Record{}, err)
			return
		}
		w := newWalker(seg, h, ^TimelineID(0))
		var r Record
		for ok := w.start() && w.next(&r); ok; ok = w.next(&r) {
			if !yield(r, nil) {
				return
			}
		}
		if w.err != nil {
			yield(Record{}, w.err)
		}
	}
}

// IsSwitch says whether the record ends its segment early (pg_switch_wal, archive_timeout).
func (r *Record) IsSwitch() bool {
	return r.Complete && r.Rmgr == RmgrXLOG && r.Info&^infoMask == infoSwitch
}

// AppendPayload appends the bytes after the record's header to dst: block headers, block data, main data. It appends nothing
// unless the record is Complete.
func (r *Record) AppendPayload(dst []byte) []byte {
	if r.onePage() {
		return append(dst, r.payload(nil)...)
	}
	return r.appendPages(dst)
}

// onePage says whether the record lies in one page.
func (r *Record) onePage() bool { return r.off%r.block+int(r.TotalLength) <= r.block }

// payload gives the bytes after the record's header: a part of the segment, or, if page headers lie between, a copy that
// takes the place of buf's contents.
func (r *Record) payload(buf []byte) []byte {
	if !r.Complete {
		return nil
	}
	if r.onePage() {
		return r.seg[r.off+recordHeaderSize : r.off+int(r.TotalLength)]
	}
	return r.appendPages(buf[:0])
}

// appendPages appends the payload without the page headers in it.
func (r *Record) appendPages(dst []byte) []byte {
	if !r.Complete {
		return dst
	}
	skip, left := recordHeaderSize, int(r.TotalLength)
	for off := r.off; left > 0; {
		n := min(left, r.block-off%r.block)
		b := r.seg[off : off+n]
		s := min(skip, n)
		dst = append(dst, b[s:]...)
		skip -= s
		left -= n
		off += n + ShortHeaderSize // never a segment's first page: the record began before it
	}
	return dst
}

// mainData gives the main data of a payload that has no block references, as no record of RmgrXact and none that this
// package reads of RmgrXLOG has (DecodeXLogRecord in backend/access/transam/xlogreader.c).
func mainData(p []byte) []byte {
	const (
		short, long, origin, toplevel = 255, 254, 253, 252 // XLR_BLOCK_ID_*
	)
	for len(p) > 0 {
		switch id := p[0]; {
		case id == short && len(p) >= 2 && len(p) == 2+int(p[1]):
			return p[2:]
		case id == long && len(p) >= 5 && uint64(len(p)) == 5+uint64(binary.LittleEndian.Uint32(p[1:])):
			return p[5:]
		case id == origin && len(p) >= 3:
			p = p[3:]
		case id == toplevel && len(p) >= 5:
			p = p[5:]
		default:
			return nil
		}
	}
	return nil
}

// Transaction is the end of a transaction.
type Transaction struct {
	XID       uint32 // of the transaction that ended: for a prepared one its own, not the committer's
	Time      time.Time
	Committed bool
	Prepared  bool // by COMMIT PREPARED or ROLLBACK PREPARED
}

// Transaction reads a commit or abort record; major is the segment's. ok is false for every other record. buf
// is scratch space for the rare record that lies in several pages, may be nil.
func (r *Record) Transaction(major int, buf []byte) (t Transaction, ok bool) {
	us, xid, ok := r.transaction(major, buf)
	if !ok {
		return t, false
	}
	op := r.Info & xactMask
	t = Transaction{XID: xid, Time: fromPostgres(us)}
	t.Committed = op == xactCommit || op == xactCommitPrepared
	t.Prepared = op == xactCommitPrepared || op == xactAbortPrepared
	return t, true
}

// transaction gives the time as PostgreSQL counts it, in microseconds since 2000-01-01 UTC. buf is scratch space.
func (r *Record) transaction(major int, buf []byte) (us int64, xid uint32, ok bool) {
	if !r.Complete || r.Rmgr != RmgrXact {
		return 0, 0, false
	}
	op := r.Info & xactMask
	if op != xactCommit && op != xactAbort && op != xactCommitPrepared && op != xactAbortPrepared {
		return 0, 0, false
	}
	d := mainData(r.payload(buf))
	if len(d) < 8 {
		return 0, 0, false
	}
	xid = r.XID
	if op == xactCommitPrepared || op == xactAbortPrepared {
		if xid, ok = preparedXID(d[8:], r.Info&xactHasInfo != 0, op == xactCommitPrepared, major); !ok {
			return 0, 0, false
		}
	}
	return int64(binary.LittleEndian.Uint64(d)), xid, true
}

// preparedXID finds the XID of the prepared transaction among the optional parts of a commit or abort record (ParseCommitRecord
// and ParseAbortRecord in backend/access/rmgrdesc/xactdesc.c).
func preparedXID(d []byte, hasInfo, commit bool, major int) (uint32, bool) {
	const (
		dbInfo, subxacts, relations, invals, twoPhase, droppedStats = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 8 // XACT_XINFO_HAS_*
		relationSize, invalSize                                     = 12, 16                                         // RelFileLocator, SharedInvalidationMessage
	)
	if !hasInfo || len(d) < 4 {
		return 0, false
	}
	xinfo := binary.LittleEndian.Uint32(d)
	d = d[4:]
	// skip passes over a counted array whose elements have the given size.
	skip := func(size uint64) bool {
		if len(d) < 4 {
			return false
		}
		n := uint64(binary.LittleEndian.Uint32(d))*size + 4
		if n > uint64(len(d)) {
			return false
		}
		d = d[n:]
		return true
	}
	if xinfo&dbInfo != 0 {
		if len(d) < 8 {
			return 0, false
		}
		d = d[8:]
	}
	statsSize := uint64(12) // xl_xact_stats_item: kind, dboid, objoid
	if major >= 18 {
		statsSize = 16 // the object's id has 64 bits
	}
	if xinfo&subxacts != 0 && !skip(4) ||
		xinfo&relations != 0 && !skip(relationSize) ||
		major >= 15 && xinfo&droppedStats != 0 && !skip(statsSize) ||
		commit && xinfo&invals != 0 && !skip(invalSize) {
		return 0, false
	}
	if xinfo&twoPhase == 0 || len(d) < 4 {
		return 0, false
	}
	return binary.LittleEndian.Uint32(d), true
}

// RestorePoint is a named point made by pg_create_restore_point.
type RestorePoint struct {
	Name string
	LSN  LSN // where its record ends, which is what pg_create_restore_point returns
	Time time.Time
}

// RestorePoint reads such a record (xl_restore_point in include/access/xlog_internal.h). ok is false for every other record.
func (r *Record) RestorePoint() (p RestorePoint, ok bool) {
	const nameSize = 64 // MAXFNAMELEN
	if !r.Complete || r.Rmgr != RmgrXLOG || r.Info&^infoMask != infoRestorePoint {
		return p, false
	}
	d := mainData(r.payload(nil))
	if len(d) < 8+nameSize {
		return p, false
	}
	name, _, _ := bytes.Cut(d[8:8+nameSize], []byte{0})
	return RestorePoint{Name: string(name), LSN: r.End, Time: fromPostgres(int64(binary.LittleEndian.Uint64(d)))}, true
}

// postgresEpoch is 2000-01-01 00:00 UTC in seconds since 1970.
const postgresEpoch = 946684800

// fromPostgres converts a TimestampTz, microseconds since 2000-01-01 UTC.
func fromPostgres(us int64) time.Time {
	return time.UnixMicro(us).Add(postgresEpoch * time.Second).UTC()
}
