package restore_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgstow/backup"
	"pgstow/backup/restore"
	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/file"
	"pgstow/storage/object"
	"pgstow/test/pg"
	"pgstow/wal/archive"
)

// newRepo makes a repository in a folder: encrypted if there is an identity.
func newRepo(t *testing.T, key *keyPair) (*catalog.Repository, storage.Store) {
	t.Helper()
	s, err := file.Create(file.Options{Root: filepath.Join(t.TempDir(), "repo")})
	if err != nil {
		t.Fatal(err)
	}
	return initRepo(t, s, key), s
}

func initRepo(t *testing.T, s storage.Store, key *keyPair) *catalog.Repository {
	t.Helper()
	o := catalog.InitOptions{EncryptionNone: true}
	if key != nil {
		o = catalog.InitOptions{Recipients: []string{key.recipient}, Identities: key.identities}
	}
	r, err := catalog.Init(t.Context(), s, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

type keyPair struct {
	identities []object.Identity
	recipient  string
}

func newKey(t *testing.T) *keyPair {
	t.Helper()
	secret, public, err := object.GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	ids, err := object.ParseIdentities(strings.NewReader(secret))
	if err != nil {
		t.Fatal(err)
	}
	return &keyPair{ids, public}
}

// owner is the user that servers run as, for restores by root.
func owner() string {
	c := pg.Credential()
	if c == nil {
		return ""
	}
	return strconv.Itoa(int(c.Uid)) + ":" + strconv.Itoa(int(c.Gid))
}

// options are those of a restore of cluster main into a new directory.
func options(t *testing.T) restore.Options {
	t.Helper()
	return restore.Options{Cluster: "main", Directory: filepath.Join(pg.TempDir(t), "data"), Owner: owner(), Action: restore.ActionPromote}
}

func mustPlan(t *testing.T, repo *catalog.Repository, o restore.Options) restore.Planned {
	t.Helper()
	p, err := restore.Plan(t.Context(), repo, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// mustRestore plans and runs.
func mustRestore(t *testing.T, repo *catalog.Repository, o restore.Options) (restore.Planned, restore.Result) {
	t.Helper()
	p := mustPlan(t, repo, o)
	r, err := restore.Run(t.Context(), repo, p, restore.RunOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p, r
}

// create takes a backup of a running server.
func create(t *testing.T, repo *catalog.Repository, s *pg.Server, mode backup.WALMode) catalog.BackupHeader {
	t.Helper()
	h, err := backup.Create(t.Context(), repo, backup.CreateOptions{Cluster: "main", Conn: s.DSN("postgres"), PGData: s.Dir, WAL: mode, Host: "here", Program: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// verify lets pg_verifybackup judge a restored directory before its first start.
func verify(t *testing.T, dir string, args ...string) {
	t.Helper()
	tool, err := pg.ClientBin(15, "pg_verifybackup")
	if err != nil {
		pg.Missing(t, err.Error())
	}
	if out, err := pg.Command(t.Context(), tool, append(args, "-e", dir)...).CombinedOutput(); err != nil {
		t.Errorf("pg_verifybackup: %v\n%s", err, out)
	}
}

// archived is a server that archives by copying into a folder, from where the test pushes.
type archived struct {
	*pg.Server
	folder string
	push   archive.PushOptions
}

func newArchived(t *testing.T, store storage.Store, key *keyPair, o pg.Options) *archived {
	t.Helper()
	a := &archived{folder: pg.TempDir(t)}
	o.ArchiveCommand = "cp %p " + a.folder + "/%f.tmp && mv " + a.folder + "/%f.tmp " + a.folder + "/%f"
	a.Server = pg.New(t, o)
	pins := catalog.Pins{EncryptionNone: key == nil}
	if key != nil {
		pins = catalog.Pins{Recipients: []string{key.recipient}}
	}
	a.push = archive.PushOptions{Options: archive.Options{Store: store, Pins: pins, Cluster: "main", PGData: a.Dir}, Host: "here", Program: "test"}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if err := a.pushAll(ctx); err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() { stop(); <-done })
	return a
}

// pushAll pushes what is in the folder and not yet marked.
func (a *archived) pushAll(ctx context.Context) error {
	entries, err := os.ReadDir(a.folder)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(a.folder, e.Name())
		if strings.HasSuffix(e.Name(), ".tmp") || strings.HasSuffix(e.Name(), ".pushed") {
			continue
		}
		if _, err := os.Stat(path + ".pushed"); err == nil {
			continue
		}
		if _, err := archive.Push(ctx, a.push, path); err != nil {
			return err
		}
		if err := os.WriteFile(path+".pushed", nil, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// archiveAll switches the segment and waits until all before is in the repository.
func (a *archived) archiveAll(t *testing.T) {
	t.Helper()
	name := a.ArchiveAll()
	pg.Await(t, "push of "+name, time.Minute, func() (bool, error) {
		_, err := os.Stat(filepath.Join(a.folder, name+".pushed"))
		return err == nil, nil
	})
}

// command is a restore_command that takes from the folder; cp's exit code 1 is "not there".
func (a *archived) command() string { return "cp " + a.folder + "/%f %p" }

func sh(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

var errInjected = errors.New("injected")
