package main_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pgstow/cmd/internal/hotpath"
	"pgstow/wal/spool"
)

// program is the folder with the built pgstow-wal.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "pgstow-wal-test-")
	if err == nil {
		program = dir
		build := exec.Command("go", "build", "-o", filepath.Join(dir, "pgstow-wal"), ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		var out []byte
		if out, err = build.CombinedOutput(); err != nil {
			_, _ = os.Stderr.Write(out)
		}
	}
	code := 1
	if err == nil {
		code = m.Run()
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

const segment = "000000010000000000000042"

type world struct {
	t       *testing.T
	bin     string // folder of the programs
	data    string // data directory
	spool   string // root of spools
	environ []string
}

// newWorld makes a data directory with one segment, and a pgstow that tells how it was called and exits with 77.
func newWorld(t *testing.T, withFull bool) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{t: t, bin: filepath.Join(dir, "bin"), data: filepath.Join(dir, "data"), spool: filepath.Join(dir, "spool")}
	for _, d := range []string{w.bin, w.data + "/global", w.data + "/pg_wal"} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(filepath.Join(program, "pgstow-wal"))
	if err != nil {
		t.Fatal(err)
	}
	w.write(w.bin+"/pgstow-wal", string(b))
	if withFull {
		w.write(w.bin+"/pgstow", "#!/bin/sh\necho \"full: $*\"\nexit 77\n")
	}
	w.write(w.data+"/global/pg_control", "12345678 and more")
	w.write(w.data+"/pg_wal/"+segment, "wal")
	w.environ = []string{"PGSTOW_SPOOL=" + w.spool, "PATH=/nowhere", "HOME=" + dir}
	return w
}

func (w *world) write(path, text string) {
	w.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		w.t.Fatal(err)
	}
}

// run calls pgstow-wal as PostgreSQL does.
func (w *world) run(args ...string) (code int, output string) {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), w.bin+"/pgstow-wal", args...)
	cmd.Dir, cmd.Env = w.data, w.environ
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

// open creates the spool of a call as the full program would.
func (w *world) open(command string, args ...string) *spool.Spool {
	w.t.Helper()
	w.t.Chdir(w.data)
	call, err := hotpath.Parse(command, args)
	if err != nil {
		w.t.Fatal(err)
	}
	place, err := call.Spool("development", w.environ)
	if err != nil {
		w.t.Fatal(err)
	}
	s, err := spool.Create(place.Name, place.Roots...)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) mark(s *spool.Spool) {
	w.t.Helper()
	id, err := spool.Stat(w.data + "/pg_wal/" + segment)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := s.MarkStored(segment, id); err != nil {
		w.t.Fatal(err)
	}
}

func TestPush(t *testing.T) {
	w := newWorld(t, true)
	full := func(what string, args ...string) {
		t.Helper()
		code, out := w.run(append([]string{"push"}, args...)...)
		if want := "full: wal " + strings.Join(append([]string{"push"}, args...), " ") + "\n"; code != 77 || out != want {
			t.Errorf("%s: code %d, output %q, want the full program: %q", what, code, out, want)
		}
	}
	full("without a spool", "--repo", "x", "pg_wal/"+segment)
	full("with a flag that nobody knows", "--frobnicate", "pg_wal/"+segment)
	full("without a file")

	args := []string{"--repo", "x", "pg_wal/" + segment}
	s := w.open("push", args...)
	full("with an empty spool", args...)
	w.mark(s)
	if code, out := w.run(append([]string{"push"}, args...)...); code != 0 || out != "" {
		t.Errorf("a stored file: code %d, output %q", code, out)
	}
	if code, out := w.run("push", "--repo=x", w.data+"/pg_wal/"+segment); code != 0 || out != "" {
		t.Errorf("the same by an absolute path: code %d, output %q", code, out)
	}
	full("with another repository", "--repo", "y", "pg_wal/"+segment)
	w.write(w.data+"/pg_wal/"+segment, "wal") // the same bytes, but written again
	full("of a file that changed", args...)
	w.mark(s)
	if err := os.RemoveAll(s.Dir()); err != nil {
		t.Fatal(err)
	}
	full("after the spool was removed", args...)
}

func TestFetch(t *testing.T) {
	w := newWorld(t, true)
	args := []string{"fetch", segment, "pg_wal/RECOVERYXLOG"}
	full := func(what string, args ...string) {
		t.Helper()
		code, out := w.run(args...)
		if want := "full: wal " + strings.Join(args, " ") + "\n"; code != 77 || out != want {
			t.Errorf("%s: code %d, output %q, want the full program: %q", what, code, out, want)
		}
		if _, err := os.Lstat(w.data + "/pg_wal/RECOVERYXLOG"); !os.IsNotExist(err) {
			t.Errorf("%s: the destination was touched", what)
		}
	}
	full("without a spool", args...)
	s := w.open("fetch", args[1:]...)
	if err := s.AddReady(segment, []byte("fetched ahead")); err != nil {
		t.Fatal(err)
	}
	w.write(w.data+"/postmaster.pid", "4711\n"+w.data+"\n1700000000\n5432\n")
	full("in another run of the server", args...)
	if err := os.Remove(w.data + "/postmaster.pid"); err != nil {
		t.Fatal(err)
	}
	// A whole segment is the same whatever timeline recovery heads for.
	if code, out := w.run("fetch", "--timeline=1", "--incomplete", segment, "pg_wal/RECOVERYXLOG"); code != 0 || out != "" {
		t.Fatalf("code %d, output %q", code, out)
	}
	if b, err := os.ReadFile(w.data + "/pg_wal/RECOVERYXLOG"); err != nil || string(b) != "fetched ahead" {
		t.Fatalf("got %q, %v", b, err)
	}
	if err := os.Remove(w.data + "/pg_wal/RECOVERYXLOG"); err != nil {
		t.Fatal(err)
	}
	full("the second time", args...)
	if err := s.AddReady(segment, []byte("fetched ahead")); err != nil {
		t.Fatal(err)
	}
	w.write(s.Dir()+"/ready/"+segment, "fetched zeros")
	full("of a file with other bytes", args...)
}

func TestWithoutTheFullProgram(t *testing.T) {
	w := newWorld(t, false)
	for _, c := range []struct {
		args []string
		want int
	}{
		{[]string{"push", "pg_wal/" + segment}, 1},
		{[]string{"push"}, 1},
		{[]string{"fetch", segment, "pg_wal/RECOVERYXLOG"}, 126},
		{[]string{"fetch"}, 126},
		{[]string{"fetch", "--help"}, 126},
		{[]string{"fecth", segment, "pg_wal/RECOVERYXLOG"}, 126},
		{nil, 126},
	} {
		code, out := w.run(c.args...)
		if code != c.want || !strings.HasPrefix(out, "pgstow-wal: ") {
			t.Errorf("%q: code %d, output %q; want %d", c.args, code, out, c.want)
		}
	}
}

// TestFetchWaitsForThePrefetcher: a file on its way into the spool is waited for, and one that does not come is the full program's.
func TestFetchWaitsForThePrefetcher(t *testing.T) {
	w := newWorld(t, true)
	args := []string{"fetch", segment, "pg_wal/RECOVERYXLOG"}
	s := w.open("fetch", args[1:]...)
	for _, comes := range []bool{true, false} {
		claim, ok := s.Claim("fetch", segment)
		if !ok {
			t.Fatal("no claim")
		}
		done := make(chan error)
		go func() {
			defer claim.Release()
			if !comes {
				done <- nil
				return
			}
			done <- s.AddReady(segment, []byte("on its way"))
		}()
		code, out := 0, ""
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			code, out = w.run(args...)
		}()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		<-ended
		if want := map[bool]int{true: 0, false: 77}[comes]; code != want {
			t.Errorf("comes: %v: code %d, output %q", comes, code, out)
		}
	}
}
