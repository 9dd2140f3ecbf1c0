package backup_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgstow/backup"
	"pgstow/backup/pagemap"
	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/file"
	"pgstow/storage/object"
	"pgstow/test/pg"
)

// newRepo makes a plain repository in a folder.
func newRepo(t *testing.T) (*catalog.Repository, storage.Store) {
	t.Helper()
	s, err := file.Create(file.Options{Root: filepath.Join(t.TempDir(), "repo")})
	if err != nil {
		t.Fatal(err)
	}
	r, err := catalog.Init(t.Context(), s, catalog.InitOptions{EncryptionNone: true})
	if err != nil {
		t.Fatal(err)
	}
	return r, s
}

// template is a cluster fresh from initdb, with data checksums, made once.
var template = struct {
	sync.Mutex
	dir string
}{}

// newCluster copies the template: a stopped cluster.
func newCluster(t *testing.T) string {
	t.Helper()
	template.Lock()
	defer template.Unlock()
	if template.dir == "" {
		s := pg.Create(t, pg.Options{Checksums: true})
		dir, err := os.MkdirTemp("", "pgstow-template")
		if err != nil {
			t.Fatal(err)
		}
		run(t, "cp", "-a", s.Dir, dir+"/data")
		template.dir = dir
	}
	dir := filepath.Join(t.TempDir(), "data")
	run(t, "cp", "-a", template.dir+"/data", dir)
	return dir
}

func TestMain(m *testing.M) {
	code := m.Run()
	if template.dir != "" {
		_ = os.RemoveAll(template.dir)
	}
	os.Exit(code)
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// rebuilt is a backup read back: every file's bytes come from packs, by its map or
// its slices.
type rebuilt struct {
	header  catalog.BackupHeader
	entries map[string]catalog.FileEntry
	order   []string
	files   map[string][]byte
}

// rebuild reads a backup and checks everything that can be checked on the way:
// digests, page hashes, that packs and frames are what the manifest says.
func rebuild(t *testing.T, repo *catalog.Repository, h catalog.BackupHeader) *rebuilt {
	t.Helper()
	ctx := t.Context()
	m, err := repo.ReadManifest(ctx, h.Ref(), h.ID)
	if err != nil {
		t.Fatal(err)
	}
	r := &rebuilt{header: m.Header(), entries: map[string]catalog.FileEntry{}, files: map[string][]byte{}}
	packs := packReader{t: t, repo: repo, ref: h.Ref(), open: map[string]*object.Object{}, last: map[string]plainFrame{}}
	live := map[int]int64{}
	for e, err := range m.Files() {
		if err != nil {
			t.Fatal(err)
		}
		r.entries[e.Path] = e
		r.order = append(r.order, e.Path)
		if e.Type != catalog.TypeFile && e.Type != "" {
			continue
		}
		var b []byte
		if e.Map != nil {
			b = packs.pages(m, e, int(h.BlockSize), live)
		}
		for _, s := range e.Blob {
			b = append(b, packs.frame(m.Pack(s.Pack), s.Frame)[s.Offset:s.Offset+s.Length]...)
		}
		if int64(len(b)) != e.Size {
			t.Errorf("%s has %d bytes, size %d", e.Path, len(b), e.Size)
		}
		if !e.SHA256.IsZero() && sha256.Sum256(b) != e.SHA256 {
			t.Errorf("%s: digest differs", e.Path)
		}
		if e.Map == nil && e.Size > 0 && e.SHA256.IsZero() && e.Path != "global/pg_control" {
			t.Errorf("%s has no digest", e.Path)
		}
		r.files[e.Path] = b
	}
	for i, p := range m.Packs() {
		packs.check(p)
		if p.LivePages != live[i] {
			t.Errorf("pack %d: %d live pages, maps use %d", i, p.LivePages, live[i])
		}
		if p.LivePages > p.Pages {
			t.Errorf("pack %d: %d of %d pages live", i, p.LivePages, p.Pages)
		}
	}
	return r
}

type packReader struct {
	t    *testing.T
	repo *catalog.Repository
	ref  catalog.ClusterRef
	open map[string]*object.Object
	last map[string]plainFrame // of each pack the frame that was read last
}

type plainFrame struct {
	i int
	b []byte
}

func (r *packReader) object(p catalog.PackEntry) *object.Object {
	r.t.Helper()
	key := p.Key(r.ref)
	if o := r.open[key]; o != nil {
		return o
	}
	b, _, err := storage.ReadAll(r.t.Context(), r.repo.Store, key, 1<<30)
	if err != nil {
		r.t.Fatal(err)
	}
	o, err := object.Open(b, r.repo.Identities())
	if err != nil {
		r.t.Fatalf("%s: %v", key, err)
	}
	if sha256.Sum256(b) != p.SHA256 || int64(len(b)) != p.Size {
		r.t.Errorf("%s is not what the manifest says", key)
	}
	r.open[key] = o
	return o
}

func (r *packReader) check(p catalog.PackEntry) {
	o := r.object(p)
	if len(o.Frames()) != p.Frames || o.Header().PlainSize != p.PlainSize || o.Header().Kind != object.KindPack {
		r.t.Errorf("%s: %d frames, %d bytes, %v; the manifest says %+v", p.Key(r.ref), len(o.Frames()), o.Header().PlainSize, o.Header().Kind, p)
	}
}

func (r *packReader) frame(p catalog.PackEntry, i int) []byte {
	r.t.Helper()
	key := p.Key(r.ref)
	if f, ok := r.last[key]; ok && f.i == i {
		return f.b
	}
	b, err := r.object(p).Frame(i, nil)
	if err != nil {
		r.t.Fatalf("%s frame %d: %v", key, i, err)
	}
	r.last[key] = plainFrame{i, b}
	return b
}

func (r *packReader) pages(m *catalog.ManifestReader, e catalog.FileEntry, size int, live map[int]int64) []byte {
	r.t.Helper()
	b := r.frame(m.Pack(e.Map.Pack), e.Map.Frame)
	pm, err := pagemap.Decode(b[e.Map.Offset : e.Map.Offset+e.Map.Length])
	if err != nil {
		r.t.Fatalf("%s: %v", e.Path, err)
	}
	var out []byte
	for _, x := range pm.Extents {
		if x.Zero {
			out = append(out, make([]byte, int(x.Pages)*size)...)
			continue
		}
		ref := pm.Pack(x)
		i := slices.IndexFunc(m.Packs(), func(p catalog.PackEntry) bool { return p.Backup == ref.Backup && p.N == int(ref.Pack) })
		if i < 0 {
			r.t.Fatalf("%s: pack %+v is not in the manifest's table", e.Path, ref)
		}
		live[i] += int64(x.Pages)
		frame := r.frame(m.Pack(i), int(x.Frame))
		out = append(out, frame[int(x.First)*size:(int(x.First)+int(x.Pages))*size]...)
	}
	for i, h := range pm.Hashes {
		if pagemap.Hash(out[i*size:(i+1)*size]) != h {
			r.t.Errorf("%s: hash of page %d differs", e.Path, i)
		}
	}
	return out
}

// write makes a data directory of the backup, without what a restore does beyond
// that.
func (r *rebuilt) write(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range r.order {
		e, to := r.entries[path], filepath.Join(dir, path)
		var err error
		switch e.Type {
		case catalog.TypeDir:
			err = os.Mkdir(to, fs.FileMode(e.Mode))
		case catalog.TypeLink:
			err = os.Symlink(e.Target, to)
		case catalog.TypeFile:
			err = os.WriteFile(to, r.files[path], fs.FileMode(e.Mode))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(r.header.BackupLabel) > 0 {
		if err := os.WriteFile(filepath.Join(dir, "backup_label"), r.header.BackupLabel, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "pg_wal", "archive_status"), 0o700); err != nil {
		t.Fatal(err)
	}
}

// same compares a rebuilt file with one on disk.
func (r *rebuilt) same(t *testing.T, path, file string) {
	t.Helper()
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := r.files[path]; !ok || !bytes.Equal(got, want) {
		t.Errorf("%s differs (%d bytes, want %d; in the backup: %v)", path, len(got), len(want), ok)
	}
}

// events collects what a backup reports.
type events struct {
	mu   sync.Mutex
	list []backup.Event
	on   func(backup.Event)
}

func (e *events) add(v backup.Event) {
	e.mu.Lock()
	e.list = append(e.list, v)
	e.mu.Unlock()
	if e.on != nil {
		e.on(v)
	}
}

func (e *events) has(match func(backup.Event) bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.ContainsFunc(e.list, match)
}

// keys lists the store below a prefix.
func keys(t *testing.T, s storage.Store, prefix string) (out []string) {
	t.Helper()
	for info, err := range s.List(context.Background(), prefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, info.Key)
	}
	return out
}

// mustPartial returns the header of a backup that ended with damage.
func mustPartial(t *testing.T, h catalog.BackupHeader, err error) *backup.PartialError {
	t.Helper()
	var p *backup.PartialError
	if !errors.As(err, &p) {
		t.Fatalf("error %v, want a *PartialError", err)
	}
	if h.ID == "" || p.ID != h.ID {
		t.Fatalf("header of %q with error of %q", h.ID, p.ID)
	}
	return p
}
