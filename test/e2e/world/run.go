package world

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"pgstow/test/pg"
)

// Result is how a call of pgstow ended.
type Result struct {
	Args           []string // the program's name first
	Stdout, Stderr string
	Code           int
}

// String is all of it, for messages.
func (r Result) String() string {
	return fmt.Sprintf("%s: exit status %d\n%s%s", strings.Join(r.Args, " "), r.Code, r.Stdout, r.Stderr)
}

// Command is a call of one of our programs as the server's user, in the world's environment, with the server as libpq's default.
func (w *World) Command(program string, args ...string) *exec.Cmd {
	w.t.Helper()
	cmd := pg.Command(w.t.Context(), pg.Binary(w.t, program), args...)
	cmd.Env = append(cmd.Env, w.env...)
	if w.Server != nil {
		cmd.Env = append(cmd.Env, w.Server.Env()...)
	}
	return cmd
}

// Run calls pgstow.
func (w *World) Run(args ...string) Result {
	w.t.Helper()
	return w.RunWith(nil, args...)
}

// RunWith is Run with more in the environment, which wins over the world's.
func (w *World) RunWith(env []string, args ...string) Result {
	w.t.Helper()
	cmd := w.Command("pgstow", args...)
	cmd.Env = append(cmd.Env, env...)
	return w.finish(cmd, append([]string{"pgstow"}, args...))
}

// RunProgram calls one of our programs: RunProgram("pgstow-wal", "push", path).
func (w *World) RunProgram(name string, args ...string) Result {
	w.t.Helper()
	return w.RunProgramWith(nil, name, args...)
}

// RunProgramWith is RunProgram with more in the environment.
func (w *World) RunProgramWith(env []string, name string, args ...string) Result {
	w.t.Helper()
	cmd := w.Command(name, args...)
	cmd.Env = append(cmd.Env, env...)
	return w.finish(cmd, append([]string{name}, args...))
}

// RunOn is RunWith that reaches another server than the world's.
func (w *World) RunOn(s *pg.Server, env []string, args ...string) Result {
	w.t.Helper()
	return w.RunWith(append(s.Env(), env...), args...)
}

func (w *World) finish(cmd *exec.Cmd, args []string) Result {
	w.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatalf("%v: %v", cmd.Args, err)
	}
	return Result{Args: args, Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
}

// Must calls pgstow and returns its standard output; any exit status but 0 fails the test.
func (w *World) Must(args ...string) string {
	w.t.Helper()
	return w.must(w.Run(args...))
}

func (w *World) must(r Result) string {
	w.t.Helper()
	if r.Code != 0 {
		w.t.Fatalf("%s", r)
	}
	return r.Stdout
}

// Expect calls pgstow, and fails the test unless it exits with this status and says each of these words on either stream.
func (w *World) Expect(code int, words []string, args ...string) Result {
	w.t.Helper()
	return w.ExpectWith(nil, code, words, args...)
}

// ExpectWith is Expect with more in the environment.
func (w *World) ExpectWith(env []string, code int, words []string, args ...string) Result {
	w.t.Helper()
	r := w.RunWith(env, args...)
	w.Check(r, code, words...)
	return r
}

// Check fails the test unless a call ended with this status and said each of these words on either stream.
func (w *World) Check(r Result, code int, words ...string) {
	w.t.Helper()
	if r.Code != code {
		w.t.Fatalf("want exit status %d: %s", code, r)
	}
	for _, word := range words {
		if !strings.Contains(r.Stdout+r.Stderr, word) {
			w.t.Errorf("%q is not in the message: %s", word, r)
		}
	}
}

// Backup is what `pgstow backup create --json` says of a backup.
type Backup struct {
	ID           string    `json:"id"`
	StartLSN     string    `json:"start_lsn"`
	StopLSN      string    `json:"stop_lsn"`
	Timeline     int       `json:"timeline"`
	StartedAt    time.Time `json:"started_at"`
	StoppedAt    time.Time `json:"stopped_at"`
	SystemID     string    `json:"system_id"`
	Bytes        int64     `json:"bytes"`
	BytesStored  int64     `json:"bytes_stored"`
	Files        int64     `json:"files"`
	DamagedPages int64     `json:"damaged_pages"`
	WALIncluded  bool      `json:"wal_included"`
	Opaque       bool      `json:"opaque"`
}

// Backup takes a backup of the world's server.
func (w *World) Backup(args ...string) Backup {
	w.t.Helper()
	return w.BackupOf(w.Server, args...)
}

// BackupOf takes a backup of another server into the world's repository.
func (w *World) BackupOf(s *pg.Server, args ...string) Backup {
	w.t.Helper()
	r := w.RunOn(s, nil, append([]string{"backup", "create", "--json"}, args...)...)
	w.must(r)
	var b Backup
	Decode(w.t, r.Stdout, &b)
	if b.ID == "" || b.StopLSN == "" {
		w.t.Fatalf("no backup in the output: %s", r)
	}
	return b
}

// Decode reads JSON that a command printed.
func Decode(t pg.TB, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("not the JSON that was expected: %v\n%s", err, text)
	}
}

// RunRestore runs `pgstow restore dir args...`, with the identity in an encrypted world.
func (w *World) RunRestore(dir string, args ...string) Result {
	w.t.Helper()
	return w.RunWith(w.IdentityEnv(), append([]string{"restore", dir}, args...)...)
}

// Restore restores into a new directory, which it returns.
func (w *World) Restore(args ...string) string {
	w.t.Helper()
	dir := w.NewDir("restored")
	w.must(w.RunRestore(dir, args...))
	return dir
}

// VerifyBackup lets pg_verifybackup judge a restored directory before its first start. WAL is judged only when it was included in the backup.
func (w *World) VerifyBackup(dir string, walIncluded bool) {
	w.t.Helper()
	tool, err := pg.ClientBin(w.opts.Major, "pg_verifybackup")
	if err != nil {
		w.t.Fatalf("%v", err)
	}
	args := []string{"-e", dir}
	if !walIncluded {
		args = append([]string{"-n"}, args...)
	} else if waldump, err := pg.ClientBin(w.opts.Major, "pg_waldump"); err != nil || filepath.Dir(waldump) != filepath.Dir(tool) {
		w.t.Fatalf("pg_waldump is not beside %s: %v", tool, err)
	}
	cmd := pg.Command(w.t.Context(), tool, args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Errorf("pg_verifybackup %v: %v\n%s", args, err, out)
	}
}

// StartRestored starts a server on a restored directory and waits until recovery has ended or is paused at its target. A server that exits fails the
// test.
func (w *World) StartRestored(dir string) *pg.Server {
	w.t.Helper()
	s := w.Attach(dir)
	s.Start()
	w.WaitRecovered(s)
	return s
}

// WaitRecovered waits until recovery has ended or is paused.
func (w *World) WaitRecovered(s *pg.Server) {
	w.t.Helper()
	paused := "pg_get_wal_replay_pause_state() = 'paused'"
	if w.opts.Major < 14 {
		paused = "pg_is_wal_replay_paused()"
	}
	s.AwaitValue("SELECT CASE WHEN pg_is_in_recovery() THEN "+paused+" ELSE true END", "t")
}
