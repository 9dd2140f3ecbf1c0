package pg

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Server is one PostgreSQL cluster and, while it runs, its postmaster. Its methods are safe for concurrent use, except that only one goroutine may
// start and stop it.
type Server struct {
	t    TB
	opts Options

	Install   Installation
	Dir       string // the data directory
	SocketDir string
	Port      int    // names the socket, and the TCP port with Options.TCP
	LogFile   string // all that postmaster and its commands write to standard error, over restarts

	mu   sync.Mutex
	proc *process // nil before the first start
}

type process struct {
	cmd    *exec.Cmd
	exited chan struct{}
	state  *os.ProcessState // set before exited is closed
}

// Mode says how a server is to stop.
type Mode int

// The shutdown modes of pg_ctl.
const (
	Fast      Mode = iota // disconnects clients, writes a shutdown checkpoint
	Smart                 // waits for clients to leave
	Immediate             // no checkpoint: the next start recovers
)

func (s *Server) initdb() {
	s.t.Helper()
	o := s.opts
	args := []string{
		"-D", s.Dir, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync",
		"--wal-segsize=" + strconv.Itoa(o.WALSegmentSizeMiB),
	}
	switch {
	case o.Checksums:
		args = append(args, "--data-checksums")
	case o.Major >= 18:
		args = append(args, "--no-data-checksums") // 18 turns them on by default
	}
	cmd := Command(context.Background(), s.Install.Bin("initdb"), append(args, o.InitdbArgs...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("initdb: %v\n%s", err, out)
	}
	s.AppendConf(s.baseConf())
	s.AppendConf(o.Conf)
}

func (s *Server) baseConf() map[string]string {
	conf := map[string]string{
		"shared_buffers":                  "32MB",
		"max_connections":                 "40",
		"dynamic_shared_memory_type":      "mmap", // in the data directory: what is killed leaves nothing in /dev/shm
		"log_line_prefix":                 "%m [%p] ",
		"log_destination":                 "stderr",
		"logging_collector":               "off",
		"lc_messages":                     "C",
		"timezone":                        "UTC",
		"wal_level":                       "replica",
		"max_wal_senders":                 "5",
		"max_replication_slots":           "5",
		"hot_standby":                     "on",
		"wal_retrieve_retry_interval":     "200ms",
		"max_parallel_workers_per_gather": "0",
	}
	if !s.opts.Fsync {
		conf["fsync"] = "off"
	}
	if s.opts.ArchiveCommand != "" {
		conf["archive_mode"] = "on"
		conf["archive_command"] = s.opts.ArchiveCommand
	}
	return conf
}

// AppendConf adds settings to postgresql.conf; later ones win. The server must be reloaded or restarted for them to count.
func (s *Server) AppendConf(conf map[string]string) {
	s.t.Helper()
	f, err := os.OpenFile(filepath.Join(s.Dir, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		s.t.Fatalf("postgresql.conf: %v", err)
	}
	for _, k := range slices.Sorted(maps.Keys(conf)) {
		// guc-file.l: within quotes, '' is a quote and a backslash escapes
		v := strings.NewReplacer(`'`, `''`, `\`, `\\`).Replace(conf[k])
		if _, err := fmt.Fprintf(f, "%s = '%s'\n", k, v); err != nil {
			s.t.Fatalf("postgresql.conf: %v", err)
		}
	}
	if err := f.Close(); err != nil {
		s.t.Fatalf("postgresql.conf: %v", err)
	}
}

// SetEnv sets a variable for the next start.
func (s *Server) SetEnv(key, value string) { s.opts.Env = append(s.opts.Env, key+"="+value) }

// Start is [Server.TryStart] that fails the test on an error.
func (s *Server) Start() {
	s.t.Helper()
	if err := s.TryStart(); err != nil {
		s.t.Fatalf("%v\n%s", err, s.LogTail())
	}
}

// TryStart starts the server and returns when it accepts connections, be it read-only ones. It returns an error if the server exits instead or is
// not ready within Options.StartTimeout; it is killed then.
func (s *Server) TryStart() error {
	if err := s.Launch(); err != nil {
		return err
	}
	p := s.process()
	return s.poll("start", s.opts.StartTimeout, func() (bool, error) {
		select {
		case <-p.exited:
			return false, fmt.Errorf("PostgreSQL %d did not start: %s", s.Install.Major, p.state)
		default:
		}
		status := s.pidFileStatus(p.cmd.Process.Pid)
		return status == "ready" || status == "standby", nil
	}, s.Kill)
}

// Launch starts the postmaster and does not wait: for a server whose recovery is to fail, or to end by itself. See [Server.Wait].
func (s *Server) Launch() error {
	if s.Running() {
		return errors.New("the server runs already")
	}
	log, err := os.OpenFile(s.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	listen := ""
	if s.opts.TCP {
		listen = "127.0.0.1"
	}
	args := []string{
		"-D", s.Dir, "-p", strconv.Itoa(s.Port), "-k", s.SocketDir, "-c", "listen_addresses=" + listen,
	}
	cmd := Command(context.Background(), s.Install.Bin("postgres"), append(args, s.opts.Args...)...)
	cmd.Env = append(cmd.Env, s.opts.Env...)
	cmd.Dir = s.SocketDir
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr.Setpgid = true
	// If the test process dies, so does the server: an immediate shutdown takes the children along, SIGKILL would leave them.
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start postgres: %w", err)
	}
	p := &process{cmd: cmd, exited: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // the state says it all
		p.state = cmd.ProcessState
		close(p.exited)
	}()
	s.mu.Lock()
	s.proc = p
	s.mu.Unlock()
	return nil
}

// Wait waits until the postmaster has exited by itself and returns how.
func (s *Server) Wait(timeout time.Duration) (*os.ProcessState, error) {
	p := s.process()
	if p == nil {
		return nil, errors.New("the server was never started")
	}
	select {
	case <-p.exited:
		return p.state, nil
	case <-time.After(timeout):
		return nil, fmt.Errorf("PostgreSQL still runs after %s", timeout)
	}
}

// Running tells whether the postmaster is alive.
func (s *Server) Running() bool {
	p := s.process()
	if p == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// PID is the postmaster's process id while it runs.
func (s *Server) PID() int {
	if p := s.process(); p != nil {
		return p.cmd.Process.Pid
	}
	return 0
}

// Stop shuts the server down and waits until it is gone. Stopping a stopped server is nothing.
func (s *Server) Stop(m Mode) {
	s.t.Helper()
	if !s.Running() {
		return
	}
	sig := map[Mode]syscall.Signal{Fast: syscall.SIGINT, Smart: syscall.SIGTERM, Immediate: syscall.SIGQUIT}[m]
	if err := s.process().cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.t.Fatalf("stop: %v", err)
	}
	if _, err := s.Wait(2 * time.Minute); err != nil {
		s.Kill()
		s.t.Fatalf("stop: %v\n%s", err, s.LogTail())
	}
}

// Restart is a fast stop and a start.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop(Fast)
	s.Start()
}

// Kill ends postmaster, all its children and their commands by SIGKILL, as the kernel does when the machine is out of memory, and waits for the
// postmaster's end. Processes that have detached themselves live on.
func (s *Server) Kill() {
	if !s.Running() {
		return
	}
	p := s.process()
	pid := p.cmd.Process.Pid
	// Stopped, it cannot fork: then the list of its descendants is whole once a second look finds no more.
	_ = syscall.Kill(pid, syscall.SIGSTOP)
	stopped := map[int]bool{pid: true}
	for {
		fresh := false
		for _, d := range descendants(pid) {
			if !stopped[d] {
				stopped[d], fresh = true, true
				_ = syscall.Kill(d, syscall.SIGSTOP)
			}
		}
		if !fresh {
			break
		}
	}
	for d := range stopped {
		_ = syscall.Kill(d, syscall.SIGKILL)
	}
	<-p.exited
	delete(stopped, pid)
	// A server cannot start while a child of the last one still holds its shared memory.
	err := poll("the end of the killed server's processes", time.Minute, func() (bool, error) {
		for d := range stopped {
			if state, _ := processStat(d); state != "" && state != "Z" {
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		s.t.Logf("%v", err)
	}
	removeSharedMemory(pid)
}

// Reload has the server read its configuration again.
func (s *Server) Reload() {
	s.t.Helper()
	s.Exec("SELECT pg_reload_conf()")
}

// Promote ends recovery and waits until the server takes writes.
func (s *Server) Promote() {
	s.t.Helper()
	s.Exec("SELECT pg_promote(false)")
	s.WaitPrimary()
}

// LogTail is the end of the server's log, for messages.
func (s *Server) LogTail() string {
	b, err := os.ReadFile(s.LogFile)
	if err != nil {
		return err.Error()
	}
	const most = 8 << 10
	if len(b) > most {
		b = b[len(b)-most:]
	}
	return string(b)
}

// Log is the whole log so far.
func (s *Server) Log() string {
	s.t.Helper()
	b, err := os.ReadFile(s.LogFile)
	if err != nil {
		s.t.Fatalf("log: %v", err)
	}
	return string(b)
}

func (s *Server) cleanup() {
	if s.t.Failed() {
		s.t.Logf("end of the log of PostgreSQL %d in %s:\n%s", s.Install.Major, s.Dir, s.LogTail())
	}
	s.Kill()
}

func (s *Server) process() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proc
}

// pidFileStatus is the last line of postmaster.pid, where the postmaster tells pg_ctl how far it is (pidfile.h): "starting", "stopping", "ready" or
// "standby". It is "" if the file is not that of our postmaster.
func (s *Server) pidFileStatus(pid int) string {
	b, err := os.ReadFile(filepath.Join(s.Dir, "postmaster.pid"))
	if err != nil {
		return ""
	}
	lines := strings.Split(string(b), "\n")
	if len(lines) < 8 || lines[0] != strconv.Itoa(pid) {
		return ""
	}
	return strings.TrimSpace(lines[7])
}

// descendants lists the children of a process, their children, and so on, from /proc.
func descendants(pid int) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	children := map[int][]int{}
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if state, parent := processStat(child); state != "" {
			children[parent] = append(children[parent], child)
		}
	}
	var all []int
	for queue := []int{pid}; len(queue) > 0; queue = queue[1:] {
		all = append(all, children[queue[0]]...)
		queue = append(queue, children[queue[0]]...)
	}
	return all
}

// processStat is a process's state letter, "Z" for one that has ended and waits to be reaped, and its parent; "" if it is gone.
func processStat(pid int) (state string, parent int) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0
	}
	// pid (comm) state ppid ...; comm may hold blanks and parentheses
	rest := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(rest) < 2 {
		return "", 0
	}
	parent, err = strconv.Atoi(rest[1])
	if err != nil {
		return "", 0
	}
	return rest[0], parent
}
