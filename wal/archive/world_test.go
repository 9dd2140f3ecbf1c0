package archive_test

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/fault"
	"pgstow/storage/file"
	"pgstow/storage/object"
	"pgstow/wal"
	"pgstow/wal/archive"
	"pgstow/wal/pgcontrol"
	"pgstow/wal/spool"
)

// The fixtures of PostgreSQL 15 in ../testdata; segments have 1 MiB. Their names follow from what the servers did that made them.
var (
	plainSegment    = named("plain", 0)
	switchedSegment = named("switched", 0)
	firstSegment    = named("huge", 0) // three that one record goes through
	secondSegment   = named("huge", 1)
	thirdSegment    = named("huge", 2)
	cutSegment      = named("cut", 0) // of a standby with archive_mode=always: ends at the fork
	forkSegment     = named("fork", 2)
	partialFile     = named("partial", 0)
	historyFile     = named("fork", 0)
	backupFile      = named("backup", 0)

	folders = map[string]string{
		plainSegment: "plain", switchedSegment: "switched", firstSegment: "huge", secondSegment: "huge", thirdSegment: "huge",
		forkSegment: "fork", partialFile: "partial", historyFile: "fork", backupFile: "backup",
	}
)

// named is the name of the nth WAL file of a role: histories first.
func named(role string, n int) string {
	paths, err := filepath.Glob(filepath.Join("..", "testdata", "15", role, "0000000*"))
	if err != nil || n >= len(paths) {
		panic("no fixtures of role " + role)
	}
	names := make([]string, len(paths))
	for i, p := range paths {
		names[i] = strings.TrimSuffix(filepath.Base(p), ".gz")
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	return names[n]
}

// control is the control file of the server of that major, whose system id is that of the segments; the control files beside the
// parser may be of another one.
func control(t testing.TB, major string) []byte {
	t.Helper()
	b := fixtureOf(t, "..", "pgcontrol", "testdata", major, "control", "pg_control")
	paths, err := filepath.Glob(filepath.Join("..", "testdata", major, "plain", "*.gz"))
	must(t, err)
	seg := fixtureOf(t, major, "plain", strings.TrimSuffix(filepath.Base(paths[0]), ".gz"))
	copy(b[:8], seg[24:32]) // xlp_sysid of the long page header
	end := 288
	if major == "18" {
		end = 292
	}
	binary.LittleEndian.PutUint32(b[end:], crc32.Checksum(b[:end], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// parsed parses a name.
func parsed(t testing.TB, s string) wal.FileName {
	t.Helper()
	f, err := wal.ParseFileName(s)
	must(t, err)
	return f
}

// behind is the name of the segment n after the one of this name.
func behind(t testing.TB, s string, n int) string {
	t.Helper()
	f := parsed(t, s)
	return wal.SegmentName(f.Timeline, wal.SegmentNumber(int64(f.Number(1<<20))+int64(n)), 1<<20).String()
}

// fixture reads one file that a server of PostgreSQL 15 left in its pg_wal.
func fixture(t testing.TB, name string) []byte {
	t.Helper()
	if name == "cut" { // it has the name of another one
		return fixtureOf(t, "15", "cut", cutSegment)
	}
	return fixtureOf(t, "15", folders[name], name)
}

func fixtureOf(t testing.TB, parts ...string) []byte {
	t.Helper()
	path := filepath.Join(append([]string{"..", "testdata"}, parts...)...)
	b, err := os.ReadFile(path)
	if err == nil {
		return b
	}
	b, err = os.ReadFile(path + ".gz")
	must(t, err)
	z, err := gzip.NewReader(bytes.NewReader(b))
	must(t, err)
	b, err = io.ReadAll(z)
	must(t, err)
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is a server of PostgreSQL 15 and a repository.
type world struct {
	t     *testing.T
	root  string
	below storage.Store // what the faults are put on
	store *fault.Store
	repo  *catalog.Repository
	pins  catalog.Pins
	data  string
	ref   catalog.ClusterRef
	spool *spool.Spool
	warns []string
	shift time.Duration // of the host's clock
}

func newWorld(t *testing.T) *world {
	t.Helper()
	root := t.TempDir()
	s, err := file.Open(file.Options{Root: root})
	must(t, err)
	w := newWorldOn(t, s, catalog.InitOptions{EncryptionNone: true}, catalog.Pins{EncryptionNone: true})
	w.root = root
	return w
}

func newWorldOn(t *testing.T, s storage.Store, init catalog.InitOptions, pins catalog.Pins) *world {
	t.Helper()
	repo, err := catalog.Init(t.Context(), s, init)
	must(t, err)
	w := &world{t: t, below: s, store: fault.New(s), repo: repo, pins: pins}
	w.data = w.server("15")
	c, err := pgcontrol.Parse(control(t, "15"))
	must(t, err)
	w.ref = catalog.ClusterRef{Name: "main", SystemID: c.SystemID}
	w.spool, err = spool.Create("0123456789abcdef0123456789abcdef", filepath.Join(t.TempDir(), "spool"))
	must(t, err)
	return w
}

// server makes a data directory.
func (w *world) server(major string) string {
	w.t.Helper()
	dir := w.t.TempDir()
	for _, d := range []string{"global", "pg_wal"} {
		must(w.t, os.Mkdir(filepath.Join(dir, d), 0o700))
	}
	write(w.t, filepath.Join(dir, "global", "pg_control"), control(w.t, major))
	return dir
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	must(t, os.WriteFile(path, b, 0o600))
}

func (w *world) options() archive.Options {
	return archive.Options{
		Store: w.store, Pins: w.pins, Cluster: "main", PGData: w.data, Spool: w.spool,
		Now:  func() time.Time { return time.Now().Add(w.shift) },
		Warn: func(text string) { w.warns = append(w.warns, text) },
	}
}

func (w *world) pushOptions() archive.PushOptions {
	return archive.PushOptions{Options: w.options(), Host: "db1", Program: "test"}
}

// place writes a file into pg_wal, and returns its path.
func (w *world) place(name string, content []byte) string {
	w.t.Helper()
	path := filepath.Join(w.data, "pg_wal", name)
	write(w.t, path, content)
	return path
}

// push pushes fixtures, which must succeed.
func (w *world) push(names ...string) {
	w.t.Helper()
	for _, name := range names {
		if _, err := archive.Push(w.t.Context(), w.pushOptions(), w.place(name, fixture(w.t, name))); err != nil {
			w.t.Fatal(err)
		}
	}
}

// ensure makes the cluster known without storing any WAL.
func (w *world) ensure() {
	w.t.Helper()
	_, err := w.repo.EnsureCluster(w.t.Context(), catalog.ClusterInfo{Name: w.ref.Name, SystemID: w.ref.SystemID, SegmentSize: 1 << 20, Created: time.Now()})
	must(w.t, err)
}

func (w *world) key(name string) string {
	w.t.Helper()
	return w.ref.WALKey(parsed(w.t, name), "")
}

// stored returns an object's bytes.
func (w *world) stored(key string) []byte {
	w.t.Helper()
	b, _, err := storage.ReadAll(w.t.Context(), w.below, key, 1<<30)
	must(w.t, err)
	return b
}

// overwrite replaces an object behind pgstow's back.
func (w *world) overwrite(key string, b []byte) {
	w.t.Helper()
	_, err := w.below.Put(w.t.Context(), key, b, storage.Any)
	must(w.t, err)
}

func (w *world) keys() []string {
	w.t.Helper()
	var keys []string
	for info, err := range w.below.List(w.t.Context(), w.ref.WALPrefix(), "") {
		must(w.t, err)
		keys = append(keys, strings.TrimPrefix(info.Key, w.ref.WALPrefix()))
	}
	return keys
}

func (w *world) fetchOptions() archive.FetchOptions {
	return archive.FetchOptions{
		Options: w.options(), Deadline: 300 * time.Millisecond, StandbyDeadline: 200 * time.Millisecond, Stall: 150 * time.Millisecond,
	}
}

// mode says what the server is doing.
func (w *world) mode(signals ...string) {
	w.t.Helper()
	for _, s := range []string{"recovery.signal", "standby.signal"} {
		_ = os.Remove(filepath.Join(w.data, s))
	}
	for _, s := range signals {
		write(w.t, filepath.Join(w.data, s), nil)
	}
}

func (w *world) destination() string { return filepath.Join(w.data, "pg_wal", "RECOVERYXLOG") }

// fetch fetches to where recovery wants it, and returns what is there.
func (w *world) fetch(name string, change ...func(*archive.FetchOptions)) ([]byte, error) {
	w.t.Helper()
	o := w.fetchOptions()
	for _, c := range change {
		c(&o)
	}
	dst := w.destination()
	must(w.t, os.RemoveAll(dst))
	err := archive.Fetch(w.t.Context(), o, name, dst)
	b, rerr := os.ReadFile(dst)
	if (err == nil) != (rerr == nil) {
		w.t.Fatalf("fetch %s: %v, but reading the destination: %v", name, err, rerr)
	}
	return b, err
}

// wantFetched fetches and compares.
func (w *world) wantFetched(name string, want []byte, change ...func(*archive.FetchOptions)) {
	w.t.Helper()
	got, err := w.fetch(name, change...)
	if err != nil {
		w.t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		w.t.Fatalf("fetch %s: other bytes: %d, want %d", name, len(got), len(want))
	}
	w.wantClean()
}

// wantClean checks that no temporary file is left.
func (w *world) wantClean() {
	w.t.Helper()
	left, err := filepath.Glob(filepath.Join(w.data, "pg_wal", "*.pgstow*"))
	if err != nil || len(left) > 0 {
		w.t.Fatalf("left behind: %v, %v", left, err)
	}
}

// wantFetchError fetches, and wants the error and PostgreSQL's exit code for it.
func (w *world) wantFetchError(name string, want error, code int, change ...func(*archive.FetchOptions)) {
	w.t.Helper()
	_ = w.fetchError(name, want, code, change...)
}

// fetchError is wantFetchError for those who look at the error.
func (w *world) fetchError(name string, want error, code int, change ...func(*archive.FetchOptions)) error {
	w.t.Helper()
	_, err := w.fetch(name, change...)
	if !errors.Is(err, want) {
		w.t.Fatalf("fetch %s: %v, want %v", name, err, want)
	}
	if got := archive.FetchExit(err); got != code {
		w.t.Fatalf("fetch %s: %v: exit code %d, want %d", name, err, got, code)
	}
	w.wantClean()
	return err
}

// wantHole wants a *HoleError and exit code 126.
func (w *world) wantHole(name, next string, change ...func(*archive.FetchOptions)) {
	w.t.Helper()
	_, err := w.fetch(name, change...)
	var hole *archive.HoleError
	if !errors.As(err, &hole) || hole.Name != name || hole.Next != next || archive.FetchExit(err) != 126 {
		w.t.Fatalf("fetch %s: %v, want a hole up to %s", name, err, next)
	}
	w.wantClean()
}

func refusedBy(err error) *archive.RefusedError {
	var refused *archive.RefusedError
	if errors.As(err, &refused) {
		return refused
	}
	return nil
}

type keyPair struct {
	recipient string
	ids       []object.Identity
}

func newKey(t testing.TB) keyPair {
	t.Helper()
	secret, public, err := object.GenerateIdentity()
	must(t, err)
	ids, err := object.ParseIdentities(strings.NewReader(secret))
	must(t, err)
	return keyPair{public, ids}
}

// wantFetchErrorCode fetches, and wants an error with PostgreSQL's exit code.
func (w *world) wantFetchErrorCode(name string, code int, change ...func(*archive.FetchOptions)) {
	w.t.Helper()
	_ = w.fetchErrorCode(name, code, change...)
}

// fetchErrorCode is wantFetchErrorCode for those who look at the error.
func (w *world) fetchErrorCode(name string, code int, change ...func(*archive.FetchOptions)) error {
	w.t.Helper()
	_, err := w.fetch(name, change...)
	if err == nil || archive.FetchExit(err) != code {
		w.t.Fatalf("fetch %s: %v: exit code %d, want %d", name, err, archive.FetchExit(err), code)
	}
	w.wantClean()
	return err
}

// newWorldSpool gives a world an empty spool.
func newWorldSpool(t *testing.T, w *world) *world {
	t.Helper()
	var err error
	w.spool, err = spool.Create("fedcba9876543210fedcba9876543210", filepath.Join(t.TempDir(), "spool"))
	must(t, err)
	return w
}

func contextWithTimeout(t *testing.T, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d)
}
