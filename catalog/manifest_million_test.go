package catalog_test

import (
	"crypto/sha256"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"pgstow/catalog"
	"pgstow/test/pg"
)

// TestManifestMillion writes and reads a million files and watches the heap: it must stay below 64 MiB beside the object.
func TestManifestMillion(t *testing.T) {
	pg.Long(t, "writes a million lines")
	const files, folders = 1_000_000, 1000
	r := initPlain(t, newStore(t))
	peak := watchHeap(t)
	writeMillion(t, r, files, folders)
	info, err := r.Store.Stat(t.Context(), mainRef.BackupManifestKey(testID))
	if err != nil {
		t.Fatal(err)
	}
	wrote := peak()
	m, err := r.ReadManifest(t.Context(), mainRef, testID)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for f, err := range m.Files() {
		if err != nil {
			t.Fatal(err)
		}
		if f.Map != nil {
			n++
		}
	}
	if n != files {
		t.Errorf("%d files", n)
	}
	read := peak()
	t.Logf("object %d MiB, peak heap beside it: %d MiB writing, %d MiB reading", info.Size>>20, (wrote-info.Size)>>20, (read-info.Size)>>20)
	if limit := int64(64 << 20); wrote-info.Size > limit || read-info.Size > limit {
		t.Error("too much memory")
	}
	runtime.KeepAlive(m)
}

func writeMillion(t *testing.T, r *catalog.Repository, files, folders int) {
	t.Helper()
	w := newManifest(t, r, testID)
	if _, err := w.AddPack(pack(testID, 0, 40)); err != nil {
		t.Fatal(err)
	}
	add(t, w, catalog.FileEntry{Path: "base", Type: catalog.TypeDir, Mode: 0o700})
	for d := range folders {
		dir := fmt.Sprintf("base/%d", 100000+d)
		add(t, w, catalog.FileEntry{Path: dir, Type: catalog.TypeDir, Mode: 0o700})
		for n := range files / folders {
			sum := sha256.Sum256([]byte{byte(d), byte(d >> 8), byte(n), byte(n >> 8)})
			offset := int(sum[0])<<8 | int(sum[1])
			add(t, w, catalog.FileEntry{
				Path: fmt.Sprintf("%s/%d", dir, 200000+n), Mode: 0o600, Size: (1 + int64(sum[2])) * 8192, ModTime: day.Add(time.Duration(sum[3]) * time.Second),
				Map: &catalog.MapRef{Pack: 0, Frame: n % 40, Offset: offset, Length: 10 + int(sum[4])},
			})
		}
	}
	if _, err := w.Commit(t.Context(), testHeader()); err != nil {
		t.Fatal(err)
	}
}

// watchHeap samples the live heap; each call of peak returns the highest since the last and begins anew.
func watchHeap(t *testing.T) (peak func() int64) {
	t.Helper()
	var high atomic.Int64
	stop := make(chan struct{})
	sample := func() {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		if h := int64(m.HeapAlloc); h > high.Load() {
			high.Store(h)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				sample()
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-done })
	return func() int64 {
		sample()
		return high.Swap(0)
	}
}
