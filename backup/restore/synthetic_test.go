package restore_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgstow/backup/pagemap"
	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/object"
	"pgstow/wal"
)

const pageSize = 8192

// synthetic is a backup that no server took: its pages lie strewn over the packs of three backups, as after many
// increments, with blobs among them.
type synthetic struct {
	t      *testing.T
	repo   *catalog.Repository
	store  storage.Store
	ref    catalog.ClusterRef
	random *rand.Rand

	want    map[string][]byte // contents by path
	entries []catalog.FileEntry
	writers []*synthPack
	old     []string // ids of earlier backups
	id      string
	packs   []catalog.PackEntry
	header  catalog.BackupHeader
}

type synthPack struct {
	backup string
	n      int
	w      *object.Writer
	isMap  bool
	index  int
}

func newSynthetic(t *testing.T, repo *catalog.Repository, store storage.Store, seed uint64) *synthetic {
	t.Helper()
	s := &synthetic{
		t: t, repo: repo, store: store, ref: catalog.ClusterRef{Name: "main", SystemID: 7300123456789012345},
		random: rand.New(rand.NewPCG(seed, 7)), want: map[string][]byte{},
	}
	_, err := repo.EnsureCluster(t.Context(), catalog.ClusterInfo{Name: "main", SystemID: s.ref.SystemID, PostgresMajor: 15, SegmentSize: 1 << 20, PageSize: pageSize, Created: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	s.id = s.claim()
	s.old = []string{s.claim(), s.claim()}
	return s
}

func (s *synthetic) claim() string {
	s.t.Helper()
	lease, err := s.repo.ClaimBackup(s.t.Context(), s.ref, catalog.LeaseOptions{}, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := lease.Release(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	return lease.Backup()
}

// pack begins a pack of any of the backups.
func (s *synthetic) pack(isMap bool) *synthPack {
	s.t.Helper()
	o := s.repo.WriterOptions()
	w, err := object.NewWriter(o)
	if err != nil {
		s.t.Fatal(err)
	}
	ids := append([]string{s.id}, s.old...)
	p := &synthPack{backup: ids[s.random.IntN(len(ids))], w: w, isMap: isMap, index: len(s.writers)}
	for _, other := range s.writers {
		if other.backup == p.backup {
			p.n++
		}
	}
	s.writers = append(s.writers, p)
	return p
}

func (s *synthetic) frame(p *synthPack, plain []byte) int {
	s.t.Helper()
	i, err := p.w.AddFrame(plain)
	if err != nil {
		s.t.Fatal(err)
	}
	return i
}

// noise is bytes that do not compress to nothing.
func (s *synthetic) noise(n int) []byte {
	b := make([]byte, n)
	for i := 0; i+8 <= n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], s.random.Uint64()&0xFF00FF00FF00FF)
	}
	for i := n &^ 7; i < n; i++ {
		b[i] = byte(s.random.Uint32())
	}
	return b
}

// place is one page of a file that is to lie somewhere.
type place struct {
	file, page int
}

// build makes files, strews their pages, and commits.
func (s *synthetic) build(relations, blobs int) {
	s.t.Helper()
	control := s.noise(pageSize)
	binary.LittleEndian.PutUint64(control, s.ref.SystemID)
	clear(control[288:])
	binary.LittleEndian.PutUint32(control[288:], crc32.Checksum(control[:288], crc32.MakeTable(crc32.Castagnoli)))
	s.want["global/pg_control"] = control
	s.want["PG_VERSION"] = []byte("15\n")
	for i := range blobs {
		s.want[fmt.Sprintf("pg_xact/%04d", i)] = s.noise([]int{0, 1, 100, 8192, 300_000, 3_000_000}[s.random.IntN(6)])
	}
	maps := make([]*pagemap.Map, relations)
	s.strew(maps)
	paths := make([]string, 0, len(s.want))
	for path := range s.want {
		paths = append(paths, path)
	}
	slices.SortFunc(paths, catalog.ComparePaths)
	for _, dir := range []string{"base", "base/5", "global", "pg_xact"} {
		s.entries = append(s.entries, catalog.FileEntry{Path: dir, Type: catalog.TypeDir, Mode: 0o700})
	}
	for _, path := range paths {
		if filepath.Dir(path) != "base/5" {
			s.blob(path)
		}
	}
	mapPack := s.pack(true)
	var frame []byte
	var pending []int
	flush := func() {
		if len(frame) > 0 {
			f := s.frame(mapPack, frame)
			for _, e := range pending {
				s.entries[e].Map.Frame = f
			}
			frame, pending = nil, nil
		}
	}
	for i, m := range maps {
		path := relation(i)
		e := catalog.FileEntry{Path: path, Mode: 0o600, Size: int64(len(s.want[path])), ModTime: time.Unix(1, 0)}
		if m.Pages() > 0 {
			b, err := m.AppendEncode(nil)
			if err != nil {
				s.t.Fatal(err)
			}
			e.Map = &catalog.MapRef{Pack: mapPack.index, Offset: len(frame), Length: len(b)}
			frame = append(frame, b...)
			pending = append(pending, len(s.entries))
		}
		s.entries = append(s.entries, e)
		if s.random.IntN(3) == 0 {
			flush()
		}
	}
	flush()
	s.commit()
}

func relation(i int) string { return fmt.Sprintf("base/5/%d", 16384+i) }

// strew puts the pages of all relations into frames in random order, in runs of random length, and makes the maps.
func (s *synthetic) strew(maps []*pagemap.Map) {
	s.t.Helper()
	type at struct {
		ref   pagemap.PackRef
		frame uint32
		first uint32
	}
	where := map[place]at{}
	var runs [][]place
	for i := range maps {
		pages := []int{0, 1, 5, 200, 700}[s.random.IntN(5)]
		data := make([]byte, pages*pageSize)
		for p := 0; p < pages; {
			n := min(1+s.random.IntN(40), pages-p)
			if s.random.IntN(4) > 0 {
				copy(data[p*pageSize:], s.noise(n*pageSize))
				var run []place
				for k := range n {
					run = append(run, place{i, p + k})
				}
				runs = append(runs, run)
			}
			p += n
		}
		s.want[relation(i)] = data
	}
	s.random.Shuffle(len(runs), func(i, j int) { runs[i], runs[j] = runs[j], runs[i] })
	var p *synthPack
	for len(runs) > 0 {
		if p == nil || s.random.IntN(6) == 0 {
			p = s.pack(false)
		}
		var plain []byte
		n := min(1+s.random.IntN(12), len(runs))
		frame := uint32(p.w.Frames())
		for _, run := range runs[:n] {
			for range s.random.IntN(2) { // pages that are dead by now
				plain = append(plain, s.noise(pageSize)...)
			}
			for _, pl := range run {
				where[pl] = at{pagemap.PackRef{Backup: p.backup, Pack: uint32(p.n)}, frame, uint32(len(plain) / pageSize)}
				plain = append(plain, s.want[relation(pl.file)][pl.page*pageSize:(pl.page+1)*pageSize]...)
			}
		}
		runs = runs[n:]
		s.frame(p, plain)
		for range s.random.IntN(4) { // frames that are dead by now
			s.frame(p, s.noise(pageSize))
		}
	}
	for i := range maps {
		maps[i] = &pagemap.Map{}
		data := s.want[relation(i)]
		for p := range len(data) / pageSize {
			hash := []uint64{pagemap.Hash(data[p*pageSize : (p+1)*pageSize])}
			if w, ok := where[place{i, p}]; ok {
				maps[i].Append(w.ref, w.frame, w.first, hash)
			} else {
				maps[i].AppendZero(hash)
			}
		}
	}
}

// blob stores a file in slices of any pack.
func (s *synthetic) blob(path string) {
	s.t.Helper()
	data := s.want[path]
	e := catalog.FileEntry{Path: path, Mode: 0o600, Size: int64(len(data)), ModTime: time.Unix(1, 0), SHA256: sha256.Sum256(data)}
	var p *synthPack
	for _, have := range s.writers {
		if !have.isMap && s.random.IntN(3) == 0 {
			p = have
		}
	}
	if p == nil {
		p = s.pack(false)
	}
	for len(data) > 0 {
		n := min(len(data), 1<<20)
		before := s.random.IntN(100)
		plain := append(s.noise(before), data[:n]...)
		e.Blob = append(e.Blob, catalog.Slice{Pack: p.index, Frame: s.frame(p, plain), Offset: before, Length: n})
		data = data[n:]
	}
	s.entries = append(s.entries, e)
}

func (s *synthetic) commit() {
	s.t.Helper()
	m, err := s.repo.NewManifestWriter(s.ref, s.id)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, p := range s.writers {
		e := catalog.PackEntry{Backup: p.backup, N: p.n, Frames: p.w.Frames(), PlainSize: p.w.PlainSize(), Created: time.Now(), Map: p.isMap}
		if e.Frames == 0 {
			s.frame(p, []byte{0})
			e.Frames, e.PlainSize = 1, 1
		}
		b, err := p.w.Finish(object.Header{Kind: object.KindPack, Name: fmt.Sprintf("%s/%d", p.backup, p.n), SystemID: s.ref.SystemID})
		if err != nil {
			s.t.Fatal(err)
		}
		if _, err := s.repo.Put(s.t.Context(), e.Key(s.ref), b, storage.IfAbsent); err != nil {
			s.t.Fatal(err)
		}
		e.Size, e.SHA256 = int64(len(b)), sha256.Sum256(b)
		s.packs = append(s.packs, e)
		if _, err := m.AddPack(e); err != nil {
			s.t.Fatal(err)
		}
	}
	slices.SortFunc(s.entries, func(a, b catalog.FileEntry) int { return catalog.ComparePaths(a.Path, b.Path) })
	for _, e := range s.entries {
		if err := m.AddFile(e); err != nil {
			s.t.Fatal(err)
		}
	}
	s.header, err = m.Commit(s.t.Context(), catalog.BackupHeader{
		Method: catalog.MethodScan, Source: catalog.SourceLocal, PostgresVersion: 150018, PostgresMajor: 15, Start: 0x2000028, Stop: 0x2000100, CheckpointLSN: 0x2000060,
		Timeline: 1, StopTimeline: 1, StartedAt: time.Now(), StoppedAt: time.Now(), NextXID: 700, BlockSize: pageSize, RelSegSize: 131072, WALSegmentSize: wal.SegmentSize(1 << 20),
		BackupLabel: []byte("START WAL LOCATION: 0/2000028 (file 000000010000000000000020)\nINCREMENTAL FROM LSN: 0/1\n"), WALIncluded: true, DataDirectoryMode: 0o700,
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// check compares a restored directory with what was put in.
func (s *synthetic) check(dir string) {
	s.t.Helper()
	for path, want := range s.want {
		if path == "global/pg_control" {
			continue // its checkpoint is changed
		}
		got, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil || !bytes.Equal(got, want) {
			s.t.Errorf("%s: %d bytes, want %d, equal %v, %v", path, len(got), len(want), bytes.Equal(got, want), err)
		}
	}
}
