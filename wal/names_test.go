package wal_test

import (
	"encoding/json"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"strings"
	"testing"

	"pgstow/wal"
)

func TestLSN(t *testing.T) {
	for _, c := range []struct {
		text string
		lsn  wal.LSN
	}{
		{"0/0", 0}, {"0/16B3748", 0x16B3748}, {"16/B374D848", 0x16B374D848}, {"FFFFFFFF/FFFFFFFF", wal.MaxLSN}, {"1/0", 1 << 32},
	} {
		if got, err := wal.ParseLSN(c.text); err != nil || got != c.lsn {
			t.Errorf("%s: %v, %v", c.text, got, err)
		}
		if got := c.lsn.String(); got != c.text {
			t.Errorf("%#x prints as %s, want %s", uint64(c.lsn), got, c.text)
		}
	}
	if got, err := wal.ParseLSN("0000000a/00000010"); err != nil || got != 0xA00000010 {
		t.Errorf("lower case and zeros: %v, %v", got, err)
	}
	for _, s := range []string{"", "/", "0", "0/", "/0", "0/0/0", " 0/0", "0/0 ", "0/000000001", "G/0", "+1/0", "-1/0", "0x1/0", "1_0/0"} {
		if got, err := wal.ParseLSN(s); err == nil {
			t.Errorf("%q passes as %s", s, got)
		}
	}
	b, err := json.Marshal(struct{ At wal.LSN }{0x16B3748})
	if err != nil || string(b) != `{"At":"0/16B3748"}` {
		t.Errorf("JSON %s, %v", b, err)
	}
	var back struct{ At wal.LSN }
	if err := json.Unmarshal(b, &back); err != nil || back.At != 0x16B3748 {
		t.Errorf("JSON back %v, %v", back, err)
	}
	if err := json.Unmarshal([]byte(`{"At":"x"}`), &back); err == nil {
		t.Error("JSON takes any string")
	}
}

// sizes are all the sizes a segment can have.
func sizes() (all []wal.SegmentSize) {
	for s := wal.MinSegmentSize; s.Valid(); s *= 2 {
		all = append(all, s)
	}
	return all
}

func TestSegmentSizes(t *testing.T) {
	if got := sizes(); len(got) != 11 || got[10] != wal.MaxSegmentSize {
		t.Errorf("sizes %v", got)
	}
	for _, s := range []wal.SegmentSize{0, 1, 8192, 1<<20 - 1, 1<<20 + 1, 3 << 20, 1 << 31} {
		if s.Valid() || s.Check() == nil {
			t.Errorf("%d is valid", s)
		}
	}
}

// TestSegmentArithmetic compares with plain arithmetic on positions near every kind of boundary, for all sizes.
func TestSegmentArithmetic(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, size := range sizes() {
		shift := bits.TrailingZeros32(uint32(size))
		if size.PerLog() != 1<<(32-shift) {
			t.Errorf("%d: %d per 4 GiB", size, size.PerLog())
		}
		for range 2000 {
			l := wal.LSN(r.Uint64() >> r.IntN(64))
			if r.IntN(2) == 0 { // beside a boundary
				l = l>>shift<<shift + wal.LSN(r.IntN(3)) - 1
			}
			n := size.SegmentOf(l)
			if uint64(n) != uint64(l)>>shift || size.Start(n) > l || l-size.Start(n) != wal.LSN(size.Offset(l)) {
				t.Fatalf("%d: %s in segment %d from %s, offset %d", size, l, n, size.Start(n), size.Offset(l))
			}
			prev := size.PrevSegmentOf(l)
			if l > 0 && (size.Start(prev) >= l || l-size.Start(prev) > wal.LSN(size)) {
				t.Fatalf("%d: the byte before %s in segment %d from %s", size, l, prev, size.Start(prev))
			}
			if size.End(prev) != size.Start(prev+1) {
				t.Fatalf("%d: segment %d ends at %s", size, prev, size.End(prev))
			}
			tli := wal.TimelineID(r.Uint32() | 1)
			for _, f := range []wal.FileName{
				wal.SegmentName(tli, n, size), wal.PartialName(tli, n, size), wal.BackupHistoryName(tli, l, size), wal.HistoryName(tli),
			} {
				back, err := wal.ParseFileName(f.String())
				if err != nil || back != f {
					t.Fatalf("%s comes back as %+v, %v", f, back, err)
				}
				if err := f.CheckSize(size); err != nil {
					t.Fatal(err)
				}
				if f.Kind == wal.HistoryFile {
					continue
				}
				if f.Number(size) != n || f.Segment() != wal.SegmentName(tli, n, size) {
					t.Fatalf("%d: %s is segment %d, want %d", size, f, f.Number(size), n)
				}
				if f.Kind == wal.BackupHistory && f.Start(size) != l || f.Kind == wal.Segment && f.Start(size) != size.Start(n) {
					t.Fatalf("%d: %s starts at %s", size, f, f.Start(size))
				}
				// Names of one kind and timeline sort as the segments do.
				if next := wal.SegmentName(tli, n+1, size); n+1 < 1<<(64-shift) && f.Kind == wal.Segment && next.String() <= f.String() {
					t.Fatalf("%s sorts before %s", next, f)
				}
			}
		}
	}
	if n := wal.DefaultSegmentSize.PrevSegmentOf(0); n != 0 {
		t.Errorf("before the first byte: %d", n)
	}
}

// TestPostgresNames are values that pg_walfile_name and pg_walfile_name_offset return.
func TestPostgresNames(t *testing.T) {
	const size = wal.DefaultSegmentSize
	for _, c := range []struct {
		lsn    wal.LSN
		name   string
		offset uint32
	}{
		{0x16B3748, "000000010000000000000001", 0x6B3748},
		{0x2000000, "000000010000000000000002", 0},
		{0xFFFFFFFF, "0000000100000000000000FF", 0xFFFFFF},
		{0x100000000, "000000010000000100000000", 0},
		{0x16B374D848, "0000000100000016000000B3", 0x74D848},
	} {
		if got := wal.SegmentName(1, size.SegmentOf(c.lsn), size).String(); got != c.name || size.Offset(c.lsn) != c.offset {
			t.Errorf("%s is in %s at %d, want %s at %d", c.lsn, got, size.Offset(c.lsn), c.name, c.offset)
		}
	}
	if got := wal.SegmentName(0xABC, 5000, 1<<30).String(); got != "00000ABC000004E200000000" {
		t.Error(got)
	}
}

func TestFileNames(t *testing.T) {
	for _, c := range []struct {
		text string
		want wal.FileName
	}{
		{"0000000100000002000000A3", wal.FileName{Kind: wal.Segment, Timeline: 1, Log: 2, Seg: 0xA3}},
		{"0000000100000002000000A3.partial", wal.FileName{Kind: wal.Partial, Timeline: 1, Log: 2, Seg: 0xA3}},
		{"0000000100000002000000A3.00000028.backup", wal.FileName{Kind: wal.BackupHistory, Timeline: 1, Log: 2, Seg: 0xA3, Offset: 0x28}},
		{"0000000A.history", wal.FileName{Kind: wal.HistoryFile, Timeline: 10}},
	} {
		got, err := wal.ParseFileName(c.text)
		if err != nil || got != c.want || got.String() != c.text {
			t.Errorf("%s: %+v, %v", c.text, got, err)
		}
	}
	for _, s := range []string{
		"", "00000001", "0000000100000002000000a3", "0000000100000002000000A", "0000000100000002000000A33", "0000000100000002000000G3",
		"0000000000000002000000A3", "00000000.history", "0000000a.history", "00000001.historyx", "00000001.Partial", "1.history",
		"0000000100000002000000A3.partial.zst", "0000000100000002000000A3.Partial", "0000000100000002000000A3.", "./0000000100000002000000A3",
		"0000000100000002000000A3.28.backup", "0000000100000002000000A3.0000002g.backup", "0000000100000002000000A3.00000028.backup2",
		"0000000100000002000000A3x00000028.backup", "0000000100000002000000A3\n", "RECOVERYXLOG", "archive_status",
	} {
		if got, err := wal.ParseFileName(s); err == nil {
			t.Errorf("%q passes as %+v", s, got)
		} else if s != "" && !strings.Contains(err.Error(), fmt.Sprintf("%q", s)) {
			t.Errorf("%q: the error does not name it: %v", s, err)
		}
	}
}

func TestNameAgainstSize(t *testing.T) {
	for _, c := range []struct {
		name string
		size wal.SegmentSize
		ok   bool
	}{
		{"0000000100000000000000FF", 16 << 20, true},
		{"000000010000000000000100", 16 << 20, false},
		{"000000010000000000000FFF", 1 << 20, true},
		{"000000010000000000000004", 1 << 30, false},
		{"000000010000000000000003", 1 << 30, true},
		{"000000010000000000000003", 0, false},
		{"000000010000000000000003.000FFFFF.backup", 1 << 20, true},
		{"000000010000000000000003.00100000.backup", 1 << 20, false},
		{"00000002.history", 1 << 20, true},
	} {
		f, err := wal.ParseFileName(c.name)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.CheckSize(c.size); (err == nil) != c.ok {
			t.Errorf("%s with %d: %v", c.name, c.size, err)
		}
	}
	for k, want := range map[wal.FileKind]string{
		wal.Segment: "segment", wal.Partial: "partial segment", wal.BackupHistory: "backup history file", wal.HistoryFile: "timeline history file", 0: "unknown kind 0",
	} {
		if k.String() != want {
			t.Errorf("%d is a %s", k, k)
		}
	}
}

func FuzzParseFileName(f *testing.F) {
	for _, s := range []string{
		"0000000100000002000000A3", "0000000100000002000000A3.partial", "0000000100000002000000A3.00000028.backup", "0000000A.history", "00000000.history",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, err := wal.ParseFileName(s)
		if err == nil && name.String() != s {
			t.Errorf("%q comes back as %q", s, name)
		}
		for _, size := range sizes() {
			if err == nil && name.Kind == wal.Segment && name.CheckSize(size) == nil && wal.SegmentName(name.Timeline, name.Number(size), size) != name {
				t.Errorf("%q is segment %d of size %d, which is not called so", s, name.Number(size), size)
			}
		}
	})
}
