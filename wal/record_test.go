package wal_test

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"

	"pgstow/wal"
)

// finished builds the main data of a COMMIT or ROLLBACK PREPARED record with every optional part.
func finished(at int64, xid uint32, commit bool, major int) []byte {
	le := binary.LittleEndian
	d := le.AppendUint64(nil, uint64(at))
	xinfo := uint32(1<<0 | 1<<1 | 1<<2 | 1<<4)
	if commit {
		xinfo |= 1 << 3
	}
	if major >= 15 {
		xinfo |= 1 << 8
	}
	d = le.AppendUint32(d, xinfo)
	d = append(d, make([]byte, 8)...) // database and tablespace
	array := func(n, size int) {
		d = append(le.AppendUint32(d, uint32(n)), slices.Repeat([]byte{0xEE}, n*size)...)
	}
	array(3, 4)  // subtransactions
	array(2, 12) // relations
	if major >= 18 {
		array(2, 16)
	} else if major >= 15 {
		array(2, 12) // statistics
	}
	if commit {
		array(5, 16) // invalidations
	}
	return le.AppendUint32(d, xid)
}

// headers puts the main data's header before it, and those of an origin and a top-level transaction.
func headers(data []byte) []byte {
	p := []byte{253, 1, 0, 252, 9, 0, 0, 0}
	if len(data) > 255 {
		p = binary.LittleEndian.AppendUint32(append(p, 254), uint32(len(data)))
	} else {
		p = append(p, 255, byte(len(data)))
	}
	return append(p, data...)
}

// magics of the majors that builder can pretend to be.
var magics = map[int]uint16{13: 0xD106, 14: 0xD10D, 15: 0xD110, 16: 0xD113, 17: 0xD116, 18: 0xD118}

func TestEveryPartOfATransactionRecord(t *testing.T) {
	when := time.Date(2026, 11, 24, 15, 38, 0, 123456000, time.UTC)
	us := when.Sub(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).Microseconds()
	for major, magic := range magics {
		if wal.MajorOf(magic) != major {
			t.Errorf("%04X is of %d", magic, wal.MajorOf(magic))
		}
		for _, commit := range []bool{true, false} {
			b := &builder{block: 1024, size: 1 << 20, start: 7 << 20, tli: 3, prev: 7<<20 - 800}
			info := byte(0x80 | 0x40)
			if commit {
				info = 0x80 | 0x30
			}
			// 20 of them: several go over a page boundary.
			for range 20 {
				b.record(1, info, 50, headers(finished(us, 4242, commit, major)), 0)
			}
			b.switchSegment()
			n := 0
			for r, err := range wal.Records(b.buf) {
				if err != nil {
					t.Fatal(err)
				}
				tx, ok := r.Transaction(major, nil)
				if !ok {
					continue
				}
				n++
				if tx != (wal.Transaction{XID: 4242, Time: when, Committed: commit, Prepared: true}) {
					t.Fatalf("%d: %+v", major, tx)
				}
			}
			if n != 20 {
				t.Errorf("%d: %d of 20 were read", major, n)
			}
		}
	}
}

// TestCutTransactionRecords cuts the main data anywhere: what does not fit together is not a transaction, and nothing panics.
func TestCutTransactionRecords(t *testing.T) {
	whole := finished(1, 4242, true, 18)
	b := &builder{block: 8192, size: 1 << 20, start: 7 << 20, tli: 3, prev: 7<<20 - 800}
	for n := range whole {
		b.record(1, 0x80|0x30, 50, headers(whole[:n]), 0)
	}
	for n := range 20 {
		b.record(1, 0, 50, headers(whole)[:n], 0)
	}
	b.record(1, 0, 50, []byte{0, 0, 0, 0}, 0)
	b.record(1, 0x80|0x30, 50, headers(slices.Concat(whole[:8], []byte{0x01, 0, 0, 0}, whole[12:])), 0) // says it has no XID
	b.switchSegment()
	for r, err := range wal.Records(b.buf) {
		if err != nil {
			t.Fatal(err)
		}
		if tx, ok := r.Transaction(18, nil); ok {
			t.Errorf("%s: %+v", r.LSN, tx)
		}
	}
}

func TestMaxXIDGoesRound(t *testing.T) {
	for _, c := range []struct {
		xids []uint32
		want uint32
	}{
		{nil, 0},
		{[]uint32{0, 1, 2}, 0},
		{[]uint32{7, 5, 6}, 7},
		{[]uint32{4294967290, 4294967295, 3, 5, 4294967294}, 5},
	} {
		b := &builder{block: 8192, size: 1 << 20, start: 7 << 20, tli: 3, prev: 7<<20 - 800}
		for _, x := range c.xids {
			b.record(10, 0, x, []byte("data"), 0)
		}
		b.record(10, 0, 0, nil, 0)
		b.switchSegment()
		info, err := wal.InspectSegment(b.buf, wal.SegmentName(3, 7, 1<<20))
		if err != nil || info.MaxXID != c.want {
			t.Errorf("%v: %d, %v", c.xids, info.MaxXID, err)
		}
	}
}

// TestAbandonedInLaterSegment builds a record that begins in one segment and is broken off in the middle of the next.
func TestAbandonedInLaterSegment(t *testing.T) {
	b := &builder{block: 8192, size: 1 << 20, start: 7 << 20, tli: 3, prev: 7<<20 - 800}
	for len(b.buf) < b.size-3*b.block {
		b.record(10, 0, 5, make([]byte, 1000), 0)
	}
	b.record(10, 0, 5, make([]byte, b.size), 10)
	b.record(0, 0xD0, 0, make([]byte, 18), 0)
	b.switchSegment()
	for i := range 2 {
		name := wal.SegmentName(3, wal.SegmentNumber(7+i), 1<<20)
		info, err := wal.InspectSegment(b.buf[i*b.size:][:b.size], name)
		if err != nil || info.Switch != (i == 1) {
			t.Errorf("%s: switch %v, %v", name, info.Switch, err)
		}
	}
	// Without the mark, the page that does not go on is damage.
	at := 0
	for p := b.size; p < 2*b.size; p += b.block {
		if b.buf[p+2]&byte(wal.FirstIsOverwriteContrecord) != 0 {
			at = p
		}
	}
	b.buf[at+2] = 0
	_, err := wal.InspectSegment(b.buf[b.size:], wal.SegmentName(3, 8, 1<<20))
	want := "WAL segment 000000030000000000000008 at 0/80"
	if at == 0 || err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("without the mark at %d: %v", at, err)
	}
}
