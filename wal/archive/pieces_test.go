package archive_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgstow/storage"
	"pgstow/storage/fault"
	"pgstow/storage/object"
	"pgstow/wal"
	"pgstow/wal/archive"
)

// piece stores bytes from..to (offsets) of a segment, as a receiver does.
func (w *world) piece(segment string, plain []byte, from, to int, host string) string {
	w.t.Helper()
	f := parsed(w.t, segment)
	start := f.Start(1 << 20)
	key := w.ref.PieceKey(f, start+wal.LSN(from), start+wal.LSN(to))
	b, err := object.EncodeAll(w.repo.WriterOptions(), object.Header{
		Kind: object.KindPiece, Name: filepath.Base(key), SystemID: w.ref.SystemID, Timeline: uint32(f.Timeline),
		From: uint64(start) + uint64(from), To: uint64(start) + uint64(to), Host: host, Time: time.Now(),
	}, plain[from:to])
	must(w.t, err)
	w.overwrite(key, b)
	return key
}

// padded is the first n bytes of a segment and zeros.
func padded(plain []byte, n int) []byte {
	b := make([]byte, len(plain))
	copy(b, plain[:n])
	return b
}

// streamed makes a world with pieces of the plain segment, in plain archive recovery.
func streamed(t *testing.T, ranges ...[2]int) (*world, []byte) {
	t.Helper()
	w := newWorld(t)
	w.ensure()
	w.mode("recovery.signal")
	plain := fixture(t, plainSegment)
	for _, r := range ranges {
		w.piece(plainSegment, plain, r[0], r[1], "db1")
	}
	return w, plain
}

const half = 1 << 19

func TestPiecesGoToPlainRecoveryOnly(t *testing.T) {
	t.Parallel()
	w, plain := streamed(t, [2]int{0, 1000}, [2]int{1000, half})
	w.wantFetched(plainSegment, padded(plain, half))
	if len(w.warns) != 1 || !strings.Contains(w.warns[0], "the rest is zero") {
		t.Errorf("warnings %q", w.warns)
	}
	w.mode()
	w.wantFetchError(plainSegment, archive.ErrAbsent, 1)
	w.mode("standby.signal")
	w.wantFetchError(plainSegment, archive.ErrAbsent, 1)
	w.mode("recovery.signal", "standby.signal")
	w.wantFetchError(plainSegment, archive.ErrAbsent, 1)
	w.mode("recovery.signal")
	final := filepath.Join(w.data, "pg_wal", plainSegment) // as pg_rewind asks
	if err := archive.Fetch(t.Context(), w.fetchOptions(), plainSegment, final); !errors.Is(err, archive.ErrAbsent) {
		t.Errorf("under its own name: %v", err)
	}
	for _, mode := range []string{"recovery.signal", "standby.signal"} {
		w.mode(mode)
		w.wantFetched(plainSegment, padded(plain, half), func(o *archive.FetchOptions) { o.Incomplete = true })
	}
	o := w.fetchOptions()
	o.Incomplete = true
	must(t, archive.Fetch(t.Context(), o, plainSegment, final))
}

func TestOnlyTheGaplessPrefixIsServed(t *testing.T) {
	t.Parallel()
	w, plain := streamed(t, [2]int{0, 1000}, [2]int{2000, 3000})
	w.wantFetched(plainSegment, padded(plain, 1000))
	w, _ = streamed(t, [2]int{100, 1000})
	w.wantFetchError(plainSegment, archive.ErrAbsent, 1)
	w, _ = streamed(t, [2]int{0, 30}) // not even a page header
	w.wantFetchError(plainSegment, archive.ErrAbsent, 1)
}

func TestPiecesOverlap(t *testing.T) {
	t.Parallel()
	w, plain := streamed(t, [2]int{0, 1000}, [2]int{0, 500}, [2]int{300, 900}, [2]int{900, 5000}, [2]int{1000, 1200}, [2]int{4999, half})
	w.wantFetched(plainSegment, padded(plain, half))
	other := bytes.Clone(plain)
	other[700] ^= 1
	w.piece(plainSegment, other, 600, 800, "db2")
	err := w.fetchErrorCode(plainSegment, 126)
	var disagree *archive.DisagreeError
	start := parsed(t, plainSegment).Start(1 << 20)
	if !errors.As(err, &disagree) || disagree.LSN != start+700 || !strings.Contains(err.Error(), "db1") || !strings.Contains(err.Error(), "db2") {
		t.Errorf("got %v", err)
	}
	w.push(plainSegment) // the whole segment wins
	w.wantFetched(plainSegment, plain)
}

func TestPiecesOfAWholeSegmentServeEverybody(t *testing.T) {
	t.Parallel()
	w, plain := streamed(t, [2]int{0, half}, [2]int{half - 10, 1 << 20})
	for _, mode := range [][]string{{}, {"recovery.signal"}} {
		w.mode(mode...)
		w.wantFetched(plainSegment, plain)
	}
	next := behind(t, plainSegment, 1)
	w.push(switchedSegment)
	if next != switchedSegment {
		t.Fatalf("%s does not follow %s", switchedSegment, plainSegment)
	}
	w.wantFetched(plainSegment, plain) // no hole
}

func TestPiecesAreNeverPaddedBeforeAHole(t *testing.T) {
	t.Parallel()
	w, plain := streamed(t, [2]int{0, half})
	w.push(switchedSegment)
	w.wantHole(plainSegment, switchedSegment)
	w.wantHole(plainSegment, switchedSegment, func(o *archive.FetchOptions) { o.Incomplete = true })
	// Where the hole is to be the end, recovery gets all that is before it.
	w.wantFetched(plainSegment, padded(plain, half), func(o *archive.FetchOptions) { o.StopAtHole = true })
	// Pieces of a later segment show that the archive goes on, too.
	w, plain = streamed(t, [2]int{0, half})
	w.piece(switchedSegment, fixture(t, switchedSegment), 0, 1000, "db1")
	w.wantHole(plainSegment, switchedSegment)
	w.piece(plainSegment, plain, half, 1<<20, "db1")
	w.wantFetched(plainSegment, plain)
}

func TestPiecesThatVanishAreLookedForAgain(t *testing.T) {
	t.Parallel()
	w, plain := streamed(t, [2]int{0, 1000}, [2]int{1000, half})
	other := newWorld(t)
	other.push(plainSegment)
	hit := false
	w.store.OnCall(func(c fault.Call) error {
		if c.Op == fault.Get && strings.HasSuffix(c.Key, "-"+lsn(t, plainSegment, half)) && !hit {
			hit = true // the receiver stores the whole segment and removes its pieces
			w.overwrite(w.key(plainSegment), other.stored(other.key(plainSegment)))
			must(t, w.below.Delete(t.Context(), c.Key))
		}
		return nil
	})
	w.wantFetched(plainSegment, plain, func(o *archive.FetchOptions) { o.Deadline = time.Minute })
	if !hit {
		t.Error("the second piece was never read")
	}
}

// lsn is the LSN at an offset in a segment as keys have it.
func lsn(t *testing.T, segment string, offset int) string {
	t.Helper()
	b := parsed(t, segment).Start(1<<20) + wal.LSN(offset)
	const digits = "0123456789ABCDEF"
	var s [16]byte
	for i := range s {
		s[15-i] = digits[b>>(4*i)&15]
	}
	return string(s[:])
}

func TestBadPieces(t *testing.T) {
	t.Parallel()
	for what, do := range map[string]func(w *world, plain []byte){
		"flipped byte": func(w *world, plain []byte) {
			key := w.piece(plainSegment, plain, 1000, half, "db1")
			b := w.stored(key)
			b[len(b)/2] ^= 1
			w.overwrite(key, b)
		},
		"under another key": func(w *world, plain []byte) {
			key := w.piece(plainSegment, plain, 1000, half, "db1")
			b := w.stored(key)
			must(w.t, w.below.Delete(w.t.Context(), key))
			start := parsed(w.t, plainSegment).Start(1 << 20)
			w.overwrite(w.ref.PieceKey(parsed(w.t, plainSegment), start+1000, start+half+1), b)
		},
		"foreign WAL in the first": func(w *world, plain []byte) {
			w.piece(plainSegment, foreign(plain), 0, 1000, "db1")
			w.piece(plainSegment, plain, 1000, half, "db1")
		},
		"another segment's bytes": func(w *world, _ []byte) {
			w.piece(plainSegment, fixture(w.t, switchedSegment), 0, 1000, "db1")
		},
	} {
		t.Run(what, func(t *testing.T) {
			w, plain := streamed(t, [2]int{0, 1000})
			do(w, plain)
			w.wantFetchErrorCode(plainSegment, 126)
		})
	}
}

// A receiver was ahead of the standby that was promoted: what is behind the fork never happened on the new timeline.
func TestPiecesAreCutAtTheFork(t *testing.T) {
	t.Parallel()
	h, err := wal.ParseHistory(2, fixture(t, historyFile))
	must(t, err)
	_, fork, _ := h.Parent()
	plain := fixture(t, "cut")
	for i := range plain[1<<20-1000:] { // bytes that only timeline 1 had
		plain[1<<20-1000+i] = 0xee
	}
	at := int(fork - parsed(t, cutSegment).Start(1<<20))
	setup := func(t *testing.T, to int) *world {
		w := newWorld(t)
		w.ensure()
		w.mode("recovery.signal")
		w.piece(cutSegment, plain, 0, to, "db1")
		return w
	}
	beyond := at + 5000
	w := setup(t, beyond)
	w.wantFetched(cutSegment, padded(plain, beyond)) // nobody knows of a fork
	w.push(historyFile)
	w.wantFetched(cutSegment, padded(plain, at))
	w.wantFetched(cutSegment, padded(plain, beyond), func(o *archive.FetchOptions) { o.Timeline = 1 })
	w.wantFetched(cutSegment, padded(plain, at), func(o *archive.FetchOptions) { o.Timeline = 2 })
	w = setup(t, at-100)
	w.push(historyFile)
	w.wantFetched(cutSegment, padded(plain, at-100))
	w = setup(t, 1<<20) // the whole segment, of which timeline 2 has the beginning
	w.push(historyFile)
	w.wantFetched(cutSegment, padded(plain, at))
	w.wantFetched(cutSegment, plain, func(o *archive.FetchOptions) { o.Timeline = 1 })
	w.mode()
	w.wantFetchError(cutSegment, archive.ErrAbsent, 1)
	w.mode("recovery.signal")
	// The old primary's later segments are no reason to wait: recovery leaves timeline 1 in this one.
	w = setup(t, beyond)
	w.push(historyFile)
	w.piece(behind(t, cutSegment, 1), plain, 0, 1000, "db1")
	w.wantFetched(cutSegment, padded(plain, at))
	// With a history that cannot be read nothing is known.
	w = setup(t, beyond)
	w.push(historyFile)
	b := w.stored(w.key(historyFile))
	b[len(b)-1] ^= 1
	w.overwrite(w.key(historyFile), b)
	w.wantFetchErrorCode(cutSegment, 126)
	// A fork before the segment leaves nothing of it.
	w = setup(t, beyond)
	w.push(historyFile)
	next := behind(t, cutSegment, 1)
	w.overwrite(w.ref.PieceKey(parsed(t, next), parsed(t, next).Start(1<<20), parsed(t, next).Start(1<<20)+1000), pieceOf(t, w, next, plain[:1000]))
	w.wantFetchError(next, archive.ErrAbsent, 1)
}

func pieceOf(t *testing.T, w *world, segment string, plain []byte) []byte {
	t.Helper()
	start := uint64(parsed(t, segment).Start(1 << 20))
	name := segment + "." + lsn(t, segment, 0) + "-" + lsn(t, segment, len(plain))
	b, err := object.EncodeAll(w.repo.WriterOptions(), object.Header{
		Kind: object.KindPiece, Name: name, SystemID: w.ref.SystemID, Timeline: 1, From: start, To: start + uint64(len(plain)),
	}, plain)
	must(t, err)
	return b
}

// Two promotions from one timeline: the latest timeline is where recovery heads.
func TestTheForkOfTheLatestTimelineCounts(t *testing.T) {
	t.Parallel()
	w, plain := streamed(t, [2]int{0, half})
	start := parsed(t, plainSegment).Start(1 << 20)
	history := func(tli wal.TimelineID, h wal.History) {
		name := wal.HistoryName(tli).String()
		_, err := archive.Push(t.Context(), w.pushOptions(), w.place(name, h.Format()))
		must(t, err)
	}
	history(2, wal.History{{Timeline: 1, End: start + 1000}, {Timeline: 2}})
	w.wantFetched(plainSegment, padded(plain, 1000))
	history(3, wal.History{{Timeline: 1, End: start + 9000}, {Timeline: 3}})
	w.wantFetched(plainSegment, padded(plain, 9000))
	w.wantFetched(plainSegment, padded(plain, 1000), func(o *archive.FetchOptions) { o.Timeline = 2 })
	history(4, wal.History{{Timeline: 2, End: start + 5000}, {Timeline: 4}}) // does not come from timeline 1 by what it says
	w.wantFetched(plainSegment, padded(plain, 1000))
	history(6, wal.History{{Timeline: 1, End: start + 100}, {Timeline: 6}}) // PostgreSQL stops asking at 5
	w.wantFetched(plainSegment, padded(plain, 1000))
}

// Somebody saved the pg_wal of the dead server and copied it here.
func TestALocalFileThatHasMoreIsLeftToTheServer(t *testing.T) {
	t.Parallel()
	w, plain := streamed(t, [2]int{0, half})
	local := filepath.Join(w.data, "pg_wal", plainSegment)
	changed := func(at int) []byte {
		b := bytes.Clone(plain)
		b[at] ^= 1
		return b
	}
	write(t, local, plain)
	w.wantFetchError(plainSegment, archive.ErrAbsent, 1)
	write(t, local, padded(plain, half))
	w.wantFetchError(plainSegment, archive.ErrAbsent, 1)
	write(t, local, changed(half)) // what is behind our bytes is not ours to judge
	w.wantFetchError(plainSegment, archive.ErrAbsent, 1)

	write(t, local, padded(plain, 100000)) // older than what was streamed
	w.wantFetched(plainSegment, padded(plain, half))
	write(t, local, fixture(t, switchedSegment)) // recycled
	w.wantFetched(plainSegment, padded(plain, half))
	write(t, local, foreign(plain))
	w.wantFetched(plainSegment, padded(plain, half))
	write(t, local, make([]byte, len(plain)))
	w.wantFetched(plainSegment, padded(plain, half))
	write(t, local, nil)
	w.wantFetched(plainSegment, padded(plain, half))

	flagged := bytes.Clone(plain) // another flag in the header of a page: sound WAL, but not the same
	flagged[8192+2] ^= byte(wal.BackupBlocksRemovable)
	if _, err := wal.InspectSegment(flagged, parsed(t, plainSegment)); err != nil {
		t.Fatal(err)
	}
	write(t, local, flagged)
	err := w.fetchErrorCode(plainSegment, 126)
	var disagree *archive.DisagreeError
	if !errors.As(err, &disagree) || !strings.Contains(err.Error(), local) || !strings.Contains(err.Error(), "db1") {
		t.Errorf("got %v", err)
	}
	must(t, os.Remove(local))
	w.wantFetched(plainSegment, padded(plain, half))
}

func TestEncryptedPieces(t *testing.T) {
	t.Parallel()
	w, plain := streamed(t)
	key := newKey(t)
	recipients, err := object.ParseRecipients([]string{key.recipient})
	must(t, err)
	f := parsed(t, plainSegment)
	start := uint64(f.Start(1 << 20))
	k := w.ref.PieceKey(f, f.Start(1<<20), f.Start(1<<20)+1000)
	b, err := object.EncodeAll(object.WriterOptions{Recipients: recipients, KeyGeneration: 1}, object.Header{
		Kind: object.KindPiece, Name: filepath.Base(k), SystemID: w.ref.SystemID, Timeline: 1, From: start, To: start + 1000,
	}, plain[:1000])
	must(t, err)
	w.overwrite(k, b)
	w.wantFetchError(plainSegment, object.ErrNoIdentity, 126)
	w.pins.Identities = key.ids
	w.wantFetched(plainSegment, padded(plain, 1000))
	w.store.Add(fault.Fault{Op: fault.Get, Key: k, Err: storage.ErrArchived})
	w.wantFetchError(plainSegment, storage.ErrArchived, 126)
}
