// Package badstore_test runs the whole programs against stores that are slow, that fail, and that lie. Each call must come to the right result, or
// say within its deadline that it cannot; and where the store does nothing wrong it must be asked no more than is said in the documents.
package badstore_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgstow/test/badstore/proxy"
	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// They wait for deadlines most of their time.
func TestMain(m *testing.M) { os.Exit(world.MainAtOnce(m, 12)) }

// seed decides about the faults that come by chance.
const seed = 20261124

// stage is a world whose requests all go through a proxy.
type stage struct {
	*world.World
	proxy *proxy.Proxy
}

func newStage(t *testing.T, o world.Options) *stage {
	t.Helper()
	return newStageWith(t, seed, nil, o)
}

// newStageWith has faults from the first request on.
func newStageWith(t *testing.T, seed uint64, faults []proxy.Fault, o world.Options) *stage {
	t.Helper()
	s := &stage{}
	o.Store, o.Own = world.MinIO, true
	o.Through = func(endpoint string) string {
		s.proxy = proxy.New(t, endpoint, seed)
		s.proxy.Add(faults...)
		return s.proxy.Endpoint
	}
	s.World = world.New(t, o)
	return s
}

// in is the stage for a subtest.
func (s *stage) in(t *testing.T) *stage { return &stage{World: s.In(t), proxy: s.proxy} }

// segments fills n segments with rows that compress about 2:1, and returns their names. Nothing archives them.
func (s *stage) segments(n int) []string {
	names := make([]string, n)
	s.Server.Exec("CREATE TABLE IF NOT EXISTS t (u uuid)")
	for i := range names {
		s.Server.Exec("INSERT INTO t SELECT gen_random_uuid() FROM generate_series(1, 8000)")
		names[i] = s.Server.SwitchWAL()
	}
	return names
}

// archiveOptions are those of a server whose segments wait in pg_wal for the test to push them.
func archiveOptions() world.Options {
	return world.Options{WALSegmentSizeMiB: 1, NoArchive: true, Conf: map[string]string{"wal_keep_size": "256MB"}}
}

// path of a segment in the server's pg_wal.
func (s *stage) path(name string) string { return filepath.Join(s.Server.Dir, "pg_wal", name) }

// folder makes a folder of the server's user.
func (s *stage) folder(t *testing.T, name string, mode os.FileMode) string {
	t.Helper()
	dir := s.NewDir(name)
	if err := os.Mkdir(dir, mode); err != nil {
		t.Fatal(err)
	}
	pg.Chown(t, dir)
	return dir
}

// push calls pgstow-wal as the server would.
func (s *stage) push(path string, env ...string) world.Result {
	return s.RunProgramWith(env, "pgstow-wal", "push", "--pgdata", s.Server.Dir, path)
}

// wantStored fails the test unless the archive has exactly the bytes of a segment, as its own reader sees them without the proxy.
func (s *stage) wantStored(t *testing.T, name string) {
	t.Helper()
	if keys := s.WALKeys(name); len(keys) != 1 {
		t.Errorf("objects of %s: %v", name, keys)
		return
	}
	dst := filepath.Join(s.folder(t, "check", 0o755), "segment")
	s.Check(s.RunWith([]string{"PGSTOW_REPO=" + s.URLBy(s.MinIO.Endpoint)}, "wal", "fetch", "--pgdata", s.Server.Dir, name, dst), 0)
	wantSame(t, dst, s.path(name))
}

func wantSame(t *testing.T, got, want string) {
	t.Helper()
	a, err := os.ReadFile(got)
	if err != nil {
		t.Error(err)
		return
	}
	b, err := os.ReadFile(want)
	if err != nil {
		t.Error(err)
		return
	}
	if !bytes.Equal(a, b) {
		t.Errorf("%s is not the same as %s", got, want)
	}
}

// wantNone fails the test if there is anything in a folder.
func wantNone(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		t.Errorf("%s was left behind", filepath.Join(dir, e.Name()))
	}
}

// wantKinds compares the requests to one key with what is allowed: "PUT 2 HEAD 1"; "" is anything.
func (s *stage) wantKinds(t *testing.T, what, word, want string) {
	t.Helper()
	requests := s.proxy.Requests(word)
	if got := proxy.Kinds(requests); want != "" && got != want {
		t.Errorf("%s: requests %q, want %q:\n%s", what, got, want, lines(requests))
	}
}

func lines(requests []proxy.Request) string {
	var b strings.Builder
	for _, r := range requests {
		fmt.Fprintln(&b, r)
	}
	return b.String()
}
