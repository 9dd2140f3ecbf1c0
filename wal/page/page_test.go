package page_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"pgstow/wal/page"
)

const size = 8192

// relation reads the pages of a table that a server of that major wrote with data checksums on (../testdata/make.sh).
func relation(t testing.TB, major int) []byte {
	t.Helper()
	packed, err := os.ReadFile(fmt.Sprintf("testdata/%d.gz", major))
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) < 2*size || len(b)%size != 0 {
		t.Fatalf("%d bytes", len(b))
	}
	return b
}

func TestServerPages(t *testing.T) {
	for major := 13; major <= 18; major++ {
		b := relation(t, major)
		for block := range len(b) / size {
			p := b[block*size:][:size]
			h := page.ParseHeader(p)
			if h.Size != size || h.Version != 4 || h.Special != size || h.LSN>>32 != 0 || h.LSN < 1<<20 || h.Checksum == 0 {
				t.Errorf("%d: block %d: header %+v", major, block, h)
			}
			if v := page.Check(p, uint32(block)); v != page.Good {
				t.Errorf("%d: block %d is %s", major, block, v)
			}
			if got := page.ChecksumGeneric(p, uint32(block)); got != h.Checksum {
				t.Errorf("%d: block %d: %04X without assembly, want %04X", major, block, got, h.Checksum)
			}
			if v := page.Check(p, uint32(block)+131072); v != page.BadChecksum {
				t.Errorf("%d: block %d passes as one of another file: %s", major, block, v)
			}
		}
	}
}

// reference is checksum_impl.h word for word.
func reference(p []byte, block uint32) uint16 {
	base := [32]uint32{
		0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
		0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
		0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
		0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
	}
	p = slices.Clone(p)
	p[8], p[9] = 0, 0
	comp := func(j int, v uint32) {
		tmp := base[j] ^ v
		base[j] = tmp*16777619 ^ tmp>>17
	}
	for i := 0; i < len(p)/128; i++ {
		for j := range base {
			comp(j, binary.LittleEndian.Uint32(p[i*128+j*4:]))
		}
	}
	for range 2 {
		for j := range base {
			comp(j, 0)
		}
	}
	var sum uint32
	for _, v := range base {
		sum ^= v
	}
	return uint16((sum^block)%65535 + 1)
}

func TestChecksumAgainstReference(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 400 {
		// Odd places in memory, every block size, all alike and random bytes.
		buf := make([]byte, 40000)
		at := r.IntN(64)
		p := buf[at : at+[]int{128, 1024, 4096, 8192, 16384, 32768}[r.IntN(6)]]
		for i := range p {
			if n%4 != 0 {
				p[i] = byte(r.Uint32())
			}
		}
		block := r.Uint32()
		want, before := reference(p, block), slices.Clone(p)
		if got := page.Checksum(p, block); got != want {
			t.Fatalf("%d bytes: %04X, want %04X", len(p), got, want)
		}
		if got := page.ChecksumGeneric(p, block); got != want {
			t.Fatalf("%d bytes without assembly: %04X, want %04X", len(p), got, want)
		}
		if !bytes.Equal(p, before) {
			t.Fatal("the page was changed")
		}
	}
}

func TestVerdicts(t *testing.T) {
	good := relation(t, 15)[:size]
	change := func(f func(p []byte)) []byte {
		p := slices.Clone(good)
		f(p)
		return p
	}
	put := func(at int, v uint16) []byte {
		return change(func(p []byte) { binary.LittleEndian.PutUint16(p[at:], v) })
	}
	for _, c := range []struct {
		what          string
		page          []byte
		check, header page.Verdict
	}{
		{"as written", good, page.Good, page.Good},
		{"zeros", make([]byte, size), page.New, page.New},
		{"upper 0 and more", put(14, 0), page.NotZero, page.NotZero},
		{"one bit of the last byte", change(func(p []byte) { p[size-1] ^= 1 }), page.BadChecksum, page.Good},
		{"the checksum", change(func(p []byte) { p[8] ^= 1 }), page.BadChecksum, page.Good},
		{"flags", put(10, 8), page.BadChecksum, page.BadHeader},
		{"lower above upper", put(12, size), page.BadChecksum, page.BadHeader},
		{"upper above special", put(14, size+8), page.BadChecksum, page.BadHeader},
		{"special outside", put(16, size+8), page.BadChecksum, page.BadHeader},
		{"special not aligned", put(16, size-4), page.BadChecksum, page.BadHeader},
		{"torn", change(func(p []byte) { clear(p[4096:]) }), page.BadChecksum, page.Good},
	} {
		if v := page.Check(c.page, 0); v != c.check || v.OK() != (c.check == page.Good || c.check == page.New) {
			t.Errorf("%s: %s, want %s", c.what, v, c.check)
		}
		if v := page.CheckHeader(c.page); v != c.header {
			t.Errorf("%s, without checksums: %s, want %s", c.what, v, c.header)
		}
	}
	// An impossible header under a right checksum was written that way.
	p := put(10, 8)
	binary.LittleEndian.PutUint16(p[8:], page.Checksum(p, 0))
	if v := page.Check(p, 0); v != page.BadHeader {
		t.Errorf("impossible header with its checksum: %s", v)
	}
}

func BenchmarkChecksum(b *testing.B) {
	p := relation(b, 15)[:size]
	for name, f := range map[string]func([]byte, uint32) uint16{"best": page.Checksum, "generic": page.ChecksumGeneric} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				f(p, 1)
			}
		})
	}
}
