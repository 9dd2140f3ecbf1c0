package archive_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgstow/catalog"
	"pgstow/storage/fault"
	"pgstow/storage/file"
	"pgstow/storage/object"
	"pgstow/wal"
	"pgstow/wal/archive"
)

func (w *world) repair(change ...func(*archive.RepairOptions)) (archive.RepairResult, error) {
	w.t.Helper()
	o := archive.RepairOptions{PushOptions: w.pushOptions()}
	for _, c := range change {
		c(&o)
	}
	return archive.Repair(w.t.Context(), o)
}

// mended repairs, which must succeed.
func (w *world) mended(change ...func(*archive.RepairOptions)) archive.RepairResult {
	w.t.Helper()
	r, err := w.repair(change...)
	must(w.t, err)
	return r
}

// wantRefused repairs and wants a refusal that names the file and, of an object in the way, its writer.
func (w *world) wantRefused(name string) archive.RepairResult {
	w.t.Helper()
	r, err := w.repair()
	refused := refusedBy(err)
	if refused == nil || refused.Name != name || refused.Writer == nil || archive.PushExit(err) != 12 {
		w.t.Fatalf("repair: %v, want a refusal of %s", err, name)
	}
	return r
}

func files(r archive.RepairResult, action archive.RepairAction) []string {
	var names []string
	for _, f := range r.Files {
		if f.Action == action {
			names = append(names, f.Name)
		}
	}
	return names
}

func wantFiles(t *testing.T, r archive.RepairResult, action archive.RepairAction, names ...string) {
	t.Helper()
	if got := files(r, action); !slices.Equal(got, names) {
		t.Fatalf("%s: %v, want %v", action, got, names)
	}
}

// unfinished is a segment as a crashed server leaves it: whole records up to somewhere, then what the recycled file had before.
func unfinished(t *testing.T, name string) (seg []byte, end wal.LSN) {
	t.Helper()
	seg = fixture(t, name)
	f := parsed(t, name)
	const pages, page = 5, 8192
	copy(seg[pages*page:], fixture(t, switchedSegment)[:8*page])
	clear(seg[(pages+8)*page:])
	f.Kind = wal.Partial
	info, err := wal.InspectSegment(seg, f)
	must(t, err)
	if info.CompleteTo <= f.Start(1<<20)+8192 || info.CompleteTo > f.Start(1<<20)+pages*page {
		t.Fatalf("the fixture ends at %s", info.CompleteTo)
	}
	return seg, info.CompleteTo
}

// TestRepairUnfinished: the head of a dead server's last segment becomes a piece, from which recovery gets every whole record.
func TestRepairUnfinished(t *testing.T) {
	w := newWorld(t)
	seg, end := unfinished(t, plainSegment)
	w.place(plainSegment, seg)
	r := w.mended()
	wantFiles(t, r, archive.RepairStored, plainSegment)
	start := parsed(t, plainSegment).Start(1 << 20)
	if f := r.Files[0]; !f.Piece || f.From != start || f.To != end || f.Key != w.ref.PieceKey(parsed(t, plainSegment), start, end) {
		t.Fatalf("%+v", f)
	}
	keys := w.keys()
	r = w.mended()
	wantFiles(t, r, archive.RepairExisted, plainSegment)
	if again := w.keys(); !slices.Equal(again, keys) || len(keys) != 1 {
		t.Fatalf("%v, then %v", keys, again)
	}

	must(t, os.Remove(filepath.Join(w.data, "pg_wal", plainSegment)))
	w.mode("recovery.signal")
	want := append(bytes.Clone(seg[:end-start]), make([]byte, 1<<20-int(end-start))...)
	w.wantFetched(plainSegment, want)

	// The server was started again after all, and has finished the segment.
	w.mode()
	w.place(plainSegment, fixture(t, plainSegment))
	wantFiles(t, w.mended(), archive.RepairStored, plainSegment)
	w.wantFetched(plainSegment, fixture(t, plainSegment))
	// An older copy of the head is the same WAL; one that differs is not.
	w.place(plainSegment, seg)
	wantFiles(t, w.mended(), archive.RepairExisted, plainSegment)
	w.overwrite(w.key(plainSegment), damagedCopy(t, w, plainSegment))
	w.wantRefused(plainSegment)
}

// damagedCopy is an object of a segment with another byte in its first page.
func damagedCopy(t *testing.T, w *world, name string) []byte {
	t.Helper()
	plain := fixture(t, name)
	plain[1000] ^= 1
	return encodedAs(t, w, object.Header{Kind: object.KindWAL, Name: name, SystemID: w.ref.SystemID, Timeline: 1, Host: "db2"}, plain)
}

func encodedAs(t *testing.T, w *world, h object.Header, plain []byte) []byte {
	t.Helper()
	o := w.repo.WriterOptions()
	o.Hash = true
	b, err := object.EncodeAll(o, h, plain)
	must(t, err)
	return b
}

// TestRepairBesideReceive: a receiver has stored some of the last segment, less, more or something else.
func TestRepairBesideReceive(t *testing.T) {
	seg, end := unfinished(t, plainSegment)
	n := int(end - parsed(t, plainSegment).Start(1<<20))
	t.Run("less", func(t *testing.T) {
		w := newWorld(t)
		w.ensure()
		w.place(plainSegment, seg)
		w.piece(plainSegment, seg, 0, 8192, "receiver")
		wantFiles(t, w.mended(), archive.RepairStored, plainSegment)
		must(t, os.Remove(filepath.Join(w.data, "pg_wal", plainSegment)))
		w.mode("recovery.signal")
		w.wantFetched(plainSegment, append(bytes.Clone(seg[:n]), make([]byte, 1<<20-n)...))
	})
	t.Run("more", func(t *testing.T) {
		w := newWorld(t)
		w.ensure()
		w.place(plainSegment, seg)
		w.piece(plainSegment, fixture(t, plainSegment), 0, n+64, "receiver")
		keys := w.keys()
		wantFiles(t, w.mended(), archive.RepairExisted, plainSegment)
		if !slices.Equal(w.keys(), keys) {
			t.Fatal(w.keys())
		}
	})
	t.Run("something else", func(t *testing.T) {
		w := newWorld(t)
		w.ensure()
		w.place(plainSegment, seg)
		other := bytes.Clone(seg)
		other[5000] ^= 1
		w.piece(plainSegment, other, 0, 8192, "receiver")
		keys := w.keys()
		w.wantRefused(plainSegment)
		if !slices.Equal(w.keys(), keys) {
			t.Fatal(w.keys())
		}
	})
}

// TestRepairPublicHalf: a host that cannot decrypt compares full segments by their headers, and takes the word of pieces.
func TestRepairPublicHalf(t *testing.T) {
	pair := newKey(t)
	s, err := file.Open(file.Options{Root: t.TempDir()})
	must(t, err)
	w := newWorldOn(t, s, catalog.InitOptions{Recipients: []string{pair.recipient}}, catalog.Pins{Recipients: []string{pair.recipient}})
	seg, _ := unfinished(t, plainSegment)
	w.place(plainSegment, seg)
	w.place(backupFile, fixture(t, backupFile))
	r := w.mended()
	wantFiles(t, r, archive.RepairStored, plainSegment, backupFile)
	r = w.mended()
	wantFiles(t, r, archive.RepairExisted, plainSegment, backupFile)
	if reason := r.Files[0].Reason; !strings.Contains(reason, "cannot open it") {
		t.Fatal(reason)
	}
}

// TestRepairInterrupted: the store fails in the middle; a second run goes on.
func TestRepairInterrupted(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{plainSegment, switchedSegment, firstSegment, secondSegment, thirdSegment} {
		w.place(name, fixture(t, name))
	}
	w.store.Add(fault.Fault{Op: fault.Put, Key: "*/" + thirdSegment})
	if _, err := w.repair(); !errors.Is(err, fault.ErrInjected) || archive.PushExit(err) != 1 {
		t.Fatal(err)
	}
	w.store.VerifyAllHit(t)
	r := w.mended()
	if n := r.Count(archive.RepairStored) + r.Count(archive.RepairExisted); n != 5 || len(r.Holes) > 0 || r.Count(archive.RepairStored) == 0 {
		t.Fatalf("%+v", r)
	}
}
