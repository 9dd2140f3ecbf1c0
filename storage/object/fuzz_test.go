package object_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"pgstow/storage/object"
)

func FuzzParseHeader(f *testing.F) {
	b := sample.Encode()
	f.Add(b[:])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= object.HeaderSize {
			b = clone(b)
			sealHeader(b) // else the fuzzer never gets past the checksum
		}
		h, err := object.ParseHeader(b)
		if err != nil {
			if !errors.Is(err, object.ErrCorrupt) && !errors.Is(err, object.ErrFormat) {
				t.Fatalf("unclassified error %v", err)
			}
			return
		}
		if again := h.Encode(); !bytes.Equal(again[:], b[:object.HeaderSize]) {
			t.Fatal("accepted a header that encodes otherwise")
		}
	})
}

// FuzzOpen makes the checksums right, so that the fuzzer meets the rules behind
// them, and asks that all readers agree.
func FuzzOpen(f *testing.F) {
	paths, err := filepath.Glob("testdata/vectors/*")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		_, body, _ := bytes.Cut(b, []byte("\n\n"))
		if len(body) < 4096 {
			f.Add(body, true)
			f.Add(body, false)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, fix bool) {
		b = clone(b)
		if fix && len(b) >= 512+68 {
			if at := footerOf(b); at >= 512 && at < len(b)-68 {
				reseal(b)
			} else {
				sealStored(b)
			}
		}
		plain, err := readers["open"](b, x25519ID.ids())
		classify(t, err)
		again, err2 := readers["stream"](b, x25519ID.ids())
		classify(t, err2)
		if (err == nil) != (err2 == nil) {
			t.Fatalf("Open: %v, DecodeStream: %v", err, err2)
		}
		if err == nil && !bytes.Equal(plain, again) {
			t.Fatal("readers disagree on the plain bytes")
		}
	})
}

func classify(t *testing.T, err error) {
	for _, class := range classes {
		if errors.Is(err, class) {
			return
		}
	}
	if !errors.Is(err, object.ErrTooLarge) {
		t.Fatalf("unclassified error %v", err)
	}
}
