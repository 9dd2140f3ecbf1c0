// Package receive_test runs the streaming archiver against real servers and stores: what it has stored must bring back every commit up to
// there, whatever dies.
package receive_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
	"pgstow/wal"
)

func TestMain(m *testing.M) { os.Exit(world.Main(m)) }

const patience = 2 * time.Minute

// receiver is a `pgstow wal receive` at work.
type receiver struct {
	t   *testing.T
	cmd *exec.Cmd
	out *output

	ended chan struct{}
	err   error
}

// output is what a process has written so far.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// receive starts a receiver from the world's server.
func receive(t *testing.T, w *world.World, args ...string) *receiver {
	t.Helper()
	return receiveWith(t, w, nil, args...)
}

// receiveWith has more in its environment.
func receiveWith(t *testing.T, w *world.World, env []string, args ...string) *receiver {
	t.Helper()
	r := &receiver{t: t, out: &output{}, ended: make(chan struct{})}
	r.cmd = w.Command("pgstow", append([]string{"wal", "receive", "--verbose"}, args...)...)
	r.cmd.Env = append(r.cmd.Env, env...)
	r.cmd.Stdout, r.cmd.Stderr = r.out, r.out
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		r.err = r.cmd.Wait()
		close(r.ended)
	}()
	t.Cleanup(func() {
		_ = r.cmd.Process.Kill()
		<-r.ended
		if t.Failed() {
			t.Logf("%s:\n%s", strings.Join(r.cmd.Args[1:], " "), r.out)
		}
	})
	return r
}

// awaitText waits until the receiver has said something.
func (r *receiver) awaitText(text string) {
	r.t.Helper()
	pg.Await(r.t, "the receiver to say "+text, patience, func() (bool, error) {
		if strings.Contains(r.out.String(), text) {
			return true, nil
		}
		select {
		case <-r.ended:
			return false, fmt.Errorf("it has ended: %w\n%s", r.err, r.out)
		default:
			return false, nil
		}
	})
}

// kill ends it by SIGKILL.
func (r *receiver) kill() {
	r.t.Helper()
	if err := r.cmd.Process.Kill(); err != nil {
		r.t.Fatal(err)
	}
	<-r.ended
}

// stop ends it by SIGTERM and wants exit status 0.
func (r *receiver) stop() {
	r.t.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		r.t.Fatal(err)
	}
	r.wantExit(0)
}

// wantExit waits for its end.
func (r *receiver) wantExit(code int) {
	r.t.Helper()
	select {
	case <-r.ended:
	case <-time.After(patience):
		r.t.Fatalf("the receiver does not end:\n%s", r.out)
	}
	if got := r.cmd.ProcessState.ExitCode(); got != code {
		r.t.Fatalf("exit status %d, want %d\n%s", got, code, r.out)
	}
}

// flushed is how far a server knows its WAL to be stored by a receiver; 0 without one.
func flushed(s *pg.Server, name string) (wal.LSN, error) {
	text, err := s.TryValue("postgres", "SELECT coalesce(max(flush_lsn)::text, '0/0') FROM pg_stat_replication WHERE application_name = $1", name)
	if err != nil {
		return 0, err
	}
	return wal.ParseLSN(text)
}

// awaitStored waits until all that a server has written by now is stored.
func awaitStored(t *testing.T, s *pg.Server) {
	t.Helper()
	awaitStoredBy(t, s, "pgstow")
}

func awaitStoredBy(t *testing.T, s *pg.Server, name string) {
	t.Helper()
	want, err := wal.ParseLSN(s.Value("SELECT pg_current_wal_lsn()::text"))
	if err != nil {
		t.Fatal(err)
	}
	s.Await("WAL to be stored up to "+want.String(), patience, func() (bool, error) {
		got, err := flushed(s, name)
		return got >= want, err
	})
}

// rows are the numbers in table t of a database, in order.
func rows(s *pg.Server, database string) string {
	return s.ValueIn(database, "SELECT coalesce(string_agg(i::text, ' ' ORDER BY i), '') FROM t")
}

// equal compares two values.
func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// pieces are the keys of pieces in the archive.
func pieces(w *world.World) (keys []string) {
	for _, key := range w.Keys(w.Prefix() + "wal/") {
		if strings.Count(key, ".") == 1 && strings.Contains(key, "-") {
			keys = append(keys, key)
		}
	}
	return keys
}

// segments are the names of the full segments in the archive.
func segments(w *world.World) (names []string) {
	for _, key := range w.Keys(w.Prefix() + "wal/") {
		if base := key[strings.LastIndexByte(key, '/')+1:]; len(base) == 24 {
			names = append(names, base)
		}
	}
	return names
}

// majors are the versions of the matrix: all, but for those that PGSTOW_TEST_MAJORS or -short leave out.
func majors(t *testing.T) []int {
	if os.Getenv("PGSTOW_TEST_MAJORS") != "" || testing.Short() {
		return pg.Majors(t)
	}
	return []int{13, 14, 15, 16, 17, 18}
}

// eachMajor runs a test on each version.
func eachMajor(t *testing.T, f func(t *testing.T, major int)) {
	t.Helper()
	t.Parallel()
	for _, major := range majors(t) {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			pg.Need(t, major)
			f(t, major)
		})
	}
}
