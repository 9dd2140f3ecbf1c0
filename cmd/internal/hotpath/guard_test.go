package hotpath_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgstow/cmd/internal/hotpath"
)

const modeVariable = "HOTPATH_TEST_MODE"

// TestMain makes the test binary a program of its own when a test starts it again.
func TestMain(m *testing.M) {
	mode := os.Getenv(modeVariable)
	if mode == "" {
		os.Exit(m.Run())
	}
	hotpath.Guard()
	os.Exit(child(mode))
}

func child(mode string) int {
	switch mode {
	case "panic in main":
		panic("on purpose")
	case "panic in a goroutine":
		go func() { panic("on purpose") }()
		select {}
	case "nil pointer":
		var p *int
		if len(os.Args) > 100 {
			p = new(int)
		}
		*p = 1
	case "fatal error":
		m := map[int]int{}
		for range 8 {
			go func() {
				for {
					m[1]++
				}
			}()
		}
		select {}
	case "wait":
		_, _ = os.Stdout.WriteString("ready\n")
		_, _ = io.ReadAll(os.Stdin)
		return 42
	case "exec":
		if err := hotpath.Exec([]string{"fetch", "a b", "c"}, os.Environ()); err != nil {
			_, _ = os.Stdout.WriteString(err.Error())
		}
		return hotpath.FetchFailed
	}
	return 3
}

func start(t *testing.T, mode string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), modeVariable+"="+mode)
	return cmd
}

// status returns how the shell, and so PostgreSQL, would see the end: 128 + signal, or the code.
func status(t *testing.T, err error) (code int, sig syscall.Signal) {
	t.Helper()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("ended with %v", err)
	}
	ws, ok := exit.Sys().(syscall.WaitStatus)
	if !ok {
		t.Fatal("no wait status")
	}
	if ws.CoreDump() {
		t.Error("a core was dumped")
	}
	if ws.Signaled() {
		return 0, ws.Signal()
	}
	return ws.ExitStatus(), 0
}

func TestCrashesDieByAbort(t *testing.T) {
	for _, mode := range []string{"panic in main", "panic in a goroutine", "nil pointer", "fatal error"} {
		t.Run(mode, func(t *testing.T) {
			code, sig := status(t, start(t, mode).Run())
			if sig != syscall.SIGABRT {
				t.Fatalf("exit code %d, signal %v; want SIGABRT", code, sig)
			}
		})
	}
}

func TestSignalsNeverLookLikeTheEndOfTheArchive(t *testing.T) {
	// Under nohup, or in the background of a script, the test itself was told to ignore some of these, and would hand that down. A signal that
	// is caught here is at its default in the programs that are started.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM)
	t.Cleanup(func() { signal.Stop(caught) })
	for sig, want := range map[syscall.Signal]syscall.Signal{
		syscall.SIGTERM: syscall.SIGTERM, syscall.SIGINT: syscall.SIGINT, syscall.SIGHUP: syscall.SIGHUP,
		syscall.SIGQUIT: syscall.SIGABRT, syscall.SIGABRT: syscall.SIGABRT, syscall.SIGSEGV: syscall.SIGABRT,
		syscall.SIGBUS: syscall.SIGABRT, syscall.SIGFPE: syscall.SIGABRT, syscall.SIGILL: syscall.SIGABRT,
		syscall.SIGTRAP: syscall.SIGABRT, syscall.SIGSYS: syscall.SIGABRT, syscall.SIGKILL: syscall.SIGKILL,
	} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			cmd := start(t, "wait")
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = in.Close() }()
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
				t.Fatalf("%q, %v", line, err)
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			code, got := status(t, cmd.Wait())
			if code >= 1 && code <= 125 {
				t.Errorf("exit code %d: PostgreSQL would end recovery", code)
			}
			if got != want {
				t.Errorf("exit code %d, signal %v; want %v", code, got, want)
			}
		})
	}
}

func TestExec(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\necho \"$0|$1|$2|$3|$4|$GOTRACEBACK\"\nexit 7\n"
	if err := os.WriteFile(dir+"/pgstow", []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := start(t, "exec")
	cmd.Env = append(cmd.Env, "GOTRACEBACK=none", "PATH=relative:"+dir)
	out, err := cmd.Output()
	if code, _ := status(t, err); code != 7 {
		t.Errorf("code %d", code)
	}
	if got, want := strings.TrimSpace(string(out)), dir+"/pgstow|wal|fetch|a b|c|crash"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	cmd = start(t, "exec")
	cmd.Env = append(cmd.Env, "PATH=.:")
	cmd.Dir = dir // a program in the working directory, which is the data directory, must not be started
	out, err = cmd.Output()
	if code, _ := status(t, err); code != hotpath.FetchFailed || !strings.Contains(string(out), "exec pgstow") {
		t.Errorf("code %d, output %q", code, out)
	}
}
