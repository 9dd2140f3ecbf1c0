package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"pgstow/test/minio"
	"pgstow/test/pg"
)

// physical times backup and restore of one pgbench cluster, on a folder and on MinIO.
func (b *bench) physical() {
	dir := pg.TempDir(b)
	env := []string{"PGSTOW_CLUSTER=bench", "PGSTOW_ENCRYPTION=none", "PGSTOW_SPOOL=" + filepath.Join(dir, "spool")}
	server := pg.New(b, pg.Options{
		// Archiving goes to whatever repository the link points to: the server is the same for both stores.
		ArchiveCommand: filepath.Join(b.bin, "pgstow-wal") + " push --config " + filepath.Join(dir, "current.toml") + " %p",
		Env:            append(env, "AWS_ACCESS_KEY_ID="+minio.AccessKey, "AWS_SECRET_ACCESS_KEY="+minio.SecretKey),
		Conf:           map[string]string{"max_wal_size": "8GB", "shared_buffers": "256MB"},
		Fsync:          true,
	})
	stores := b.stores(dir)
	b.point(dir, stores[0].url)
	b.must(append(env, stores[0].env...), "pgstow init --plain --repo "+quote(stores[0].url)+" --pgdata "+server.Dir)
	server.PgbenchInit(b.scale)
	server.Exec("VACUUM FREEZE")
	server.Exec("CHECKPOINT")
	server.ArchiveAll()
	for _, s := range stores {
		b.point(dir, s.url)
		runEnv := append(append(append([]string{}, env...), s.env...), server.Env()...)
		runEnv = append(runEnv, "PGSTOW_REPO="+s.url)
		b.must(runEnv, "pgstow init --plain --pgdata "+server.Dir)
		b.pairs("backup to "+s.name, "<= 1.15", b.rounds,
			&side{name: "pgstow", command: b.pgstow("backup create"), env: runEnv},
			&side{name: "tar | zstd -1 -T2", command: "tar -C " + server.Dir + " --exclude './pg_wal/*' -cf - . | zstd -1 -T2 -q | " + s.sink, env: runEnv})
		target := filepath.Join(dir, "restored")
		remove := func() {
			if err := os.RemoveAll(target); err != nil {
				b.Fatalf("%v", err)
			}
		}
		b.pairs("restore from "+s.name, "<= 1.0", b.rounds,
			&side{name: "pgstow", command: b.pgstow("restore " + target + " --immediate"), env: runEnv, before: remove},
			&side{name: "zstd -d | tar -x", command: "mkdir " + target + " && " + s.source + " | zstd -dc | tar -C " + target + " -xf - && sync -f " + target, env: runEnv, before: remove})
		remove()
	}
}

// place is one store: its URL for pgstow, and how the baseline writes to it and reads from it.
type place struct {
	name, url    string
	env          []string
	sink, source string
}

func (b *bench) stores(dir string) []place {
	var all []place
	if b.wanted("file") {
		archive := filepath.Join(dir, "baseline.tar.zst")
		all = append(all, place{
			name: "file", url: "file://" + filepath.Join(dir, "repository"),
			sink: "cat > " + archive + " && sync " + archive, source: "cat " + archive,
		})
	}
	if b.wanted("minio") {
		server := minio.New(b, minio.Options{Buckets: []string{"pgstow", "baseline"}})
		address := quote(server.URL("baseline", "tar"))
		all = append(all, place{
			name: "minio", url: server.URL("pgstow", "repository"), env: server.Env(),
			sink: b.self + " sink " + address, source: b.self + " source " + address,
		})
	}
	return all
}

// point has the server's archive_command use a repository from now on.
func (b *bench) point(dir, url string) {
	path := filepath.Join(dir, "current.toml")
	if err := os.WriteFile(path+".new", fmt.Appendf(nil, "repo = %q\n", url), 0o644); err != nil {
		b.Fatalf("%v", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		b.Fatalf("%v", err)
	}
}

// pgstow is a command line with the program by its path.
func (b *bench) pgstow(args string) string {
	return filepath.Join(b.bin, "pgstow") + " " + strings.TrimPrefix(args, "pgstow ")
}

func (b *bench) must(env []string, command string) {
	b.time(&side{name: command, command: b.pgstow(command), env: env})
}
