package wal_test

import (
	"testing"

	"pgstow/wal"
)

// TestPrevOfFirst: in the segments of one server each goes on from the last record before it; through a segment in which no record begins, too,
// and where a record's header is cut by the boundary. However little of a segment there is, nothing else is ever said.
func TestPrevOfFirst(t *testing.T) {
	eachMajor(t, func(t *testing.T, dir string, _ int) {
		var server []fixture // one after the other
		for _, role := range []string{"plain", "switched", "huge", "straddle"} {
			server = append(server, segments(t, dir, role)...)
		}
		last := wal.LSN(0)
		checked := 0
		for i, f := range server {
			prev, known := wal.PrevOfFirst(f.seg)
			if i > 0 && known {
				checked++
				if prev != last {
					t.Errorf("%s: the record before its first is at %s, want %s", f.name, prev, last)
				}
			}
			early := false
			for n := 0; n < len(f.seg); n += 1 + n/7 {
				part, ok := wal.PrevOfFirst(f.seg[:n])
				if early && !ok || ok && part != prev {
					t.Fatalf("%s: of its first %d bytes %s, %t, of all %s, %t", f.name, n, part, ok, prev, known)
				}
				early = ok
			}
			info, err := wal.InspectSegment(f.seg, f.name)
			if err != nil {
				t.Fatal(err)
			}
			if info.LastRecord != 0 {
				last = info.LastRecord
			}
		}
		if want := len(server) - 4; checked < want {
			t.Errorf("%d segments go on from the one before, want %d", checked, want)
		}
		over := segments(t, dir, "overwrite")
		if prev, known := wal.PrevOfFirst(over[len(over)-1].seg); !known || prev != 0 {
			t.Errorf("behind an abandoned record: %s, %t", prev, known)
		}
	})
}

// FuzzPrevOfFirst: whatever the bytes are, it ends and stays within them.
func FuzzPrevOfFirst(f *testing.F) {
	for _, role := range []string{"huge", "straddle", "overwrite"} {
		for _, s := range segments(f, "testdata/15", role) {
			f.Add(s.seg[:20000])
		}
	}
	f.Fuzz(func(t *testing.T, begin []byte) {
		if prev, known := wal.PrevOfFirst(begin); known && len(begin) < wal.LongHeaderSize {
			t.Errorf("%s of %d bytes", prev, len(begin))
		}
	})
}
