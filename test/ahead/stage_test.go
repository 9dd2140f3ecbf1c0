// Package ahead_test is about the files that are stored before PostgreSQL asks for them: with real servers, and with a spool, a store and
// processes to which everything happens that can.
package ahead_test

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pgstow/storage/object"
	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

func TestMain(m *testing.M) { os.Exit(world.Main(m)) }

const (
	patient = 2 * time.Minute
	// foreverIdle keeps a worker as long as its server.
	foreverIdle = "PGSTOW_PUSH_AHEAD_IDLE=1h"
	// briefly lets it go soon.
	briefly = "PGSTOW_PUSH_AHEAD_IDLE=300ms"
	// noArchiving is an archive_command until resume.
	noArchiving = "false"
)

// stage is a world whose server fills segments and archives none, until it is told to.
type stage struct {
	*world.World
	t     *testing.T
	files map[string][]byte // what was in pg_wal, by name
	names []string
}

func newStage(t *testing.T, o world.Options) *stage {
	t.Helper()
	if o.WALSegmentSizeMiB == 0 {
		o.WALSegmentSizeMiB = 1
	}
	o.ArchiveCommand = noArchiving
	s := &stage{World: world.New(t, o), t: t, files: map[string][]byte{}}
	s.Server.Exec("CREATE TABLE t (pad text)")
	s.Server.SwitchWAL()
	s.settle()
	return s
}

// settle takes what waits by now into account.
func (s *stage) settle() {
	s.t.Helper()
	for _, name := range s.Server.ReadyFiles() {
		if s.files[name] == nil {
			s.keep(name)
		}
	}
}

func (s *stage) keep(name string) {
	s.t.Helper()
	b, err := os.ReadFile(s.path(name))
	if err != nil {
		s.t.Fatal(err)
	}
	s.files[name] = b
	s.names = append(s.names, name)
}

func (s *stage) path(name string) string { return filepath.Join(s.Server.Dir, "pg_wal", name) }

// fill ends n segments, each with rows of its own, and remembers their bytes.
func (s *stage) fill(n int) []string {
	s.t.Helper()
	var names []string
	for range n {
		s.Server.Exec("INSERT INTO t SELECT md5(i::text || random()) FROM generate_series(1, 1000) i")
		name := s.Server.SwitchWAL()
		s.keep(name)
		names = append(names, name)
	}
	return names
}

// resume lets the server archive, or stop again.
func (s *stage) resume(command string) {
	s.t.Helper()
	s.Server.Exec("ALTER SYSTEM SET archive_command = '" + command + "'")
	s.Server.Exec("SELECT pg_reload_conf()")
	s.awaitValue("SHOW archive_command", command)
}

// awaitValue is the server's AwaitValue that does not mind who started the server.
func (s *stage) awaitValue(sql, want string) {
	s.t.Helper()
	pg.Await(s.t, sql+" = "+want, patient, func() (bool, error) {
		got, err := s.Server.TryValue("postgres", sql)
		return err == nil && got == want, nil
	})
}

func program(t *testing.T) string { return pg.Binary(t, "pgstow-wal") + " push %p" }

// awaitEmpty waits until the server has no file left to archive.
func (s *stage) awaitEmpty() {
	s.t.Helper()
	pg.Await(s.t, "an empty queue", patient, func() (bool, error) { return len(s.Server.ReadyFiles()) == 0, nil })
}

// wantAll fails the test unless each file that was ever to be archived is one object with the very bytes that were in pg_wal.
func (s *stage) wantAll() {
	s.t.Helper()
	for _, name := range s.names {
		s.want(name)
	}
}

func (s *stage) want(name string) {
	s.t.Helper()
	keys := s.WALKeys(name)
	if len(keys) != 1 {
		s.t.Errorf("%s: objects %v, want one", name, keys)
		return
	}
	o, err := object.Open(s.Read(keys[0]), nil)
	if err != nil {
		s.t.Errorf("%s: %v", name, err)
		return
	}
	plain, err := o.Plain()
	if err != nil || !bytes.Equal(plain, s.files[name]) {
		s.t.Errorf("%s: other bytes than in pg_wal (%v)", name, err)
	}
}

// wantOnePutEach fails the test unless the store was asked for nothing but to take each of these files once.
func wantOnePutEach(t *testing.T, requests []world.Request, names []string) {
	t.Helper()
	left := map[string]bool{}
	for _, name := range names {
		left[name] = true
	}
	for _, r := range requests {
		name := filepath.Base(r.Path)
		if r.Method != http.MethodPut || r.Status != http.StatusOK || !left[name] {
			t.Errorf("a request that is not the one PUT of a file that waited: %+v", r)
		}
		delete(left, name)
	}
	for name := range left {
		t.Errorf("%s was not sent", name)
	}
}

// spools are the folders of spools. There is one, unless somebody removed it.
func (s *stage) spools() []string {
	s.t.Helper()
	dirs, err := filepath.Glob(filepath.Join(s.Dir, "spool*", strings.Repeat("?", 32)))
	if err != nil {
		s.t.Fatal(err)
	}
	return dirs
}

// startWorker starts a worker by hand, as a child of the test.
func (s *stage) startWorker(env ...string) *exec.Cmd {
	s.t.Helper()
	cmd := s.Command("pgstow", "wal", "worker", "--pgdata", s.Server.Dir, s.path(s.names[0]))
	cmd.Env = append(cmd.Env, env...)
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGCONT)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

// workers are the process ids of the workers on the world's spools.
func (s *stage) workers() []int { return processes(s.t, s.Dir) }

func processes(t *testing.T, dir string) (pids []int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		line, err := os.ReadFile(filepath.Join(p, "cmdline"))
		if err != nil || !bytes.Contains(line, []byte("\x00wal\x00worker\x00")) {
			continue
		}
		cwd, err := os.Readlink(filepath.Join(p, "cwd"))
		if pid, perr := strconv.Atoi(filepath.Base(p)); err == nil && perr == nil && strings.HasPrefix(cwd, dir+"/") {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (s *stage) awaitNoWorker() {
	s.t.Helper()
	pg.Await(s.t, "the worker's end", patient, func() (bool, error) { return len(s.workers()) == 0, nil })
}

// counted is a folder with our programs in which each start of the full one for a push is counted.
type counted struct {
	log     string
	command string // archive_command
}

func (s *stage) counted() counted {
	s.t.Helper()
	dir := s.NewDir("bin")
	if err := os.Mkdir(dir, 0o755); err != nil {
		s.t.Fatal(err)
	}
	small, err := os.ReadFile(pg.Binary(s.t, "pgstow-wal"))
	if err != nil {
		s.t.Fatal(err)
	}
	c := counted{log: filepath.Join(dir, "log"), command: filepath.Join(dir, "pgstow-wal") + " push %p"}
	script := fmt.Sprintf("#!/bin/sh\necho \"$*\" >>%s\nexec %s \"$@\"\n", c.log, pg.Binary(s.t, "pgstow"))
	for name, content := range map[string]string{"pgstow-wal": string(small), "pgstow": script, "log": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			s.t.Fatal(err)
		}
	}
	pg.Chown(s.t, dir)
	return c
}

// calls are the arguments of the full program's starts.
func (c counted) calls(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile(c.log)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")[:strings.Count(string(b), "\n")]
}

// gate is a way to a MinIO server that can be shut: then PUTs of WAL arrive and are not answered.
type gate struct {
	proxy *httputil.ReverseProxy

	mu       sync.Mutex
	open     chan struct{}
	waiting  map[string]int
	arrived  map[string]int
	requests []world.Request
}

// newGated makes a stage whose programs reach the store through a gate.
func newGated(t *testing.T, o world.Options) (*stage, *gate) {
	t.Helper()
	g := &gate{open: make(chan struct{}), waiting: map[string]int{}, arrived: map[string]int{}}
	close(g.open)
	o.Store, o.Own = world.MinIO, true
	o.Through = func(endpoint string) string {
		to, err := url.Parse(endpoint)
		if err != nil {
			t.Fatal(err)
		}
		g.proxy = &httputil.ReverseProxy{
			Rewrite: func(r *httputil.ProxyRequest) {
				r.SetURL(to)
				r.Out.Host = r.In.Host
			},
			ErrorLog: log.New(io.Discard, "", 0), // clients are killed
		}
		front := httptest.NewServer(g)
		t.Cleanup(func() {
			g.Open()
			front.CloseClientConnections()
			front.Close()
		})
		return front.URL
	}
	return newStage(t, o), g
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	open := g.open
	g.mu.Unlock()
	if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/wal/") {
		name := filepath.Base(r.URL.Path)
		g.arrive(name)
		select {
		case <-open:
		case <-r.Context().Done():
		}
		g.leave(name)
	}
	seen := &recorder{ResponseWriter: w, status: http.StatusOK}
	g.proxy.ServeHTTP(seen, r)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.requests = append(g.requests, world.Request{Method: r.Method, Path: r.URL.Path, Status: seen.status})
}

type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (g *gate) arrive(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.arrived[name]++
	g.waiting[name]++
}

func (g *gate) leave(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting[name]--; g.waiting[name] == 0 {
		delete(g.waiting, name)
	}
}

// Arrived are how many PUTs of each file have come since the count began, answered or not.
func (g *gate) Arrived() map[string]int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.arrived)
}

// Shut lets no PUT of WAL through from now on.
func (g *gate) Shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = make(chan struct{})
}

// Open lets all through.
func (g *gate) Open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.open:
	default:
		close(g.open)
	}
}

// AwaitWaiting waits until PUTs of n files stand before the gate.
func (g *gate) AwaitWaiting(t *testing.T, n int) {
	t.Helper()
	pg.Await(t, fmt.Sprintf("%d files before the gate", n), patient, func() (bool, error) { return g.Waiting() >= n, nil })
}

// Waiting is how many files stand before the gate now.
func (g *gate) Waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.waiting)
}

// Requests are those that have been answered.
func (g *gate) Requests() []world.Request {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]world.Request(nil), g.requests...)
}

// Forget begins a new count.
func (g *gate) Forget() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.requests = nil
	clear(g.arrived)
}

// state is the state letter of a process, 'T' for one that stands; 0 if it is gone.
func state(pid int) byte {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	rest := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(rest) == 0 {
		return 0
	}
	return rest[0][0]
}
