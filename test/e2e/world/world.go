// Package world is the stage of the end-to-end tests: a repository in a real store, a real server that archives into it by the real pgstow-wal, and
// the real pgstow to call.
//
// MinIO runs once per test process, with a bucket for each world; servers are cloned from one initdb and end with their test. A test package that
// uses worlds has
//
//	func TestMain(m *testing.M) { os.Exit(world.Main(m)) }
package world

import (
	"fmt"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"pgstow/storage"
	"pgstow/storage/file"
	"pgstow/storage/s3"
	"pgstow/test/minio"
	"pgstow/test/pg"
)

// Stores that a world can have.
const (
	File  = "file"
	MinIO = "minio"
)

// Options say what the world is like. The zero value has a file store, no encryption, and a running PostgreSQL 15 that archives.
type Options struct {
	Store     string // [File], which is also the default, or [MinIO]
	Encrypted bool   // the host has the recipients only; [World.Restore] adds the identity
	Count     bool   // with MinIO: a proxy in between records the requests, see [World.Requests]
	Own       bool   // a MinIO server of its own, which the test may kill
	// Through, with MinIO, makes the programs reach the server by another endpoint, which it returns: that of a proxy.
	Through func(endpoint string) string

	Major             int  // 0 is pg.DefaultMajor
	WALSegmentSizeMiB int  // 0 is 16
	Checksums         bool // data checksums

	Conf       map[string]string // for postgresql.conf, over what the world sets
	ServerArgs []string          // for the postgres program
	NoArchive  bool              // archive_mode is off
	Stopped    bool              // the server is made, and not started
	// ArchiveCommand replaces the one that the world would set.
	ArchiveCommand string
	// Env is added to the environment of the server and of every call of pgstow.
	Env []string
}

// World is one repository with one server.
type World struct {
	Server *pg.Server
	Store  storage.Store // raw access: list keys, read, replace, delete
	URL    string        // of the repository, as pgstow takes it
	Kind   string        // File or MinIO
	Dir    string        // a folder of the world's, which the server's user owns
	MinIO  *minio.Server // the shared server unless it is [Options.Own]; nil with a file store. Do not stop the shared one.
	Bucket string        // of the repository on it

	// Of an encrypted world.
	Recipient    string
	IdentityFile string

	t       *testing.T
	opts    Options
	env     []string
	counter *counter
	dirs    *atomic.Int32
}

// EachStore runs a test on a file store and on MinIO, in parallel with others; with -short on the file store alone.
func EachStore(t *testing.T, f func(t *testing.T, store string)) {
	t.Helper()
	for _, store := range []string{File, MinIO} {
		if store == MinIO && testing.Short() {
			continue
		}
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			f(t, store)
		})
	}
}

// EachMajor runs a test on each of these versions, in parallel with others.
func EachMajor(t *testing.T, majors []int, f func(t *testing.T, major int)) {
	t.Helper()
	t.Parallel()
	for _, major := range majors {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			pg.Need(t, major)
			f(t, major)
		})
	}
}

// New makes a world: the store, `pgstow init`, and a server.
func New(t *testing.T, o Options) *World {
	t.Helper()
	if o.Major == 0 {
		o.Major = pg.DefaultMajor
	}
	if o.Store == "" {
		o.Store = File
	}
	w := &World{t: t, opts: o, Kind: o.Store, Dir: pg.TempDir(t), dirs: new(atomic.Int32)}
	w.openStore()
	spool := w.NewDir("spool")
	if err := os.Mkdir(spool, 0o700); err != nil {
		t.Fatalf("spool: %v", err)
	}
	pg.Chown(t, spool)
	w.env = append(w.env, "PGSTOW_REPO="+w.URL, "PGSTOW_CLUSTER=main", "PGSTOW_SPOOL="+spool)
	if o.Encrypted {
		w.IdentityFile, w.Recipient = w.Keygen()
		w.env = append(w.env, "PGSTOW_RECIPIENTS="+w.Recipient)
	} else {
		w.env = append(w.env, "PGSTOW_ENCRYPTION=none")
	}
	w.env = append(w.env, o.Env...)
	w.Server = w.NewServer(filepath.Join(w.NewDir("server"), "data"))
	w.init()
	if !o.Stopped {
		w.Server.Start()
	}
	return w
}

// In is the same world for a subtest, which then fails by itself; servers that it makes end with the subtest.
func (w *World) In(t *testing.T) *World {
	sub := *w
	sub.t = t
	return &sub
}

func (w *World) openStore() {
	t := w.t
	t.Helper()
	if w.Kind == File {
		root := filepath.Join(w.Dir, "repo")
		w.URL = "file://" + root
		if err := os.Mkdir(root, 0o755); err != nil {
			t.Fatalf("repository: %v", err)
		}
		pg.Chown(t, root)
		store, err := file.Open(file.Options{Root: root})
		if err != nil {
			t.Fatalf("store: %v", err)
		}
		w.Store = store
		return
	}
	if w.opts.Own {
		w.Bucket = "own"
		w.MinIO = minio.New(t, minio.Options{Buckets: []string{w.Bucket}})
	} else {
		w.MinIO, w.Bucket = sharedBucket(t)
	}
	server := w.MinIO
	w.URL = w.URLBy(server.Endpoint)
	switch {
	case w.opts.Through != nil:
		w.URL = w.URLBy(w.opts.Through(server.Endpoint))
	case w.opts.Count:
		w.counter = newCounter(t, server.Endpoint)
		front := httptest.NewServer(w.counter)
		t.Cleanup(front.Close)
		w.URL = w.URLBy(front.URL)
	}
	w.env = append(w.env, server.Env()...)
	store, err := s3.Open(t.Context(), s3.Options{
		Bucket: w.Bucket, Prefix: "pg", Endpoint: server.Endpoint, Region: minio.Region,
		Credentials: &s3.Credentials{AccessKey: minio.AccessKey, SecretKey: minio.SecretKey},
	})
	if err != nil {
		t.Fatalf("store: %v", err)
	}
	w.Store = store
}

// URLBy is the repository's URL, with MinIO, when the server is reached by this endpoint: its own, or that of a proxy.
func (w *World) URLBy(endpoint string) string {
	by := *w.MinIO
	by.Endpoint = endpoint
	return by.URL(w.Bucket, "pg")
}

// init runs `pgstow init` as an operator would.
func (w *World) init() {
	w.t.Helper()
	args := []string{"init", "--pgdata", w.Server.Dir}
	if w.opts.Encrypted {
		args = append(args, "--recipient", w.Recipient)
	} else {
		args = append(args, "--plain")
	}
	w.Must(args...)
}

// Keygen makes a key pair with `pgstow keygen` and returns the identity's file and the recipient.
func (w *World) Keygen() (identityFile, recipient string) {
	w.t.Helper()
	identityFile = w.NewDir("identity")
	return identityFile, strings.TrimSpace(w.Must("keygen", identityFile))
}

// NewServer clones the template cluster into dir, which must not exist, with the world's settings, and does not start it.
func (w *World) NewServer(dir string) *pg.Server {
	w.t.Helper()
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		w.t.Fatalf("%v", err)
	}
	pg.Chown(w.t, filepath.Dir(dir))
	cloneTemplate(w.t, dir, template{w.opts.Major, w.opts.WALSegmentSizeMiB, w.opts.Checksums})
	s := w.Attach(dir)
	conf := map[string]string{}
	if !w.opts.NoArchive {
		conf["archive_mode"], conf["archive_command"] = "on", w.ArchiveCommand()
	}
	maps.Copy(conf, w.opts.Conf)
	s.AppendConf(conf)
	return s
}

// ArchiveCommand is the archive_command of the world's server.
func (w *World) ArchiveCommand() string {
	if w.opts.ArchiveCommand != "" {
		return w.opts.ArchiveCommand
	}
	return pg.Binary(w.t, "pgstow-wal") + " push %p"
}

// Attach makes a server of an existing data directory, with the world's environment, and does not start it.
func (w *World) Attach(dir string) *pg.Server {
	w.t.Helper()
	return pg.Attach(w.t, dir, pg.Options{Major: w.opts.Major, Args: w.opts.ServerArgs, Env: w.env})
}

// NewDir is a new path below [World.Dir]. Nothing is made there.
func (w *World) NewDir(name string) string {
	return filepath.Join(w.Dir, fmt.Sprintf("%s%d", name, w.dirs.Add(1)))
}

// Env is the environment by which programs reach the repository, without that of the server ([pg.Server.Env]).
func (w *World) Env() []string { return append([]string(nil), w.env...) }

// IdentityEnv is what a call needs beside [World.Env] to open an encrypted repository; nothing in a plain one.
func (w *World) IdentityEnv() []string {
	if !w.opts.Encrypted {
		return nil
	}
	return []string{"PGSTOW_IDENTITY_FILE=" + w.IdentityFile}
}
