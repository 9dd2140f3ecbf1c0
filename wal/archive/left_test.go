package archive_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"pgstow/wal"
	"pgstow/wal/archive"
	"pgstow/wal/spool"
)

// TestFetchBehindAFork: recovery that heads for another timeline gets of this one's segments only what lies before the fork, though the old
// primary went on and archived the whole.
func TestFetchBehindAFork(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(plainSegment)
	name, err := wal.ParseFileName(plainSegment)
	must(t, err)
	whole := fixture(t, plainSegment)
	size := wal.SegmentSize(len(whole))
	start := name.Start(size)
	history := func(tli wal.TimelineID, fork wal.LSN) {
		write(t, filepath.Join(w.data, "pg_wal", wal.HistoryName(tli).String()), fmt.Appendf(nil, "%d\t%s\tno recovery target specified\n", name.Timeline, fork))
	}
	cut := bytes.Clone(whole)
	clear(cut[0x3000:])
	chosen := func(tli wal.TimelineID) func(*archive.FetchOptions) {
		return func(o *archive.FetchOptions) { o.Timeline = tli }
	}

	history(name.Timeline+1, start+0x3000)
	w.mode("recovery.signal")
	w.wantFetched(plainSegment, cut)
	w.wantFetched(plainSegment, cut, chosen(name.Timeline+1))
	w.wantFetched(plainSegment, whole, chosen(name.Timeline))
	w.wantFetched(plainSegment, whole, chosen(name.Timeline+7)) // of which nothing is known
	w.mode("standby.signal")
	w.wantFetchError(plainSegment, archive.ErrAbsent, 1)
	w.wantFetched(plainSegment, whole, chosen(name.Timeline))

	// What waits in the spool is no way around it.
	s := w.options().Spool
	for _, signal := range []string{"recovery.signal", "standby.signal"} {
		w.mode(signal)
		ready, err := s.NewReady(plainSegment)
		must(t, err)
		_, err = ready.Write(whole)
		must(t, err)
		must(t, ready.Finish())
		if done, err := s.Take(plainSegment, w.destination()); done || err != nil {
			t.Errorf("%s: taken from the spool: %v, %v", signal, done, err)
		}
		s.DropReady(plainSegment)
	}

	// pg_rewind and people ask by the file's own name, and get the file.
	final := filepath.Join(w.data, "pg_wal", plainSegment)
	must(t, archive.Fetch(t.Context(), w.fetchOptions(), plainSegment, final))
	if b, err := os.ReadFile(final); err != nil || !bytes.Equal(b, whole) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	must(t, os.Remove(final))

	// A fork at the very end leaves the segment whole; one before its beginning leaves nothing of it.
	history(name.Timeline+1, start+wal.LSN(size))
	w.wantFetched(plainSegment, whole)
	history(name.Timeline+1, start)
	for _, signal := range []string{"recovery.signal", "standby.signal"} {
		w.mode(signal)
		w.wantFetchError(plainSegment, archive.ErrAbsent, 1)
	}
	// The newest one counts, and it does not come from this timeline.
	write(t, filepath.Join(w.data, "pg_wal", wal.HistoryName(name.Timeline+2).String()), []byte("# another past\n"))
	w.wantFetched(plainSegment, whole)
}

func TestLeftAt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	segment := wal.FileName{Kind: wal.Segment, Timeline: 1, Seg: 5}
	const size = wal.SegmentSize(1 << 20)
	for text, want := range map[string]bool{
		"1\t0/500000\tno recovery target specified\n": true,
		"1\t0/5FFFFF\tx\n":                            true,
		"1\t0/600000\tx\n":                            false,
		"2\t0/500000\tx\n":                            false,
		"nonsense\n":                                  false,
	} {
		write(t, filepath.Join(dir, "00000003.history"), []byte(text))
		if _, by, left, _ := spool.LeftAt(dir, segment, size, 0); left != want || left && by != 3 {
			t.Errorf("%q: %v by %d", text, left, by)
		}
	}
	for _, other := range []wal.FileName{{Kind: wal.HistoryFile, Timeline: 1}, {Kind: wal.Segment, Timeline: 3, Seg: 5}} {
		if _, _, left, _ := spool.LeftAt(dir, other, size, 0); left {
			t.Errorf("%s is said to be left", other)
		}
	}
	if _, _, left, _ := spool.LeftAt(filepath.Join(dir, "none"), segment, size, 0); left {
		t.Error("a folder that is not there says something")
	}
}
