package spool_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"pgstow/wal/spool"
)

func TestMarkAnswersOnlyForThisVeryFile(t *testing.T) {
	s, _ := create(t)
	path := filepath.Join(t.TempDir(), segmentName)
	id := write(t, path, pattern(1000))
	if s.Stored(segmentName, id) {
		t.Fatal("stored before it was marked")
	}
	if err := s.MarkStored(segmentName, id); err != nil {
		t.Fatal(err)
	}
	if !s.Stored(segmentName, id) {
		t.Fatal("not stored after it was marked")
	}
	others := map[string]spool.FileID{}
	change := func(name string, f func(*spool.FileID)) {
		other := id
		f(&other)
		others[name] = other
	}
	change("size", func(i *spool.FileID) { i.Size++ })
	change("mtime", func(i *spool.FileID) { i.MTime++ })
	change("ctime", func(i *spool.FileID) { i.CTime-- })
	change("inode", func(i *spool.FileID) { i.Inode++ })
	change("device", func(i *spool.FileID) { i.Device++ })
	for what, other := range others {
		if s.Stored(segmentName, other) {
			t.Errorf("a file with another %s counts as stored", what)
		}
	}
	if s.Stored("000000010000000000000043", id) {
		t.Error("another name counts as stored")
	}
	if s.Stored("../"+segmentName, id) || s.Stored("", id) {
		t.Error("an impossible name counts as stored")
	}
}

func TestFileIDMovesWithEveryChange(t *testing.T) {
	path := filepath.Join(t.TempDir(), segmentName)
	id := write(t, path, pattern(1000))
	past := time.Unix(1, 0)
	if err := os.Chtimes(path, past, time.Unix(0, id.MTime)); err != nil { // as a tool does that hides a change
		t.Fatal(err)
	}
	if now, err := spool.Stat(path); err != nil || now.MTime != id.MTime || now == id {
		t.Errorf("mtime was set back: %+v, before %+v, error %v; ctime must tell", now, id, err)
	}
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	if now := write(t, path, pattern(1000)); now.Inode == id.Inode {
		t.Error("a copy has the same inode")
	}
	if _, err := spool.Stat(filepath.Dir(path)); err == nil {
		t.Error("a directory has a FileID")
	}
}

func TestDamagedMarksSayNotStored(t *testing.T) {
	for _, d := range damages() {
		t.Run(d.name, func(t *testing.T) {
			s, _ := create(t)
			id := spool.FileID{Size: 16 << 20, MTime: 1, CTime: 2, Inode: 3, Device: 4}
			if err := s.MarkStored(segmentName, id); err != nil {
				t.Fatal(err)
			}
			d.do(t, filepath.Join(s.Dir(), "marks"))
			if s.Stored(segmentName, id) {
				t.Fatal("damaged marks still say stored")
			}
		})
	}
}

func TestEveryFlippedBitOfAMarkIsNoticed(t *testing.T) {
	s, _ := create(t)
	id := spool.FileID{Size: 16 << 20, MTime: 1, CTime: 2, Inode: 3, Device: 4}
	if err := s.MarkStored(segmentName, id); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.Dir(), "marks")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	start := len(good) - 128
	for i := start; i < len(good); i++ {
		for bit := range 8 {
			bad := append([]byte(nil), good...)
			bad[i] ^= 1 << bit
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if s.Stored(segmentName, id) {
				t.Fatalf("byte %d bit %d flipped: still stored", i-start, bit)
			}
		}
	}
}

func TestMarksStayBounded(t *testing.T) {
	s, _ := create(t)
	for i := range 5000 {
		if err := s.MarkStored(walName(i), spool.FileID{Size: 1}); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(filepath.Join(s.Dir(), "marks"))
	if err != nil || info.Size() > 1024*128 {
		t.Fatalf("marks take %d bytes, error %v", info.Size(), err)
	}
	if !s.Stored(walName(4999), spool.FileID{Size: 1}) {
		t.Fatal("the newest mark is lost")
	}
}

func TestNeighboursKeepTheirMarks(t *testing.T) {
	const ahead = 160                                                                 // more than any worker runs ahead
	for _, perLog := range []int{4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096} { // segments of 1 GiB to 1 MiB
		s, _ := create(t)
		name := func(i int) string { return fmt.Sprintf("%08X%08X%08X", 1, i/perLog, i%perLog) }
		for first := 0; first < 2*4096; first += 1000 {
			for i := first; i < first+ahead; i++ {
				if err := s.MarkStored(name(i), spool.FileID{Size: int64(i)}); err != nil {
					t.Fatal(err)
				}
			}
			lost := 0
			for i := first; i < first+ahead; i++ {
				if !s.Stored(name(i), spool.FileID{Size: int64(i)}) {
					lost++
				}
			}
			if lost > 0 {
				t.Fatalf("%d segments a log, from %s: %d of %d neighbours share a slot", perLog, name(first), lost, ahead)
			}
		}
	}
}

func TestWritersOfOneSlotNeverMakeAFalseMark(t *testing.T) {
	s, _ := create(t)
	var done sync.WaitGroup
	for w := range 4 {
		done.Go(func() {
			for i := range 500 {
				if err := s.MarkStored(segmentName, spool.FileID{Size: int64(w), MTime: int64(i)}); err != nil {
					t.Error(err)
				}
				if s.Stored(segmentName, spool.FileID{Size: 99, MTime: int64(i)}) {
					t.Error("a state that nobody marked counts as stored")
				}
			}
		})
	}
	done.Wait()
}

func walName(i int) string {
	const digits = "0123456789ABCDEF"
	b := []byte("000000010000000000000000")
	for p := len(b) - 1; i > 0; p-- {
		b[p] = digits[i%16]
		i /= 16
	}
	return string(b)
}

func TestNilSpoolHoldsNothing(t *testing.T) {
	var s *spool.Spool
	if s.Stored(segmentName, spool.FileID{}) || s.MarkStored(segmentName, spool.FileID{}) != nil || s.Dir() != "" {
		t.Error("marks of nothing")
	}
	if done, err := s.Take(segmentName, "x"); done || err != nil {
		t.Error("a file out of nothing")
	}
	if _, ok := s.Record("kind", time.Hour, time.Now()); ok || s.PutRecord("kind", nil, time.Now()) != nil || s.AddReady("x", nil) != nil {
		t.Error("records of nothing")
	}
	s.Forget("kind")
	s.DropReady("x")
}
