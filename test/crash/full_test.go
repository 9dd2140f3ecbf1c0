package crash_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgstow/storage/file"
	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// TestFullSpool: the spool is a cache. A push that cannot write there stores its file all the same and says so; when there is room, the spool works.
func TestFullSpool(t *testing.T) {
	pg.Long(t, "starts a server and a store")
	t.Parallel()
	w, files := withSegments(t, world.Options{Store: world.MinIO})
	s := newScarce(t, 64<<10, 0)
	spool := filepath.Join(s.Dir, "spool")
	if err := os.Mkdir(spool, 0o700); err != nil {
		t.Fatal(err)
	}
	pg.Chown(t, spool)
	s.Fill()
	env := []string{"PGSTOW_SPOOL=" + spool, "PGSTOW_PGDATA=" + w.Server.Dir}
	path := files[0]
	w.Check(s.Run(w, env, "wal", "push", path), 0, "spool", s.Full(), s.Dir)
	keys := w.WALKeys(filepath.Base(path))
	if len(keys) != 1 {
		t.Fatalf("stored: %v", keys)
	}
	dst := filepath.Join(w.Server.Dir, "pg_wal", "fetched")
	w.Must("wal", "fetch", filepath.Base(path), dst)
	wantFile(t, dst, path)

	s.Grow()
	if r := s.Run(w, env, "wal", "push", path); r.Code != 0 || strings.Contains(r.Stderr, "spool") {
		t.Errorf("with room in the spool: %s", r)
	}
	// Now it is remembered: the next call does not look into the store.
	w.Delete(keys...)
	w.Check(s.Run(w, env, "wal", "push", path), 0)
	if keys := w.WALKeys(filepath.Base(path)); len(keys) != 0 {
		t.Errorf("the spool did not remember: %v", keys)
	}
}

// TestFullDestination: a fetch that has no room for its file is an error by which PostgreSQL stops, and leaves nothing.
func TestFullDestination(t *testing.T) {
	world.EachStore(t, func(t *testing.T, store string) {
		w, files := withSegments(t, world.Options{Store: store})
		path := files[0]
		w.Must("wal", "push", path)
		s := newScarce(t, 1<<20, 2048)
		dst := filepath.Join(s.Dir, "RECOVERYXLOG")
		env := []string{"PGSTOW_PGDATA=" + w.Server.Dir}
		w.Check(s.Run(w, env, "wal", "fetch", filepath.Base(path), dst), 126, dst, s.Full())
		if names, err := os.ReadDir(s.Dir); err != nil || len(names) != 0 {
			t.Errorf("left: %v, %v", names, err)
		}
		s.Grow()
		w.Check(s.Run(w, env, "wal", "fetch", filepath.Base(path), dst), 0)
		wantFile(t, dst, path)
	})
}

// TestFullRestore: too little room is seen before anything is written; a disk that fills up all the same ends the restore with the path, and the same
// restore goes on when there is room.
func TestFullRestore(t *testing.T) {
	world.EachStore(t, func(t *testing.T, store string) {
		w := world.New(t, world.Options{Store: store, NoArchive: true, Checksums: true})
		w.Server.PgbenchInit(1)
		w.Backup("--wal", "include")
		want := w.Server.Sums()
		w.Server.Stop(pg.Fast)
		s := newScarce(t, 20<<20, 2048)
		dir := filepath.Join(s.Dir, "data")
		control := filepath.Join(dir, "global", "pg_control")
		if s.mounted {
			w.Check(s.Run(w, nil, "restore", dir), 1, s.Dir, "bytes free")
			if there(t, dir) {
				t.Error("a restore without room has begun")
			}
		}
		w.Check(s.Run(w, nil, "restore", dir, "--force"), 1, dir+"/", s.Full())
		if there(t, control) {
			t.Error("there is a pg_control in a restore that failed")
		}
		wantNoStart(t, w, dir)
		s.Grow()
		w.Check(s.Run(w, nil, "restore", dir), 0)
		w.VerifyBackup(dir, true)
		wantServer(t, w, dir, want)
	})
}

// TestFullRepository: what does not fit into a repository in a folder is not there at all; when there is room, the same call succeeds.
func TestFullRepository(t *testing.T) {
	t.Parallel()
	s := newScarce(t, 512<<10, 64)
	root := filepath.Join(s.Dir, "repo")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	pg.Chown(t, root)
	w, files := withSegments(t, world.Options{Env: []string{
		"PGSTOW_REPO=file://" + root, "PGSTOW_PUSH_DEADLINE=1s", "PGSTOW_STORE_DEADLINE=1s",
	}})
	var err error
	if w.Store, err = file.Open(file.Options{Root: root}); err != nil {
		t.Fatal(err)
	}
	path := files[len(files)-2] // full of noise
	name := filepath.Base(path)
	env := []string{"PGSTOW_PGDATA=" + w.Server.Dir}
	before := tree(t, root)

	w.Check(s.Run(w, env, "wal", "push", path), 1, root, s.Full())
	if keys := w.WALKeys(name); len(keys) != 0 {
		t.Errorf("half stored: %v", keys)
	}
	w.Server.Start()
	w.Check(s.Run(w, nil, "backup", "create", "--wal", "include"), 1, root, s.Full())
	if ids := backups(t, w); len(ids) != 0 {
		t.Errorf("a backup for which there was no room is listed: %v", ids)
	}
	for _, p := range tree(t, root) {
		if strings.HasPrefix(filepath.Base(p), ".") && !slices.Contains(before, p) {
			t.Errorf("left behind: %s", p)
		}
	}

	s.Grow()
	w.Check(s.Run(w, env, "wal", "push", path), 0)
	dst := filepath.Join(w.Server.Dir, "pg_wal", "fetched")
	w.Check(s.Run(w, env, "wal", "fetch", name, dst), 0)
	wantFile(t, dst, path)
	b := w.Backup("--wal", "include")
	if ids := backups(t, w); len(ids) != 1 || ids[0] != b.ID {
		t.Errorf("backups %v, want %s", ids, b.ID)
	}
	want := w.Server.Sums()
	dir := w.Restore("--immediate", "--action", "promote")
	w.VerifyBackup(dir, true)
	wantServer(t, w, dir, want)
}

// tree lists all files below a folder.
func tree(t *testing.T, root string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}
