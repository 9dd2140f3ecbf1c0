package receive_test

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"pgstow/wal"
	"pgstow/wal/archive"
	"pgstow/wal/receive"
)

// TestJoint: what comes must go on from the last record that the archive has, also when the next one begins only some segments later.
func TestJoint(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(5, 5))
	a := newArchived(t, nil, nil)
	const third = 2 * wal.LSN(segmentSize)
	first := wal.LSN(0)
	for r, err := range wal.Records(a.stream[third:]) {
		must(t, err)
		first = r.LSN
		break
	}
	s, from := a.sink(&receive.Options{})
	must(t, a.write(s, random, from, a.start+wal.LSN(segmentSize)))
	await(t, s)
	s.Close()

	a.stream[first-a.start+8] ^= 0x10 // xl_prev
	s, from = a.sink(&receive.Options{})
	err := a.write(s, random, from, a.end())
	var refused *archive.RefusedError
	if !errors.As(err, &refused) || !receive.IsFinal(err) || !strings.Contains(err.Error(), "goes on from a record at") {
		t.Fatalf("got %v", err)
	}
	if refused.Writer == nil || refused.Writer.Host != "db1" || !strings.HasSuffix(refused.Key, a.names[0]) {
		t.Errorf("it names %+v", refused)
	}
	if err := s.Drain(t.Context(), func() {}); !errors.As(err, &refused) {
		t.Errorf("drain: %v", err)
	}
	s.Close()
	if full, _ := a.objects(); full[a.names[2]] {
		t.Error("it was stored all the same")
	}

	a.stream[first-a.start+8] ^= 0x10
	s, from = a.sink(&receive.Options{})
	must(t, a.write(s, random, from, a.end()))
	await(t, s)
	s.Close()
	a.checkWhole(2)
}
