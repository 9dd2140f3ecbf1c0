package backup_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"pgstow/backup"
	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/object"
	"pgstow/wal"
)

// proofWorld is an archive and a pg_wal made by hand. Segments are 1 MiB of any
// bytes: the prover compares, it does not read WAL.
type proofWorld struct {
	t    *testing.T
	repo *catalog.Repository
	p    backup.WALProof
}

func newProofWorld(t *testing.T, repo *catalog.Repository) *proofWorld {
	return &proofWorld{t: t, repo: repo, p: backup.WALProof{
		Ref: catalog.ClusterRef{Name: "main", SystemID: 77}, SegmentSize: 1 << 20, History: wal.NewHistory(1),
		Start: 0x300028, Stop: 0x500100, Label: "pgstow X mine", WALDir: t.TempDir(),
	}}
}

func (w *proofWorld) segment(tli wal.TimelineID, n wal.SegmentNumber) wal.FileName {
	return wal.SegmentName(tli, n, w.p.SegmentSize)
}

// archive stores a file as the archive would have it.
func (w *proofWorld) archive(name wal.FileName, kind object.Kind, b []byte) {
	w.archiveAs(name, object.Header{Kind: kind, Name: name.String(), SystemID: 77, Timeline: uint32(name.Timeline), Host: "elsewhere"}, b)
}

func (w *proofWorld) archiveAs(name wal.FileName, h object.Header, b []byte) {
	w.t.Helper()
	enc, err := object.EncodeAll(w.repo.WriterOptions(), h, b)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.repo.Put(w.t.Context(), w.p.Ref.WALKey(name, ""), enc, storage.Any); err != nil {
		w.t.Fatal(err)
	}
}

func (w *proofWorld) local(name wal.FileName, b []byte) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.p.WALDir, name.String()), b, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// bytesOf are the contents of a segment.
func bytesOf(name wal.FileName) []byte {
	return bytes.Repeat([]byte(name.String()[:16]), 1<<20/16)
}

func (w *proofWorld) backupFile(label string, start, stop wal.LSN) []byte {
	return fmt.Appendf(nil, "START WAL LOCATION: %s (file %s)\nSTOP WAL LOCATION: %s (file %s)\nCHECKPOINT LOCATION: %s\n"+
		"BACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-24 15:38:00 UTC\nLABEL: %s\nSTART TIMELINE: 1\n"+
		"STOP TIME: 2026-11-24 15:39:00 UTC\nSTOP TIMELINE: 1\n",
		start, w.segment(1, w.p.SegmentSize.SegmentOf(start)), stop, w.segment(1, w.p.SegmentSize.SegmentOf(stop)), start+0x38, label)
}

func (w *proofWorld) backupName() wal.FileName {
	return wal.BackupHistoryName(1, w.p.Start, w.p.SegmentSize)
}

func (w *proofWorld) want(name string, missing ...wal.FileName) {
	w.t.Helper()
	var want []string
	for _, m := range missing {
		want = append(want, m.String())
	}
	got, left, err := backup.NewWALProver(w.repo).Prove(w.t.Context(), w.p)
	if err != nil || !slices.Equal(got, want) || left != len(want) {
		w.t.Errorf("%s: missing %v (%d left), want %v, error %v", name, got, left, want, err)
	}
}

func (w *proofWorld) wantForeign(name string, file wal.FileName) {
	w.t.Helper()
	_, _, err := backup.NewWALProver(w.repo).Prove(w.t.Context(), w.p)
	var foreign *backup.ForeignWALError
	if !errors.As(err, &foreign) || foreign.Name != file.String() {
		w.t.Errorf("%s: error %v", name, err)
	}
}

// D1 on a primary: every segment and a .backup file that is this backup's.
func TestProvePrimary(t *testing.T) {
	repo, _ := newRepo(t)
	w := newProofWorld(t, repo)
	three, four, five, mine := w.segment(1, 3), w.segment(1, 4), w.segment(1, 5), w.backupName()
	w.want("empty archive", three, four, five, mine)
	w.archive(three, object.KindWAL, bytesOf(three))
	w.archive(five, object.KindWAL, bytesOf(five))
	w.want("a hole", four, mine)
	w.archive(four, object.KindWAL, bytesOf(four))
	w.want("segments only", mine)
	w.archive(mine, object.KindBackupLabel, w.backupFile("somebody's", w.p.Start, w.p.Stop))
	w.wantForeign("another label", mine)
	w.archive(mine, object.KindBackupLabel, w.backupFile(w.p.Label, w.p.Start, w.p.Stop+8))
	w.wantForeign("another stop", mine)
	w.archive(mine, object.KindBackupLabel, w.backupFile(w.p.Label, w.p.Start, w.p.Stop))
	w.want("all there")
	w.archiveAs(four, object.Header{Kind: object.KindWAL, Name: five.String(), SystemID: 77}, nil)
	w.wantForeign("an object under another name", four)
	w.archiveAs(four, object.Header{Kind: object.KindWAL, Name: four.String(), SystemID: 78}, nil)
	w.wantForeign("another system", four)
}

// D2: a stop on a boundary needs the segment before it only.
func TestProveStopOnBoundary(t *testing.T) {
	repo, _ := newRepo(t)
	w := newProofWorld(t, repo)
	w.p.Stop = 0x500000
	w.want("boundary", w.segment(1, 3), w.segment(1, 4), w.backupName())
	w.p.Stop = 0x500001
	w.want("one byte more", w.segment(1, 3), w.segment(1, 4), w.segment(1, 5), w.backupName())
}

// D2: the segment with the switch point is the newer timeline's; the history file
// is needed, and stored if the server has it.
func TestProveTimelines(t *testing.T) {
	repo, store := newRepo(t)
	w := newProofWorld(t, repo)
	history, err := wal.ParseHistory(2, []byte("1\t0/400200\tno recovery target specified\n"))
	if err != nil {
		t.Fatal(err)
	}
	w.p.History, w.p.Standby = history, true
	w.want("nothing", wal.HistoryName(2), w.segment(1, 3), w.segment(2, 4), w.segment(2, 5))
	w.local(wal.HistoryName(2), []byte("1\t0/400200\tno recovery target specified\n"))
	w.want("stored now", wal.HistoryName(2), w.segment(1, 3), w.segment(2, 4), w.segment(2, 5))
	w.want("and found", w.segment(1, 3), w.segment(2, 4), w.segment(2, 5))
	if k := keys(t, store, w.p.Ref.HistoryKey(2)); len(k) != 1 {
		t.Error("the history file was not stored")
	}
	w.local(wal.HistoryName(2), []byte("1\t0/400300\tanother past\n"))
	w.wantForeign("another past", wal.HistoryName(2))
}

// D1 on a standby: the archived bytes are the local ones.
func TestProveStandby(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		repo, _ := newRepo(t)
		if encrypted {
			repo, _, _ = encryptedRepo(t)
		}
		w := newProofWorld(t, repo)
		w.p.Standby = true
		names := []wal.FileName{w.segment(1, 3), w.segment(1, 4), w.segment(1, 5)}
		for _, n := range names {
			w.local(n, bytesOf(n))
			w.archive(n, object.KindWAL, bytesOf(n))
		}
		w.want("equal")
		other := bytesOf(names[1])
		other[1<<19] ^= 1
		w.archive(names[1], object.KindWAL, other)
		w.wantForeign("differs in the middle", names[1])
		w.archive(names[1], object.KindWAL, bytesOf(names[1]))
		// The last segment counts up to the stop, which lies 0x100 bytes in it.
		tail := bytesOf(names[2])
		tail[0x100] ^= 1
		w.archive(names[2], object.KindWAL, tail)
		if encrypted {
			w.want("last one not whole, unreadable", names[2])
			continue
		}
		w.want("differs behind the stop")
		tail[0xff] ^= 1
		w.archive(names[2], object.KindWAL, tail)
		w.wantForeign("differs before the stop", names[2])
	}
}

// A host that cannot decrypt compares the .backup file with its own.
func TestProveEncryptedPrimary(t *testing.T) {
	repo, _, _ := encryptedRepo(t)
	w := newProofWorld(t, repo)
	for n := range wal.SegmentNumber(3) {
		w.archive(w.segment(1, n+3), object.KindWAL, nil)
	}
	content := w.backupFile(w.p.Label, w.p.Start, w.p.Stop)
	w.archive(w.backupName(), object.KindBackupLabel, content)
	if _, _, err := backup.NewWALProver(repo).Prove(t.Context(), w.p); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing to compare with: %v", err)
	}
	w.local(w.backupName(), content)
	w.want("equal to the local one")
	w.local(w.backupName(), w.backupFile("somebody's", w.p.Start, w.p.Stop))
	w.wantForeign("differs from the local one", w.backupName())
}

// What is missing is counted in full and named in part, and what was proven is
// not asked for again.
func TestProveCounts(t *testing.T) {
	repo, store := newRepo(t)
	w := newProofWorld(t, repo)
	w.p.Stop = 0x6400100
	prover := backup.NewWALProver(repo)
	missing, left, err := prover.Prove(t.Context(), w.p)
	if err != nil || len(missing) == 0 || len(missing) > 20 || left != 0x64-3+1+1 {
		t.Errorf("%d named, %d left, error %v", len(missing), left, err)
	}
	for n := wal.SegmentNumber(3); n <= 0x64; n++ {
		w.archive(w.segment(1, n), object.KindWAL, nil)
	}
	if _, left, err := prover.Prove(t.Context(), w.p); err != nil || left != 1 {
		t.Errorf("%d left, error %v", left, err)
	}
	if err := store.Delete(t.Context(), w.p.Ref.WALKey(w.segment(1, 5), "")); err != nil {
		t.Fatal(err)
	}
	if missing, left, err := prover.Prove(t.Context(), w.p); err != nil || left != 1 || missing[0] != w.backupName().String() {
		t.Errorf("asked again: %v, %d left, error %v", missing, left, err)
	}
}

// Segments may be large; the proof of them is small.
func TestProveStandbyMemory(t *testing.T) {
	repo, _ := newRepo(t)
	w := newProofWorld(t, repo)
	w.p.Standby, w.p.SegmentSize, w.p.Start, w.p.Stop = true, 64<<20, 0x4000028, 0xA000000
	first, last := w.segment(1, 1), w.segment(1, 2)
	segment := bytes.Repeat([]byte("0123456789abcdef"), 64<<20/16)
	w.local(first, segment)
	w.local(last, segment)
	w.archive(first, object.KindWAL, segment)
	segment[33<<20] ^= 1 // behind the stop
	w.archive(last, object.KindWAL, segment)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	w.want("both")
	runtime.ReadMemStats(&after)
	if took := (after.TotalAlloc - before.TotalAlloc) >> 20; took > 32 {
		t.Errorf("the proof took %d MiB of memory", took)
	}
	segment[31<<20] ^= 1
	w.archive(last, object.KindWAL, segment)
	w.wantForeign("differs before the stop", last)
}
