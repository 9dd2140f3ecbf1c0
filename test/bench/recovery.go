package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"pgstow/test/pg"
)

// recovery times the server's recovery through the set's segments: from the start of the postmaster to the end of recovery, with
// restore_command = 'pgstow-wal fetch …' from MinIO, and with a cp from a folder of this machine.
func (b *bench) recovery(w *walSet, env []string) {
	local := filepath.Join(pg.TempDir(b), "archive")
	if err := os.Mkdir(local, 0o755); err != nil {
		b.Fatalf("%v", err)
	}
	for _, name := range w.names {
		if err := os.Link(filepath.Join(w.server.Dir, "pg_wal", name), filepath.Join(local, name)); err != nil {
			b.Fatalf("%v", err)
		}
	}
	ours, base := &side{name: "pgstow-wal fetch from MinIO"}, &side{name: "cp from a local folder"}
	for i := range b.rounds {
		ours.samples = append(ours.samples, b.recover(w, env, filepath.Join(b.bin, "pgstow-wal")+" fetch %f %p || exit $(($? == 2 ? 126 : $?))"))
		b.reap()
		base.samples = append(base.samples, b.recover(w, nil, "cp "+local+"/%f %p"))
		b.Logf("recovery %s %d/%d: %v %v", w.name, i+1, b.rounds, short(ours.samples[i].wall), short(base.samples[i].wall))
	}
	b.rows = append(b.rows, row{fmt.Sprintf("recovery through %d segments, %s", drained, w.name), ours, base, "<= 1.1"})
}

func (b *bench) recover(w *walSet, env []string, command string) sample {
	dir := filepath.Join(pg.TempDir(b), "data")
	if out, err := pg.Command(b.ctx(), "cp", "-a", w.backup, dir).CombinedOutput(); err != nil {
		b.Fatalf("copy the data directory: %v\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "recovery.signal"), nil, 0o600); err != nil {
		b.Fatalf("%v", err)
	}
	pg.Chown(b, filepath.Join(dir, "recovery.signal"))
	s := pg.Attach(b, dir, pg.Options{Env: env, Args: []string{"-c", "restore_command=" + command, "-c", "archive_mode=off"}})
	begun := time.Now()
	s.Start()
	s.AwaitValue("SELECT pg_is_in_recovery()", "f")
	wall := time.Since(begun)
	s.Kill()
	if err := os.RemoveAll(filepath.Dir(dir)); err != nil {
		b.Fatalf("%v", err)
	}
	return sample{wall: wall}
}
