package object_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgstow/storage/object"
)

// A vector is a text header, an empty line, and the bytes of an object. The
// header names what a reader must find: "expect: ok", "corrupt", "format",
// "no-identity" or "wrong-identity"; for ok also the SHA-256 of the plain bytes.
// Vectors are kept for ever: readers of every later version must agree on them.
type vector struct {
	expect, about, plain, identity string
	object                         []byte
}

var classes = map[string]error{
	"ok": nil, "corrupt": object.ErrCorrupt, "format": object.ErrFormat,
	"no-identity": object.ErrNoIdentity, "wrong-identity": object.ErrWrongIdentity,
}

func (v vector) encode() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "expect: %s\nabout: %s\n", v.expect, v.about)
	if v.expect == "ok" {
		fmt.Fprintf(&b, "plain-sha256: %s\n", v.plain)
	}
	if v.identity != "" {
		fmt.Fprintf(&b, "identity: %s\n", v.identity)
	}
	b.WriteByte('\n')
	b.Write(v.object)
	return b.Bytes()
}

func parseVector(t *testing.T, b []byte) vector {
	t.Helper()
	head, body, ok := bytes.Cut(b, []byte("\n\n"))
	if !ok {
		t.Fatal("vector without an empty line")
	}
	v := vector{object: body}
	for line := range strings.Lines(string(head)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch key {
		case "expect":
			v.expect = value
		case "about":
			v.about = value
		case "plain-sha256":
			v.plain = value
		case "identity":
			v.identity = value
		default:
			t.Fatalf("vector with a line %q", line)
		}
	}
	if _, known := classes[v.expect]; !known {
		t.Fatalf("vector expects %q", v.expect)
	}
	return v
}

func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	paths, err := filepath.Glob("testdata/vectors/*")
	must(t, err)
	seen := map[string]int{}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			b, err := os.ReadFile(path)
			must(t, err)
			v := parseVector(t, b)
			seen[v.expect]++
			if !bytes.Equal(v.encode(), b) {
				t.Error("the vector's own header is not canonical")
			}
			runVector(t, v)
		})
	}
	for class := range classes {
		if seen[class] == 0 {
			t.Errorf("no vector expects %s", class)
		}
	}
}

func runVector(t *testing.T, v vector) {
	var ids []object.Identity
	if v.identity != "" {
		var err error
		ids, err = object.ParseIdentities(strings.NewReader(v.identity))
		must(t, err)
	}
	for how, read := range readers {
		plain, err := read(v.object, ids)
		if want := classes[v.expect]; !errors.Is(err, want) || (want == nil) != (err == nil) {
			t.Errorf("%s: got %v, want %s", how, err, v.expect)
		}
		if v.expect == "ok" && fmt.Sprintf("%x", sha256.Sum256(plain)) != v.plain {
			t.Errorf("%s: other plain bytes", how)
		}
	}
	if h, err := object.ParseHeader(v.object); err == nil {
		if b := h.Encode(); !bytes.Equal(b[:], v.object[:object.HeaderSize]) {
			t.Error("the header encodes to other bytes after parsing")
		}
	}
	if v.expect == "ok" && ids == nil {
		reencode(t, v.object)
	}
}

// reencode adds an unencrypted object's frames again: header and footer must
// come out byte for byte. Frames may not, since compressors get better; their
// table entries are then compared without stored size and checksum.
func reencode(t *testing.T, stored []byte) {
	o, err := object.Open(stored, nil)
	must(t, err)
	w, err := object.NewWriter(object.WriterOptions{Hash: o.Header().PlainSHA256 != [32]byte{}})
	must(t, err)
	for i := range o.Frames() {
		plain, err := o.Frame(i, nil)
		must(t, err)
		_, err = w.AddFrame(plain)
		must(t, err)
	}
	again, err := w.Finish(o.Header())
	must(t, err)
	mask := func(b []byte) []byte { // header and footer without what depends on the compressor
		b = clone(b)
		f := footerOf(b)
		clear(b[496:512])
		for i := f + 40; i < len(b)-28; i += 12 {
			clear(b[i : i+4])
			clear(b[i+8 : i+12])
		}
		clear(b[len(b)-16 : len(b)-12])
		return append(b[:512:512], b[f:]...)
	}
	if !bytes.Equal(mask(again), mask(stored)) {
		t.Error("header or footer come out otherwise when written again")
	}
}

// writeVectors makes the vectors that are missing; it never changes one.
func writeVectors(t *testing.T) {
	must(t, os.MkdirAll("testdata/vectors", 0o755))
	put := func(name string, v vector) {
		path := filepath.Join("testdata", "vectors", name)
		if _, err := os.Stat(path); err == nil {
			return
		}
		must(t, os.WriteFile(path, v.encode(), 0o644))
	}
	ok := func(name, about string, plain, stored []byte, id *keyPair) {
		v := vector{expect: "ok", about: about, plain: fmt.Sprintf("%x", sha256.Sum256(plain)), object: stored}
		if id != nil {
			v.identity = id.text
		}
		put(name, v)
	}
	stored, plain := small(t)
	x := encryptBody(t, stored, x25519ID.to)
	h := encryptBody(t, stored, hybridID.to)
	nohash, err := object.EncodeAll(object.WriterOptions{}, object.Header{Kind: object.KindWAL}, nil)
	must(t, err)
	w, err := object.NewWriter(object.WriterOptions{})
	must(t, err)
	_, err = w.AddFrame(plain)
	must(t, err)
	pack, err := w.Finish(object.Header{Kind: object.KindPack, Name: "20260102T030405Z-abcd/1"})
	must(t, err)
	ok("ok-three-frames", "a segment's header, three frames", plain, stored, nil)
	ok("ok-empty", "no frames", nil, nohash, nil)
	ok("ok-pack", "no SHA-256 of the plain bytes", plain, clone(pack), nil)
	zeros, err := object.EncodeAll(object.WriterOptions{}, sample, make([]byte, 1<<20+5))
	must(t, err)
	ok("ok-zeros", "frames of 1 MiB and 5 bytes of zeros", make([]byte, 1<<20+5), zeros, nil)
	ok("ok-x25519", "encrypted to a classic recipient", plain, x, &x25519ID)
	ok("ok-hybrid", "encrypted to a hybrid recipient", plain, h, &hybridID)
	ok("ok-two-recipients", "encrypted to two, the second ours", plain, encryptBody(t, stored, x25519Else.to, x25519ID.to), &x25519ID)

	bad := func(expect, name, about string, stored []byte, id *keyPair) {
		v := vector{expect: expect, about: about, object: stored}
		if id != nil {
			v.identity = id.text
		}
		put(expect+"-"+name, v)
	}
	bad("no-identity", "x25519", "encrypted, none given", x, nil)
	bad("no-identity", "hybrid", "encrypted, none given", h, nil)
	bad("wrong-identity", "x25519", "encrypted to another", x, &x25519Else)
	bad("wrong-identity", "hybrid", "encrypted to another", h, &hybridElse)
	bad("wrong-identity", "sort", "encrypted to a classic recipient, hybrid identity", x, &hybridID)
	newer := clone(stored)
	newer[16] = 2
	bad("format", "version", "version 2", reseal(newer), nil)
	kind := clone(stored)
	kind[18] = 10
	bad("format", "kind", "kind 10", reseal(kind), nil)
	flip := func(b []byte, at int) []byte { b = clone(b); b[at] ^= 1; return b }
	bad("corrupt", "nothing", "no bytes at all", nil, nil)
	bad("corrupt", "header-cut", "511 bytes", stored[:511], nil)
	bad("corrupt", "header-flip", "a flipped bit in the name", flip(stored, 140), nil)
	bad("corrupt", "cut-between-frames", "the decoder of zstd sees nothing wrong", stored[:frameOffset(stored, 1)], nil)
	bad("corrupt", "cut-last-byte", "one byte missing", stored[:len(stored)-1], nil)
	bad("corrupt", "trailing-byte", "one byte more", append(clone(stored), 0), nil)
	bad("corrupt", "x25519-flip", "a flipped bit in the age header is not a wrong identity", flip(x, 512+60), &x25519ID)
	bad("corrupt", "hybrid-flip", "a flipped bit in the payload", flip(h, len(h)-5), &hybridID)
	for _, r := range footerRules {
		name := "rule-" + strings.NewReplacer(":", "", " ", "-", "'", "").Replace(r.name)
		bad("corrupt", name, r.name+", every checksum right but its own", r.change(clone(stored)), nil)
	}
}
