package object_test

import (
	"encoding/hex"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgstow/storage/object"
)

var update = flag.Bool("update", false, "write golden files and missing vectors")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	if *update {
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

// The bytes of a header are the format: they may not change.
func TestHeaderGolden(t *testing.T) {
	h := sample
	h.Encrypted, h.KeyGeneration = true, 7
	h.PlainSize, h.StoredSize, h.StoredCRC = 16<<20, 1234567, 0xdeadbeef
	for i := range h.PlainSHA256 {
		h.PlainSHA256[i] = byte(i + 1)
	}
	b := h.Encode()
	golden(t, "header.hex", hex.Dump(b[:]))
	got, err := object.ParseHeader(b[:])
	must(t, err)
	if !reflect.DeepEqual(got, h) {
		t.Errorf("got  %+v\nwant %+v", got, h)
	}
}

func TestHeaderRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	text := func(n int) string {
		return string([]rune(strings.Repeat("aé東🐘", n))[:r.IntN(n/4)])
	}
	for range 1000 {
		h := object.Header{
			Kind: object.Kind(1 + r.IntN(9)), Name: text(object.MaxName), Encrypted: r.IntN(2) == 0,
			PlainSize: r.Int64(), SystemID: r.Uint64(), Timeline: r.Uint32(), From: r.Uint64(), To: r.Uint64(),
			LastRecord: r.Uint64(), FirstCommit: int64(r.Uint64()), LastCommit: int64(r.Uint64()),
			MaxXID: r.Uint32(), Flags: r.Uint32(), Host: text(object.MaxHost),
			DataDirectory: text(object.MaxDataDirectory), Program: text(object.MaxProgram),
			StoredSize: r.Int64(), StoredCRC: r.Uint32(),
		}
		if h.Encrypted {
			h.KeyGeneration = r.Uint32()
		}
		if r.IntN(4) > 0 {
			h.Time = time.UnixMicro(r.Int64N(1 << 52)).UTC()
		}
		for i := range h.PlainSHA256 {
			h.PlainSHA256[i] = byte(r.Uint32())
		}
		b := h.Encode()
		got, err := object.ParseHeader(b[:])
		must(t, err)
		if !reflect.DeepEqual(got, h) {
			t.Fatalf("got  %+v\nwant %+v", got, h)
		}
		if got.Encode() != b {
			t.Fatal("encodes to other bytes after parsing")
		}
	}
}

func TestHeaderText(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"db1", "db1"},
		{strings.Repeat("x", 65), strings.Repeat("x", 64)},
		{strings.Repeat("x", 63) + "é", strings.Repeat("x", 63)},
		{strings.Repeat("é", 33), strings.Repeat("é", 32)},
		{"a\x1b[31mb", "a?[31mb"},
		{"a\x00b", "a?b"},
		{"\xff\xfe", "??"},
		{"a\u009bb\x7f", "a?b?"},
		{strings.Repeat("\xff", 100), strings.Repeat("?", 64)},
	} {
		b := object.Header{Kind: object.KindWAL, Host: tt.in}.Encode()
		h, err := object.ParseHeader(b[:])
		must(t, err)
		if h.Host != tt.want {
			t.Errorf("%q: got %q, want %q", tt.in, h.Host, tt.want)
		}
	}
}

// Each rule of the header, broken alone, with its checksum made right again.
func TestHeaderRules(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(b []byte)
		want   error
	}{
		{"nothing", func([]byte) {}, nil},
		{"magic", func(b []byte) { b[0]++ }, object.ErrCorrupt},
		{"frame size", func(b []byte) { b[4]++ }, object.ErrCorrupt},
		{"mark", func(b []byte) { b[8]++ }, object.ErrCorrupt},
		{"version 0", func(b []byte) { b[16] = 0 }, object.ErrCorrupt},
		{"version 2", func(b []byte) { b[16] = 2 }, object.ErrFormat},
		{"version 256", func(b []byte) { b[16], b[17] = 0, 1 }, object.ErrFormat},
		{"kind 0", func(b []byte) { b[18] = 0 }, object.ErrCorrupt},
		{"kind 10", func(b []byte) { b[18] = 10 }, object.ErrFormat},
		{"form", func(b []byte) { b[20] = 2 }, object.ErrCorrupt},
		{"form high", func(b []byte) { b[23] = 0x80 }, object.ErrCorrupt},
		{"generation without encryption", func(b []byte) { b[24] = 1 }, object.ErrCorrupt},
		{"generation with encryption", func(b []byte) { b[20], b[24] = 1, 1 }, nil},
		{"unknown flag", func(b []byte) { b[31] = 0x80 }, nil},
		{"plain size", func(b []byte) { b[39] = 0x80 }, object.ErrCorrupt},
		{"stored size", func(b []byte) { b[503] = 0x80 }, object.ErrCorrupt},
		{"reserved first", func(b []byte) { b[472] = 1 }, object.ErrCorrupt},
		{"reserved last", func(b []byte) { b[495] = 1 }, object.ErrCorrupt},
		{"name after its end", func(b []byte) { b[263] = 'x' }, object.ErrCorrupt},
		{"name not UTF-8", func(b []byte) { b[136] = 0xff }, object.ErrCorrupt},
		{"name with a control character", func(b []byte) { b[136] = '\n' }, object.ErrCorrupt},
		{"host cut inside a character", func(b []byte) { copy(b[264:328], strings.Repeat("x", 63)+"\xc3") }, object.ErrCorrupt},
		{"host full", func(b []byte) { copy(b[264:328], strings.Repeat("x", 64)) }, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := sample.Encode()
			tt.change(b[:])
			sealHeader(b[:])
			h, err := object.ParseHeader(b[:])
			if !errors.Is(err, tt.want) || (tt.want == nil) != (err == nil) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if err == nil && h.Encode() != b {
				t.Error("encodes to other bytes after parsing")
			}
		})
	}
}

func TestHeaderFlips(t *testing.T) {
	b := sample.Encode()
	for i := range 8 * len(b) {
		b[i/8] ^= 1 << (i % 8)
		if _, err := object.ParseHeader(b[:]); !errors.Is(err, object.ErrCorrupt) {
			t.Fatalf("bit %d: got %v", i, err)
		}
		b[i/8] ^= 1 << (i % 8)
	}
	for n := range len(b) {
		if _, err := object.ParseHeader(b[:n]); !errors.Is(err, object.ErrCorrupt) {
			t.Fatalf("cut at %d: got %v", n, err)
		}
	}
}

func TestKindNames(t *testing.T) {
	seen := map[string]object.Kind{}
	for k := object.Kind(0); k < 12; k++ {
		if other, dup := seen[k.String()]; dup || k.String() == "" {
			t.Errorf("kinds %d and %d are both %q", uint16(k), uint16(other), k)
		}
		seen[k.String()] = k
	}
}
