package backup_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgstow/backup"
	"pgstow/backup/changes"
	"pgstow/catalog"
)

// A host with the public half of the keys alone makes incremental backups from what it
// remembers; when it remembers nothing, or what it remembers is gone or damaged, the
// backup is full and says why.
func TestHostThatCannotRead(t *testing.T) {
	writer, reader, store := encryptedRepo(t)
	f := &field{t: t, rng: rand.New(rand.NewPCG(4, 5)), dir: bareCluster(t), since: map[string]*changes.Set{}}
	for node := range 6 {
		f.create(16384 + node)
	}
	cache := t.TempDir()
	create := func(want catalog.Method, why string) catalog.BackupHeader {
		t.Helper()
		for range 3 {
			f.change()
		}
		h, err := backup.Create(t.Context(), writer, backup.CreateOptions{Cluster: "main", PGData: f.dir, Offline: true, CacheDir: cache})
		if err != nil {
			t.Fatal(err)
		}
		if h.Method != want || !strings.Contains(h.Why, why) {
			t.Errorf("%s: %q; want %s: %q", h.Method, h.Why, want, why)
		}
		modelled{h, f.state()}.check(t, reader)
		return h
	}
	create(catalog.MethodFull, "no earlier backup")
	for range 4 {
		create(catalog.MethodScan, "")
	}
	files := func(pattern string) []string {
		found, err := filepath.Glob(filepath.Join(cache, "*", pattern))
		f.must(err)
		return found
	}
	manifests := files("manifest")
	if len(manifests) != 1 {
		t.Fatalf("%v", manifests)
	}
	b, err := os.ReadFile(manifests[0])
	f.must(err)
	f.must(os.WriteFile(manifests[0], b[:len(b)-1], 0o600))
	create(catalog.MethodFull, "does not remember its last backup")
	create(catalog.MethodScan, "")
	f.must(os.Remove(files("maps.*")[0]))
	create(catalog.MethodFull, "does not remember the page maps")
	damaged := files("maps.*")[0]
	b, err = os.ReadFile(damaged)
	f.must(err)
	b[len(b)/2] ^= 1
	f.must(os.WriteFile(damaged, b, 0o600))
	create(catalog.MethodFull, "does not remember the page maps")
	last := create(catalog.MethodScan, "")
	if _, err := reader.DeleteBackup(t.Context(), last.Ref(), last.ID, catalog.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	create(catalog.MethodFull, "does not exist any more")
	f.must(os.RemoveAll(cache))
	create(catalog.MethodFull, "does not remember its last backup")
	cache = ""
	create(catalog.MethodFull, "no folder to remember")
	for _, k := range keys(t, store, "main/") {
		b, err := os.ReadFile(filepath.Join(strings.TrimPrefix(store.String(), "file://"), k))
		if err == nil && bytes.Contains(b, []byte("base/1/1638")) {
			t.Errorf("%s holds names in plain", k)
		}
	}
}

// TestBackupThatCannotBeRemembered: the cache is a cache. A backup that cannot write there is made, says so, and only the next one is dearer.
func TestBackupThatCannotBeRemembered(t *testing.T) {
	writer, reader, _ := encryptedRepo(t)
	f := &field{t: t, rng: rand.New(rand.NewPCG(6, 7)), dir: bareCluster(t), since: map[string]*changes.Set{}}
	for node := range 3 {
		f.create(16384 + node)
	}
	cache := t.TempDir()
	for range 2 {
		var notes []string
		h, err := backup.Create(t.Context(), writer, backup.CreateOptions{
			Cluster: "main", PGData: f.dir, Offline: true, CacheDir: cache,
			Events: func(event backup.Event) {
				switch event := event.(type) {
				case backup.NoteEvent:
					notes = append(notes, event.Text)
				case backup.PhaseEvent:
					f.must(os.RemoveAll(cache))
				}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		if all := strings.Join(notes, "\n"); h.Method != catalog.MethodFull || !strings.Contains(all, "cannot be remembered") || !strings.Contains(all, "no such file") {
			t.Errorf("%s: %s", h.Method, all)
		}
		modelled{h, f.state()}.check(t, reader)
	}
}

// Two backups of one cluster on one host: what the first one that is done needs no more,
// the other may still need. The next one cleans up.
func TestBackupsShareWhatIsRemembered(t *testing.T) {
	writer, reader, _ := encryptedRepo(t)
	f := &field{t: t, rng: rand.New(rand.NewPCG(8, 9)), dir: bareCluster(t), since: map[string]*changes.Set{}}
	for node := range 3 {
		f.create(16384 + node)
	}
	o := backup.CreateOptions{Cluster: "main", PGData: f.dir, Offline: true, CacheDir: t.TempDir()}
	create := func(o backup.CreateOptions, want catalog.Method) {
		t.Helper()
		h, err := backup.Create(t.Context(), writer, o)
		if err != nil {
			t.Fatal(err)
		}
		if h.Method != want {
			t.Errorf("%s: %s; want %s", h.Method, h.Why, want)
		}
		modelled{h, f.state()}.check(t, reader)
	}
	remembered := func() int {
		found, err := filepath.Glob(filepath.Join(o.CacheDir, "*", "maps.*"))
		f.must(err)
		return len(found)
	}
	create(o, catalog.MethodFull)
	during := o
	during.Events = func(event backup.Event) {
		if _, ok := event.(backup.MethodEvent); ok {
			other := o
			other.Full = true
			create(other, catalog.MethodFull)
		}
	}
	create(during, catalog.MethodScan)
	if n := remembered(); n != 1 {
		t.Errorf("%d packs of maps are remembered, want that of the first backup", n)
	}
	create(o, catalog.MethodScan)
}
