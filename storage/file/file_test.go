package file_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pgstow/storage"
	"pgstow/storage/file"
	"pgstow/storage/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storage.Store { return open(t, t.TempDir()) })
}

func open(t *testing.T, dir string) *file.Store {
	t.Helper()
	s, err := file.Open(file.Options{Root: dir})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, s storage.Store, key, body string) {
	t.Helper()
	if _, err := s.Put(t.Context(), key, []byte(body), storage.Any); err != nil {
		t.Fatal(err)
	}
}

func list(t *testing.T, s storage.Store) []string {
	t.Helper()
	var keys []string
	for info, err := range s.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, info.Key)
	}
	return keys
}

// tree returns every path below dir, with a slash behind folders.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var paths []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		if d.IsDir() {
			rel += "/"
		}
		paths = append(paths, rel)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func wantTree(t *testing.T, dir string, want ...string) {
	t.Helper()
	if got := tree(t, dir); !slices.Equal(got, want) {
		t.Errorf("the folder holds %q, want %q", got, want)
	}
}

// everyCall runs each method and returns the errors.
func everyCall(s storage.Store) map[string]error {
	ctx := context.Background()
	errs := make(map[string]error)
	_, errs["put"] = s.Put(ctx, "a/k", []byte("x"), storage.Any)
	_, errs["create"] = s.Put(ctx, "a/k", []byte("x"), storage.IfAbsent)
	_, errs["swap"] = s.Put(ctx, "a/k", []byte("x"), storage.IfMatch("x"))
	_, _, errs["get"] = s.Get(ctx, "a/k", storage.Range{})
	_, errs["stat"] = s.Stat(ctx, "a/k")
	for _, err := range s.List(ctx, "", "") {
		errs["list"] = err
	}
	errs["delete"] = s.Delete(ctx, "a/k")
	return errs
}

func wantNoStore(t *testing.T, what string, s storage.Store) {
	t.Helper()
	for op, err := range everyCall(s) {
		if !errors.Is(err, storage.ErrNoStore) || errors.Is(err, storage.ErrNotExist) {
			t.Errorf("%s: %s: %v, want ErrNoStore", what, op, err)
		}
	}
	if _, ok := everyCall(s)["list"]; !ok {
		t.Errorf("%s: an empty list", what)
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "file")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{"", filepath.Join(dir, "missing"), plain, filepath.Join(plain, "below")} {
		if _, err := file.Open(file.Options{Root: root}); !errors.Is(err, storage.ErrNoStore) {
			t.Errorf("%q: %v, want ErrNoStore", root, err)
		}
	}
	root := filepath.Join(dir, "new", "root")
	for range 2 {
		s, err := file.Create(file.Options{Root: root})
		if err != nil || s.String() != "file://"+root {
			t.Fatalf("%v, %v", s, err)
		}
	}
	if info, err := os.Stat(root); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if _, err := file.Create(file.Options{Root: plain}); err == nil {
		t.Error("created in the place of a file")
	}
}

// Reading leaves no trace: a repository may be mounted read-only.
func TestReadersWriteNothing(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if _, err := s.Stat(t.Context(), "k"); !errors.Is(err, storage.ErrNotExist) {
		t.Error(err)
	}
	if keys := list(t, s); len(keys) != 0 {
		t.Errorf("%q", keys)
	}
	wantTree(t, dir)
}

func TestMissingRoot(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	s := open(t, root)
	put(t, s, "k", "x")
	away := root + ".away"
	if err := os.Rename(root, away); err != nil {
		t.Fatal(err)
	}
	wantNoStore(t, "no folder", s)
	// What is left when the file system is not mounted: an empty folder.
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	wantNoStore(t, "not mounted", s)
	wantTree(t, root)
	if err := os.Remove(root); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(away, root); err != nil {
		t.Fatal(err)
	}
	if keys := list(t, s); !slices.Equal(keys, []string{"k"}) {
		t.Errorf("mounted again: %q", keys)
	}
}

func TestObjectAndFolderOfOneName(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, "a/b/c", "x")
	for _, key := range []string{"a", "a/b", "a/b/c/d", "a/b/c/d/e"} {
		for _, cond := range []storage.Condition{storage.Any, storage.IfAbsent} {
			if _, err := s.Put(t.Context(), key, []byte("y"), cond); !errors.Is(err, storage.ErrInvalidKey) {
				t.Errorf("%s %v: %v, want ErrInvalidKey", key, cond, err)
			}
		}
	}
	wantTree(t, dir, ".pgstow.lock", ".tmp/", "a/", "a/b/", "a/b/c")
}

func TestForeignFilesAreNotListed(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, "dir/k", "x")
	for _, name := range []string{".tmp/.half", "lost+found/x", "dir/.nfs000123", "dir/with space", "dir/k~", ".hidden/x"} {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o700), os.WriteFile(p, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("/etc", filepath.Join(dir, "etc")), os.Symlink("k", filepath.Join(dir, "dir/link"))); err != nil {
		t.Fatal(err)
	}
	if keys := list(t, s); !slices.Equal(keys, []string{"dir/k"}) {
		t.Errorf("%q", keys)
	}
	if _, _, err := s.Get(t.Context(), "etc/passwd", storage.Range{}); err == nil || errors.Is(err, storage.ErrNotExist) {
		t.Errorf("a link that leads out of the store: %v", err)
	}
}

func TestDeleteRemovesEmptyFolders(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	for _, key := range []string{"a/b/c/1", "a/b/c/2", "a/x", "d/e/f"} {
		put(t, s, key, "x")
	}
	if err := s.Delete(t.Context(), "a/b/c/1", "a/b/c/2", "d/e/f"); err != nil {
		t.Fatal(err)
	}
	wantTree(t, dir, ".pgstow.lock", ".tmp/", "a/", "a/x")
	if err := s.Delete(t.Context(), "a/x"); err != nil {
		t.Fatal(err)
	}
	wantTree(t, dir, ".pgstow.lock", ".tmp/")
}

// As the conformance test of this name, but the folder becomes empty again and again, and so is removed.
func TestDeleteAgainstCreate(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := range 50 {
				key := fmt.Sprintf("x/y/z/%d-%d", worker, i)
				cond := []storage.Condition{storage.Any, storage.IfAbsent}[i%2]
				if _, err := s.Put(t.Context(), key, []byte(key), cond); err != nil {
					t.Error(err)
				}
				if _, err := s.Stat(t.Context(), key); err != nil {
					t.Error(err)
				}
				if err := s.Delete(t.Context(), key); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	wantTree(t, dir, ".pgstow.lock", ".tmp/")
}

func TestLeftoversAreSwept(t *testing.T) {
	dir := t.TempDir()
	put(t, open(t, dir), "k", "x")
	for name, age := range map[string]time.Duration{".old": 25 * time.Hour, ".young": 23 * time.Hour, "foreign": 99 * time.Hour} {
		p := filepath.Join(dir, ".tmp", name)
		when := time.Now().Add(-age)
		if err := errors.Join(os.WriteFile(p, []byte("half"), 0o600), os.Chtimes(p, when, when)); err != nil {
			t.Fatal(err)
		}
	}
	put(t, open(t, dir), "k2", "x")
	wantTree(t, dir, ".pgstow.lock", ".tmp/", ".tmp/.young", ".tmp/foreign", "k", "k2")
}

// Over NFS a link may be made and its reply lost; the client then asks again and hears that the name exists.
func TestLinkRetransmission(t *testing.T) {
	dir := t.TempDir()
	r, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	for _, name := range []string{"tmp", "other"} {
		if err := r.WriteFile(name, []byte("same"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Link("tmp", "ours"); err != nil {
		t.Fatal(err)
	}
	if err := file.Link(r, "tmp", "ours"); err != nil {
		t.Errorf("our own link: %v", err)
	}
	if err := file.Link(r, "tmp", "other"); !errors.Is(err, storage.ErrExist) {
		t.Errorf("another file, while ours has two names: %v, want ErrExist", err)
	}
	if err := r.WriteFile("tmp2", []byte("same"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := file.Link(r, "tmp2", "ours"); !errors.Is(err, storage.ErrExist) {
		t.Errorf("another's link: %v, want ErrExist", err)
	}
}

func TestETag(t *testing.T) {
	s := open(t, t.TempDir())
	small, err := s.Put(t.Context(), "small", []byte("hello"), storage.Any)
	if err != nil || small.ETag != "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824" || small.Now.IsZero() {
		t.Errorf("%+v, %v", small, err)
	}
	big, err := s.Put(t.Context(), "big", make([]byte, 64<<10+1), storage.Any)
	if err != nil || big.ETag == "" {
		t.Errorf("%+v, %v", big, err)
	}
	if stat, err := s.Stat(t.Context(), "big"); err != nil || stat.ETag != "" || stat.SHA256 != nil {
		t.Errorf("stat of a big object: %+v, %v", stat, err)
	}
	if _, err := s.Put(t.Context(), "big", nil, storage.IfMatch(big.ETag)); err != nil {
		t.Errorf("swap of a big object: %v", err)
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, "k", "x")
	f, err := os.OpenFile(filepath.Join(dir, ".pgstow.lock"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Put(ctx, "k", []byte("y"), storage.Any); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("put under somebody's lock: %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Delete(ctx, "k"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("delete under somebody's lock: %v", err)
	}
	if _, err := s.Put(t.Context(), "new", nil, storage.IfAbsent); err != nil {
		t.Errorf("a create needs no lock: %v", err)
	}
	done := make(chan error)
	go func() {
		_, err := s.Put(context.Background(), "k", []byte("z"), storage.Any)
		done <- err
	}()
	select {
	case err := <-done:
		t.Errorf("put did not wait: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	// The put that gave up does not keep the lock that it got too late.
	info, err := s.Stat(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), "k", []byte("last"), storage.IfMatch(info.ETag)); err != nil {
		t.Errorf("swap: %v", err)
	}
	if got := tree(t, dir); strings.Contains(fmt.Sprint(got), ".tmp/.") {
		t.Errorf("left behind: %q", got)
	}
}

// A folder that is not mounted when the store is opened is used once it is there.
func TestOpenLate(t *testing.T) {
	root := filepath.Join(t.TempDir(), "mount")
	if _, err := file.Open(file.Options{Root: root}); !errors.Is(err, storage.ErrNoStore) {
		t.Errorf("%v", err)
	}
	s, err := file.Open(file.Options{Root: root, Late: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Get(t.Context(), "k", storage.Range{}); !errors.Is(err, storage.ErrNoStore) || errors.Is(err, storage.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), "k", nil, storage.IfAbsent); err != nil {
		t.Error(err)
	}
}
