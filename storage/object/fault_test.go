package object_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"testing"

	"pgstow/storage/object"
)

// Every flipped bit, every cut and anything appended is found by every reader.
func TestEveryFault(t *testing.T) {
	plainObj, _ := small(t)
	for name, tt := range map[string]struct {
		stored []byte
		ids    []object.Identity
	}{
		"plain":  {plainObj, nil},
		"x25519": {encryptBody(t, plainObj, x25519ID.to), x25519ID.ids()},
		"hybrid": {encryptBody(t, plainObj, hybridID.to), hybridID.ids()},
	} {
		for how, read := range readers {
			t.Run(name+"/"+how, func(t *testing.T) {
				t.Parallel()
				_, err := read(tt.stored, tt.ids)
				must(t, err)
				step := 1
				if name == "hybrid" {
					step = 7 // 20,000 bits, each with a key exchange in the stream reader
				}
				b := clone(tt.stored)
				for i := 0; i < 8*len(b); i += step {
					b[i/8] ^= 1 << (i % 8)
					if _, err := read(b, tt.ids); !errors.Is(err, object.ErrCorrupt) {
						t.Fatalf("bit %d of byte %d: got %v", i%8, i/8, err)
					}
					b[i/8] ^= 1 << (i % 8)
				}
				for n := 0; n < len(b); n += step {
					_, err := read(b[:n], tt.ids)
					if !errors.Is(err, object.ErrCorrupt) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
						t.Fatalf("cut at %d: got %v", n, err)
					}
				}
				for _, tail := range [][]byte{{0}, {'x'}, make([]byte, 600), b, b[512:], b[len(b)-12:]} {
					if _, err := read(append(clone(b), tail...), tt.ids); !errors.Is(err, object.ErrCorrupt) {
						t.Fatalf("%d bytes behind the end: got %v", len(tail), err)
					}
				}
				var typed *object.CorruptError
				if _, err := read(b[:600], tt.ids); !errors.As(err, &typed) || typed.What == "" || typed.Offset > 600 || err.Error() == "" {
					t.Errorf("untyped error %v", err)
				}
			})
		}
	}
}

// Ranged reading never sees the whole object; what it reads it still verifies.
func TestEveryFaultRanged(t *testing.T) {
	stored, err := object.EncodeAll(object.WriterOptions{}, sample, noiseOf(1<<20+90000))
	must(t, err)
	footer := footerOf(stored)
	b := clone(stored)
	for i := range b {
		if i >= 512 && i < footer && i%9973 != 0 && i != footer-1 {
			continue
		}
		b[i] ^= 1 << (i % 8)
		if _, err := readers["ranged"](b, nil); !errors.Is(err, object.ErrCorrupt) {
			t.Fatalf("byte %d: got %v", i, err)
		}
		b[i] = stored[i]
	}
	for _, n := range []int{0, 1, 511, 512, 70000, footer, len(b) - 1} {
		// The store says the old size, and then gives less.
		r, err := object.OpenAt(context.Background(), rangesOf(b[:n], nil), int64(len(b)), nil)
		if err == nil {
			_, err = r.Frame(context.Background(), 1, nil)
		}
		if !errors.Is(err, object.ErrCorrupt) {
			t.Errorf("cut at %d: got %v", n, err)
		}
	}
}

func TestIdentities(t *testing.T) {
	clearObj, plain := small(t)
	for _, tt := range []struct {
		name string
		to   []object.Recipient
		ids  []object.Identity
		want error
	}{
		{"none given", x25519ID.recs(), nil, object.ErrNoIdentity},
		{"none given, hybrid", hybridID.recs(), nil, object.ErrNoIdentity},
		{"wrong", x25519ID.recs(), x25519Else.ids(), object.ErrWrongIdentity},
		{"wrong, hybrid", hybridID.recs(), hybridElse.ids(), object.ErrWrongIdentity},
		{"other sort", hybridID.recs(), x25519ID.ids(), object.ErrWrongIdentity},
		{"other sort, hybrid", x25519ID.recs(), hybridID.ids(), object.ErrWrongIdentity},
		{"second identity", x25519ID.recs(), []object.Identity{hybridElse.id, x25519ID.id}, nil},
		{"second recipient", []object.Recipient{hybridElse.to, hybridID.to}, hybridID.ids(), nil},
	} {
		stored, err := object.EncodeAll(object.WriterOptions{Recipients: tt.to}, sample, plain)
		must(t, err)
		for how, read := range readers {
			got, err := read(stored, tt.ids)
			if !errors.Is(err, tt.want) || tt.want == nil && (err != nil || !bytes.Equal(got, plain)) {
				t.Errorf("%s, %s: got %v, want %v", tt.name, how, err, tt.want)
			}
		}
	}
	// Identities do not hinder reading what is not encrypted.
	for how, read := range readers {
		if got, err := read(clearObj, hybridID.ids()); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%s: %v", how, err)
		}
	}
}

// rules of footer and frames, each broken alone while every checksum is right
var footerRules = []struct {
	name   string
	change func(b []byte) []byte
}{
	{"magic", func(b []byte) []byte { b[footerOf(b)]++; return reseal(b) }},
	{"frame size", func(b []byte) []byte { b[footerOf(b)+4]++; return reseal(b) }},
	{"tie", func(b []byte) []byte {
		f := footerOf(b)
		b[f+8]++
		put32(b, len(b)-16, crc(b[f:len(b)-16]))
		return sealStored(b)
	}},
	{"checksum", func(b []byte) []byte { b[len(b)-16]++; return sealStored(b) }},
	{"mark", func(b []byte) []byte { b[len(b)-1]++; return sealStored(b) }},
	{"length too small", func(b []byte) []byte { put32(b, len(b)-12, 67); return sealStored(b) }},
	{"length beyond the object", func(b []byte) []byte { put32(b, len(b)-12, 1<<31); return sealStored(b) }},
	{"length of one entry less", func(b []byte) []byte { put32(b, len(b)-12, get32(b, len(b)-12)-12); return sealStored(b) }},
	{"count", func(b []byte) []byte { b[len(b)-20]++; return reseal(b) }},
	{"plain sum", func(b []byte) []byte { b[len(b)-28]++; return reseal(b) }},
	{"plain sum and header", func(b []byte) []byte { b[len(b)-28]++; b[32]++; return reseal(b) }},
	{"header's plain size", func(b []byte) []byte { b[32]++; return reseal(b) }},
	{"frame of no bytes", func(b []byte) []byte { put32(b, footerOf(b)+44, 0); return reseal(b) }},
	{"frame of 64 MiB and one", func(b []byte) []byte { put32(b, footerOf(b)+44, 64<<20+1); return reseal(b) }},
	{"frame's stored size", func(b []byte) []byte { b[footerOf(b)+40]++; return reseal(b) }},
	{"frames' border", func(b []byte) []byte { b[footerOf(b)+40]++; b[footerOf(b)+52]--; return reseal(b) }},
	{"frame's plain size", func(b []byte) []byte { b[footerOf(b)+44]++; b[footerOf(b)+56]--; return reseal(b) }},
	{"frame's checksum", func(b []byte) []byte { b[footerOf(b)+48]++; return reseal(b) }},
	{"no footer", func(b []byte) []byte { return sealStored(b[:footerOf(b)]) }},
	{"nothing but the header", func(b []byte) []byte { return sealStored(b[:512]) }},
	{"frame missing", func(b []byte) []byte {
		at, size := frameAt(b, 1)
		return reseal(append(b[:at], b[at+size:]...))
	}},
	{"frames exchanged", func(b []byte) []byte {
		at0, size0 := frameAt(b, 0)
		at2, size2 := frameAt(b, 2)
		out := append(clone(b[:at0]), b[at2:at2+size2]...)
		out = append(append(out, b[at0+size0:at2]...), b[at0:at0+size0]...)
		return reseal(append(out, b[at2+size2:]...))
	}},
	{"bytes between frames and footer", func(b []byte) []byte {
		f := footerOf(b)
		return reseal(append(append(clone(b[:f]), "junk"...), b[f:]...))
	}},
	{"skippable frame between frames and footer", func(b []byte) []byte {
		f := footerOf(b)
		return reseal(append(append(clone(b[:f]), 0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0), b[f:]...))
	}},
	{"frame: unused bit", frame0(func(f []byte) []byte { f[4] |= 0x10; return f })},
	{"frame: reserved bit", frame0(func(f []byte) []byte { f[4] |= 0x08; return f })},
	{"frame: no checksum flag", frame0(func(f []byte) []byte { f[4] &^= 0x04; return f[:len(f)-4] })},
	{"frame: dictionary", frame0(func(f []byte) []byte { f[4] |= 1; return append(append(clone(f[:5]), 0), f[5:]...) })},
	{"frame: window", frame0(func(f []byte) []byte { f[4] &^= 0x20; f[5] = 0; return f })},
	{"frame: content size", frame0(func(f []byte) []byte { f[5]++; return f })},
	{"frame: long content size", frame0(func(f []byte) []byte {
		return append([]byte{f[0], f[1], f[2], f[3], f[4] | 0x80, f[5], 0, 0, 0}, f[6:]...)
	})},
	{"frame: reserved block", frame0(func(f []byte) []byte { f[6] |= 6; return f })},
	{"frame: block longer than stored", frame0(func(f []byte) []byte { f[6] += 8; return f })},
	{"frame: wrong content checksum", frame0(func(f []byte) []byte { f[len(f)-1]++; return f })},
	{"frame: padded with empty blocks", frame0(func(f []byte) []byte {
		return append(append(clone(f[:6]), make([]byte, 3*30)...), f[6:]...)
	})},
	{"frame: two in one", frame0(func(f []byte) []byte { return append(clone(f), f...) })},
	{"frame: followed by a skippable one", frame0(func(f []byte) []byte {
		return append(clone(f), 0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0)
	})},
}

// frame0 changes the first frame of an object and tells the footer of it.
func frame0(change func(f []byte) []byte) func(b []byte) []byte {
	return func(b []byte) []byte {
		at, size := frameAt(b, 0)
		f := change(clone(b[at : at+size]))
		out := append(append(clone(b[:at]), f...), b[at+size:]...)
		put32(out, footerOf(out)+40, uint32(len(f)))
		put32(out, footerOf(out)+48, crc(f))
		return reseal(out)
	}
}

func TestFooterRules(t *testing.T) {
	stored, plain := small(t)
	if got, err := readers["stream"](reseal(clone(stored)), nil); err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("nothing changed: %v", err)
	}
	for _, tt := range footerRules {
		t.Run(tt.name, func(t *testing.T) {
			bad := tt.change(clone(stored))
			sealed := clone(bad)
			put32(sealed, 20, 1)
			if len(bad) > 512 && tt.name != "tie" {
				if f := footerOf(bad); f > 512 && f < len(bad)-40 {
					sum := sha256.Sum256(sealed[:496])
					copy(sealed[f+8:], sum[:])
					if tt.name != "checksum" {
						put32(sealed, len(sealed)-16, crc(sealed[f:len(sealed)-16]))
					}
				}
			}
			sealed = encryptAsIs(t, sealed, x25519ID.to)
			for how, read := range readers {
				if _, err := read(bad, nil); !errors.Is(err, object.ErrCorrupt) {
					t.Errorf("%s: got %v", how, err)
				}
				if _, err := read(sealed, x25519ID.ids()); !errors.Is(err, object.ErrCorrupt) {
					t.Errorf("%s, encrypted: got %v", how, err)
				}
			}
		})
	}
}

// The encrypted part follows age's own rules.
func TestAgeRules(t *testing.T) {
	stored, _ := small(t)
	sealed := encryptBody(t, stored, x25519ID.to)
	for name, bad := range map[string][]byte{
		"not an age file":  sealStored(append(clone(sealed[:512]), stored[512:]...)),
		"nothing":          sealStored(clone(sealed[:512])),
		"cut age header":   sealStored(clone(sealed[:560])),
		"cut payload":      sealStored(clone(sealed[:len(sealed)-1])),
		"flipped payload":  sealStored(append(clone(sealed[:len(sealed)-1]), sealed[len(sealed)-1]^1)),
		"behind payload":   sealStored(append(clone(sealed), 'x')),
		"said unencrypted": func() []byte { b := clone(sealed); b[20], b[24] = 0, 0; return sealStored(b) }(),
	} {
		for how, read := range readers {
			if _, err := read(bad, x25519ID.ids()); !errors.Is(err, object.ErrCorrupt) {
				t.Errorf("%s, %s: got %v", name, how, err)
			}
		}
	}
}

// allocated returns the bytes that f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// Sizes that are claimed cost nothing: only bytes that are there do.
func TestHostileSizes(t *testing.T) {
	stored, _ := small(t)
	claim := func(at int, v uint64, size int) []byte {
		b := clone(stored)
		switch size {
		case 4:
			put32(b, at, uint32(v))
		case 8:
			put64(b, at, v)
		}
		return b
	}
	f := footerOf(stored)
	big := frame0(func(f []byte) []byte { // claims 64 MiB, holds 11 bytes
		out := []byte{f[0], f[1], f[2], f[3], f[4]&0x3f | 0x80, 0, 0, 0, 4}
		return append(out, f[6:]...)
	})(claim(f+44, 64<<20, 4))
	put64(big, 32, get64(big, 32)-11+64<<20)
	put64(big, len(big)-28, get64(big, 32))
	for name, b := range map[string][]byte{
		"plain size":           reseal(claim(32, 1<<50, 8)),
		"plain sizes":          func() []byte { b := claim(32, 1<<50, 8); put64(b, len(b)-28, 1<<50); return reseal(b) }(),
		"footer length":        sealStored(claim(len(stored)-12, 0xffffffff, 4)),
		"frame count":          reseal(claim(len(stored)-20, 0xffffffff, 4)),
		"frame's plain size":   reseal(claim(f+44, 64<<20, 4)),
		"frame of 64 MiB":      reseal(big),
		"frame's stored size":  reseal(claim(f+40, 0xffffffff, 4)),
		"first block's length": frame0(func(f []byte) []byte { put32(f, 6, 0xfffff8); return f })(clone(stored)),
	} {
		for how, read := range readers {
			var err error
			n := allocated(func() { _, err = read(b, nil) })
			if !errors.Is(err, object.ErrCorrupt) {
				t.Errorf("%s, %s: got %v", name, how, err)
			}
			if n > 1<<20 {
				t.Errorf("%s, %s: %d bytes allocated", name, how, n)
			}
		}
	}
	// A stored size that only a header claims.
	huge := claim(496, 1<<60, 8)
	sealHeader(huge)
	ra := func(_ context.Context, off, n int64) ([]byte, error) {
		if n > 1<<20 {
			t.Errorf("asks for %d bytes", n)
		}
		return rangesOf(huge, nil)(context.Background(), off, n)
	}
	if _, err := object.OpenAt(context.Background(), ra, 0, nil); !errors.Is(err, object.ErrCorrupt) {
		t.Errorf("stored size: got %v", err)
	}
}

func get64(b []byte, at int) uint64 { return binary.LittleEndian.Uint64(b[at:]) }

// An age header without end is not read into memory.
func TestHostileAgeHeader(t *testing.T) {
	h := sample
	h.Encrypted, h.StoredSize = true, 1<<40
	head := h.Encode()
	r := io.MultiReader(bytes.NewReader(head[:]), bytes.NewReader([]byte("age-encryption.org/v1\n")), endless{})
	var err error
	n := allocated(func() { _, err = object.DecodeStream(r, x25519ID.ids(), 0) })
	if !errors.Is(err, object.ErrCorrupt) {
		t.Errorf("got %v", err)
	}
	if n > 64<<20 {
		t.Errorf("%d bytes allocated", n)
	}
}

// endless gives age stanzas for ever.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	const stanza = "-> x\n\n"
	n := 0
	for n+len(stanza) <= len(p) {
		n += copy(p[n:], stanza)
	}
	if n == 0 {
		return 0, errors.New("buffer too small for the test")
	}
	return n, nil
}
