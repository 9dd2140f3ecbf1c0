// Package crash_test kills our programs at random moments, fills their disks, and fails their calls to the store one by one. Afterwards there is
// nothing half done that shows, and the same call again succeeds.
package crash_test

import (
	"bytes"
	"errors"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

func TestMain(m *testing.M) { os.Exit(world.Main(m)) }

// kills is how often each of four commands is killed on each of two stores: together a little over the number of rounds, 100 of them by default.
func kills(t *testing.T) int {
	t.Helper()
	if testing.Short() {
		return pg.Rounds(t, 2)
	}
	const commands, stores = 4, 2
	return (pg.Rounds(t, 100) + commands*stores - 1) / (commands * stores)
}

// killer kills commands after random times within the one that they usually take. Its numbers come from the test's name: they are the same in each
// run, though the moments that they hit are not.
type killer struct {
	t      *testing.T
	random *rand.Rand
	usual  time.Duration
	wanted int
	killed int
	missed int // had ended before
}

func newKiller(t *testing.T, usual time.Duration) *killer {
	t.Helper()
	h := fnv.New64a()
	_, _ = h.Write([]byte(t.Name()))
	return &killer{t: t, random: rand.New(rand.NewPCG(h.Sum64(), 1)), usual: usual, wanted: kills(t)}
}

// More tells whether another kill is wanted. A command that is always faster than its usual time fails the test.
func (k *killer) More() bool {
	k.t.Helper()
	if k.missed > 4*k.wanted+20 {
		k.t.Fatalf("only %d of %d commands could be killed: %d had ended before", k.killed, k.wanted, k.missed)
	}
	if k.killed == k.wanted {
		k.t.Logf("killed %d times within %s; %d had ended before", k.killed, k.usual.Round(time.Millisecond), k.missed)
	}
	return k.killed < k.wanted
}

// Kill starts a command and kills it. It tells whether that hit it alive; one that ended before must have succeeded.
func (k *killer) Kill(cmd *exec.Cmd) bool {
	k.t.Helper()
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	after := time.Duration(k.random.Int64N(int64(k.usual)))
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() }) // it may have ended
	err := cmd.Wait()
	timer.Stop()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == syscall.SIGKILL {
			k.killed++
			return true
		}
	}
	if err != nil {
		k.t.Fatalf("%v: %v\n%s", cmd.Args, err, &output)
	}
	k.missed++
	return false
}

// usual is the median of how long three calls take.
func usual(t *testing.T, call func()) time.Duration {
	t.Helper()
	var took []time.Duration
	for range 3 {
		begin := time.Now()
		call()
		took = append(took, time.Since(begin))
	}
	sort.Slice(took, func(i, j int) bool { return took[i] < took[j] })
	return took[1]
}

// segments are the paths of the full segments in the server's pg_wal, which the caller has stopped from changing.
func segments(t *testing.T, s *pg.Server, current string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(s.Dir, "pg_wal", "0000000100000000????????"))
	if err != nil {
		t.Fatal(err)
	}
	var full []string
	for _, path := range all {
		if filepath.Base(path) < current { // those behind it are old files that wait to be used again
			full = append(full, path)
		}
	}
	if len(full) < 3 {
		t.Fatalf("only %d full segments in %v", len(full), all)
	}
	return full
}

// withSegments makes a stopped server with full segments in its pg_wal, none of which is archived.
func withSegments(t *testing.T, o world.Options) (*world.World, []string) {
	t.Helper()
	o.NoArchive, o.WALSegmentSizeMiB = true, 0
	o.Conf = map[string]string{"wal_keep_size": "1GB"}
	w := world.New(t, o)
	s := w.Server
	s.PgbenchInit(1)
	s.Exec("CREATE TABLE noise AS SELECT sha512(random()::text::bytea) FROM generate_series(1, 200000)") // does not compress
	s.SwitchWAL()
	s.Exec("SELECT pg_create_restore_point('tail')")
	current := s.Value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
	s.Stop(pg.Fast)
	return w, segments(t, s, current)
}

// wantFile fails the test unless both files have the same content.
func wantFile(t *testing.T, got, want string) {
	t.Helper()
	a, err1 := os.ReadFile(got)
	b, err2 := os.ReadFile(want)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Fatalf("%s is not %s: %d bytes, want %d", got, want, len(a), len(b))
	}
}

// remove removes files and folders with all that is in them.
func remove(t *testing.T, paths ...string) {
	t.Helper()
	for _, p := range paths {
		if err := os.RemoveAll(p); err != nil {
			t.Fatal(err)
		}
	}
}

func there(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return err == nil
}

// backups are the ids of all backups that are listed.
func backups(t *testing.T, w *world.World) []string {
	t.Helper()
	var list []world.Backup
	world.Decode(t, w.Must("backup", "list", "--json"), &list)
	var ids []string
	for _, b := range list {
		ids = append(ids, b.ID)
	}
	return ids
}

// wantServer starts a server on a restored directory, and fails the test unless it holds these tables.
func wantServer(t *testing.T, w *world.World, dir string, want pg.Sums) {
	t.Helper()
	s := w.StartRestored(dir)
	s.WaitPrimary()
	if d := want.Diff(s.Sums()); d != "" {
		t.Errorf("restored in %s:\n%s", dir, d)
	}
	s.Kill() // nobody needs it any more
}

// wantNoStart fails the test if a server starts in a directory.
func wantNoStart(t *testing.T, w *world.World, dir string) {
	t.Helper()
	s := w.Attach(dir)
	if err := s.TryStart(); err == nil {
		s.Kill()
		t.Fatalf("a server starts in the half-restored %s", dir)
	}
	if log := s.Log(); !strings.Contains(log, "could not open file") && !strings.Contains(log, "could not find the database system") &&
		!strings.Contains(log, "is not a valid data directory") && !strings.Contains(log, "does not exist") && !strings.Contains(log, "could not access") {
		t.Errorf("it does not start for another reason than a missing file:\n%s", log)
	}
}
