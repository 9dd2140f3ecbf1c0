package receive_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/fault"
	"pgstow/storage/object"
	"pgstow/wal"
	"pgstow/wal/archive"
	"pgstow/wal/receive"
)

// write feeds a sink from an LSN up to another in chunks, with flushes in between.
func (a *archived) write(s *receive.Sink, random *rand.Rand, from, to wal.LSN) error {
	for from < to {
		n := min(wal.LSN(1+random.IntN(1<<random.IntN(19))), to-from)
		if err := s.Write(from, a.at(from)[:n]); err != nil {
			return err
		}
		from += n
		if random.IntN(8) == 0 {
			s.Flush()
		}
	}
	return nil
}

// await waits until all that a sink has got is stored.
func await(t *testing.T, s *receive.Sink) {
	t.Helper()
	limit := time.After(time.Minute)
	for {
		s.Flush()
		p := s.Position()
		if p.Err() != nil {
			t.Fatal(p.Err())
		}
		if p.Stored() == p.Received() {
			return
		}
		select {
		case <-s.Changed():
		case <-limit:
			t.Fatalf("stored %s of %s", p.Stored(), p.Received())
		}
	}
}

// TestAnyChunking: however the stream is cut, flushed and interrupted, and whichever request fails, the full segments have its bytes, and what
// is not full is there in pieces without a gap.
func TestAnyChunking(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 0))
			a := newArchived(t, nil, nil)
			stop := a.end()
			if seed%3 > 0 {
				stop -= wal.LSN(1 + random.IntN(int(segmentSize)-100))
			}
			reached, most := a.start, a.start
			for run := 0; reached < stop; run++ {
				if run > 0 && random.IntN(2) == 0 {
					a.store.Add(fault.Fault{Op: fault.Put, Nth: 1 + random.IntN(4), Kind: []fault.Kind{fault.Before, fault.After}[random.IntN(2)]})
				}
				s, from := a.sink(&receive.Options{Synchronous: seed%2 == 0, Window: 1 + random.IntN(3)})
				to := min(stop, from+wal.LSN(1+random.IntN(int(2*segmentSize))))
				if run > 20 {
					to = stop
				}
				err := a.write(s, random, from, to)
				if err != nil && !errors.Is(err, fault.ErrInjected) {
					t.Fatal(err)
				}
				if random.IntN(3) == 0 { // it dies: what is on its way may arrive or not
					s.Close()
				} else {
					must(t, s.Drain(t.Context(), func() {}))
					p := s.Position()
					if p.Stored() != p.Received() && p.Received() >= most { // else it ends within a piece that was not compared to its end
						t.Fatalf("stored %s of %s", p.Stored(), p.Received())
					}
					reached = max(reached, p.Stored())
					s.Close()
				}
				most = max(most, s.Position().Received())
			}
			a.sweep()
			whole := int((stop - a.start) / wal.LSN(segmentSize))
			for n := range whole {
				a.checkWhole(n)
			}
			if whole < 3 {
				a.checkPieces(whole, stop)
			}
		})
	}
}

// TestSameAsPush: a push finds what was received equal to what it has, and the other way round.
func TestSameAsPush(t *testing.T) {
	t.Parallel()
	a := newArchived(t, nil, nil)
	dir := t.TempDir()
	push := func(n int) archive.Outcome {
		path := filepath.Join(dir, a.names[n])
		must(t, os.WriteFile(path, a.stream[n*int(segmentSize):(n+1)*int(segmentSize)], 0o600))
		r, err := archive.Push(t.Context(), archive.PushOptions{Options: archive.Options{
			Store: a.below, Pins: catalog.Pins{EncryptionNone: true}, Cluster: "main", SystemID: a.ref.SystemID,
		}}, path)
		must(t, err)
		return r.Outcome
	}
	s, from := a.sink(&receive.Options{})
	random := rand.New(rand.NewPCG(1, 1))
	must(t, a.write(s, random, from, a.start+wal.LSN(segmentSize)))
	await(t, s)
	if got := push(0); got != archive.Existed {
		t.Errorf("push of a received segment: %s", got)
	}
	name, err := wal.ParseFileName(a.names[0])
	must(t, err)
	received, _ := a.plain(a.ref.WALKey(name, ""))
	if got := push(1); got != archive.Stored {
		t.Errorf("push of another: %s", got)
	}
	must(t, a.write(s, random, a.start+wal.LSN(segmentSize), a.start+2*wal.LSN(segmentSize)))
	await(t, s)
	s.Close()
	a.checkWhole(1)
	// What a header says of the content is the same, whoever wrote it.
	must(t, a.below.Delete(t.Context(), a.ref.WALKey(name, "")))
	push(0)
	pushed, _ := a.plain(a.ref.WALKey(name, ""))
	for _, h := range []*object.Header{&received, &pushed} {
		h.Time, h.Host, h.DataDirectory, h.Program = time.Time{}, "", "", ""
	}
	if received != pushed {
		t.Errorf("received %+v\npushed %+v", received, pushed)
	}
}

// TestEncrypted: with the public half alone everything works, and nothing is stored in plain text.
func TestEncrypted(t *testing.T) {
	t.Parallel()
	id, err := age.GenerateX25519Identity()
	must(t, err)
	a := newArchived(t, []string{id.Recipient().String()}, []object.Identity{id})
	random := rand.New(rand.NewPCG(2, 2))
	middle := a.start + wal.LSN(segmentSize)/2
	s, from := a.sink(&receive.Options{})
	must(t, a.write(s, random, from, middle))
	await(t, s)
	s.Close()
	a.checkPieces(0, middle)
	s, from = a.sink(&receive.Options{}) // compares what was stored
	must(t, a.write(s, random, from, a.end()))
	await(t, s)
	s.Close()
	for n := range 3 {
		a.checkWhole(n)
	}
	for _, key := range a.keys() {
		b, _, err := storage.ReadAll(t.Context(), a.below, key, 1<<30)
		must(t, err)
		if !strings.HasPrefix(string(b[object.HeaderSize:]), "age-encryption.org/v1\n") {
			t.Errorf("%s is not encrypted", key)
		}
	}
}

// TestOtherBytes: a stream that disagrees with what is stored is refused, in a piece and in a full segment, and changes nothing.
func TestOtherBytes(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(3, 3))
	for _, c := range []struct {
		what   string
		stored func(a *archived) wal.LSN // how far the first receiver gets
		broken wal.LSN                   // offset of the byte that the second one gets otherwise
		want   string
	}{
		{"in a piece", func(a *archived) wal.LSN { return a.start + 300000 }, 100, "streamed other bytes between"},
		{"the system", func(a *archived) wal.LSN { return a.start }, 24, "no WAL segment under this name"},
		{"a record", func(a *archived) wal.LSN { return a.start }, 10 * 8192, "not a whole segment"},
	} {
		t.Run(c.what, func(t *testing.T) {
			a := newArchived(t, nil, nil)
			s, from := a.sink(&receive.Options{})
			must(t, a.write(s, random, from, c.stored(a)))
			await(t, s)
			s.Close()
			before := a.keys()
			a.stream[c.broken] ^= 0xff
			s, from = a.sink(&receive.Options{})
			err := a.write(s, random, from, a.end())
			var refused *archive.RefusedError
			if !errors.As(err, &refused) || !receive.IsFinal(err) {
				t.Fatalf("got %v", err)
			}
			if c.what != "the system" && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if err := s.Drain(t.Context(), func() {}); !errors.As(err, &refused) {
				t.Errorf("drain: %v", err)
			}
			s.Close()
			full, _ := a.objects()
			if len(full) > 0 {
				t.Errorf("stored %v, before %v", full, before)
			}
		})
	}
	t.Run("in a piece that does not end yet", func(t *testing.T) {
		a := newArchived(t, nil, nil)
		s, from := a.sink(&receive.Options{})
		must(t, s.Write(from, a.at(from)[:100000]))
		await(t, s)
		must(t, s.Write(from+100000, a.at(from + 100000)[:100000]))
		await(t, s)
		s.Close()
		s, from = a.sink(&receive.Options{})
		must(t, s.Write(from, a.at(from)[:150000]))
		if p := s.Position(); p.Stored() != from+100000 {
			t.Errorf("stored %s: the second piece was not compared", p.Stored())
		}
		must(t, s.Write(from+150000, a.at(from + 150000)[:50001]))
		if p := s.Position(); p.Stored() < from+200000 {
			t.Errorf("stored %s of what was compared", p.Stored())
		}
		s.Close()
	})
	t.Run("a piece that is cut off", func(t *testing.T) {
		a := newArchived(t, nil, nil)
		s, from := a.sink(&receive.Options{})
		must(t, s.Write(from, a.at(from)[:100000]))
		await(t, s)
		s.Close()
		key := a.keys()[0]
		b, _, err := storage.ReadAll(t.Context(), a.below, key, 1<<30)
		must(t, err)
		_, err = a.below.Put(t.Context(), key, b[:len(b)-1], storage.Any)
		must(t, err)
		s, from = a.sink(&receive.Options{})
		must(t, s.Write(from, a.at(from)[:100001]))
		if p := s.Position(); p.Stored() != from {
			t.Errorf("stored %s: a damaged piece counts", p.Stored())
		}
		await(t, s)
		s.Close()
		if _, pieces := a.objects(); len(pieces) != 2 {
			t.Errorf("pieces %v", pieces)
		}
	})
	t.Run("in a full segment", func(t *testing.T) {
		a := newArchived(t, nil, nil)
		s, from := a.sink(&receive.Options{})
		must(t, a.write(s, random, from, a.start+wal.LSN(segmentSize)))
		await(t, s)
		s.Close()
		name, err := wal.ParseFileName(a.names[0])
		must(t, err)
		h, plain := a.plain(a.ref.WALKey(name, ""))
		plain[len(plain)-1] ^= 1
		h.PlainSHA256 = [32]byte{}
		h.Host = "db2"
		other, err := object.EncodeAll(object.WriterOptions{}, h, plain)
		must(t, err)
		o := &receive.Options{Store: a.store, Cluster: "main"}
		must(t, a.below.Delete(t.Context(), a.keys()...))
		at, err := receive.PlanFrom(t.Context(), a.repo, a.ref, segmentSize, wal.NewHistory(a.tli), segmentSize.SegmentOf(a.start), 0)
		must(t, err)
		_, err = a.below.Put(t.Context(), a.ref.WALKey(name, ""), other, storage.Any)
		must(t, err)
		s, err = receive.NewSink(t.Context(), o, a.repo, a.ref, segmentSize, at)
		must(t, err)
		must(t, a.write(s, random, a.start, a.start+wal.LSN(segmentSize)))
		err = s.Drain(t.Context(), func() {})
		var refused *archive.RefusedError
		if !errors.As(err, &refused) || refused.Writer == nil || refused.Writer.Host != "db2" {
			t.Errorf("got %v", err)
		}
		s.Close()
	})
}

// TestWindow: commits that come while the window is full share the next piece, and the position never passes one that is not stored.
func TestWindow(t *testing.T) {
	t.Parallel()
	a := newArchived(t, nil, nil)
	s, from := a.sink(&receive.Options{Synchronous: true, Window: 2})
	release := make(chan struct{})
	var mu sync.Mutex
	var sent []string
	a.store.OnCall(func(c fault.Call) error {
		if c.Op != fault.Put {
			return nil
		}
		mu.Lock()
		sent = append(sent, c.Key)
		first := len(sent) == 1
		mu.Unlock()
		if first {
			<-release
		}
		return nil
	})
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(sent)
	}
	const step = 1000
	for i := range wal.LSN(50) {
		must(t, s.Write(from+i*step, a.at(from + i*step)[:step]))
		if i == 0 {
			for count() == 0 {
				<-time.After(time.Millisecond)
			}
		}
	}
	// The first does not end; what the second place of the window stores behind it does not count.
	for count() < 3 {
		<-time.After(time.Millisecond)
		s.Flush()
	}
	if p := s.Position(); p.Stored() != from {
		t.Errorf("stored %s while the first piece is not", p.Stored())
	}
	close(release)
	await(t, s)
	if p := s.Position(); p.Stored() != from+50*step {
		t.Errorf("stored %s", p.Stored())
	}
	if n := count(); n > 50 {
		t.Errorf("%d pieces for 50 writes", n)
	}
	s.Close()
	a.checkPieces(0, from+50*step)
}

// TestMerge: a segment that grows by little for long does not end up in as many pieces, and each costs one request still.
func TestMerge(t *testing.T) {
	t.Parallel()
	a := newArchived(t, nil, nil)
	s, from := a.sink(&receive.Options{})
	a.store.Reset()
	const step, writes = 200, 5*receive.MergeAfter + 10
	for i := range wal.LSN(writes) {
		must(t, s.Write(from+i*step, a.at(from + i*step)[:step]))
		await(t, s)
	}
	if n := a.store.Count(fault.Put); n != writes {
		t.Errorf("%d puts for %d pieces", n, writes)
	}
	end := from + writes*step
	must(t, s.Drain(t.Context(), func() {}))
	s.Close()
	if _, pieces := a.objects(); len(pieces) > 3*receive.MergeAfter {
		t.Errorf("%d pieces are left of %d", len(pieces), writes)
	}
	a.checkPieces(0, end)
	if n := a.store.Count(fault.Delete); n > 5 {
		t.Errorf("%d deletes", n)
	}
	// Another receiver takes it to its end, after which none is left.
	s, from = a.sink(&receive.Options{})
	must(t, a.write(s, rand.New(rand.NewPCG(4, 4)), from, from+wal.LSN(segmentSize)))
	await(t, s)
	s.Close()
	a.checkWhole(0)
}

// TestFailures: what a failing store did not take is stored once it works again, with the same bytes, and a write that waits for it ends
// when it is told to.
func TestFailures(t *testing.T) {
	t.Parallel()
	a := newArchived(t, nil, nil)
	s, from := a.sink(&receive.Options{})
	a.store.Add(fault.Fault{Op: fault.Put, Times: 3})
	err := a.write(s, rand.New(rand.NewPCG(5, 5)), from, a.end())
	if err != nil && !errors.Is(err, fault.ErrInjected) {
		t.Fatal(err)
	}
	must(t, s.Drain(t.Context(), func() {}))
	p := s.Position()
	if p.Stored() != p.Received() {
		t.Errorf("stored %s of %s", p.Stored(), p.Received())
	}
	s.Close()
	a.store.VerifyAllHit(t)

	// A store that hangs: four segments do not fit into what may wait.
	b := newArchived(t, nil, nil)
	b.store.Add(fault.Fault{Op: fault.Put, Times: -1, Kind: fault.Hang})
	s, from = b.sink(&receive.Options{})
	written := make(chan error, 1)
	go func() { written <- b.write(s, rand.New(rand.NewPCG(6, 6)), from, b.end()) }()
	for s.Position().Received() < from+3*wal.LSN(segmentSize) {
		<-time.After(time.Millisecond)
	}
	select {
	case err := <-written:
		t.Fatalf("the third segment did not wait: %v", err)
	default:
	}
	s.Stop()
	if err := <-written; err == nil {
		t.Error("a write that was stopped succeeded")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Drain(ctx, func() {}); err == nil {
		t.Error("a hanging store took what waited")
	}
	if !s.Position().Waiting() {
		t.Error("nothing waits")
	}
	s.Close()
}
