package world

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pgstow/test/pg"
)

// patience bounds each wait for a receiver.
const patience = 2 * time.Minute

// Output is what has been written to it so far, from any goroutine.
type Output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write is io.Writer's. It does not fail.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

// String is all of it.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// Receiver is a `pgstow wal receive` at work. It is killed when its test ends, and what it said is printed if the test failed.
type Receiver struct {
	t     *testing.T
	cmd   *exec.Cmd
	out   *Output
	ended chan struct{}
	err   error // set before ended is closed
}

// Receive starts a receiver, with more in its environment, from the world's server unless the arguments name another.
func (w *World) Receive(env []string, args ...string) *Receiver {
	w.t.Helper()
	r := &Receiver{t: w.t, out: &Output{}, ended: make(chan struct{})}
	r.cmd = w.Command("pgstow", append([]string{"wal", "receive", "--verbose"}, args...)...)
	r.cmd.Env = append(r.cmd.Env, env...)
	r.cmd.Stdout, r.cmd.Stderr = r.out, r.out
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	go func() {
		r.err = r.cmd.Wait()
		close(r.ended)
	}()
	r.t.Cleanup(func() {
		_ = r.cmd.Process.Kill()
		<-r.ended
		if r.t.Failed() {
			r.t.Logf("%s:\n%s", strings.Join(r.cmd.Args[1:], " "), r.out)
		}
	})
	return r
}

// Output is what it has said so far.
func (r *Receiver) Output() string { return r.out.String() }

// AwaitText waits until it has said something. If it ends before, the test fails.
func (r *Receiver) AwaitText(text string) {
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

// Kill ends it by SIGKILL.
func (r *Receiver) Kill() {
	r.t.Helper()
	if err := r.cmd.Process.Kill(); err != nil {
		r.t.Fatal(err)
	}
	<-r.ended
}

// Stop ends it by SIGTERM, as an operator does, and wants exit status 0.
func (r *Receiver) Stop() {
	r.t.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		r.t.Fatal(err)
	}
	r.WantExit(0)
}

// WantExit waits for its end.
func (r *Receiver) WantExit(code int) {
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
