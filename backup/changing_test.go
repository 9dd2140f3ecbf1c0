package backup_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"pgstow/backup"
	"pgstow/backup/source"
	"pgstow/wal/page"
)

// hookFS calls on before each file is opened: after the walk has seen it.
type hookFS struct {
	source.OS
	mu sync.Mutex
	on func(path string)
}

func (h *hookFS) Open(path string) (source.File, error) {
	h.mu.Lock()
	h.on(path)
	h.mu.Unlock()
	return h.OS.Open(path)
}

// relationFile makes a relation of n sound pages in database 1 of the cluster.
func relationFile(t *testing.T, dir, name string, n int) string {
	t.Helper()
	path := filepath.Join(dir, "base", "1", name)
	if err := os.WriteFile(path, soundPages(0, n), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// soundPages makes pages with checksums for block numbers from first on. They do
// not compress to nothing, and no two are alike.
func soundPages(first, n int) []byte {
	b := make([]byte, n*8192)
	for i := range n {
		p := b[i*8192 : (i+1)*8192]
		for at := 24; at < 8192; at += 32 {
			binary.LittleEndian.PutUint64(p[at:], uint64(first+i)<<32|uint64(at))
		}
		binary.LittleEndian.PutUint16(p[12:], 24)
		binary.LittleEndian.PutUint16(p[14:], 24)
		binary.LittleEndian.PutUint16(p[16:], 8192)
		binary.LittleEndian.PutUint16(p[18:], 8192|4)
		binary.LittleEndian.PutUint16(p[8:], page.Checksum(p, uint32(first+i)))
	}
	return b
}

// RULES-physical C4: a file that changes between the walk and the read.
func TestFilesThatChange(t *testing.T) {
	repo, _ := newRepo(t)
	dir := newCluster(t)
	const jobPages = 32 << 20 / 8192
	sizes := map[string]int{
		"90001": 10,               // grows
		"90002": 10,               // is cut
		"90003": 10,               // vanishes
		"90004": 10,               // is cut in the middle of a page
		"90005": 3*jobPages + 100, // grows; several jobs
		"90006": 3*jobPages + 100, // is cut while its second part is read
		"90007": 10,               // becomes empty
		"90008": 0,                // grows from nothing
		"90009": 2*jobPages + 5,   // vanishes while its second part is read
	}
	files := map[string]string{}
	for name, n := range sizes {
		files[name] = relationFile(t, dir, name, n)
	}
	blob := filepath.Join(dir, "own.log")
	if err := os.WriteFile(blob, bytes.Repeat([]byte("0123456789abcdef"), 3<<16), 0o600); err != nil {
		t.Fatal(err)
	}
	opened := map[string]int{}
	must := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	hook := &hookFS{on: func(path string) {
		name := filepath.Base(path)
		opened[name]++
		first := opened[name] == 1
		switch {
		case name == "90001" && first:
			must(os.WriteFile(path, soundPages(0, 25), 0o600))
		case name == "90002" && first:
			must(os.Truncate(path, 4*8192))
		case name == "90003" && first:
			must(os.Remove(path))
		case name == "90004" && first:
			must(os.Truncate(path, 3*8192+1000))
		case name == "90005" && first:
			must(os.WriteFile(path, soundPages(0, 5*jobPages), 0o600))
		case name == "90006" && opened[name] == 2:
			must(os.Truncate(path, int64(jobPages+7)*8192))
		case name == "90007" && first:
			must(os.Truncate(path, 0))
		case name == "90008" && first:
			must(os.WriteFile(path, soundPages(0, 3), 0o600))
		case name == "90009" && opened[name] == 2:
			must(os.Remove(path))
		case name == "own.log" && first:
			must(os.Truncate(path, 1<<20+17))
		}
	}}
	var ev events
	h, err := backup.Create(t.Context(), repo, backup.CreateOptions{
		Cluster: "main", PGData: dir, Offline: true, FS: hook, Events: ev.add, Workers: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	r := rebuild(t, repo, h)
	for name, pages := range map[string]int{
		"90001": 25, "90002": 4, "90004": 3, "90005": 5 * jobPages, "90007": 0, "90008": 3,
	} {
		if got := r.files["base/1/"+name]; !bytes.Equal(got, soundPages(0, pages)) {
			t.Errorf("%s has %d bytes, want %d pages", name, len(got), pages)
		}
	}
	// Cut at some moment: a prefix that was there before and after.
	for name, least := range map[string]int{"90006": jobPages + 7, "90009": 1} {
		got := r.files["base/1/"+name]
		if n := len(got) / 8192; n < least || n > 2*jobPages || len(got)%8192 != 0 || !bytes.Equal(got, soundPages(0, n)) {
			t.Errorf("%s has %d pages, want at least %d, a prefix", name, len(got)/8192, least)
		}
	}
	if e, ok := r.entries["base/1/90003"]; ok {
		t.Errorf("a file that vanished is in the backup: %+v", e)
	}
	if len(r.files["own.log"]) != 1<<20+17 {
		t.Errorf("own.log has %d bytes", len(r.files["own.log"]))
	}
	if !ev.has(func(e backup.Event) bool {
		s, ok := e.(backup.SkippedEvent)
		return ok && s.Path == "base/1/90004" && strings.HasPrefix(s.Reason, "1000 bytes")
	}) {
		t.Error("the piece of a page was not reported")
	}
}

// C1, C2: damage is found, named by block, and does not end the backup. Torn
// pages are for a running server; here none runs.
func TestDamagedPages(t *testing.T) {
	repo, _ := newRepo(t)
	dir := newCluster(t)
	relationFile(t, dir, "90001", 300)
	second := filepath.Join(dir, "base/1/90001.1")
	content := soundPages(131072, 40) // blocks go on counting in the second file
	content[17*8192+100] ^= 4
	clear(content[20*8192 : 21*8192]) // a page of zeros is sound
	content[21*8192+14], content[21*8192+15] = 0, 0
	if err := os.WriteFile(second, content, 0o600); err != nil {
		t.Fatal(err)
	}
	var ev events
	h, err := backup.Create(t.Context(), repo, backup.CreateOptions{Cluster: "main", PGData: dir, Offline: true, Events: ev.add})
	p := mustPartial(t, h, err)
	if p.Pages != 2 || h.Damaged != 2 || p.Sample[0].Path != "base/1/90001.1" || p.Sample[0].Page != 131072+17 || p.Sample[1].Page != 131072+21 {
		t.Errorf("error %+v", p)
	}
	r := rebuild(t, repo, h)
	if d := fmt.Sprint(r.entries["base/1/90001.1"].Damaged); d != "[131089 131093]" {
		t.Errorf("damaged %s", d)
	}
	if !bytes.Equal(r.files["base/1/90001.1"], content) {
		t.Error("the damaged file is not as it was on disk")
	}
	if !ev.has(func(e backup.Event) bool {
		d, ok := e.(backup.DamageEvent)
		return ok && d.Path == "base/1/90001.1" && d.Block == 131089 && strings.Contains(d.What, "checksum")
	}) {
		t.Error("no event names the damage")
	}
}

// failingFS reports an I/O error from one file.
type failingFS struct {
	source.OS
	name string
}

type failingFile struct{ source.File }

var errDisk = errors.New("input/output error")

func (failingFile) ReadAt([]byte, int64) (int, error) { return 0, errDisk }

func (f failingFS) Open(path string) (source.File, error) {
	file, err := f.OS.Open(path)
	if err == nil && filepath.Base(path) == f.name {
		return failingFile{file}, nil
	}
	return file, err
}

// A disk error is never turned into zeros or into the end of a file.
func TestReadErrorFailsBackup(t *testing.T) {
	repo, store := newRepo(t)
	dir := newCluster(t)
	relationFile(t, dir, "90001", 3)
	for _, name := range []string{"90001", "postgresql.conf", "pg_filenode.map"} {
		_, err := backup.Create(t.Context(), repo, backup.CreateOptions{
			Cluster: "main", PGData: dir, Offline: true, FS: failingFS{name: name},
		})
		if !errors.Is(err, errDisk) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	for _, k := range keys(t, store, "main/") {
		if strings.HasSuffix(k, "/manifest") || strings.Contains(k, "/lease/") {
			t.Errorf("left behind: %s", k)
		}
	}
}

// A cancelled backup writes nothing more but the release of its lease.
func TestCancelled(t *testing.T) {
	repo, store := newRepo(t)
	dir := newCluster(t)
	ctx, cancel := context.WithCancel(t.Context())
	hook := &hookFS{on: func(path string) {
		if strings.HasSuffix(path, "global/1260") {
			cancel()
		}
	}}
	_, err := backup.Create(ctx, repo, backup.CreateOptions{Cluster: "main", PGData: dir, Offline: true, FS: hook})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	for _, k := range keys(t, store, "main/") {
		if strings.HasSuffix(k, "/manifest") || strings.Contains(k, "/lease/") {
			t.Errorf("left behind: %s", k)
		}
	}
}
