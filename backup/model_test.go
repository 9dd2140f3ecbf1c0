package backup_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgstow/backup"
	"pgstow/backup/changes"
	"pgstow/backup/source"
	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/test/pg"
	"pgstow/wal/page"
)

// bareCluster is a stopped cluster of which hardly anything but pg_control and WAL is
// left: its relations are the test's own.
func bareCluster(t *testing.T) string {
	t.Helper()
	dir := pg.Create(t, pg.Options{Checksums: true, WALSegmentSizeMiB: 1}).Dir
	for _, sub := range []string{"base", "global"} {
		err := filepath.WalkDir(filepath.Join(dir, sub), func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && d.Name() != "pg_control" && d.Name() != "pg_filenode.map" {
				err = os.Remove(path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// field is a data directory under changes, and what a server that wrote them would
// have put into its WAL summaries since the last backup.
type field struct {
	t    *testing.T
	rng  *rand.Rand
	dir  string
	next int // makes contents differ
	// since holds what changed since each backup.
	since map[string]*changes.Set
}

func nothing(string) *changes.Set { return &changes.Set{} }

func (f *field) named(r changes.Relation, block uint32) {
	for _, s := range f.since {
		f.must(s.Add(r, []uint32{block}))
	}
}

func (f *field) limited(r changes.Relation, block uint32) {
	for _, s := range f.since {
		s.AddLimit(r, block)
	}
}

// newPage makes a page that no other is equal to; its checksum fits the block.
func (f *field) newPage(block int) []byte {
	f.next++
	b := make([]byte, 8192)
	for at := 24; at < len(b); at += 64 {
		binary.LittleEndian.PutUint64(b[at:], uint64(f.next)<<20|uint64(at))
	}
	binary.LittleEndian.PutUint16(b[12:], 24)
	binary.LittleEndian.PutUint16(b[14:], 24)
	binary.LittleEndian.PutUint16(b[16:], 8192)
	binary.LittleEndian.PutUint16(b[18:], 8192|4)
	binary.LittleEndian.PutUint16(b[8:], page.Checksum(b, uint32(block)))
	return b
}

func (f *field) path(name string) string { return filepath.Join(f.dir, "base", "1", name) }

func (f *field) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func relation(node int) changes.Relation {
	return changes.Relation{Tablespace: 1663, Database: 1, Node: uint32(node)}
}

// change does something to one relation as PostgreSQL would, and notes what its WAL
// would name: nothing of maps, nor of pages added at the end.
func (f *field) change() {
	node := 16384 + f.rng.IntN(6)
	name := fmt.Sprint(node)
	info, err := os.Stat(f.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		f.create(node)
		return
	}
	f.must(err)
	pages := int(info.Size() / 8192)
	switch f.rng.IntN(10) {
	case 0: // dropped
		f.must(os.Remove(f.path(name)))
		_ = os.Remove(f.path(name + "_vm"))
		f.limited(relation(node), 0)
	case 1: // dropped, and another made with the same number
		f.create(node)
	case 2: // cut, and it may grow again
		to := f.rng.IntN(pages + 1)
		f.must(os.Truncate(f.path(name), int64(to)*8192))
		f.limited(relation(node), uint32(to))
		if f.rng.IntN(2) == 0 {
			f.grow(name, to, f.rng.IntN(200))
		}
	case 3:
		f.grow(name, pages, 1+f.rng.IntN(300))
	case 4: // the visibility map: no WAL names it
		f.must(os.WriteFile(f.path(name+"_vm"), f.newPage(0), 0o600))
	case 5: // another file
		f.must(os.WriteFile(filepath.Join(f.dir, "pg_xact", "0000"), bytes.Repeat([]byte{byte(f.rng.IntN(3))}, 256<<10), 0o600))
	default:
		for range 1 + f.rng.IntN(40) {
			if pages > 0 {
				f.update(node, f.rng.IntN(pages))
			}
		}
	}
}

func (f *field) create(node int) {
	f.must(os.WriteFile(f.path(fmt.Sprint(node)), nil, 0o600))
	f.limited(relation(node), 0)
	f.grow(fmt.Sprint(node), 0, f.rng.IntN(400))
}

// grow adds pages, some of them never used.
func (f *field) grow(name string, from, n int) {
	file, err := os.OpenFile(f.path(name), os.O_WRONLY, 0)
	f.must(err)
	for i := range n {
		b := make([]byte, 8192)
		if f.rng.IntN(5) > 0 {
			b = f.newPage(from + i)
		}
		_, err := file.WriteAt(b, int64(from+i)*8192)
		f.must(err)
	}
	f.must(file.Close())
}

func (f *field) update(node, block int) {
	file, err := os.OpenFile(f.path(fmt.Sprint(node)), os.O_WRONLY, 0)
	f.must(err)
	_, err = file.WriteAt(f.newPage(block), int64(block)*8192)
	f.must(err)
	f.must(file.Close())
	f.named(relation(node), uint32(block))
}

// state is every file of the data directory that a backup holds.
func (f *field) state() map[string][]byte {
	out := map[string][]byte{}
	for e, err := range source.Walk(f.t.Context(), source.Options{Root: f.dir, VersionDir: "none"}) {
		f.must(err)
		if e.Class == source.Blob || e.Class == source.Relation {
			b, err := os.ReadFile(e.File)
			f.must(err)
			out[e.Path] = b
		}
	}
	return out
}

// modelled is a backup that exists, and what must come out of it.
type modelled struct {
	header catalog.BackupHeader
	state  map[string][]byte
}

// Random sequences of changes, backups of all methods and deletions of any backup:
// each backup that exists gives exactly the state of its moment, reads at most twice
// what it restores, and when all are deleted no object is left.
func TestBackupsAgainstModel(t *testing.T) {
	for seed := range uint64(pg.Rounds(t, 1)) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			backupsAgainstModel(t, seed)
		})
	}
}

func backupsAgainstModel(t *testing.T, seed uint64) {
	repo, store := newRepo(t)
	f := &field{t: t, rng: rand.New(rand.NewPCG(seed, 5)), dir: bareCluster(t), since: map[string]*changes.Set{}}
	var have []modelled
	methods := map[catalog.Method]int{}
	refreshed, deleted := int64(0), 0
	for range 12 {
		for range f.rng.IntN(8) {
			f.change()
		}
		o := backup.CreateOptions{Cluster: "main", PGData: f.dir, Offline: true, Workers: 1 + f.rng.IntN(3), TempDir: t.TempDir()}
		switch f.rng.IntN(8) {
		case 0:
			o.Full = true
		case 1:
			o.RefreshAfter = time.Nanosecond // all packs are too old
		case 2, 3, 4:
			o = backup.WithChanges(o, func(id string) *changes.Set { return f.since[id] })
		}
		h, err := backup.Create(t.Context(), repo, o)
		if err != nil {
			t.Fatalf("seed %d: backup %d: %v", seed, len(have), err)
		}
		methods[h.Method]++
		refreshed += h.PagesRefreshed
		f.since[h.ID] = &changes.Set{}
		have = append(have, modelled{h, f.state()})
		have[len(have)-1].check(t, repo)
		for len(have) > 0 && f.rng.IntN(3) == 0 {
			i := f.rng.IntN(len(have))
			if _, err := repo.DeleteBackup(t.Context(), have[i].header.Ref(), have[i].header.ID, catalog.DeleteOptions{}); err != nil {
				t.Fatalf("seed %d: delete: %v", seed, err)
			}
			have = slices.Delete(have, i, i+1)
			deleted++
		}
		if len(have) > 0 {
			have[f.rng.IntN(len(have))].check(t, repo)
		}
	}
	for _, m := range have {
		m.check(t, repo)
	}
	t.Logf("%v, %d pages refreshed, %d deleted", methods, refreshed, deleted)
	if len(methods) < 2 || deleted == 0 {
		t.Errorf("seed %d proves little: %v, %d deleted", seed, methods, deleted)
	}
	for _, m := range have {
		if _, err := repo.DeleteBackup(t.Context(), m.header.Ref(), m.header.ID, catalog.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, k := range keys(t, store, "main/") {
		if !strings.HasSuffix(k, "/cluster.json") {
			t.Errorf("seed %d: left behind: %s", seed, k)
		}
	}
}

func (m modelled) check(t *testing.T, repo *catalog.Repository) {
	t.Helper()
	r := rebuild(t, repo, m.header)
	got := maps.Clone(r.files)
	maps.DeleteFunc(got, func(path string, _ []byte) bool { return strings.HasPrefix(path, "pg_wal/") })
	for path, want := range m.state {
		if !bytes.Equal(got[path], want) {
			t.Fatalf("backup %s (%s): %s has %d bytes and should have %d, or differs", m.header.ID, m.header.Method, path, len(got[path]), len(want))
		}
		delete(got, path)
	}
	if len(got) != 0 {
		t.Fatalf("backup %s has files of another time: %v", m.header.ID, slices.Collect(maps.Keys(got)))
	}
	man, err := repo.ReadManifest(t.Context(), m.header.Ref(), m.header.ID)
	if err != nil {
		t.Fatal(err)
	}
	lent := int64(0)
	for _, p := range man.Packs() {
		if p.Backup == m.header.ID {
			continue
		}
		lent++
		if 2*p.LivePages < p.Pages && p.LivePages > 0 {
			t.Errorf("backup %s: pack %s/%d: %d of %d pages are in use", m.header.ID, p.Backup, p.N, p.LivePages, p.Pages)
		}
	}
	if lent != m.header.PacksLent {
		t.Errorf("%d packs are lent, the header says %d", lent, m.header.PacksLent)
	}
}

// An unchanged cluster costs its manifest, pg_control, WAL and small files, and no
// map.
func TestUnchangedCostsNothing(t *testing.T) {
	repo, store := newRepo(t)
	f := &field{t: t, rng: rand.New(rand.NewPCG(1, 5)), dir: bareCluster(t), since: map[string]*changes.Set{}}
	for node := range 20 {
		f.create(16384 + node)
	}
	o := backup.CreateOptions{Cluster: "main", PGData: f.dir, Offline: true, Workers: 1}
	full, err := backup.Create(t.Context(), repo, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, by := range []catalog.Method{catalog.MethodScan, catalog.MethodSummaries} {
		if by == catalog.MethodSummaries {
			o = backup.WithChanges(o, nothing)
		}
		before := keys(t, store, "main/")
		h, err := backup.Create(t.Context(), repo, o)
		if err != nil {
			t.Fatal(err)
		}
		if h.Method != by || h.PagesChanged != 0 || h.Reference == "" || h.ReferenceLSN != full.Start {
			t.Errorf("header %+v", h)
		}
		read := h.BytesRead - full.BytesRead
		if by == catalog.MethodSummaries {
			read += full.BytesRead - h.BytesRead
			if h.BytesRead > 160<<10 { // configuration and other small files
				t.Errorf("%d bytes read", h.BytesRead)
			}
		}
		if read != 0 {
			t.Errorf("%s read %d bytes, the full backup %d", by, h.BytesRead, full.BytesRead)
		}
		added := len(keys(t, store, "main/")) - len(before)
		if added > 4 { // manifest, small files, pg_control, WAL
			t.Errorf("%s: %d new objects", by, added)
		}
		m, err := repo.ReadManifest(t.Context(), h.Ref(), h.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range m.Packs() {
			if p.Map && p.Backup == h.ID {
				t.Errorf("%s: new maps of unchanged files", by)
			}
		}
		rebuild(t, repo, h)
	}
}

// C2: a damaged page is taken again by every later backup, though its content is the
// same; and a later backup of the repaired page is clean.
func TestDamagedPagesAreTakenAgain(t *testing.T) {
	repo, _ := newRepo(t)
	f := &field{t: t, rng: rand.New(rand.NewPCG(2, 5)), dir: bareCluster(t), since: map[string]*changes.Set{}}
	f.must(os.WriteFile(f.path("16384"), nil, 0o600))
	f.grow("16384", 0, 10)
	for i := range 10 {
		f.update(16384, i)
	}
	good, err := os.ReadFile(f.path("16384"))
	f.must(err)
	bad := slices.Clone(good)
	bad[3*8192+100] ^= 1
	f.must(os.WriteFile(f.path("16384"), bad, 0o600))
	for _, o := range []backup.CreateOptions{{}, {}, backup.WithChanges(backup.CreateOptions{}, nothing)} {
		o.Cluster, o.PGData, o.Offline = "main", f.dir, true
		h, err := backup.Create(t.Context(), repo, o)
		if p := mustPartial(t, h, err); p.Pages != 1 || p.Sample[0].Page != 3 {
			t.Errorf("%s: %+v", h.Method, p)
		}
		r := rebuild(t, repo, h)
		if fmt.Sprint(r.entries["base/1/16384"].Damaged) != "[3]" {
			t.Errorf("%s: damaged %v", h.Method, r.entries["base/1/16384"].Damaged)
		}
		if h.Method != catalog.MethodFull && h.PagesChanged != 1 {
			t.Errorf("%s: %d pages", h.Method, h.PagesChanged)
		}
	}
	f.must(os.WriteFile(f.path("16384"), good, 0o600))
	h, err := backup.Create(t.Context(), repo, backup.WithChanges(backup.CreateOptions{Cluster: "main", PGData: f.dir, Offline: true}, nothing))
	if err != nil || h.Damaged != 0 {
		t.Errorf("after the repair: %+v, error %v", h.DamagedPages, err)
	}
	if r := rebuild(t, repo, h); !bytes.Equal(r.files["base/1/16384"], good) {
		t.Error("the repaired page is not in the backup")
	}
}

// Packs of earlier backups are not referred to while someone deletes them.
func TestCondemnedReference(t *testing.T) {
	repo, _ := newRepo(t)
	f := &field{t: t, rng: rand.New(rand.NewPCG(3, 5)), dir: bareCluster(t), since: map[string]*changes.Set{}}
	f.create(16384)
	o := backup.CreateOptions{Cluster: "main", PGData: f.dir, Offline: true}
	full, err := backup.Create(t.Context(), repo, o)
	if err != nil {
		t.Fatal(err)
	}
	err = repo.Condemn(t.Context(), "main", catalog.SweepList{Name: "x", SystemID: full.SystemID, Condemned: []string{full.Ref().PackKey(full.ID, 0)}})
	if err != nil {
		t.Fatal(err)
	}
	h, err := backup.Create(t.Context(), repo, o)
	if err != nil || h.Method != catalog.MethodFull || !strings.Contains(h.Why, "being deleted") {
		t.Errorf("%s: %q, error %v", h.Method, h.Why, err)
	}
}

// The reference is named in the lease before its manifest is read, so that it cannot be
// deleted while the backup builds on it.
func TestReferenceIsNamed(t *testing.T) {
	repo, store := newRepo(t)
	f := &field{t: t, rng: rand.New(rand.NewPCG(3, 5)), dir: bareCluster(t), since: map[string]*changes.Set{}}
	f.create(16384)
	o := backup.CreateOptions{Cluster: "main", PGData: f.dir, Offline: true}
	full, err := backup.Create(t.Context(), repo, o)
	if err != nil {
		t.Fatal(err)
	}
	tried := false
	o.FS = &hookFS{on: func(path string) {
		if filepath.Base(path) != "16384" {
			return
		}
		tried = true
		if _, err := repo.DeleteBackup(t.Context(), full.Ref(), full.ID, catalog.DeleteOptions{}); !errors.Is(err, catalog.ErrInUse) {
			t.Errorf("delete of the reference: %v", err)
		}
	}}
	h, err := backup.Create(t.Context(), repo, o)
	if err != nil || h.Reference != full.ID || !tried {
		t.Errorf("%+v, error %v", h, err)
	}
	if _, err := store.Stat(t.Context(), full.Ref().BackupManifestKey(full.ID)); errors.Is(err, storage.ErrNotExist) {
		t.Error("the reference is gone")
	}
}

// A name that was a relation's and is none any more: the pages that it had count no more
// as used.
func TestRelationBecomesAnotherThing(t *testing.T) {
	repo, _ := newRepo(t)
	f := &field{t: t, dir: bareCluster(t)}
	for _, name := range []string{"16384", "16385"} {
		f.must(os.WriteFile(f.path(name), slices.Concat(f.newPage(0), f.newPage(1)), 0o600))
	}
	for range 3 {
		h, err := backup.Create(t.Context(), repo, backup.CreateOptions{Cluster: "main", PGData: f.dir, Offline: true})
		f.must(err)
		modelled{h, f.state()}.check(t, repo) // which counts them
		f.must(os.RemoveAll(f.path("16385")))
		f.must(os.Mkdir(f.path("16385"), 0o700))
	}
}
