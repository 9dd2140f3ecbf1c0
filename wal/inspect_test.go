package wal_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"time"

	"pgstow/wal"
)

// inspect wants the segment accepted.
func inspect(t *testing.T, f fixture) wal.SegmentInfo {
	t.Helper()
	info, err := wal.InspectSegment(f.seg, f.name)
	if err != nil {
		t.Fatal(err)
	}
	if end := info.Header.Addr + wal.LSN(len(f.seg)); f.name.Kind == wal.Segment && info.CompleteTo != end {
		t.Errorf("complete to %s, want the end, %s", info.CompleteTo, end)
	}
	return info
}

// refused wants the segment refused for the reason, and gives what was learnt and the place.
func refused(t *testing.T, seg []byte, name wal.FileName, reason wal.Reason) (wal.SegmentInfo, wal.LSN) {
	t.Helper()
	info, err := wal.InspectSegment(seg, name)
	var e *wal.SegmentError
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want it refused: %s", err, reason)
	}
	if e.Reason != reason || e.Name != name.String() {
		t.Fatalf("got %q of %q (%v), want %q of %s", e.Reason, e.Name, e, reason, name)
	}
	return info, e.LSN
}

func TestInspectPlainSegment(t *testing.T) {
	eachMajor(t, func(t *testing.T, dir string, major int) {
		f := segments(t, dir, "plain")[0]
		info := inspect(t, f)
		h := info.Header
		if h.Major != major || h.Timeline != 1 || h.SegmentSize != 1<<20 || h.BlockSize != 8192 || h.SystemID == 0 {
			t.Errorf("header %+v", h)
		}
		if info.Switch || info.SwitchLSN != 0 {
			t.Error("a switch was found in a segment that was filled")
		}
		if len(info.RestorePoints) != 1 || info.RestorePoints[0].Name != "before the storm" {
			t.Fatalf("restore points %v", info.RestorePoints)
		}
		if p := info.RestorePoints[0]; p.LSN <= h.Addr || p.LSN >= info.CompleteTo || p.Time.Before(info.FirstCommit) {
			t.Errorf("restore point %v does not follow the commits, which begin at %s", p, info.FirstCommit)
		}
		if info.LastCommit.Before(info.FirstCommit) || info.FirstCommit.Year() != 2026 || info.LastCommit.Sub(info.FirstCommit) > time.Minute {
			t.Errorf("commits from %s to %s", info.FirstCommit, info.LastCommit)
		}
		if info.LastRecord <= info.RestorePoints[0].LSN {
			t.Errorf("last record %s is not after the restore point", info.LastRecord)
		}
	})
}

func TestTransactions(t *testing.T) {
	eachMajor(t, func(t *testing.T, dir string, major int) {
		f := segments(t, dir, "plain")[0]
		var prepared, finished []uint32
		var commits, aborts int
		var newest uint32
		for r, err := range wal.Records(f.seg) {
			if err != nil {
				t.Fatal(err)
			}
			newest = max(newest, r.XID)
			const prepare = 0x10
			if r.Rmgr == wal.RmgrXact && r.Info&0x70 == prepare {
				prepared = append(prepared, r.XID)
			}
			tx, ok := r.Transaction(major, nil)
			switch {
			case !ok:
			case tx.Prepared:
				finished = append(finished, tx.XID)
			case tx.XID != r.XID:
				t.Errorf("%s: xid %d in a record of %d", r.LSN, tx.XID, r.XID)
			}
			switch {
			case !ok:
			case tx.Committed:
				commits++
			default:
				aborts++
			}
		}
		// traffic in make.sh: two single statements and one block commit, one rolls back, one of the prepared ones each.
		if commits != 4 || aborts != 2 {
			t.Errorf("%d commits and %d aborts, want 4 and 2", commits, aborts)
		}
		if len(prepared) != 2 || !slices.Equal(prepared, finished) {
			t.Errorf("prepared %v, finished %v", prepared, finished)
		}
		if info := inspect(t, f); info.MaxXID != newest {
			t.Errorf("newest xid %d, want %d", info.MaxXID, newest)
		}
	})
}

// TestTailOfSwitchedSegment holds PostgreSQL to what FACTS says of it: after a switch even page headers are zero.
func TestTailOfSwitchedSegment(t *testing.T) {
	eachMajor(t, func(t *testing.T, dir string, _ int) {
		f := segments(t, dir, "switched")[0]
		info := inspect(t, f)
		if !info.Switch || info.SwitchLSN == 0 || info.LastRecord != info.SwitchLSN {
			t.Fatalf("switch %v at %s, last record %s", info.Switch, info.SwitchLSN, info.LastRecord)
		}
		tail := f.seg[info.SwitchLSN-info.Header.Addr+24:]
		if len(bytes.Trim(tail, "\x00")) != 0 {
			t.Error("the segment has bytes after its switch record")
		}
		// What a crash before the zeros were written leaves there: the reader never looks.
		seg := slices.Clone(f.seg)
		copy(seg[len(seg)-8192:], "an old page")
		inspect(t, fixture{f.name, seg})
		// Without the switch record it is a padded segment.
		clear(seg[info.SwitchLSN-info.Header.Addr:])
		info, at := refused(t, seg, f.name, wal.ReasonIncomplete)
		if info.Switch || at != info.CompleteTo {
			t.Errorf("stops at %s, complete to %s", at, info.CompleteTo)
		}
	})
}

func TestRecordOverSeveralSegments(t *testing.T) {
	eachMajor(t, func(t *testing.T, dir string, _ int) {
		fs := segments(t, dir, "huge")
		first, middle, last := inspect(t, fs[0]), inspect(t, fs[1]), inspect(t, fs[2])
		if first.LastRecord == 0 || middle.LastRecord != 0 || last.LastRecord == 0 || !last.Switch {
			t.Errorf("last records %s, %s, %s", first.LastRecord, middle.LastRecord, last.LastRecord)
		}
		var records, open int
		for r, err := range wal.Records(fs[0].seg) {
			if err != nil {
				t.Fatal(err)
			}
			records++
			if !r.Complete {
				open++
				if r.TotalLength < 2500000 || r.End != 0 || r.AppendPayload(nil) != nil {
					t.Errorf("the record that goes on: %+v", r)
				}
			}
		}
		if open != 1 || records < 2 {
			t.Errorf("%d of %d records go on after the segment, want 1 of many", open, records)
		}
		// A page of the middle one lost.
		seg := slices.Clone(fs[1].seg)
		clear(seg[50*8192 : 51*8192])
		if _, at := refused(t, seg, fs[1].name, wal.ReasonIncomplete); at != middle.Header.Addr+50*8192 {
			t.Errorf("found out at %s", at)
		}
	})
}

func TestForkedSegment(t *testing.T) {
	eachMajor(t, func(t *testing.T, dir string, _ int) {
		_, at := fork(t, dir)
		f, partial, cut := segments(t, dir, "fork")[0], segments(t, dir, "partial")[0], segments(t, dir, "cut")[0]
		info := inspect(t, f)
		if f.name.Timeline != 2 || info.Header.Timeline != 1 {
			t.Errorf("%s begins on timeline %d, want 1", f.name, info.Header.Timeline)
		}
		// The same segment of timeline 1, as .partial from the promoted server ...
		if p := inspect(t, partial); p.CompleteTo != at || partial.name.Kind != wal.Partial {
			t.Errorf("%s is complete to %s, want the fork, %s", partial.name, p.CompleteTo, at)
		}
		if info, err := wal.InspectSegment(partial.seg, partial.name.Segment()); err == nil {
			t.Errorf("%s passes as a full segment: %+v", partial.name, info)
		}
		// ... and under its full name from a standby with archive_mode=always.
		if c, end := refused(t, cut.seg, cut.name, wal.ReasonIncomplete); c.CompleteTo != at || end != at {
			t.Errorf("%s is complete to %s, refused at %s, want the fork, %s", cut.name, c.CompleteTo, end, at)
		}
		// Under the old timeline's name the new pages do not pass.
		old := f.name
		old.Timeline = 1
		refused(t, f.seg, old, wal.ReasonTimeline)
	})
}

// TestAbandonedRecord reads segments in which crash recovery gave up a record that went on over their boundary.
func TestAbandonedRecord(t *testing.T) {
	eachMajor(t, func(t *testing.T, dir string, _ int) {
		fs := segments(t, dir, "overwrite")
		before, after := inspect(t, fs[0]), inspect(t, fs[1])
		if before.LastRecord == 0 || after.LastRecord == 0 {
			t.Errorf("last records %s and %s", before.LastRecord, after.LastRecord)
		}
		const overwriteContrecord = 0xD0
		first := true
		for r, err := range wal.Records(fs[1].seg) {
			if err != nil {
				t.Fatal(err)
			}
			if first && (r.Rmgr != wal.RmgrXLOG || r.Info&0xF0 != overwriteContrecord) {
				t.Errorf("first record %+v, want the one that overwrites", r)
			}
			first = false
		}
	})
}

func TestRefusals(t *testing.T) {
	f := segments(t, "testdata/15", "plain")[0]
	other := f.name
	other.Seg++
	change := func(off int, b ...byte) []byte {
		seg := slices.Clone(f.seg)
		copy(seg[off:], b)
		return seg
	}
	last := len(f.seg) - 8192
	for _, c := range []struct {
		what   string
		seg    []byte
		name   wal.FileName
		reason wal.Reason
	}{
		{"empty", nil, f.name, wal.ReasonSize},
		{"short", f.seg[:len(f.seg)-1], f.name, wal.ReasonSize},
		{"long", append(slices.Clone(f.seg), 0), f.name, wal.ReasonSize},
		{"zeros", make([]byte, len(f.seg)), f.name, wal.ReasonMagic},
		{"other byte order", change(0, 0xD1, 0x10), f.name, wal.ReasonByteOrder},
		{"unknown version", change(0, 0xFF, 0xD1), f.name, wal.ReasonVersion},
		{"version in the middle", change(8192, 0x0D), f.name, wal.ReasonIncomplete},
		{"no long header", change(2, 0), f.name, wal.ReasonHeader},
		{"no system id", change(24, 0, 0, 0, 0, 0, 0, 0, 0), f.name, wal.ReasonSystemID},
		{"timeline 0", change(4, 0), f.name, wal.ReasonTimeline},
		{"later timeline", change(4, 2), f.name, wal.ReasonTimeline},
		{"segment size", change(32, 1), f.name, wal.ReasonHeader},
		{"page size", change(36, 1), f.name, wal.ReasonHeader},
		{"wrong name", f.seg, other, wal.ReasonAddress},
		{"impossible name", f.seg, wal.FileName{Kind: wal.Segment, Timeline: 1, Seg: 4096}, wal.ReasonAddress},
		{"page of another segment", change(8192+8, 1), f.name, wal.ReasonIncomplete},
		{"page flags", change(8192+2, 0x10), f.name, wal.ReasonDamaged},
		{"page's rest length", change(last+16, 1), f.name, wal.ReasonDamaged},
		{"one byte in the middle", change(last/2+100, f.seg[last/2+100]^1), f.name, wal.ReasonDamaged},
		{"last page zero", change(last, make([]byte, 8192)...), f.name, wal.ReasonIncomplete},
		{"second half zero", change(len(f.seg)/2, make([]byte, len(f.seg)/2)...), f.name, wal.ReasonIncomplete},
		{"cut inside a page", change(last/2+100, make([]byte, len(f.seg)-last/2-100)...), f.name, wal.ReasonIncomplete},
		{"partial of another segment", f.seg, wal.FileName{Kind: wal.Partial, Timeline: 1, Seg: 1}, wal.ReasonAddress},
	} {
		t.Run(c.what, func(t *testing.T) { refused(t, c.seg, c.name, c.reason) })
	}
	for _, name := range []wal.FileName{wal.HistoryName(2), wal.BackupHistoryName(1, 0x2000028, 1<<20), {}} {
		if _, err := wal.InspectSegment(f.seg, name); err == nil {
			t.Errorf("%s was inspected as a segment", name)
		}
	}
}

// TestEveryCut cuts a full segment at every place, padded with zeros or with an older segment, as an unfinished one is. Only
// a cut inside the last page in a record that goes on may pass.
func TestEveryCut(t *testing.T) {
	f := segments(t, "testdata/18", "plain")[0]
	old := segments(t, "testdata/18", "huge")[1]
	full := inspect(t, f)
	for _, tail := range [][]byte{make([]byte, len(f.seg)), old.seg} {
		seg := slices.Clone(tail)
		have := 0
		for cut := 0; cut < len(f.seg); cut += 1013 {
			copy(seg[have:], f.seg[have:cut])
			have = cut
			info, err := wal.InspectSegment(seg, f.name)
			if err == nil {
				if full.Header.Addr+wal.LSN(cut) > full.LastRecord {
					continue
				}
				t.Fatalf("cut at %d: accepted", cut)
			}
			if info.CompleteTo > full.Header.Addr+wal.LSN(cut)+8 {
				t.Fatalf("cut at %d: complete to %s", cut, info.CompleteTo)
			}
		}
	}
}

func BenchmarkInspectSegment(b *testing.B) {
	f := segments(b, "testdata/15", "plain")[0]
	b.SetBytes(int64(len(f.seg)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := wal.InspectSegment(f.seg, f.name); err != nil {
			b.Fatal(err)
		}
	}
}

// TestStraddlingSwitch reads pairs of segments with a switch record over their boundary: the second one is empty but for the
// record's end.
func TestStraddlingSwitch(t *testing.T) {
	eachMajor(t, func(t *testing.T, dir string, _ int) {
		fs := segments(t, dir, "straddle")
		if len(fs) != 4 {
			t.Fatalf("%d segments", len(fs))
		}
		for i, head := range []wal.LSN{8, 16} {
			first, second := inspect(t, fs[2*i]), inspect(t, fs[2*i+1])
			at := second.Header.Addr - head
			if first.Switch || first.LastRecord != at {
				t.Errorf("last record at %s, want %s; switch %v", first.LastRecord, at, first.Switch)
			}
			if !second.Switch || second.SwitchLSN != at || second.LastRecord != 0 {
				t.Errorf("switch %v at %s, want %s; last record %s", second.Switch, second.SwitchLSN, at, second.LastRecord)
			}
			for r, err := range wal.Records(fs[2*i+1].seg) {
				t.Errorf("record %v, error %v", r.LSN, err)
			}
			// The end of any other record does not excuse an empty segment.
			seg := slices.Clone(fs[2*i+1].seg)
			seg[wal.LongHeaderSize+int(second.Header.RemLen)-8]++ // xl_info is 41: the lower bits are not the switch's
			inspect(t, fixture{fs[2*i+1].name, seg})
			seg[wal.LongHeaderSize+int(second.Header.RemLen)-8] = 0x30
			refused(t, seg, fs[2*i+1].name, wal.ReasonIncomplete)
		}
	})
}
