package huge_test

import (
	"testing"
	"time"

	"pgstow/catalog"
)

// TestS3: an archive behind S3 is listed in parallel, with few requests more than the pages that it has, in memory that does not grow with
// it; what is found is right.
func TestS3(t *testing.T) {
	n := segments(t)
	s := newScene(n)
	b, endpoint := s.bucket(t, 2*time.Millisecond)
	r, err := s.put(t.Context(), open(t, endpoint))
	if err != nil {
		t.Fatal(err)
	}
	b.Counts()
	var facts catalog.Facts
	begin := time.Now()
	peak, kept := memory(func() {
		if facts, err = r.Facts(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
	})
	listed := time.Since(begin)
	count := b.Counts()
	begin = time.Now()
	windows, err := catalog.Windows(t.Context(), facts)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d segments: facts %s, %+v, peak %d MiB, kept %d KiB; windows %s", n, listed.Round(time.Millisecond), count, peak>>20, kept>>10,
		time.Since(begin).Round(time.Millisecond))
	s.checkIndex(t, facts.WAL)
	s.checkWindows(t, windows)
	if count.Lists > n/1000+constantLists {
		t.Errorf("%d lists for %d segments", count.Lists, n)
	}
	if count.Keys > n+constantLists*1000/2 {
		t.Errorf("%d keys were sent for %d segments", count.Keys, n)
	}
	if count.Parallel < 4 {
		t.Errorf("at most %d requests at a time", count.Parallel)
	}
	if peak > maxPeak || kept > maxKept {
		t.Errorf("%d MiB at the peak, %d KiB kept", peak>>20, kept>>10)
	}
	if more := b.Counts(); more.Lists > 0 || more.Others > 100 {
		t.Errorf("windows asked %+v", more)
	}
}

// TestS3Small: an archive of a few pages takes a request for each, one for each timeline and one that finds no more.
func TestS3Small(t *testing.T) {
	s := newScene(6000)
	b, endpoint := s.bucket(t, 0)
	r, err := s.put(t.Context(), open(t, endpoint))
	if err != nil {
		t.Fatal(err)
	}
	b.Counts()
	x, err := r.ListWAL(t.Context(), ref, segmentSize)
	if err != nil {
		t.Fatal(err)
	}
	s.checkIndex(t, x)
	if count := b.Counts(); count.Lists > 4+3+3 {
		t.Errorf("%d lists", count.Lists)
	}
}
