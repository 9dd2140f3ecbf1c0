// Command demo shows pgstow's main job on a real PostgreSQL in less than two minutes: archive, back up, lose everything, come back to the moment before a
// mistake. It runs the programs in bin/ as a person would, checks that every table is back as it was, and leaves nothing behind. `make demo` runs it.
package main

import (
	"flag"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"pgstow/test/minio"
	"pgstow/test/pg"
)

type options struct {
	bin     string
	store   string
	encrypt bool
	scale   int
	write   time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "folder of pgstow and pgstow-wal")
	flag.StringVar(&o.store, "store", "file", "file: a folder; minio: a MinIO server started for this")
	flag.BoolVar(&o.encrypt, "encrypt", false, "encrypt the repository")
	flag.IntVar(&o.scale, "scale", 10, "pgbench's scale: 100,000 rows and 15 MB each")
	flag.DurationVar(&o.write, "write", 5*time.Second, "how long to go on writing after the backup")
	flag.Parse()
	if flag.NArg() > 0 || o.store != "file" && o.store != "minio" {
		flag.Usage()
		os.Exit(64)
	}
	if !play(o) {
		os.Exit(1)
	}
}

// play runs the demo and cleans up, also when it fails or is interrupted.
func play(o options) bool {
	s := &stage{Standalone: &pg.Standalone{Out: os.Stderr}, begun: time.Now()}
	interrupt := make(chan os.Signal, 1)
	signal.Notify(interrupt, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupt
		s.CleanUp()
		os.Exit(1)
	}()
	ok := s.Run(func() {
		d := &demo{stage: s, options: o, root: pg.TempDir(s)}
		d.run()
	})
	if !ok {
		s.Logf("the demo failed")
	}
	return ok
}

type demo struct {
	*stage
	options
	root string // all that the demo makes lies in here

	repo     string   // the repository's address
	storeEnv []string // credentials of the store
	config   string   // the configuration file that init writes
	identity string   // with encrypt: the file with the private key
	server   *pg.Server
}

func (d *demo) run() {
	d.bin = pg.Programs(d, d.bin)
	d.prepareStore()
	d.prepareServer()

	d.say("Filling the database with pgbench's tables, scale %d.", d.scale)
	d.server.PgbenchInit(d.scale)
	d.server.Exec("CREATE TABLE notes (at timestamptz DEFAULT clock_timestamp(), note text); INSERT INTO notes (note) VALUES ('before the backup')")

	d.say("Taking a base backup while the server runs: pgstow backup create")
	d.show(d.pgstow(d.server.Env(), "backup", "create"))

	d.say("Writing on for %s. This is in no base backup, only in the archived WAL.", d.write)
	d.server.PgbenchRun(d.write)
	d.server.Exec("INSERT INTO notes (note) VALUES ('after the backup')")

	d.say("Counting and hashing every row of every table, and noting the time.")
	want := d.server.Sums()
	target := d.server.Now()
	d.note("%d rows in %d tables at %s", want.Rows(), len(want), target.Format(time.RFC3339Nano))

	d.say("The mistake: DROP TABLE pgbench_accounts. Nobody notices, and work goes on.")
	d.server.Exec("DROP TABLE pgbench_accounts")
	d.server.Exec("INSERT INTO notes (note) VALUES ('after the mistake'); CREATE TABLE too_late AS SELECT generate_series(1, 100000) AS n")
	segment := d.server.ArchiveAll()
	d.note("the last WAL segment in the archive is %s", segment)

	d.say("The disaster: the server is killed and its data directory removed.")
	dir := d.server.Dir
	d.server.Kill()
	if err := os.RemoveAll(dir); err != nil {
		d.Fatalf("remove the data directory: %v", err)
	}

	d.say("What is left is the repository: pgstow info")
	d.show(d.pgstow(d.identityEnv(), "info"))
	d.restore(dir, target, want)
}

// prepareStore makes a place for the repository.
func (d *demo) prepareStore() {
	switch d.store {
	case "minio":
		d.say("Starting MinIO, an S3 server, for the repository.")
		m := minio.New(d, minio.Options{Buckets: []string{"backups"}})
		d.repo, d.storeEnv = m.URL("backups", "demo"), m.Env()
	default:
		d.repo = "file://" + filepath.Join(d.root, "repository")
	}
}

// prepareServer makes a cluster, makes the repository with its description, and starts the server with archiving on.
func (d *demo) prepareServer() {
	d.config = filepath.Join(d.root, "pgstow.toml")
	d.say("Making a PostgreSQL %d cluster that archives by archive_command = '%s push %%p'", pg.DefaultMajor, filepath.Join(d.bin, "pgstow-wal"))
	d.server = pg.Create(d, pg.Options{
		Dir:            filepath.Join(d.root, "data"),
		ArchiveCommand: filepath.Join(d.bin, "pgstow-wal") + " push %p",
		Env:            append(d.env(), "PGSTOW_CONFIG="+d.config),
		Conf:           map[string]string{"shared_buffers": "128MB", "max_wal_size": "4GB"},
	})

	init := []string{"init", "--repo", d.repo, "--cluster", "main", "--pgdata", d.server.Dir, "--write-config", d.config}
	if d.encrypt {
		d.identity = filepath.Join(d.root, "identity.key")
		d.say("Making a key pair: pgstow keygen. The database host gets the public half only.")
		recipient := strings.TrimSpace(d.must(d.env(), "keygen", d.identity))
		init = append(init, "--recipient", recipient)
	} else {
		init = append(init, "--plain")
	}
	d.say("Making the repository: pgstow init --repo %s", d.repo)
	d.show(d.must(d.env(), init...))
	d.server.Start()
}

// restore brings the cluster back to the target and compares.
func (d *demo) restore(dir string, target time.Time, want pg.Sums) {
	at := target.Format(time.RFC3339Nano)
	args := []string{"restore", dir, "--to-time", at, "--action", "promote"}
	if d.encrypt {
		d.say("Without the private key nothing can be restored:")
		out, err := d.try(append(d.env(), "PGSTOW_CONFIG="+d.config), args...)
		if err == nil {
			d.Fatalf("a restore without the identity succeeded:\n%s", out)
		}
		d.show(out)
	}
	d.say("Restoring to the noted time: pgstow restore DIR --to-time %s", at)
	d.show(d.pgstow(d.identityEnv(), args...))

	d.say("Starting PostgreSQL on the restored directory: it fetches WAL from the archive up to the noted time.")
	back := pg.Restored(d, dir, pg.Options{Env: append(append(d.env(), "PGSTOW_CONFIG="+d.config), d.identityEnv()...)})
	back.WaitPrimary()

	d.say("Counting and hashing every row again.")
	if diff := want.Diff(back.Sums()); diff != "" {
		d.Fatalf("the restored tables are not what they were:\n%s\n%s", diff, back.LogTail())
	}
	for _, name := range want.Names() {
		d.note("%-36s %9d rows  same hash", name, want[name].Rows)
	}
	if last := back.Value("SELECT note FROM notes ORDER BY at DESC LIMIT 1"); last != "after the backup" {
		d.Fatalf("the last note is %q", last)
	}
	back.Exec("INSERT INTO notes (note) VALUES ('life goes on')")
	d.say("Every table is back exactly as it was at %s: pgbench_accounts is there, what came after the mistake is not.", at)
}

// env is what every command and the server get: the credentials of the store and a spool of the demo's own.
func (d *demo) env() []string {
	return append([]string{"PGSTOW_SPOOL=" + filepath.Join(d.root, "spool")}, d.storeEnv...)
}

// identityEnv names the private key, where there is one.
func (d *demo) identityEnv() []string {
	if d.identity == "" {
		return nil
	}
	return []string{"PGSTOW_IDENTITY_FILE=" + d.identity}
}

// pgstow runs a command with the configuration that init has written.
func (d *demo) pgstow(env []string, args ...string) string {
	return d.must(append(append(d.env(), "PGSTOW_CONFIG="+d.config), env...), args...)
}
