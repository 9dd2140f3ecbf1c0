package chaos_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// receiverName is the application_name of the receiver, by which the server knows it as a synchronous standby.
const receiverName = "pgstow"

// receiver is `pgstow wal receive`, started again whenever it ends, as an init system does.
type receiver struct {
	stop context.CancelFunc
	done chan struct{}
	log  string
}

// startReceiver begins to receive from the stage's server.
func startReceiver(st *stage) *receiver {
	st.t.Helper()
	args := []string{"wal", "receive", "--slot", "chaos", "--create-slot", "--flush-interval", "200ms"}
	if st.way.synchronous {
		args = append(args, "--synchronous")
	}
	ctx, cancel := context.WithCancel(st.t.Context())
	r := &receiver{stop: cancel, done: make(chan struct{}), log: filepath.Join(st.Dir, "receive.log")}
	st.t.Cleanup(r.kill)
	template := st.Command("pgstow", args...)
	go func() {
		defer close(r.done)
		for ctx.Err() == nil {
			r.run(ctx, template)
			rest(ctx, 100*time.Millisecond)
		}
	}()
	return r
}

// run runs it once. How it ends does not matter: what counts is what is stored.
func (r *receiver) run(ctx context.Context, template *exec.Cmd) {
	log, err := os.OpenFile(r.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return
	}
	defer func() { _ = log.Close() }()
	cmd := exec.CommandContext(ctx, template.Path, template.Args[1:]...)
	cmd.Env, cmd.Dir, cmd.SysProcAttr = template.Env, template.Dir, template.SysProcAttr
	cmd.Stdout, cmd.Stderr = log, log
	_ = cmd.Run()
}

// kill ends it for good.
func (r *receiver) kill() {
	r.stop()
	<-r.done
}

// tail is the end of what it has said.
func (r *receiver) tail() string {
	b, err := os.ReadFile(r.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4096):])
}
