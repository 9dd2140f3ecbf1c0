package wal_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"testing"

	"pgstow/wal"
)

// builder writes WAL as CopyXLogRecordToWAL does (backend/access/transam/xlog.c), to reach what is rare on a server: every
// way in which records, pages and segments can cut each other.
type builder struct {
	block, size int
	start       wal.LSN
	buf         []byte // from start
	tli         wal.TimelineID
	prev        wal.LSN
	overwrite   bool // the next page says that it overwrites a broken record
	records     []built
}

type built struct {
	lsn     wal.LSN
	payload []byte
	xid     uint32
	ended   bool // not abandoned
}

func (b *builder) pos() wal.LSN { return b.start + wal.LSN(len(b.buf)) }

// page begins a new page, which goes on with rest bytes of a record.
func (b *builder) page(rest int) {
	flags := uint16(0)
	size := wal.ShortHeaderSize
	if len(b.buf)%b.size == 0 {
		flags |= wal.LongHeader
		size = wal.LongHeaderSize
	}
	if rest > 0 {
		flags |= wal.FirstIsContrecord
	}
	if b.overwrite {
		flags |= wal.FirstIsOverwriteContrecord
		b.overwrite = false
	}
	h := make([]byte, size)
	le := binary.LittleEndian
	le.PutUint16(h, 0xD113)
	le.PutUint16(h[2:], flags)
	le.PutUint32(h[4:], uint32(b.tli))
	le.PutUint64(h[8:], uint64(b.pos()))
	le.PutUint32(h[16:], uint32(rest))
	if size == wal.LongHeaderSize {
		le.PutUint64(h[24:], 4711)
		le.PutUint32(h[32:], uint32(b.size))
		le.PutUint32(h[36:], uint32(b.block))
	}
	b.buf = append(b.buf, h...)
}

// bytes of a record with its checksum.
func (b *builder) bytes(rmgr, info byte, xid uint32, payload []byte) []byte {
	r := make([]byte, 24, 24+len(payload))
	le := binary.LittleEndian
	le.PutUint32(r, uint32(24+len(payload)))
	le.PutUint32(r[4:], xid)
	le.PutUint64(r[8:], uint64(b.prev))
	r[16], r[17] = info, rmgr
	table := crc32.MakeTable(crc32.Castagnoli)
	le.PutUint32(r[20:], crc32.Update(crc32.Checksum(payload, table), table, r[:20]))
	return append(r, payload...)
}

// record adds a record. With abandonAt > 0 it is broken at that page boundary, and what follows overwrites it.
func (b *builder) record(rmgr, info byte, xid uint32, payload []byte, abandonAt int) {
	if len(b.buf)%b.block == 0 {
		b.page(0)
	}
	r := b.bytes(rmgr, info, xid, payload)
	entry := built{lsn: b.pos(), payload: payload, xid: xid}
	for boundaries := 0; ; {
		n := min(len(r), b.block-len(b.buf)%b.block)
		b.buf = append(b.buf, r[:n]...)
		r = r[n:]
		if len(r) == 0 {
			break
		}
		if boundaries++; boundaries == abandonAt {
			b.overwrite = true
			b.records = append(b.records, entry)
			return
		}
		b.page(len(r))
	}
	for len(b.buf)%8 != 0 {
		b.buf = append(b.buf, 0)
	}
	b.prev = entry.lsn
	entry.ended = true
	b.records = append(b.records, entry)
}

// switchSegment adds a switch record, and the zeros after it.
func (b *builder) switchSegment() {
	if len(b.buf)%b.size == 0 {
		return
	}
	b.record(0, 0x40, 0, nil, 0)
	if n := len(b.buf) % b.size; n != 0 {
		b.buf = append(b.buf, make([]byte, b.size-n)...)
	}
}

// stream builds some segments of random records.
func stream(r *rand.Rand, segments int) *builder {
	b := &builder{block: 1 << (10 + r.IntN(7)), size: 1 << 20, start: 7 << 20, tli: 3, prev: 7<<20 - 800}
	for len(b.buf) < segments*b.size {
		left := b.block - len(b.buf)%b.block
		n := 0
		switch r.IntN(8) {
		case 0: // to the end of the page, or just not
			n = max(left-24+(r.IntN(5)-2)*8-r.IntN(3), 0)
		case 1:
			n = r.IntN(3 * b.block)
		case 2:
			if r.IntN(40) == 0 {
				n = r.IntN(2 * b.size)
			}
		default:
			n = r.IntN(300)
		}
		payload := make([]byte, n)
		for i := range payload {
			payload[i] = byte(r.Uint32())
		}
		abandon := 0
		switch r.IntN(100) {
		case 0:
			b.tli++
		case 1:
			abandon = 1 + r.IntN(3)
		case 2:
			if r.IntN(20) == 0 {
				b.switchSegment()
				continue
			}
		}
		if b.overwrite {
			b.record(0, 0xD0, 0, make([]byte, 18), 0)
		}
		b.record(10, 0, 3+r.Uint32N(1000), payload, abandon)
	}
	return b
}

// TestBuiltStreams inspects random WAL, segment by segment, and compares every record with what was built.
func TestBuiltStreams(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 9))
		b := stream(r, 3)
		n := 0
		for off := 0; off+b.size <= len(b.buf); off += b.size {
			seg := b.buf[off : off+b.size]
			start := b.start + wal.LSN(off)
			end := start + wal.LSN(b.size)
			name := wal.SegmentName(b.tli, wal.SegmentSize(b.size).SegmentOf(start), wal.SegmentSize(b.size))
			info, err := wal.InspectSegment(seg, name)
			if err != nil {
				t.Fatalf("seed %d, page size %d: %v", seed, b.block, err)
			}
			if info.CompleteTo != end {
				t.Fatalf("seed %d: complete to %s", seed, info.CompleteTo)
			}
			var last wal.LSN
			for rec, err := range wal.Records(seg) {
				if err != nil {
					t.Fatal(err)
				}
				for !b.records[n].ended && b.records[n].lsn != rec.LSN {
					n++ // an abandoned one, left out
				}
				want := b.records[n]
				if rec.LSN != want.lsn || int(rec.TotalLength) != 24+len(want.payload) {
					t.Fatalf("seed %d: record at %s, want %s", seed, rec.LSN, want.lsn)
				}
				if rec.Complete && (rec.XID != want.xid || !bytes.Equal(rec.AppendPayload(nil), want.payload)) {
					t.Fatalf("seed %d: record at %s has other contents", seed, rec.LSN)
				}
				if !rec.Complete && rec.LSN+wal.LSN(rec.TotalLength) <= end-wal.LSN(b.size/b.block*wal.LongHeaderSize) && want.ended {
					t.Fatalf("seed %d: record at %s is not complete", seed, rec.LSN)
				}
				last = rec.LSN
				n++
			}
			if last != info.LastRecord {
				t.Fatalf("seed %d: last record %s, want %s", seed, info.LastRecord, last)
			}
		}
		for ; n < len(b.records) && b.records[n].lsn < b.start+wal.LSN(len(b.buf)/b.size*b.size); n++ {
			if b.records[n].ended {
				t.Fatalf("seed %d: the record at %s was not found", seed, b.records[n].lsn)
			}
		}
	}
}

// TestBuiltDamage flips one bit of a built segment. Only bits that no checksum and no rule covers may go unseen.
func TestBuiltDamage(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	b := &builder{block: 8192, size: 1 << 20, start: 7 << 20, tli: 3, prev: 7<<20 - 800}
	for len(b.buf) < b.size {
		b.record(10, 0, 5, make([]byte, 8*r.IntN(200)), 0) // multiples of 8: no padding between records
	}
	seg := b.buf[:b.size]
	name := wal.SegmentName(3, 7, 1<<20)
	info, err := wal.InspectSegment(seg, name)
	if err != nil {
		t.Fatal(err)
	}
	for range 3000 {
		bit := r.IntN(int(info.LastRecord-info.Header.Addr) * 8)
		in := bit / 8 % b.block
		if bit/8 < b.block && in < wal.LongHeaderSize || in < wal.ShortHeaderSize {
			continue // page headers have their own test
		}
		seg[bit/8] ^= 1 << (bit % 8)
		damaged, err := wal.InspectSegment(seg, name)
		if err == nil || damaged.CompleteTo > info.Header.Addr+wal.LSN(bit/8) {
			t.Fatalf("bit %d of byte %d: %v", bit%8, bit/8, err)
		}
		seg[bit/8] ^= 1 << (bit % 8)
	}
}

func FuzzInspectSegment(f *testing.F) {
	var bases []fixture
	for _, role := range []string{"plain", "fork", "straddle", "switched", "overwrite"} {
		bases = append(bases, segments(f, "testdata/18", role)...)
	}
	f.Add(uint8(0), []byte{0, 0, 2, 0xFF, 0, 0, 36, 1})
	f.Add(uint8(2), []byte{0, 0, 16, 24, 0, 0, 48, 0x40})
	f.Fuzz(func(t *testing.T, base uint8, patches []byte) {
		// Each patch is three bytes of offset and one of value.
		fix := bases[int(base)%len(bases)]
		seg := bytes.Clone(fix.seg)
		for ; len(patches) >= 4; patches = patches[4:] {
			off := int(patches[0])<<16 | int(patches[1])<<8 | int(patches[2])
			seg[off%len(seg)] = patches[3]
		}
		info, err := wal.InspectSegment(seg, fix.name)
		var e *wal.SegmentError
		if err != nil && !errors.As(err, &e) {
			t.Fatal(err)
		}
		end := info.Header.Addr + wal.LSN(len(seg))
		if info.CompleteTo > end || err == nil && info.CompleteTo != end || info.LastRecord > info.CompleteTo {
			t.Errorf("%+v, %v", info, err)
		}
		var last wal.LSN
		var buf []byte
		for rec, err := range wal.Records(seg) {
			if err != nil {
				break
			}
			last = rec.LSN
			buf = rec.AppendPayload(buf[:0])
			rec.Transaction(18, nil)
		}
		if err == nil && last != info.LastRecord {
			t.Errorf("last record %s, Records says %s", info.LastRecord, last)
		}
	})
}
