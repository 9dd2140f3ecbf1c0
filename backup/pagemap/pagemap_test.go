package pagemap_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/zeebo/xxh3"

	"pgstow/backup/pagemap"
)

// page is where one page of the model lies: zero, or a place in a pack.
type page struct {
	zero  bool
	ref   pagemap.PackRef
	frame uint32
	at    uint32
	hash  uint64
}

// randomMap builds a map by random appends beside the plain list of its pages.
func randomMap(rng *rand.Rand) (*pagemap.Map, []page) {
	ids := []string{"20260101T000000Z-aaaa", "20260102T000000Z-bbbb", "20260103T000000Z-cccc"}
	m, model := new(pagemap.Map), []page(nil)
	for range rng.IntN(30) {
		n := 1 + rng.IntN(200)
		hashes := make([]uint64, n)
		for i := range hashes {
			hashes[i] = rng.Uint64()
		}
		if rng.IntN(4) == 0 {
			m.AppendZero(hashes)
			for _, h := range hashes {
				model = append(model, page{zero: true, hash: h})
			}
			continue
		}
		ref := pagemap.PackRef{Backup: ids[rng.IntN(len(ids))], Pack: rng.Uint32N(3)}
		frame, first := rng.Uint32N(4), rng.Uint32N(128)
		m.Append(ref, frame, first, hashes)
		for i, h := range hashes {
			model = append(model, page{ref: ref, frame: frame, at: first + uint32(i), hash: h})
		}
	}
	return m, model
}

// check compares a map page by page with the model.
func check(t *testing.T, m *pagemap.Map, model []page) {
	t.Helper()
	if m.Pages() != len(model) {
		t.Fatalf("map has %d pages, want %d", m.Pages(), len(model))
	}
	for i, want := range model {
		e, off, ok := m.Find(i)
		if !ok {
			t.Fatalf("page %d not found", i)
		}
		got := page{zero: e.Zero, hash: m.Hashes[i]}
		if !e.Zero {
			got.ref, got.frame, got.at = m.Pack(e), e.Frame, e.First+uint32(off)
		}
		if got != want {
			t.Fatalf("page %d is %+v, want %+v", i, got, want)
		}
	}
	if _, _, ok := m.Find(len(model)); ok {
		t.Fatal("a page past the end was found")
	}
}

func TestRoundTripAgainstModel(t *testing.T) {
	var reused pagemap.Map
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		m, model := randomMap(rng)
		check(t, m, model)
		prefix := []byte("before")
		b, err := m.AppendEncode(slices.Clone(prefix))
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if !bytes.HasPrefix(b, prefix) {
			t.Fatal("AppendEncode changed what stood before")
		}
		b = b[len(prefix):]
		if err := reused.Decode(b); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		check(t, &reused, model)
		again, err := reused.AppendEncode(nil)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("seed %d: encoding again differs (%v)", seed, err)
		}
		n := rng.IntN(len(model) + 2)
		m.Truncate(n)
		model = model[:min(n, len(model))]
		check(t, m, model)
		if err := m.Validate(); err != nil {
			t.Fatalf("seed %d: truncated to %d: %v", seed, n, err)
		}
	}
}

// The same pages give the same bytes however the appends were cut.
func TestCanonical(t *testing.T) {
	hashes := make([]uint64, 100)
	for i := range hashes {
		hashes[i] = uint64(i) * 77
	}
	ref := pagemap.PackRef{Backup: "b", Pack: 3}
	var whole, pieces pagemap.Map
	whole.Append(ref, 1, 20, hashes[:60])
	whole.AppendZero(hashes[60:])
	for i := range 60 {
		pieces.Append(ref, 1, uint32(20+i), hashes[i:i+1])
	}
	pieces.Append(ref, 1, 0, nil)
	for i := 60; i < 100; i++ {
		pieces.AppendZero(hashes[i : i+1])
	}
	a, errA := whole.AppendEncode(nil)
	b, errB := pieces.AppendEncode(nil)
	if errA != nil || errB != nil || !bytes.Equal(a, b) {
		t.Fatalf("bytes differ: %v %v", errA, errB)
	}
	if len(whole.Extents) != 2 {
		t.Fatalf("%d extents", len(whole.Extents))
	}
}

// The layout is pinned: these bytes are in docs/format.md.
func TestVector(t *testing.T) {
	var m pagemap.Map
	m.Append(pagemap.PackRef{Backup: "id", Pack: 300}, 2, 5, []uint64{0x0102030405060708})
	m.AppendZero([]uint64{0x1112131415161718, 1})
	got, err := m.AppendEncode(nil)
	if err != nil {
		t.Fatal(err)
	}
	want := "50474d01" + "03" + "01" + "026964" + "02" +
		"01" + "01" + "ac02" + "02" + "05" +
		"02" + "00" +
		"0807060504030201" + "1817161514131211" + "0100000000000000" +
		"4ba09c3a4153b601"
	if hex.EncodeToString(got) != want {
		t.Fatalf("got  %x\nwant %s", got, want)
	}
	if pagemap.Hash([]byte("")) != 0x2d06800538d394c2 {
		t.Fatal("Hash is not XXH3-64 with seed 0")
	}
}

func TestEveryFlippedOrMissingByteIsFound(t *testing.T) {
	var m pagemap.Map
	m.Append(pagemap.PackRef{Backup: "x", Pack: 400}, 3, 100, make([]uint64, 20))
	m.AppendZero([]uint64{1, 2, 3})
	m.Append(pagemap.PackRef{Backup: "y"}, 0, 0, make([]uint64, 20))
	b, err := m.AppendEncode(nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		if _, err := pagemap.Decode(b[:i]); !errors.Is(err, pagemap.ErrCorrupt) {
			t.Fatalf("cut at %d: %v", i, err)
		}
		for bit := range 8 {
			b[i] ^= 1 << bit
			if _, err := pagemap.Decode(b); !errors.Is(err, pagemap.ErrCorrupt) {
				t.Fatalf("bit %d of byte %d flipped: %v", bit, i, err)
			}
			b[i] ^= 1 << bit
		}
	}
}

// seal appends the checksum, so that what stands before it is judged.
func seal(b []byte) []byte { return binary.LittleEndian.AppendUint64(b, xxh3.Hash(b)) }

func TestDecodeRefuses(t *testing.T) {
	hash := make([]byte, 8)
	cat := func(parts ...[]byte) []byte { return slices.Concat(parts...) }
	head := []byte("PGM\x01")
	cases := map[string][]byte{
		"other version":         cat([]byte("PGM\x02"), []byte{0, 0, 0}),
		"long form of a number": cat(head, []byte{0x80, 0, 0, 0}),
		"unused id":             cat(head, []byte{0, 1, 1, 'x', 0}),
		"empty id":              cat(head, []byte{1, 1, 0, 1, 1, 1, 0, 0, 0}, hash),
		"id twice":              cat(head, []byte{2, 2, 1, 'x', 1, 'x', 2, 1, 1, 0, 0, 0, 1, 2, 0, 0, 1}, hash, hash),
		"ids out of order":      cat(head, []byte{2, 2, 1, 'x', 1, 'y', 2, 1, 2, 0, 0, 0, 1, 1, 0, 0, 0}, hash, hash),
		"id index too high":     cat(head, []byte{1, 1, 1, 'x', 1, 1, 2, 0, 0, 0}, hash),
		"empty extent":          cat(head, []byte{0, 0, 1, 0, 0}),
		"neighbours not merged": cat(head, []byte{2, 0, 2, 1, 0, 1, 0}, hash, hash),
		"too few pages covered": cat(head, []byte{2, 0, 1, 1, 0}, hash, hash),
		"hash missing":          cat(head, []byte{2, 0, 1, 2, 0}, hash),
		"trailing byte":         cat(head, []byte{1, 0, 1, 1, 0}, hash, []byte{0}),
		"count without items":   cat(head, []byte{1, 0, 0xff, 0xff, 3}),
	}
	for name, b := range cases {
		if _, err := pagemap.Decode(seal(b)); !errors.Is(err, pagemap.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := pagemap.Decode(seal(cat(head, []byte{2, 0, 1, 2, 0}, hash, hash))); err != nil {
		t.Errorf("the well-formed neighbour of these cases: %v", err)
	}
}

func TestEncodeRefusesInvalid(t *testing.T) {
	for name, m := range map[string]*pagemap.Map{
		"uncovered page":  {Hashes: []uint64{1}},
		"unknown backup":  {Hashes: []uint64{1}, Extents: []pagemap.Extent{{Pages: 1}}},
		"zero with place": {Hashes: []uint64{1}, Extents: []pagemap.Extent{{Pages: 1, Zero: true, Frame: 1}}},
		"beyond a frame": {
			Hashes: []uint64{1}, Backups: []string{"a"},
			Extents: []pagemap.Extent{{Pages: 1, First: pagemap.MaxPages}},
		},
	} {
		if b, err := m.AppendEncode(nil); !errors.Is(err, pagemap.ErrCorrupt) || b != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for seed := range uint64(5) {
		m, _ := randomMap(rand.New(rand.NewPCG(seed, 2)))
		b, err := m.AppendEncode(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[:len(b)-8])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		// The checksum is put on here: otherwise nothing behind it is reached.
		b := seal(slices.Clone(body))
		m, err := pagemap.Decode(b)
		if err != nil {
			if !errors.Is(err, pagemap.ErrCorrupt) {
				t.Fatalf("not marked as corruption: %v", err)
			}
			return
		}
		again, err := m.AppendEncode(nil)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("accepted bytes are not canonical: %v", err)
		}
	})
}
