package pagemap_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgstow/backup/pagemap"
)

// place is where a page lies, without the form of extents.
type place struct {
	zero bool
	ref  pagemap.PackRef
	at   [2]uint32
	hash uint64
}

func places(t *testing.T, m *pagemap.Map) (out []place) {
	t.Helper()
	for i := range m.Pages() {
		e, off, ok := m.Find(i)
		if !ok {
			t.Fatalf("page %d of %d is not found", i, m.Pages())
		}
		p := place{zero: e.Zero, hash: m.Hashes[i]}
		if !e.Zero {
			p.ref, p.at = m.Pack(e), [2]uint32{e.Frame, e.First + uint32(off)}
		}
		out = append(out, p)
	}
	return out
}

func scattered(rng *rand.Rand, backups int) *pagemap.Map {
	m := new(pagemap.Map)
	for range rng.IntN(12) {
		hashes := make([]uint64, 1+rng.IntN(9))
		for i := range hashes {
			hashes[i] = rng.Uint64()
		}
		if rng.IntN(4) == 0 {
			m.AppendZero(hashes)
			continue
		}
		m.Append(pagemap.PackRef{Backup: fmt.Sprint("b", rng.IntN(backups)), Pack: uint32(rng.IntN(3))}, uint32(rng.IntN(2)), uint32(rng.IntN(20)), hashes)
	}
	return m
}

// A map made of runs of another and of new pages says of each page what its origin
// says, and is canonical.
func TestCursorAgainstPages(t *testing.T) {
	for seed := range uint64(500) {
		rng := rand.New(rand.NewPCG(seed, 1))
		old := scattered(rng, 3)
		want, from := []place{}, places(t, old)
		got := new(pagemap.Map)
		c := pagemap.NewCursor(old)
		for at := 0; at < old.Pages(); {
			n := 1 + rng.IntN(old.Pages()-at)
			if rng.IntN(2) == 0 {
				c.Append(got, at, n)
				want = append(want, from[at:at+n]...)
			} else {
				hashes := make([]uint64, n)
				got.Append(pagemap.PackRef{Backup: "new"}, 7, uint32(at), hashes)
				for i := range n {
					want = append(want, place{ref: pagemap.PackRef{Backup: "new"}, at: [2]uint32{7, uint32(at + i)}})
				}
			}
			at += n
		}
		if err := got.Validate(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if have := places(t, got); !slices.Equal(have, want) {
			t.Fatalf("seed %d: %v, want %v", seed, have, want)
		}
	}
}

func TestUsesAndSelect(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 2))
		m := scattered(rng, 2)
		all := places(t, m)
		uses, want := map[pagemap.PackRef]uint32{}, map[pagemap.PackRef]uint32{}
		m.Uses(func(p pagemap.PackRef, n uint32) { uses[p] += n })
		wanted := pagemap.PackRef{Backup: "b0", Pack: 1}
		marked := make([]bool, len(all))
		for i, p := range all {
			if !p.zero {
				want[p.ref]++
			}
			marked[i] = !p.zero && p.ref == wanted
		}
		if fmt.Sprint(uses) != fmt.Sprint(want) {
			t.Fatalf("seed %d: uses %v, want %v", seed, uses, want)
		}
		found, end := make([]bool, len(all)), -1
		m.Select(func(p pagemap.PackRef) bool { return p == wanted }, func(first, n uint32) {
			if int(first) <= end {
				t.Fatalf("seed %d: run at %d after one that ends at %d", seed, first, end)
			}
			for i := range n {
				found[first+i] = true
			}
			end = int(first + n)
		})
		if !slices.Equal(found, marked) {
			t.Fatalf("seed %d: selected %v, want %v", seed, found, marked)
		}
	}
}
