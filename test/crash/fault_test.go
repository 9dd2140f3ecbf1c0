package crash_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgstow/backup"
	"pgstow/backup/restore"
	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/fault"
	"pgstow/storage/file"
	"pgstow/test/pg"
	"pgstow/wal/archive"
	"pgstow/wal/pgcontrol"
)

var plain = catalog.Pins{EncryptionNone: true}

// simulation is one run on a repository of its own, with a fault at one call to the store.
type simulation struct {
	t     *testing.T
	below storage.Store
	store *fault.Store
}

// injections are the ways in which call n goes wrong.
var injections = []struct {
	name string
	add  func(s *fault.Store, n int)
}{
	{"fails", func(s *fault.Store, n int) { s.FailCall(n, nil) }},
	{"loses its reply", func(s *fault.Store, n int) { s.Add(fault.Fault{Nth: n, Kind: fault.After}) }},
	{"is the last before the end of the process", func(s *fault.Store, n int) { s.Crash(n, true, nil) }},
	{"is not made any more, nor one after it", func(s *fault.Store, n int) { s.Crash(n, false, nil) }},
}

// simulate calls run for each call that it makes to the store, and each way in which that can go wrong. run returns how often the store was called.
func simulate(t *testing.T, run func(t *testing.T, s *simulation) int) {
	t.Helper()
	calls := run(t, newSimulation(t))
	t.Logf("%d calls without faults", calls)
	if calls < 3 {
		t.Fatalf("%d calls: the faults would not be in the way", calls)
	}
	step := 1
	if testing.Short() {
		step = 4
	}
	for n := 1; n <= calls; n += step {
		for _, i := range injections {
			t.Run(fmt.Sprintf("call %d %s", n, i.name), func(t *testing.T) {
				s := newSimulation(t)
				i.add(s.store, n)
				run(t, s)
				s.store.VerifyAllHit(t)
			})
		}
	}
}

func newSimulation(t *testing.T) *simulation {
	t.Helper()
	below, err := file.Create(file.Options{Root: filepath.Join(t.TempDir(), "repo")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := catalog.Init(t.Context(), below, catalog.InitOptions{EncryptionNone: true}); err != nil {
		t.Fatal(err)
	}
	return &simulation{t: t, below: below, store: fault.New(below)}
}

// repository opens the repository without faults.
func (s *simulation) repository() *catalog.Repository {
	s.t.Helper()
	r, err := catalog.Open(s.t.Context(), s.below, plain)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// TestFaultBackup: whichever call of a backup goes wrong, there is no backup or a complete one, and the next one succeeds.
func TestFaultBackup(t *testing.T) {
	t.Parallel()
	data := smallCluster(t)
	runs := 0
	simulate(t, func(t *testing.T, s *simulation) int {
		ref := catalog.ClusterRef{Name: "main", SystemID: control(t, data).SystemID}
		list := func() []catalog.BackupSummary {
			t.Helper()
			l, err := s.repository().Backups(t.Context(), ref)
			if err != nil {
				t.Fatalf("list: %v", err)
			}
			return l
		}
		create := func(st storage.Store) (catalog.BackupHeader, error) {
			repo, err := catalog.Open(t.Context(), st, plain)
			if err != nil {
				return catalog.BackupHeader{}, err
			}
			return backup.Create(t.Context(), repo, backup.CreateOptions{Cluster: "main", PGData: data, Offline: true, Workers: 1})
		}
		h, err := create(s.store)
		first := list()
		switch {
		case err == nil && (len(first) != 1 || first[0].ID != h.ID):
			t.Fatalf("backup %s succeeded, %d are listed", h.ID, len(first))
		case len(first) > 1:
			t.Fatalf("one backup, %d are listed", len(first))
		case len(first) == 1:
			wantRestored(t, s.repository(), first[0].ID, data)
		}
		h, err = create(s.below)
		if err != nil {
			t.Fatalf("the next backup: %v", err)
		}
		if l := list(); len(l) != len(first)+1 {
			t.Fatalf("%d backups after %d and one more", len(l), len(first))
		}
		if runs++; runs%4 == 1 {
			wantRestored(t, s.repository(), h.ID, data)
		}
		return s.store.Calls()
	})
}

// TestFaultPush: whichever call of a push goes wrong, the object is absent or whole, and the next push succeeds.
func TestFaultPush(t *testing.T) {
	t.Parallel()
	server := pg.New(t, pg.Options{WALSegmentSizeMiB: 1, Conf: map[string]string{"wal_keep_size": "1GB"}})
	name := server.SwitchWAL()
	server.Stop(pg.Fast)
	path := filepath.Join(server.Dir, "pg_wal", name)
	simulate(t, func(t *testing.T, s *simulation) int {
		options := func(st storage.Store) archive.Options {
			return archive.Options{Store: st, Pins: plain, Cluster: "main", PGData: server.Dir}
		}
		fetch := func() error {
			dst := filepath.Join(t.TempDir(), "segment")
			err := archive.Fetch(t.Context(), archive.FetchOptions{Options: options(s.below)}, name, dst)
			if err == nil {
				wantFile(t, dst, path)
			}
			return err
		}
		_, err := archive.Push(t.Context(), archive.PushOptions{Options: options(s.store), Host: "db1"}, path)
		if code := archive.PushExit(err); err != nil && code != 1 {
			t.Errorf("%v: exit status %d: no fault of the store is a refusal", err, code)
		}
		keys := 0
		for info, lerr := range s.below.List(t.Context(), "main/", "") {
			if lerr != nil {
				t.Fatal(lerr)
			}
			if strings.HasSuffix(info.Key, "/"+name) {
				keys++
			}
		}
		if keys == 1 {
			if err := fetch(); err != nil {
				t.Errorf("it is there, but: %v", err)
			}
		} else if err == nil {
			t.Errorf("the push succeeded, and stored %d objects", keys)
		}
		if _, err := archive.Push(t.Context(), archive.PushOptions{Options: options(s.below), Host: "db1"}, path); err != nil {
			t.Fatalf("the next push: %v", err)
		}
		if err := fetch(); err != nil {
			t.Fatal(err)
		}
		return s.store.Calls()
	})
}

// smallCluster is a stopped cluster without the template databases, which are most of its size and not needed here.
func smallCluster(t *testing.T) string {
	t.Helper()
	dir := pg.Create(t, pg.Options{WALSegmentSizeMiB: 1, Checksums: true}).Dir
	for _, template := range []string{"1", "4"} {
		files, err := filepath.Glob(filepath.Join(dir, "base", template, "*"))
		if err != nil || len(files) == 0 {
			t.Fatalf("template database %s: %v, %v", template, files, err)
		}
		remove(t, files...)
	}
	return dir
}

func control(t *testing.T, data string) pgcontrol.Control {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(data, "global", "pg_control"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := pgcontrol.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// wantRestored restores a backup and compares all relation files with those that it was made of.
func wantRestored(t *testing.T, repo *catalog.Repository, id, data string) {
	t.Helper()
	dir := filepath.Join(pg.TempDir(t), "restored")
	if err := restoreTo(t.Context(), repo, id, dir); err != nil {
		t.Fatalf("restore %s: %v", id, err)
	}
	compared := 0
	for _, top := range []string{"base", "global"} {
		err := filepath.WalkDir(filepath.Join(data, top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || d.Name() == "pg_control" || d.Name() == "pg_internal.init" {
				return err
			}
			rel, err := filepath.Rel(data, path)
			if err == nil {
				wantFile(t, filepath.Join(dir, rel), path)
				compared++
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if compared < 200 {
		t.Errorf("only %d files were compared", compared)
	}
	if _, err := os.Stat(filepath.Join(dir, "global", "pg_control")); err != nil {
		t.Error(err)
	}
}

func restoreTo(ctx context.Context, repo *catalog.Repository, id, dir string) error {
	plan, err := restore.Plan(ctx, repo, restore.Options{
		Cluster: "main", Backup: id, Directory: dir, Target: catalog.Target{Kind: catalog.TargetImmediate}, Action: restore.ActionPromote,
	})
	if err != nil {
		return err
	}
	result, err := restore.Run(ctx, repo, plan, restore.RunOptions{Hold: -1})
	if err == nil && result.Files == 0 {
		err = errors.New("nothing was written")
	}
	return err
}
