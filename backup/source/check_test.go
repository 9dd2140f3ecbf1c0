package source_test

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgstow/backup/source"
	"pgstow/wal"
	"pgstow/wal/page"
)

// sound makes a page of 8 KiB with the given LSN and the checksum of block.
func sound(lsn wal.LSN, block uint32) []byte {
	p := make([]byte, 8192)
	le := binary.LittleEndian
	le.PutUint32(p[0:], uint32(lsn>>32))
	le.PutUint32(p[4:], uint32(lsn))
	le.PutUint16(p[12:], 24)
	le.PutUint16(p[14:], 8000)
	le.PutUint16(p[16:], 8192)
	le.PutUint16(p[18:], 8192|4)
	for i := 8000; i < 8192; i++ {
		p[i] = byte(i)
	}
	le.PutUint16(p[8:], page.Checksum(p, block))
	return p
}

// readings gives one page per read, the last one for ever.
type readings struct {
	pages [][]byte
	n     int
	at    int64
}

func (r *readings) ReadAt(b []byte, at int64) (int, error) {
	r.at = at
	p := r.pages[min(r.n, len(r.pages)-1)]
	r.n++
	n := copy(b, p)
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func torn(a, b []byte) []byte { return append(append([]byte{}, a[:4096]...), b[4096:]...) }

// RULES-physical C1: a page that fails is read again; torn is what recovery
// repairs, anything else is damage.
func TestRecheck(t *testing.T) {
	const start, reached = wal.LSN(0x1000), wal.LSN(0x2000)
	flip := func(lsn wal.LSN) []byte {
		p := sound(lsn, 7)
		p[8100] ^= 1
		return p
	}
	good := sound(0x1500, 7)
	notZero := make([]byte, 8192)
	notZero[4000] = 1
	for name, c := range map[string]struct {
		pages   [][]byte
		stopped bool
		want    source.Outcome
		asked   bool
	}{
		"sound on the second look":    {pages: [][]byte{torn(good, sound(0x1600, 7)), good}, want: source.Sound},
		"zero on the second look":     {pages: [][]byte{flip(0x1500), make([]byte, 8192)}, want: source.Sound},
		"torn, written after start":   {pages: [][]byte{flip(0x1500)}, want: source.Torn, asked: true},
		"torn, LSN is the start":      {pages: [][]byte{flip(start)}, want: source.Torn, asked: true},
		"torn, LSN is the limit":      {pages: [][]byte{flip(reached)}, want: source.Torn, asked: true},
		"old page":                    {pages: [][]byte{flip(start - 1)}, want: source.Damaged},
		"LSN from the future":         {pages: [][]byte{flip(reached + 1)}, want: source.Damaged, asked: true},
		"no server runs":              {pages: [][]byte{flip(0x1500)}, stopped: true, want: source.Damaged},
		"header empty, page not":      {pages: [][]byte{notZero}, want: source.Damaged},
		"file was cut":                {pages: [][]byte{good[:100]}, want: source.Gone},
		"file was cut after one look": {pages: [][]byte{flip(0x1500), nil}, want: source.Gone},
		"right page of another place": {pages: [][]byte{sound(0x500, 8)}, want: source.Damaged},
		"sound only at the last look": {pages: [][]byte{flip(1), flip(1), flip(1), good}, want: source.Sound},
	} {
		asked := 0
		check := &source.Checker{PageSize: 8192, Checksums: true, Start: start}
		if !c.stopped {
			check.Limit = func(context.Context) (wal.LSN, error) {
				asked++
				return reached, nil
			}
		}
		r, b := &readings{pages: c.pages}, make([]byte, 8192)
		got, fault, err := check.Recheck(t.Context(), r, 7*8192, b, 7)
		if err != nil || got != c.want {
			t.Errorf("%s: %d (%s), want %d, error %v", name, got, fault, c.want, err)
		}
		if r.at != 7*8192 {
			t.Errorf("%s: read at %d", name, r.at)
		}
		if (asked > 0) != c.asked {
			t.Errorf("%s: server asked %d times", name, asked)
		}
		if (got == source.Damaged || got == source.Torn) != (fault != "") {
			t.Errorf("%s: fault %q", name, fault)
		}
	}
}

// The server is asked only when its last answer does not settle the matter.
func TestRecheckAsksSeldom(t *testing.T) {
	answers := []wal.LSN{0x2000, 0x3000}
	asked := 0
	check := &source.Checker{PageSize: 8192, Checksums: true, Start: 0x1000, Limit: func(context.Context) (wal.LSN, error) {
		asked++
		return answers[asked-1], nil
	}}
	for _, step := range []struct {
		lsn   wal.LSN
		asked int
	}{{0x1100, 1}, {0x1200, 1}, {0x2000, 1}, {0x2001, 2}, {0x2fff, 2}} {
		p := sound(step.lsn, 0)
		p[8000] ^= 1
		o, _, err := check.Recheck(t.Context(), &readings{pages: [][]byte{p}}, 0, make([]byte, 8192), 0)
		if err != nil || o != source.Torn || asked != step.asked {
			t.Errorf("%s: %d, asked %d times, error %v", step.lsn, o, asked, err)
		}
	}
	failed := errors.New("connection lost")
	check.Limit = func(context.Context) (wal.LSN, error) { return 0, failed }
	p := sound(0x9000, 0)
	p[8000] ^= 1
	if _, _, err := check.Recheck(t.Context(), &readings{pages: [][]byte{p}}, 0, make([]byte, 8192), 0); !errors.Is(err, failed) {
		t.Errorf("error %v", err)
	}
}

// Without data checksums headers alone are judged.
func TestCheckWithoutChecksums(t *testing.T) {
	check := &source.Checker{PageSize: 8192}
	p := sound(1, 0)
	p[8000] ^= 1
	if v := check.Check(p, 0); v != page.Good {
		t.Errorf("contents: %v", v)
	}
	binary.LittleEndian.PutUint16(p[12:], 9000)
	if v := check.Check(p, 0); v.OK() {
		t.Errorf("header: %v", v)
	}
}

// relMap makes a pg_filenode.map of the old or the new length.
func relMap(mappings int) []byte {
	b := make([]byte, 8+mappings*8+8)
	binary.LittleEndian.PutUint32(b, 0x592717)
	b[4], b[8] = 1, 99
	at := 8 + mappings*8
	binary.LittleEndian.PutUint32(b[at:], crc32.Checksum(b[:at], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// A12: what is written in place is read until it is whole.
func TestReadStable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pg_filenode.map")
	whole := relMap(62)
	half := append([]byte{}, whole...)
	half[8] = 0
	if err := os.WriteFile(path, half, 0o600); err != nil {
		t.Fatal(err)
	}
	looks := 0
	valid := func(b []byte) error {
		if looks++; looks == 3 {
			if err := os.WriteFile(path, whole, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if !source.RelMapValid(b) {
			return errors.New("not whole")
		}
		return nil
	}
	b, err := source.ReadStable(t.Context(), source.OS{}, path, valid)
	if err != nil || string(b) != string(whole) || looks != 4 {
		t.Errorf("%d looks, error %v", looks, err)
	}
	never := errors.New("never whole")
	if _, err := source.ReadStable(t.Context(), source.OS{}, path, func([]byte) error { return never }); !errors.Is(err, never) || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v", err)
	}
	if _, err := source.ReadStable(t.Context(), source.OS{}, path+"x", valid); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if !source.RelMapValid(relMap(64)) || source.RelMapValid(whole[:500]) || source.RelMapValid(nil) {
		t.Error("RelMapValid")
	}
}
