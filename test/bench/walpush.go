package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"pgstow/test/minio"
	"pgstow/test/pg"
)

// calls is a series of calls of one of PostgreSQL's two commands.
type calls struct {
	each  []time.Duration
	whole sample
}

// call runs one command as PostgreSQL does but for the shell, which costs the same whoever is called: in the data directory, as its user.
func (b *bench) call(dir string, env []string, words ...string) (time.Duration, time.Duration) {
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=/usr/bin:/bin", "HOME=/nonexistent"}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: pg.Credential()}
	begun := time.Now()
	out, err := cmd.CombinedOutput()
	wall := time.Since(begun)
	if err != nil {
		b.Fatalf("%v: %v\n%s", words, err, out)
	}
	return wall, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
}

// archive plays the archiver (pgarch_ArchiverCopyLoop in src/backend/postmaster/pgarch.c): one file after the other, each marked .done when
// the command has succeeded.
func (b *bench) archive(w *walSet, env []string) calls {
	var c calls
	push := filepath.Join(b.bin, "pgstow-wal")
	begun := time.Now()
	for _, name := range w.names {
		wall, cpu := b.call(w.server.Dir, env, push, "push", "pg_wal/"+name)
		c.each = append(c.each, wall)
		c.whole.cpu += cpu
		status := filepath.Join(w.server.Dir, "pg_wal", "archive_status", name)
		if err := os.Rename(status+".ready", status+".done"); err != nil {
			b.Fatalf("%v", err)
		}
	}
	c.whole.wall = time.Since(begun)
	return c
}

// walPush times the draining of the set's segments into MinIO. It returns the environment of a repository that holds them.
func (b *bench) walPush(m *minio.Server, w *walSet) []string {
	ours, base := &side{name: "pgstow-wal push, one call after the other"}, &side{name: "one process, all in parallel"}
	each, hello := &side{name: "pgstow-wal push"}, &side{name: "Go hello, world"}
	ahead, hello2 := &side{name: "pgstow-wal push"}, &side{name: "Go hello, world"}
	program := b.hello(pg.TempDir(b))
	var env []string
	for i := range b.rounds {
		w.rewind(b)
		env = b.walRepository(m, w)
		c := b.archive(w, env)
		c.whole.cpu += b.reap()
		ours.samples = append(ours.samples, c.whole)
		for _, d := range c.each {
			each.samples = append(each.samples, sample{wall: d})
			hello.samples = append(hello.samples, b.start(nil, program))
		}
		base.samples = append(base.samples, b.baseline("drain", m, fmt.Sprintf("drain%d", i), w))
		b.Logf("push %s %d/%d: %v %v, each %v", w.name, i+1, b.rounds, short(c.whole.wall), short(base.samples[i].wall), short(wallOf(each)))
	}
	// How long a call takes once the worker is ahead: the first call starts it, the others come when it has stored everything.
	w.rewind(b)
	env = b.walRepository(m, w)
	b.archive(&walSet{server: w.server, names: w.names[:1]}, env)
	b.reap()
	for _, d := range b.archive(&walSet{server: w.server, names: w.names[1:]}, env).each {
		ahead.samples = append(ahead.samples, sample{wall: d})
		hello2.samples = append(hello2.samples, b.start(nil, program))
	}
	// The memory of everything together is sampled in a run of its own, which is not timed.
	w.rewind(b)
	env = b.walRepository(m, w)
	stop := b.watchMemory()
	b.archive(w, env)
	peak := stop()
	for i := range ours.samples {
		ours.samples[i].rss = peak
	}
	b.rows = append(b.rows,
		row{fmt.Sprintf("push of %d segments, %s", drained, w.name), ours, base, "<= 1.25"},
		row{"  each call", each, hello, "report"},
		row{"  each call, the worker being ahead", ahead, hello2, "<= 1.5"})
	b.reap()
	return env
}

// replayed is how long recovery takes for a segment, at its fastest here.
const replayed = 100 * time.Millisecond

// walFetch times serial fetches of the same segments.
func (b *bench) walFetch(m *minio.Server, w *walSet, env []string) {
	ours, base, memory := &side{name: "pgstow-wal fetch, one call after the other"}, &side{name: "one process, all in parallel, into files"}, &side{name: "the same, thrown away"}
	each, hello := &side{name: "pgstow-wal fetch"}, &side{name: "Go hello, world"}
	program := b.hello(pg.TempDir(b))
	fetch := filepath.Join(b.bin, "pgstow-wal")
	b.baseline("drain", m, "fetch", w)
	// The running server takes no notice of it, and fetch takes the calls for those of its recovery.
	signal := filepath.Join(w.server.Dir, "recovery.signal")
	if err := os.WriteFile(signal, nil, 0o644); err != nil {
		b.Fatalf("%v", err)
	}
	defer func() { _ = os.Remove(signal) }()
	for i := range b.rounds {
		var c calls
		begun := time.Now()
		for _, name := range w.names {
			wall, cpu := b.call(w.server.Dir, env, fetch, "fetch", name, "pg_wal/RECOVERYXLOG")
			c.each, c.whole.cpu = append(c.each, wall), c.whole.cpu+cpu
			if err := os.Remove(filepath.Join(w.server.Dir, "pg_wal", "RECOVERYXLOG")); err != nil {
				b.Fatalf("%v", err)
			}
		}
		c.whole.wall = time.Since(begun)
		c.whole.cpu += b.reap()
		ours.samples = append(ours.samples, c.whole)
		for _, d := range c.each {
			each.samples = append(each.samples, sample{wall: d})
			hello.samples = append(hello.samples, b.start(nil, program))
		}
		base.samples = append(base.samples, b.baseline("gather", m, "fetch", w))
		memory.samples = append(memory.samples, b.baseline("decode", m, "fetch", w))
		b.Logf("fetch %s %d/%d: %v %v", w.name, i+1, b.rounds, short(c.whole.wall), short(base.samples[i].wall))
	}
	// How long a call takes when the reader is no faster than replay is.
	paced, hello2 := &side{name: "pgstow-wal fetch"}, &side{name: "Go hello, world"}
	for i, name := range w.names {
		wall, _ := b.call(w.server.Dir, env, fetch, "fetch", name, "pg_wal/RECOVERYXLOG")
		if err := os.Remove(filepath.Join(w.server.Dir, "pg_wal", "RECOVERYXLOG")); err != nil {
			b.Fatalf("%v", err)
		}
		<-time.After(replayed)
		if i >= 4 { // the first ones find nothing ahead
			paced.samples = append(paced.samples, sample{wall: wall})
			hello2.samples = append(hello2.samples, b.start(nil, program))
		}
	}
	b.reap()
	b.rows = append(b.rows,
		row{fmt.Sprintf("fetch of %d segments, %s", drained, w.name), ours, base, "<= 1.25"},
		row{"  the same", ours, memory, "report"},
		row{"  each call", each, hello, "report"},
		row{"  each call, 10 segments a second", paced, hello2, "<= 2.0"})
}
