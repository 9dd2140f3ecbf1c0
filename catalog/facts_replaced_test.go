package catalog_test

import (
	"context"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/object"
	"pgstow/wal"
)

// replacing lets something happen before the first object whose key has a word is read.
type replacing struct {
	storage.Store
	word string
	do   func()
}

func (r *replacing) Get(ctx context.Context, key string, at storage.Range) (io.ReadCloser, storage.Info, error) {
	if do := r.do; do != nil && strings.Contains(key, r.word) {
		r.do = nil
		do()
	}
	return r.Store.Get(ctx, key, at)
}

// TestPiecesAreReplaced: what was listed as pieces is a larger piece, or the full segment, by the time it is read. A receiver is at work.
func TestPiecesAreReplaced(t *testing.T) {
	name, seg, info := realSegment(t, "17", "plain")
	ref := catalog.ClusterRef{Name: "main", SystemID: info.Header.SystemID}
	size := info.Header.SegmentSize
	n, start := name.Number(size), name.Start(size)
	for _, late := range []bool{false, true} {
		for _, full := range []bool{false, true} {
			store := &replacing{Store: newStore(t), word: name.String() + "."}
			r := initPlain(t, store)
			put := func(from, to wal.LSN) string {
				key := ref.PieceKey(name, start+from, start+to)
				h := object.Header{Kind: object.KindPiece, Name: filepath.Base(key), SystemID: ref.SystemID, From: uint64(start + from), To: uint64(start + to)}
				putRaw(t, r, key, h, seg[from:to])
				return key
			}
			one, two := put(0, 9000), put(9000, wal.LSN(size)/2)
			facts := factsOn(t, r, ref, size)
			want, err := facts.Decode(t.Context(), name.Timeline, n, start+wal.LSN(size)/4)
			if err != nil {
				t.Fatal(err)
			}
			replace := func() {
				if full {
					putRaw(t, r, ref.WALKey(name, ""), segmentHeader(name, info), seg)
				} else {
					put(0, wal.LSN(size)/2)
				}
				if err := store.Delete(t.Context(), one, two); err != nil {
					t.Fatal(err)
				}
			}
			facts = factsOn(t, r, ref, size)
			if late {
				store.do = replace
			} else {
				replace()
			}
			got, err := facts.Decode(t.Context(), name.Timeline, n, start+wal.LSN(size)/4)
			if err != nil {
				t.Errorf("late %v, full %v: %v", late, full, err)
			}
			if got.LastRecord != want.LastRecord || got.LastRecord == 0 || got.MaxXID != want.MaxXID {
				t.Errorf("late %v, full %v: %+v, want %+v", late, full, got, want)
			}
		}
	}
}
