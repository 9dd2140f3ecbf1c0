package wal

import (
	"errors"
	"fmt"
	"time"
)

// SegmentInfo is what InspectSegment learns from a segment.
type SegmentInfo struct {
	Header                  SegmentHeader
	LastRecord              LSN       // start of the last record that begins in the segment; 0: none does
	FirstCommit, LastCommit time.Time // earliest and latest time in a commit or abort record, UTC; zero: none
	MaxXID                  uint32    // newest transaction id in the segment's records, compared modulo 2^32; 0: none
	Switch                  bool      // the segment was ended early by a switch record
	SwitchLSN               LSN       // of that record; it can begin just before the segment
	RestorePoints           []RestorePoint
	CompleteTo              LSN // the WAL is proven up to here: the segment's end if it is whole or switched
}

// InspectSegment checks that seg is all of the segment or .partial file it is called, and says what is in it.
//
// A Segment must have the size its header says, the address and no later timeline than the name says, and a chain of pages and
// records, each record's checksum included, that is whole to the segment's end or to a switch record; what follows a switch
// is not looked at, as PostgreSQL never reads it. Everything that PostgreSQL's own reader (backend/access/transam/xlogreader.c)
// would go through is accepted: pages copied from an older timeline at a fork, records that begin or end in other
// segments or span whole ones, and records abandoned by crash recovery (XLP_FIRST_IS_OVERWRITE_CONTRECORD). One kind of damage
// cannot be seen in a segment alone: a cut inside the last page, in a record that goes on in the next segment.
//
// Commits and aborts are counted where they are whole: one that goes on in the next segment is counted in neither, since each of
// the two has only a part of it.
//
// A Partial is checked by its size and header only; the rest is read as far as it goes, and CompleteTo says how far.
//
// The error is a *SegmentError; with ReasonIncomplete and ReasonDamaged the info is valid up to CompleteTo. A server with
// archive_mode=always archives the last segment of a timeline that its primary left under its full name, cut at the fork
// (WalReceiverMain in backend/replication/walreceiver.c): that is ReasonIncomplete with CompleteTo at the fork.
func InspectSegment(seg []byte, name FileName) (SegmentInfo, error) {
	var info SegmentInfo
	if name.Kind != Segment && name.Kind != Partial {
		return info, fmt.Errorf("%s is a %s, not a segment", name, name.Kind)
	}
	h, err := wholeSegment(seg)
	info.Header = h
	if err == nil {
		err = checkName(h, name)
	}
	if err != nil {
		return info, withName(err, name)
	}
	w := newWalker(seg, h, name.Timeline)
	if w.start() {
		info.collect(w)
	}
	info.CompleteTo = w.lsn(w.good)
	info.Switch, info.SwitchLSN = w.switched, w.switchLSN
	if w.err == nil {
		info.CompleteTo = w.lsn(len(seg))
	}
	if w.err == nil || name.Kind == Partial {
		return info, nil
	}
	return info, withName(w.err, name)
}

func withName(err error, name FileName) error {
	var e *SegmentError
	if errors.As(err, &e) {
		e.Name = name.String()
	}
	return err
}

// wholeSegment parses the header of seg and checks that seg is as long as the header says.
func wholeSegment(seg []byte) (SegmentHeader, error) {
	h, err := ParseSegmentHeader(seg)
	if err != nil {
		return h, err
	}
	if uint64(len(seg)) != uint64(h.SegmentSize) {
		return h, &SegmentError{Reason: ReasonSize, LSN: h.Addr, Detail: fmt.Sprintf("%d bytes, but its header says that segments have %d", len(seg), uint32(h.SegmentSize))}
	}
	return h, nil
}

// checkName compares a header with the name of the file it stands in.
func checkName(h SegmentHeader, name FileName) error {
	if err := name.CheckSize(h.SegmentSize); err != nil {
		return &SegmentError{Reason: ReasonAddress, Detail: err.Error()}
	}
	if want := name.Start(h.SegmentSize); h.Addr != want {
		own := SegmentName(h.Timeline, h.Number(), h.SegmentSize)
		return &SegmentError{Reason: ReasonAddress, LSN: want, Detail: fmt.Sprintf("it begins with the page of %s: it is %s", h.Addr, own)}
	}
	if h.Timeline > name.Timeline {
		return &SegmentError{Reason: ReasonTimeline, LSN: h.Addr, Detail: fmt.Sprintf("its first page was written on timeline %d, after the one in the name", h.Timeline)}
	}
	return nil
}

// firstNormalXID is the smallest transaction id that ordinary transactions get (include/access/transam.h).
const firstNormalXID = 3

// collect walks all records.
func (info *SegmentInfo) collect(w *walker) {
	var (
		r           Record
		buf         []byte
		first, last int64
		seen        bool
		major       = w.head.Major
	)
	for w.next(&r) {
		info.LastRecord = r.LSN
		info.sawXID(r.XID)
		switch r.Rmgr {
		case RmgrXact:
			if cap(buf) == 0 && !r.onePage() {
				buf = make([]byte, 0, 4<<10)
			}
			us, xid, ok := r.transaction(major, buf)
			if !ok {
				continue
			}
			info.sawXID(xid)
			if !seen {
				first, last, seen = us, us, true
			}
			first, last = min(first, us), max(last, us)
		case RmgrXLOG:
			if p, ok := r.RestorePoint(); ok {
				info.RestorePoints = append(info.RestorePoints, p)
			}
		}
	}
	if seen {
		info.FirstCommit, info.LastCommit = fromPostgres(first), fromPostgres(last)
	}
}

// sawXID raises MaxXID as TransactionIdFollows does (backend/access/transam/transam.c).
func (info *SegmentInfo) sawXID(xid uint32) {
	if xid >= firstNormalXID && (info.MaxXID == 0 || int32(xid-info.MaxXID) > 0) {
		info.MaxXID = xid
	}
}
