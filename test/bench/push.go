package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"pgstow/test/pg"
)

// pushRuns is how often each process is started.
const pushRuns = 100

// push times what PostgreSQL waits for when the spool knows the file as stored, against the least a Go process can be.
func (b *bench) push() {
	dir := pg.TempDir(b)
	env := []string{"PGSTOW_REPO=file://" + filepath.Join(dir, "repository"), "PGSTOW_CLUSTER=bench", "PGSTOW_ENCRYPTION=none", "PGSTOW_SPOOL=" + filepath.Join(dir, "spool")}
	server := pg.New(b, pg.Options{})
	b.must(env, "pgstow init --plain --pgdata "+server.Dir)
	name := server.Value("SELECT pg_walfile_name(pg_switch_wal())")
	server.Kill() // a shutdown would recycle the segment
	segment := filepath.Join(server.Dir, "pg_wal", name)
	hello := b.hello(dir)
	push := filepath.Join(b.bin, "pgstow-wal") + " push " + segment
	b.must(env, "pgstow wal push "+segment) // from here on the spool knows it
	b.starts("pgstow-wal push, known as stored", "<= 1.5", env, push, hello)
	b.starts("pgstow wal push, known as stored", "report", env, b.pgstow("wal push "+segment), hello)
}

// hello builds a process that does nothing but print.
func (b *bench) hello(dir string) string {
	src := filepath.Join(dir, "hello.go")
	if err := os.WriteFile(src, []byte("package main\n\nimport \"os\"\n\nfunc main() { _, _ = os.Stdout.WriteString(\"hello, world\\n\") }\n"), 0o644); err != nil {
		b.Fatalf("%v", err)
	}
	bin := filepath.Join(dir, "hello")
	cmd := exec.Command("go", "build", "-trimpath", "-o", bin, src)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("build hello: %v\n%s", err, out)
	}
	return bin
}

// starts pairs two processes, each started directly, without a shell, many times.
func (b *bench) starts(what, target string, env []string, ours, baseline string) {
	a, z := &side{name: ours}, &side{name: "Go hello, world"}
	for range pushRuns {
		a.samples = append(a.samples, b.start(env, ours))
		z.samples = append(z.samples, b.start(nil, baseline))
	}
	b.rows = append(b.rows, row{what, a, z, target})
}

func (b *bench) start(env []string, command string) sample {
	words := strings.Fields(command)
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env = append([]string{"PATH=/usr/bin:/bin", "HOME=/nonexistent"}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: pg.Credential()}
	begun := time.Now()
	out, err := cmd.CombinedOutput()
	wall := time.Since(begun)
	if err != nil {
		b.Fatalf("%s: %v\n%s", command, err, out)
	}
	return sample{wall: wall, cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), rss: peak(cmd)}
}
