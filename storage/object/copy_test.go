package object_test

import (
	"bytes"
	"testing"

	"pgstow/storage/object"
)

// TestCopyFrame builds an object whose first frame was known last, in the clear and encrypted, and reads it back.
func TestCopyFrame(t *testing.T) {
	secret, public, err := object.GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	recipients, err := object.ParseRecipients([]string{public})
	if err != nil {
		t.Fatal(err)
	}
	ids, err := object.ParseIdentities(bytes.NewReader([]byte(secret)))
	if err != nil {
		t.Fatal(err)
	}
	frames := [][]byte{bytes.Repeat([]byte("a"), 100_000), []byte("b"), bytes.Repeat([]byte("cd"), 70_000)}
	first, err := object.NewWriter(object.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range frames {
		if _, err := first.AddFrame(f); err != nil {
			t.Fatal(err)
		}
	}
	stored, err := first.Finish(object.Header{Kind: object.KindManifest})
	if err != nil {
		t.Fatal(err)
	}
	from, err := object.Open(stored, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]object.WriterOptions{
		"plain":     {Hash: true},
		"encrypted": {Hash: true, Recipients: recipients, KeyGeneration: 1},
	} {
		t.Run(name, func(t *testing.T) {
			w, err := object.NewWriter(o)
			if err != nil {
				t.Fatal(err)
			}
			w.Grow(1 << 20)
			if _, err := w.AddFrame([]byte("header")); err != nil {
				t.Fatal(err)
			}
			want := []byte("header")
			var buf []byte
			for i, f := range frames {
				if buf, err = w.CopyFrame(from, i, buf); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(buf, f) {
					t.Fatalf("frame %d: %d bytes, want %d", i, len(buf), len(f))
				}
				want = append(want, f...)
			}
			size := w.StoredSize()
			out, err := w.Finish(object.Header{Kind: object.KindManifest, Name: "x"})
			if err != nil {
				t.Fatal(err)
			}
			if len(out) != size {
				t.Errorf("StoredSize said %d, object has %d bytes", size, len(out))
			}
			o, err := object.Open(out, ids)
			if err != nil {
				t.Fatal(err)
			}
			got, err := o.Plain()
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%d plain bytes, want %d", len(got), len(want))
			}
			if _, err := w.CopyFrame(from, 0, nil); err == nil {
				t.Error("a finished writer took a frame")
			}
		})
	}
}

// TestCopyFrameOutOfRange makes sure that a wrong index is an error and sticks.
func TestCopyFrameOutOfRange(t *testing.T) {
	stored, err := object.EncodeAll(object.WriterOptions{}, object.Header{Kind: object.KindManifest}, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	from, err := object.Open(stored, nil)
	if err != nil {
		t.Fatal(err)
	}
	w, err := object.NewWriter(object.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.CopyFrame(from, 1, nil); err == nil {
		t.Fatal("frame 1 of 1 was copied")
	}
	if _, err := w.Finish(object.Header{Kind: object.KindManifest}); err == nil {
		t.Fatal("finished after an error")
	}
}
