package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"pgstow/test/minio"
	"pgstow/test/pg"
)

// drained is how many full segments the WAL benches move.
const drained = 64

// walSet is WAL of one kind: a server that runs, holds at least [drained] full segments that wait to be archived, and whose own
// archive_command always fails, so that the bench can play the archiver.
type walSet struct {
	name   string
	server *pg.Server
	names  []string // of the full segments, in order
	backup string   // a copy of the data directory from before them, for recoveries
}

// load makes WAL. It is repeated until there is enough.
type load struct {
	name  string
	setup func(s *pg.Server)
	write func(s *pg.Server)
}

// loads are the two kinds of WAL: that of pgbench is full of page images and compresses some 8:1; rows of hexadecimal digits, which carry half
// a byte each and never repeat, hold zstd to about 2:1.
func loads() []load {
	return []load{
		{
			name:  "pgbench 8:1",
			setup: func(s *pg.Server) { s.PgbenchInit(40) },
			write: func(s *pg.Server) {
				s.Exec("CHECKPOINT") // the next change of each page is a page image
				s.Pgbench("-n", "-c", "4", "-j", "2", "-t", "2000", "postgres")
			},
		},
		{
			name: "random 2:1",
			setup: func(s *pg.Server) {
				s.Exec("CREATE TABLE noise (id bigserial, a text, b text, c text, d text)")
			},
			write: func(s *pg.Server) {
				s.Exec("INSERT INTO noise (a, b, c, d) SELECT md5(random()::text)||md5(random()::text), md5(random()::text)||md5(random()::text), " +
					"md5(random()::text)||md5(random()::text), md5(random()::text)||md5(random()::text) FROM generate_series(1, 100000)")
				s.Exec("TRUNCATE noise")
			},
		},
	}
}

// walSets makes the servers. Files that were archived stay in pg_wal.
func (b *bench) walSets() []*walSet {
	var sets []*walSet
	for _, l := range loads() {
		s := pg.New(b, pg.Options{ArchiveCommand: "false", Checksums: true, Conf: map[string]string{
			"max_wal_size": "16GB", "wal_keep_size": "16GB", "shared_buffers": "256MB", "checkpoint_timeout": "1h",
			"max_wal_senders": "8", "max_replication_slots": "8", "autovacuum": "off",
		}})
		l.setup(s)
		s.Stop(pg.Fast)
		before := filepath.Join(pg.TempDir(b), "before")
		if out, err := pg.Command(b.ctx(), "cp", "-a", s.Dir, before).CombinedOutput(); err != nil {
			b.Fatalf("copy the data directory: %v\n%s", err, out)
		}
		s.Start()
		first := s.Value("SELECT pg_walfile_name(pg_current_wal_lsn())")
		for len(full(s, first)) < drained {
			l.write(s)
		}
		sets = append(sets, &walSet{name: l.name, server: s, names: full(s, first)[:drained], backup: before})
		b.Logf("%s: %d segments from %s on", l.name, drained, sets[len(sets)-1].names[0])
	}
	return sets
}

// full are the segments from first on that wait to be archived.
func full(s *pg.Server, first string) []string {
	names := s.ReadyFiles()
	slices.Sort(names)
	return slices.DeleteFunc(names, func(n string) bool { return len(n) != 24 || n < first })
}

// settle marks all other files as archived: the server would ask for older ones first.
func (w *walSet) settle(b *bench) {
	for _, name := range w.server.ReadyFiles() {
		if slices.Contains(w.names, name) {
			continue
		}
		status := filepath.Join(w.server.Dir, "pg_wal", "archive_status", name)
		if err := os.Rename(status+".ready", status+".done"); err != nil {
			b.Fatalf("%v", err)
		}
	}
}

// rewind makes all of the set's segments wait again, and nothing else.
func (w *walSet) rewind(b *bench) {
	w.settle(b)
	for _, name := range w.names {
		status := filepath.Join(w.server.Dir, "pg_wal", "archive_status", name)
		if err := os.Rename(status+".done", status+".ready"); err != nil && !os.IsNotExist(err) {
			b.Fatalf("%v", err)
		}
	}
}

// walRepository makes a new repository and returns the environment of calls that use it.
func (b *bench) walRepository(m *minio.Server, w *walSet) []string {
	b.repositories++
	dir := pg.TempDir(b)
	env := append([]string{
		"PGSTOW_REPO=" + m.URL("pgstow", fmt.Sprintf("r%d", b.repositories)), "PGSTOW_CLUSTER=bench", "PGSTOW_ENCRYPTION=none",
		"PGSTOW_SPOOL=" + filepath.Join(dir, "spool"),
	}, m.Env()...)
	b.must(env, "pgstow init --plain --pgdata "+w.server.Dir)
	return env
}

// wal runs the WAL benches that were asked for.
func (b *bench) wal() {
	b.adopt()
	m := minio.New(b, minio.Options{Buckets: []string{"pgstow", "baseline"}})
	if b.wanted("wal-push") || b.wanted("wal-fetch") || b.wanted("recovery") {
		for _, w := range b.walSets() {
			env := b.walPush(m, w)
			if b.wanted("wal-fetch") {
				b.walFetch(m, w, env)
			}
			if b.wanted("recovery") {
				b.recovery(w, env)
			}
			w.server.Kill()
		}
	}
	if b.wanted("receive") {
		b.receive(m)
	}
}

func (b *bench) walWanted() bool {
	return strings.Contains(strings.Join(b.only, ","), "wal-") || b.wanted("recovery") || b.wanted("receive")
}
