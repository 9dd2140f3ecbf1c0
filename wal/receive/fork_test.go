package receive_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"pgstow/catalog"
	"pgstow/wal"
	"pgstow/wal/receive"
)

// TestFork: the segment in which a timeline begins is a copy of its parent's up to the fork. The archive may have the parent's to its end, and
// a piece of the copy that ends before the fork would hide that from recovery: so nothing of it is stored until the fork has arrived.
func TestFork(t *testing.T) {
	t.Parallel()
	a := newArchived(t, nil, nil)
	const fork, beyond = 300000, 350000
	history := wal.History{{Timeline: 1, End: a.start + fork}, {Timeline: 2, End: wal.MaxLSN}}
	sink := func(synchronous bool) *receive.Sink {
		t.Helper()
		o := &receive.Options{Store: a.store, Cluster: "main", Synchronous: synchronous}
		at, err := receive.PlanFrom(t.Context(), a.repo, a.ref, segmentSize, history, segmentSize.SegmentOf(a.start), 0)
		must(t, err)
		s, err := receive.NewSink(t.Context(), o, a.repo, a.ref, segmentSize, at)
		must(t, err)
		return s
	}
	for _, synchronous := range []bool{false, true} {
		s := sink(synchronous)
		must(t, s.Write(a.start, a.stream[:fork-1]))
		s.Flush()
		must(t, s.Drain(t.Context(), func() {}))
		if p := s.Position(); p.Stored() != a.start || p.Waiting() {
			t.Errorf("stored %s, waiting: %t", p.Stored(), p.Waiting())
		}
		s.Close()
		if _, pieces := a.objects(); len(pieces) > 0 {
			t.Fatalf("stored before the fork: %v", pieces)
		}
	}
	s := sink(true)
	must(t, a.write(s, rand.New(rand.NewPCG(7, 7)), a.start, a.start+beyond))
	await(t, s)
	s.Close()
	_, pieces := a.objects()
	if len(pieces) == 0 || pieces[0].From != a.start || pieces[0].To < a.start+fork || pieces[0].Name.Timeline != 2 {
		t.Errorf("the first piece does not reach the fork: %+v", pieces)
	}
	s = sink(false)
	must(t, s.Write(a.start, a.stream[:segmentSize]))
	await(t, s)
	s.Close()
	if full, pieces := a.objects(); len(full) != 1 || len(pieces) > 0 {
		t.Errorf("full %v, pieces %v", full, pieces)
	}
}

// TestLateFork: with large segments there can be more before the fork than is kept in memory.
func TestLateFork(t *testing.T) {
	t.Parallel()
	const size = wal.SegmentSize(64 << 20)
	const fork = 40 << 20
	a := newArchived(t, nil, nil)
	ref := catalog.ClusterRef{Name: "large", SystemID: 7}
	start := size.Start(3)
	stream := bytes.Repeat([]byte("what a server writes. "), int(size)/22+1)[:size]
	le := binary.LittleEndian
	clear(stream[:wal.LongHeaderSize])
	le.PutUint16(stream, 0xD110)
	le.PutUint16(stream[2:], wal.LongHeader)
	le.PutUint32(stream[4:], 1)
	le.PutUint64(stream[8:], uint64(start))
	le.PutUint64(stream[24:], ref.SystemID)
	le.PutUint32(stream[32:], uint32(size))
	le.PutUint32(stream[36:], 8192)

	history := wal.History{{Timeline: 1, End: start + fork}, {Timeline: 2, End: wal.MaxLSN}}
	at, err := receive.PlanFrom(t.Context(), a.repo, ref, size, history, 3, 0)
	must(t, err)
	s, err := receive.NewSink(t.Context(), &receive.Options{Store: a.store, Cluster: "large", Dir: t.TempDir()}, a.repo, ref, size, at)
	must(t, err)
	const end = 50 << 20
	for from := 0; from < end; from += 128 << 10 {
		must(t, s.Write(start+wal.LSN(from), stream[from:from+128<<10]))
	}
	await(t, s)
	s.Close()
	a.ref = ref
	_, pieces := a.objects()
	if len(pieces) != 2 || pieces[0].To < start+fork {
		t.Fatalf("pieces %+v", pieces)
	}
	for _, p := range pieces {
		if _, plain := a.plain(ref.PieceKey(p.Name, p.From, p.To)); !bytes.Equal(plain, stream[p.From-start:p.To-start]) {
			t.Errorf("piece %s to %s has other bytes", p.From, p.To)
		}
	}
}
