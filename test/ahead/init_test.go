package ahead_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// contained runs the server of a stage as process 1 of a PID namespace, as a container without an init does.
func (s *stage) contained() *exec.Cmd {
	s.t.Helper()
	user := pg.Credential()
	if user == nil {
		pg.Missing(s.t, "root, to make a PID namespace")
	}
	tool, err := exec.LookPath("unshare")
	if err != nil {
		pg.Missing(s.t, "unshare")
	}
	log, err := os.OpenFile(s.Server.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	server := s.Server
	cmd := exec.CommandContext(s.t.Context(), tool, "--pid", "--fork", "--kill-child", "--mount-proc",
		"setpriv", "--reuid="+strconv.Itoa(int(user.Uid)), "--regid="+strconv.Itoa(int(user.Gid)), "--clear-groups",
		server.Install.Bin("postgres"), "-D", server.Dir, "-p", strconv.Itoa(server.Port), "-k", server.SocketDir, "-c", "listen_addresses=")
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir()}, s.Env()...)
	cmd.Dir = server.SocketDir
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	s.awaitValue("SELECT 1", "1")
	line, err := os.ReadFile(filepath.Join(server.Dir, "postmaster.pid"))
	if err != nil || !bytes.HasPrefix(line, []byte("1\n")) {
		s.t.Fatalf("the server is not process 1: %q, %v", line, err)
	}
	return cmd
}

// below are the processes below one, by what they run.
func below(t *testing.T, root int) map[int]string {
	t.Helper()
	parent, line := map[int]int{}, map[int]string{}
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		pid, err := strconv.Atoi(filepath.Base(p))
		if err != nil {
			t.Fatal(err)
		}
		stat, err := os.ReadFile(filepath.Join(p, "stat"))
		if err != nil {
			continue
		}
		rest := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		command, err := os.ReadFile(filepath.Join(p, "cmdline"))
		if err != nil || len(rest) < 2 {
			continue
		}
		if parent[pid], err = strconv.Atoi(rest[1]); err != nil {
			t.Fatal(err)
		}
		line[pid] = strings.ReplaceAll(string(command), "\x00", " ")
	}
	found := map[int]string{}
	for pid := range line {
		for p := parent[pid]; p > 1; p = parent[p] {
			if p == root {
				found[pid] = line[pid]
				break
			}
		}
	}
	return found
}

// nudged awaits something of a server whose archiver was ended: the postmaster starts another one when it wakes, as it does for a connection, and
// otherwise once in a minute (ServerLoop in postmaster.c).
func (s *stage) nudged(what string, cond func() bool) {
	s.t.Helper()
	pg.Await(s.t, what, patient, func() (bool, error) {
		_, err := s.Server.TryValue("postgres", "SELECT 1")
		return cond(), err
	})
}

// isOurs tells whether a command line is that of one of our programs. The shell that PostgreSQL starts them with is not: who kills that makes an
// orphan of its child.
func isOurs(line string) bool {
	words := strings.Fields(line)
	if len(words) > 1 && words[0] == "/bin/sh" && words[1] != "-c" { // a script that becomes the program
		words = words[1:]
	}
	if len(words) == 0 { // it has ended
		return false
	}
	name := filepath.Base(words[0])
	return name == "pgstow" || name == "pgstow-wal"
}

// TestServerIsProcessOne: where the server would adopt a detached process, and restart all sessions when that is killed, there is none. The
// server's own call stores the files that follow along with its own. Whatever is killed, the server goes on.
func TestServerIsProcessOne(t *testing.T) {
	pg.Long(t, "kills the archiver, which rests 10 s after each time")
	t.Parallel()
	s, g := newGated(t, world.Options{Env: []string{foreverIdle}})
	s.fill(6)
	s.Server.Stop(pg.Fast)
	c := s.counted()
	unshare := s.contained()

	g.Shut()
	s.resume(c.command)
	g.AwaitWaiting(t, 3) // by one call
	calls := c.calls(t)
	if len(calls) != 1 || !strings.HasPrefix(calls[0], "wal push ") {
		t.Errorf("%q were started, want one push", calls)
	}
	kills := 0
	for range pg.Rounds(t, 2) { // after each, the server waits 10 s until it starts the archiver again (PGARCH_RESTART_INTERVAL in pgarch.c)
		s.fill(3)
		s.nudged("files before the gate", func() bool { return g.Waiting() >= 2 })
		for pid, line := range below(t, unshare.Process.Pid) {
			if strings.Contains(line, "wal worker") {
				t.Errorf("a worker was started: %s", line)
			}
			if isOurs(line) && syscall.Kill(pid, syscall.SIGKILL) == nil {
				kills++
			}
		}
		g.Open()
		g.Shut()
	}
	g.Open()
	s.nudged("an empty queue", func() bool { return len(s.Server.ReadyFiles()) == 0 })
	s.wantAll()
	if kills == 0 {
		t.Error("nothing was killed")
	}
	if n := len(slices.DeleteFunc(c.calls(t), func(call string) bool { return strings.HasPrefix(call, "wal push ") })); n > 0 {
		t.Errorf("other things were started than pushes: %q", c.calls(t))
	}
	log := s.Server.Log()
	for _, word := range []string{"terminating any other active server processes", "reinitializing", "was not properly shut down"} {
		if strings.Contains(log, word) {
			t.Errorf("the server has crashed: %s\n%s", word, s.Server.LogTail())
		}
	}
}
