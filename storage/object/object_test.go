package object_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"

	"pgstow/storage/object"
)

func TestRoundTrip(t *testing.T) {
	plains := map[string][]byte{
		"empty": {}, "one byte": {7}, "zeros": make([]byte, 3<<20), "255": textOf(255), "256": textOf(256),
		"65791": textOf(65791), "65792": textOf(65792), "frame": textOf(1 << 20), "frame+1": textOf(1<<20 + 1),
		"5 MiB": textOf(5 << 20), "noise": noiseOf(2<<20 + 3), "age chunk": noiseOf(65536 - 512),
	}
	for name, plain := range plains {
		for _, key := range []*keyPair{nil, &x25519ID, &hybridID} {
			for _, o := range []object.WriterOptions{
				{Hash: true}, {Verify: true}, {Hash: true, Verify: true, Concurrency: 3, Level: object.LevelDefault},
			} {
				var ids []object.Identity
				if key != nil {
					o.Recipients, o.KeyGeneration, ids = key.recs(), 5, key.ids()
				}
				t.Run(fmt.Sprintf("%s/key=%v/%v", name, key != nil, o.Concurrency), func(t *testing.T) {
					w, err := object.NewWriter(o)
					must(t, err)
					stored, err := w.Encode(sample, plain)
					must(t, err)
					checkObject(t, o, stored, plain, ids)
				})
			}
		}
	}
}

// checkObject reads stored in each way and compares all that is known of it.
func checkObject(t *testing.T, o object.WriterOptions, stored, plain []byte, ids []object.Identity) {
	t.Helper()
	h, err := object.ParseHeader(stored)
	must(t, err)
	want := sample
	want.PlainSize, want.StoredSize, want.StoredCRC = int64(len(plain)), int64(len(stored)), crc(stored[512:])
	if o.Hash {
		want.PlainSHA256 = sha256.Sum256(plain)
	}
	if want.Encrypted = len(ids) > 0; want.Encrypted {
		want.KeyGeneration = o.KeyGeneration
	}
	if h != want {
		t.Errorf("header\n got %+v\nwant %+v", h, want)
	}
	for name, read := range readers {
		got, err := read(stored, ids)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !bytes.Equal(got, plain) {
			t.Errorf("%s: other bytes than were written", name)
		}
	}
	obj, err := object.Open(stored, ids)
	must(t, err)
	var out bytes.Buffer
	n, err := obj.WriteTo(&out)
	must(t, err)
	if n != int64(len(plain)) || !bytes.Equal(out.Bytes(), plain) {
		t.Error("WriteTo: other bytes than were written")
	}
	sum := 0
	for _, f := range obj.Frames() {
		sum += f.Plain
	}
	if sum != len(plain) {
		t.Errorf("frames of %d bytes, want %d", sum, len(plain))
	}
}

// Frames larger than by habit, up to the greatest.
func TestLargeFrames(t *testing.T) {
	plains := [][]byte{append(textOf(3<<20), noiseOf(1<<20)...), noiseOf(9 << 20), make([]byte, object.MaxFrame)}
	w, err := object.NewWriter(object.WriterOptions{Verify: true})
	must(t, err)
	for _, plain := range plains {
		_, err := w.AddFrame(plain)
		must(t, err)
	}
	stored, err := w.Finish(sample)
	must(t, err)
	for how, read := range readers {
		got, err := read(stored, nil)
		if err != nil || !bytes.Equal(got, bytes.Join(plains, nil)) {
			t.Errorf("%s: %d bytes, %v", how, len(got), err)
		}
	}
}

// A writer that is used again writes what a new one writes.
func TestWriterReuse(t *testing.T) {
	w, err := object.NewWriter(object.WriterOptions{Hash: true, Verify: true, Concurrency: 2})
	must(t, err)
	for _, plain := range [][]byte{textOf(3 << 20), {}, noiseOf(100), textOf(5<<20 + 1), textOf(10)} {
		got, err := w.Encode(sample, plain)
		must(t, err)
		want, err := object.EncodeAll(object.WriterOptions{}, sample, plain)
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes: other object than a new writer makes", len(plain))
		}
	}
}

func TestWriterSizes(t *testing.T) {
	for _, recipients := range [][]object.Recipient{nil, x25519ID.recs(), {x25519ID.to, x25519Else.to}, hybridID.recs()} {
		w, err := object.NewWriter(object.WriterOptions{Recipients: recipients})
		must(t, err)
		for frames := 1; frames < 40; frames += 7 {
			w.Reset()
			for i := range frames {
				index, err := w.AddFrame(noiseOf(5000 + i))
				must(t, err)
				if index != i || w.Frames() != i+1 {
					t.Fatalf("frame %d has index %d of %d", i, index, w.Frames())
				}
			}
			size, plain := w.StoredSize(), w.PlainSize()
			stored, err := w.Finish(sample)
			must(t, err)
			if len(stored) != size {
				t.Errorf("%d frames: StoredSize %d, stored %d", frames, size, len(stored))
			}
			if h, err := object.ParseHeader(stored); err != nil || h.PlainSize != plain {
				t.Errorf("PlainSize %d, header %d, %v", plain, h.PlainSize, err)
			}
		}
	}
}

func TestWriterRefusals(t *testing.T) {
	if _, err := object.NewWriter(object.WriterOptions{Recipients: []object.Recipient{}}); err == nil {
		t.Error("an empty list of recipients would write plain text")
	}
	w, err := object.NewWriter(object.WriterOptions{Hash: true})
	must(t, err)
	sticky := func(what string, err error) {
		t.Helper()
		if err == nil {
			t.Fatalf("%s: no error", what)
		}
		if _, again := w.AddFrame([]byte("x")); again == nil {
			t.Errorf("%s: the error does not stay", what)
		}
		if again := w.Add([]byte("x")); again == nil {
			t.Errorf("%s: the error does not stay", what)
		}
		if _, again := w.Finish(sample); again == nil {
			t.Errorf("%s: the error does not stay", what)
		}
		w.Reset()
	}
	_, err = w.AddFrame(nil)
	sticky("empty frame", err)
	_, err = w.AddFrame(make([]byte, object.MaxFrame+1))
	sticky("frame too large", err)
	_, err = w.Finish(object.Header{})
	sticky("no kind", err)
	_, err = w.Finish(object.Header{Kind: 99})
	sticky("unknown kind", err)
	_, err = w.Finish(object.Header{Kind: object.KindPack, Name: string(make([]byte, 200))})
	sticky("long name", err)
	h := sample
	h.PlainSHA256 = sha256.Sum256([]byte("something else"))
	_, err = w.Finish(h)
	sticky("other hash", err)
	_, err = w.Finish(sample)
	must(t, err)
	_, err = w.Finish(sample)
	sticky("finished twice", err)

	mixed, err := object.NewWriter(object.WriterOptions{Recipients: []object.Recipient{x25519ID.to, hybridID.to}})
	must(t, err)
	if _, err := mixed.Encode(sample, []byte("x")); err == nil {
		t.Error("a classic recipient beside a hybrid one undoes its protection")
	}
}

// Without Hash and without a given hash the header has none; a given one is kept.
func TestWriterHash(t *testing.T) {
	plain := textOf(1000)
	h := sample
	h.PlainSHA256 = sha256.Sum256(plain)
	for _, o := range []object.WriterOptions{{}, {Hash: true}} {
		stored, err := object.EncodeAll(o, h, plain)
		must(t, err)
		got, err := object.ParseHeader(stored)
		must(t, err)
		if got.PlainSHA256 != h.PlainSHA256 {
			t.Error("the given hash was lost")
		}
	}
	h.PlainSHA256[0] ^= 1
	stored, err := object.EncodeAll(object.WriterOptions{}, h, plain)
	must(t, err)
	for _, name := range []string{"open", "stream"} {
		if _, err := readers[name](stored, nil); !errors.Is(err, object.ErrCorrupt) {
			t.Errorf("%s: wrong hash: got %v", name, err)
		}
	}
}

func TestFileWriter(t *testing.T) {
	for _, size := range []int{0, 1, 1 << 20, 1<<20 + 1, 8 << 20, 9<<20 + 5} {
		for _, conc := range []int{1, 2} {
			plain := textOf(size)
			o := object.WriterOptions{Hash: true, Verify: true, Concurrency: conc}
			want, err := object.EncodeAll(o, sample, plain)
			must(t, err)
			if got := writeFile(t, o, plain); !bytes.Equal(got, want) {
				t.Errorf("%d bytes, concurrency %d: not what EncodeAll makes", size, conc)
			}
			o.Recipients, o.KeyGeneration = x25519ID.recs(), 1
			checkObject(t, o, writeFile(t, o, plain), plain, x25519ID.ids())
		}
	}
}

func writeFile(t *testing.T, o object.WriterOptions, plain []byte) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "object")
	f, err := os.Create(path)
	must(t, err)
	w, err := object.NewFileWriter(o, f)
	must(t, err)
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, iotest.HalfReader(bytes.NewReader(plain)), make([]byte, 300001))
	must(t, err)
	size, err := w.Finish(sample)
	must(t, err)
	must(t, f.Close())
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("a finished writer takes more")
	}
	got, err := os.ReadFile(path)
	must(t, err)
	if int64(len(got)) != size {
		t.Errorf("file of %d bytes, Finish says %d", len(got), size)
	}
	return got
}

type failAt struct {
	n    int64
	err  error
	seen bool
}

func (f *failAt) WriteAt(p []byte, off int64) (int, error) {
	if off <= f.n && f.n < off+int64(len(p)) {
		f.seen = true
		return 0, f.err
	}
	return len(p), nil
}

func TestFileWriterFails(t *testing.T) {
	full := errors.New("disk full")
	for _, at := range []int64{0, 600, 3 << 20} {
		f := &failAt{n: at, err: full}
		w, err := object.NewFileWriter(object.WriterOptions{}, f)
		must(t, err)
		_, err = w.Write(noiseOf(5 << 20))
		if err == nil {
			_, err = w.Finish(sample)
		}
		if !errors.Is(err, full) || !f.seen {
			t.Errorf("at %d: got %v", at, err)
		}
		if _, err := w.Finish(sample); !errors.Is(err, full) {
			t.Errorf("at %d: the error does not stay: %v", at, err)
		}
	}
}

func TestStreamReader(t *testing.T) {
	plain := textOf(2<<20 + 77)
	for _, ids := range [][]object.Identity{nil, x25519ID.ids()} {
		o := object.WriterOptions{}
		if ids != nil {
			o.Recipients = x25519ID.recs()
		}
		stored, err := object.EncodeAll(o, sample, plain)
		must(t, err)
		for name, wrap := range map[string]func(io.Reader) io.Reader{
			"half": iotest.HalfReader, "data with error": iotest.DataErrReader, "one byte": iotest.OneByteReader,
		} {
			s, err := object.DecodeStream(wrap(bytes.NewReader(stored)), ids, 0)
			must(t, err)
			if err := iotest.TestReader(s, plain); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if s.Header().PlainSize != int64(len(plain)) {
				t.Errorf("%s: header %+v", name, s.Header())
			}
		}
		s, err := object.DecodeStream(bytes.NewReader(stored), ids, 0)
		must(t, err)
		var out bytes.Buffer
		n, err := s.WriteTo(&out)
		if err != nil || n != int64(len(plain)) || !bytes.Equal(out.Bytes(), plain) {
			t.Errorf("WriteTo: %d bytes, %v", n, err)
		}
	}
}

// A failing source is not a corrupt object: its error comes through, wherever.
func TestStreamSourceFails(t *testing.T) {
	// It wraps io.EOF: who asks errors.Is for that must not take it for the end.
	broken := fmt.Errorf("connection reset: %w", io.EOF)
	stored, _ := small(t)
	for _, ids := range [][]object.Identity{nil, x25519ID.ids()} {
		if ids != nil {
			stored = encryptBody(t, stored, x25519ID.to)
		}
		for n := range len(stored) {
			r := io.MultiReader(bytes.NewReader(stored[:n]), iotest.ErrReader(broken))
			s, err := object.DecodeStream(r, ids, 0)
			if err == nil {
				_, err = io.ReadAll(s)
			}
			if !errors.Is(err, broken) || errors.Is(err, object.ErrCorrupt) {
				t.Fatalf("after %d bytes: got %v", n, err)
			}
			if s == nil {
				continue
			}
			s, err = object.DecodeStream(io.MultiReader(bytes.NewReader(stored[:n]), iotest.ErrReader(broken)), ids, 0)
			must(t, err)
			if _, err = s.WriteTo(io.Discard); !errors.Is(err, broken) {
				t.Fatalf("WriteTo after %d bytes: got %v", n, err)
			}
		}
	}
}

func TestStreamMemory(t *testing.T) {
	stored, err := object.EncodeAll(object.WriterOptions{}, sample, textOf(1<<20))
	must(t, err)
	s, err := object.DecodeStream(bytes.NewReader(stored), nil, 1<<20)
	must(t, err)
	if _, err := io.ReadAll(s); !errors.Is(err, object.ErrTooLarge) || errors.Is(err, object.ErrCorrupt) {
		t.Errorf("got %v", err)
	}
	s, err = object.DecodeStream(bytes.NewReader(stored), nil, 3<<20)
	must(t, err)
	if _, err := io.ReadAll(s); err != nil {
		t.Error(err)
	}
}

// More than Plain returns in one piece: 1025 frames of 1 MiB, all alike.
func TestPlainLimit(t *testing.T) {
	w, err := object.NewWriter(object.WriterOptions{})
	must(t, err)
	zeros := make([]byte, object.FrameSize)
	for w.PlainSize() <= object.MaxPlain {
		_, err := w.AddFrame(zeros)
		must(t, err)
	}
	stored, err := w.Finish(sample)
	must(t, err)
	o, err := object.Open(stored, nil)
	must(t, err)
	n := allocated(func() { _, err = o.Plain() })
	if !errors.Is(err, object.ErrTooLarge) || n > 1<<20 {
		t.Errorf("got %v, %d bytes allocated", err, n)
	}
	size, err := o.WriteTo(io.Discard)
	if err != nil || size != w.PlainSize() {
		t.Errorf("WriteTo: %d bytes, %v", size, err)
	}
}

func TestFrame(t *testing.T) {
	stored, plain := small(t)
	o, err := object.Open(stored, nil)
	must(t, err)
	buf := make([]byte, 3, 4096)
	got, err := o.Frame(0, buf)
	must(t, err)
	if string(got) != "first frame" || &got[0] != &buf[0] {
		t.Errorf("got %q, in other memory: %v", got, &got[0] != &buf[0])
	}
	got, err = o.Frame(2, make([]byte, 0, 2))
	must(t, err)
	if string(got) != "third" {
		t.Errorf("got %q", got)
	}
	for _, i := range []int{-1, 3, 1 << 40} {
		if _, err := o.Frame(i, nil); !errors.Is(err, object.ErrCorrupt) {
			t.Errorf("frame %d: got %v", i, err)
		}
	}
	all, err := o.Plain()
	if err != nil || !bytes.Equal(all, plain) {
		t.Errorf("got %q, %v", all, err)
	}
}

func TestRemote(t *testing.T) {
	ctx := context.Background()
	plain := noiseOf(5<<20 + 9)
	clearObj, err := object.EncodeAll(object.WriterOptions{}, sample, plain)
	must(t, err)
	sealedObj, err := object.EncodeAll(object.WriterOptions{Recipients: x25519ID.recs()}, sample, plain)
	must(t, err)
	smallObj, _ := small(t)
	w, err := object.NewWriter(object.WriterOptions{})
	must(t, err)
	for range 6000 {
		_, err := w.AddFrame([]byte("0123456789"))
		must(t, err)
	}
	manyObj, err := w.Finish(sample)
	must(t, err)
	for _, tt := range []struct {
		name     string
		stored   []byte
		size     int64
		ids      []object.Identity
		requests int
		inHand   bool
	}{
		{"large", clearObj, int64(len(clearObj)), nil, 2, false},
		{"large, size unknown", clearObj, 0, nil, 2, false},
		{"large, encrypted", sealedObj, int64(len(sealedObj)), x25519ID.ids(), 2, true},
		{"large, encrypted, size unknown", sealedObj, 0, x25519ID.ids(), 2, true},
		{"small", smallObj, int64(len(smallObj)), nil, 1, true},
		{"small, size unknown", smallObj, 0, nil, 1, true},
		{"many frames", manyObj, int64(len(manyObj)), nil, 3, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := 0
			r, err := object.OpenAt(ctx, rangesOf(tt.stored, &n), tt.size, tt.ids)
			must(t, err)
			if n != tt.requests || r.InHand() != tt.inHand || (r.Object() != nil) != tt.inHand {
				t.Errorf("%d requests, in hand: %v", n, r.InHand())
			}
			want, err := object.Open(tt.stored, tt.ids)
			must(t, err)
			if r.Header() != want.Header() || fmt.Sprint(r.Frames()) != fmt.Sprint(want.Frames()) {
				t.Error("other header or frames than Open finds")
			}
			n = 0
			for i := range r.Frames() {
				a, err := r.Frame(ctx, i, nil)
				must(t, err)
				b, err := want.Frame(i, nil)
				must(t, err)
				if !bytes.Equal(a, b) {
					t.Fatalf("frame %d differs", i)
				}
			}
			if per := map[bool]int{true: 0, false: len(r.Frames())}[tt.inHand]; n != per {
				t.Errorf("%d requests for %d frames", n, len(r.Frames()))
			}
		})
	}
	n := 0
	if _, err := object.OpenAt(ctx, rangesOf(sealedObj, &n), int64(len(sealedObj)), nil); !errors.Is(err, object.ErrNoIdentity) || n != 1 {
		t.Errorf("no identity: got %v after %d requests", err, n)
	}
}

func TestRemoteExtent(t *testing.T) {
	ctx := context.Background()
	plain := noiseOf(5 << 20)
	stored, err := object.EncodeAll(object.WriterOptions{}, sample, plain)
	must(t, err)
	ra := rangesOf(stored, nil)
	r, err := object.OpenAt(ctx, ra, int64(len(stored)), nil)
	must(t, err)
	off, n, err := r.Extent(1, 3)
	must(t, err)
	run, err := ra(ctx, off, n)
	must(t, err)
	for i := 1; i <= 3; i++ {
		size := r.Frames()[i].Stored
		got, err := r.Decode(i, run[:size], nil)
		must(t, err)
		if !bytes.Equal(got, plain[i<<20:][:1<<20]) {
			t.Errorf("frame %d differs", i)
		}
		if _, err := r.Decode(i, run[:size-1], nil); !errors.Is(err, object.ErrCorrupt) {
			t.Errorf("short frame %d: got %v", i, err)
		}
		run = run[size:]
	}
	if len(run) != 0 {
		t.Errorf("%d bytes left of the extent", len(run))
	}
	for _, bad := range [][2]int{{-1, 0}, {0, 5}, {3, 1}} {
		if _, _, err := r.Extent(bad[0], bad[1]); err == nil {
			t.Errorf("extent %v: no error", bad)
		}
	}
}

func TestRemoteSourceFails(t *testing.T) {
	ctx := context.Background()
	stored, err := object.EncodeAll(object.WriterOptions{}, sample, noiseOf(2<<20))
	must(t, err)
	broken := errors.New("connection reset")
	for fail := range 3 {
		n := 0
		ra := func(ctx context.Context, off, length int64) ([]byte, error) {
			if n++; n == fail+1 {
				return nil, broken
			}
			return rangesOf(stored, nil)(ctx, off, length)
		}
		r, err := object.OpenAt(ctx, ra, int64(len(stored)), nil)
		if err == nil {
			_, err = r.Frame(ctx, 0, nil)
		}
		if !errors.Is(err, broken) || errors.Is(err, object.ErrCorrupt) {
			t.Errorf("request %d: got %v", fail+1, err)
		}
	}
}
