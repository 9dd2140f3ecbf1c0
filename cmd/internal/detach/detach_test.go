package detach_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"pgstow/cmd/internal/detach"
)

const (
	modeVariable   = "DETACH_TEST_MODE"
	reportVariable = "DETACH_TEST_REPORT"
)

// TestMain makes the test binary the child, and the parent that ends at once, when a test starts it again.
func TestMain(m *testing.M) {
	switch os.Getenv(modeVariable) {
	case "":
		os.Exit(m.Run())
	case "parent":
		err := detach.Start(detach.Options{
			Program: os.Args[0], Args: []string{"one two", "three"},
			Env: []string{modeVariable + "=child", reportVariable + "=" + os.Getenv(reportVariable)},
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case "child":
		os.Exit(child())
	}
}

// child says what it is, in a file that appears at once.
func child() int {
	dir, err := os.Getwd()
	if err != nil {
		return 1
	}
	before := descriptors()
	if err := detach.Enter(dir); err != nil {
		return 1
	}
	session, _, _ := syscall.Syscall(syscall.SYS_GETSID, 0, 0, 0)
	text := fmt.Sprintf("args %q\ndir %s\nleads %v\ndescriptors %d %d\numask %#o\n",
		os.Args[1:], dir, int(session) == os.Getpid(), before, descriptors(), syscall.Umask(0o077))
	report := os.Getenv(reportVariable)
	if os.WriteFile(report+".new", []byte(text), 0o600) != nil || os.Rename(report+".new", report) != nil {
		return 1
	}
	return 0
}

// descriptors counts those beyond the standard ones that another program would inherit.
func descriptors() (n int) {
	for fd := 3; fd < 256; fd++ {
		flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_GETFD, 0)
		if errno == 0 && flags&syscall.FD_CLOEXEC == 0 {
			n++
		}
	}
	return n
}

func awaitFile(t *testing.T, path string) string {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); <-time.After(5 * time.Millisecond) {
		if b, err := os.ReadFile(path); err == nil {
			return string(b)
		}
	}
	t.Fatalf("%s did not come", path)
	return ""
}

func TestStart(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	report := filepath.Join(t.TempDir(), "report")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	inherited, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = inherited.Close() }()
	parent, err := os.StartProcess(os.Args[0], []string{os.Args[0]}, &os.ProcAttr{
		Dir:   dir,
		Env:   []string{modeVariable + "=parent", reportVariable + "=" + report},
		Files: []*os.File{w, w, w, inherited, w},
	})
	if err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	if state, err := parent.Wait(); err != nil || !state.Success() {
		t.Fatalf("%v, %v", state, err)
	}
	got := awaitFile(t, report)
	want := fmt.Sprintf("args %q\ndir %s\nleads true\ndescriptors 0 0\numask 077\n", []string{"one two", "three"}, dir)
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("the pipe gave %d bytes, %v: want its end", n, err)
	}
}

// TestEnterClosesWhatWasInherited starts the child without Start, as a shell would.
func TestEnterClosesWhatWasInherited(t *testing.T) {
	dir := t.TempDir()
	report := filepath.Join(t.TempDir(), "report")
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	process, err := os.StartProcess(os.Args[0], []string{os.Args[0]}, &os.ProcAttr{
		Dir: dir, Env: []string{modeVariable + "=child", reportVariable + "=" + report}, Files: []*os.File{null, null, null, null, null},
	})
	if err != nil {
		t.Fatal(err)
	}
	if state, err := process.Wait(); err != nil || !state.Success() {
		t.Fatalf("%v, %v", state, err)
	}
	// The test itself may have inherited more.
	if got := awaitFile(t, report); !regexp.MustCompile(`leads true\ndescriptors [1-9]\d* 0\n`).MatchString(got) {
		t.Errorf("got %q", got)
	}
}

func TestServer(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "postmaster.pid")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := detach.Running(dir); ok {
		t.Fatal("a server without postmaster.pid")
	}
	const lines = "1234\n/data\n1700000000\n5432\n/tmp\n\n"
	write(lines + "  5432001    65536\nstarting\n")
	s, ok := detach.Running(dir)
	if !ok || !s.Alive() || s.MayAdopt() {
		t.Fatalf("%+v, %v", s, ok)
	}
	write(lines + "  5432001    65536\nready   \n")
	if !s.Alive() {
		t.Error("gone because its state changed")
	}
	write("1234\n/data\n1700000001\n5432\n/tmp\n\n")
	if s.Alive() {
		t.Error("alive after another start")
	}
	write("1\n/data\n1700000001\n5432\n/tmp\n\n")
	if s, ok := detach.Running(dir); !ok || !s.MayAdopt() {
		t.Error("allowed where the server is process 1")
	}
	write("12")
	if _, ok := detach.Running(dir); ok || s.Alive() {
		t.Error("half a file is a server")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if s.Alive() {
		t.Error("alive without postmaster.pid")
	}
}
