package object_test

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"pgstow/storage/object"
)

func TestPeek(t *testing.T) {
	for _, key := range []*keyPair{nil, &x25519ID, &hybridID} {
		var o object.WriterOptions
		var ids []object.Identity
		if key != nil {
			o.Recipients, ids = key.recs(), key.ids()
		}
		w, err := object.NewWriter(o)
		must(t, err)
		_, err = w.AddFrame([]byte("first line\n"))
		must(t, err)
		must(t, w.Add(noiseOf(3<<20)))
		stored, err := w.Finish(sample)
		must(t, err)
		for _, n := range []int{object.PeekSize, len(stored)} {
			h, first, err := object.Peek(stored[:n], ids)
			if err != nil || string(first) != "first line\n" || h.StoredSize != int64(len(stored)) {
				t.Errorf("prefix of %d: %q, %v", n, first, err)
			}
		}
		if _, _, err := object.Peek(stored[:520], ids); !errors.Is(err, object.ErrPrefix) {
			t.Errorf("short prefix: got %v", err)
		}
		bad := clone(stored[:object.PeekSize])
		bad[8000] ^= 1 // encrypted: in the first chunk; else in the second frame
		if _, _, err := object.Peek(bad, ids); (key != nil) != errors.Is(err, object.ErrCorrupt) {
			t.Errorf("flipped bit: got %v", err)
		}
		if key != nil {
			if _, _, err := object.Peek(stored[:object.PeekSize], nil); !errors.Is(err, object.ErrNoIdentity) {
				t.Errorf("no identity: got %v", err)
			}
			if _, _, err := object.Peek(stored[:object.PeekSize], x25519Else.ids()); !errors.Is(err, object.ErrWrongIdentity) {
				t.Errorf("wrong identity: got %v", err)
			}
		}
		empty, err := w.Encode(sample, nil)
		must(t, err)
		if _, _, err := object.Peek(empty, ids); !errors.Is(err, io.EOF) {
			t.Errorf("no frames: got %v", err)
		}
	}
	if _, _, err := object.Peek([]byte("short"), nil); !errors.Is(err, object.ErrCorrupt) {
		t.Errorf("no header: got %v", err)
	}
}

func TestCheckStored(t *testing.T) {
	stored, _ := small(t)
	stored = encryptBody(t, stored, x25519ID.to)
	h, err := object.CheckStored(iotest.HalfReader(bytes.NewReader(stored)))
	if err != nil || h.Name != sample.Name {
		t.Errorf("got %+v, %v", h, err)
	}
	for i := range stored {
		b := clone(stored)
		b[i] ^= 0x10
		if _, err := object.CheckStored(bytes.NewReader(b)); !errors.Is(err, object.ErrCorrupt) {
			t.Fatalf("byte %d: got %v", i, err)
		}
		if _, err := object.CheckStored(bytes.NewReader(stored[:i])); !errors.Is(err, object.ErrCorrupt) {
			t.Fatalf("cut at %d: got %v", i, err)
		}
		broken := errors.New("broken")
		r := io.MultiReader(bytes.NewReader(stored[:i]), iotest.ErrReader(broken))
		if _, err := object.CheckStored(r); !errors.Is(err, broken) {
			t.Fatalf("source fails at %d: got %v", i, err)
		}
	}
	if _, err := object.CheckStored(bytes.NewReader(append(clone(stored), 0))); !errors.Is(err, object.ErrCorrupt) {
		t.Errorf("trailing byte: got %v", err)
	}
}
