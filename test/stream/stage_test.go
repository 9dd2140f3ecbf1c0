// Package stream_test takes backups by the replication protocol: from hosts that see nothing of the server's files, with a role that may do
// nothing but replicate, of primaries and standbys, and restores them.
package stream_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

func TestMain(m *testing.M) { os.Exit(world.Main(m)) }

const patience = 2 * time.Minute

// streamer is the role that backups are taken with. It may replicate, and not connect for SQL.
const streamer = "PGUSER=streamer"

// newWorld makes a world whose server has that role.
func newWorld(t *testing.T, o world.Options) *world.World {
	t.Helper()
	w := world.New(t, o)
	withStreamer(t, w.Server)
	return w
}

func withStreamer(t *testing.T, s *pg.Server) {
	t.Helper()
	s.Exec("CREATE ROLE streamer LOGIN REPLICATION")
	hba := filepath.Join(s.Dir, "pg_hba.conf")
	old, err := os.ReadFile(hba)
	if err != nil {
		t.Fatal(err)
	}
	rules := "local all streamer reject\nhost all streamer 0.0.0.0/0 reject\nhost replication streamer 0.0.0.0/0 trust\n"
	if err := os.WriteFile(hba, append([]byte(rules), old...), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Reload()
	s.Await("the role to be refused", patience, func() (bool, error) {
		out, err := pg.Command(t.Context(), client(t, "psql"), "-h", s.SocketDir, "-p", strconv.Itoa(s.Port), "-U", "streamer", "-d", "postgres", "-c", "SELECT 1").CombinedOutput()
		return err != nil && strings.Contains(string(out), "pg_hba.conf rejects"), nil
	})
}

func client(t *testing.T, name string) string {
	t.Helper()
	bin, err := pg.ClientBin(pg.DefaultMajor, name)
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// backup is what `pgstow backup create --json` says, with what these tests look at.
type backup struct {
	world.Backup
	Source       string `json:"source"`
	Method       string `json:"method"`
	Reference    string `json:"reference"`
	Standby      bool   `json:"standby"`
	PagesChanged int64  `json:"pages_changed"`
	BytesRead    int64  `json:"bytes_read"`
}

// stream takes a backup of a server by the replication protocol.
func stream(t *testing.T, w *world.World, s *pg.Server, args ...string) backup {
	t.Helper()
	r := w.RunOn(s, []string{streamer}, append([]string{"backup", "create", "--source", "stream", "--json"}, args...)...)
	w.Check(r, 0)
	var b backup
	world.Decode(t, r.Stdout, &b)
	if b.ID == "" || b.Source != "stream" || b.StartedAt.IsZero() || b.StoppedAt.Before(b.StartedAt) {
		t.Fatalf("no streamed backup in the output: %s", r)
	}
	return b
}

// fill makes tables in two databases and two tablespaces.
func fill(t *testing.T, s *pg.Server) (spaces []string) {
	t.Helper()
	s.PgbenchInit(1)
	for i := range 2 {
		dir := pg.TempDir(t)
		spaces = append(spaces, dir)
		s.Exec(fmt.Sprintf("CREATE TABLESPACE space%d LOCATION '%s'", i, dir))
		s.Exec(fmt.Sprintf("CREATE TABLE apart%d TABLESPACE space%d AS SELECT g AS a, repeat('x', 100) AS b FROM generate_series(1, 3000) g", i, i))
	}
	s.Exec("CREATE DATABASE second TABLESPACE space1")
	s.ExecIn("second", "CREATE TABLE t AS SELECT g AS a FROM generate_series(1, 100) g")
	s.Exec(`CREATE UNLOGGED TABLE volatile AS SELECT 1 AS a; CREATE TABLE empty (a int);
		SELECT lo_from_bytea(0, decode(repeat('ab', 20000), 'hex'))`)
	return spaces
}

// change makes some pages differ, and some files come and go.
func change(s *pg.Server) {
	s.Exec(`UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 3000 = 0; INSERT INTO apart0 SELECT 0, 'new';
		DROP TABLE IF EXISTS fresh; CREATE TABLE fresh AS SELECT g AS a FROM generate_series(1, 1000) g`)
	s.Exec("VACUUM pgbench_accounts")
}

// restored restores to the given place and starts a server on it. Tablespaces go to new folders.
func restored(t *testing.T, w *world.World, spaces []string, walIncluded bool, args ...string) *pg.Server {
	t.Helper()
	for _, old := range spaces {
		args = append(args, "--tablespace", old+"="+w.NewDir("space"))
	}
	dir := w.Restore(args...)
	// pg_verifybackup of an older version does not know the manifest of 17 and newer.
	if major := w.Server.Install.Major; major < 17 || w.Server.Install.Has("pg_verifybackup") {
		w.VerifyBackup(dir, walIncluded)
	}
	s := w.StartRestored(dir)
	s.WaitPrimary()
	return s
}

// holds fails the test unless a server holds exactly these tables and its indexes agree with them.
func holds(t *testing.T, what string, s *pg.Server, want pg.Sums) {
	t.Helper()
	if d := want.Diff(s.Sums()); d != "" {
		t.Errorf("%s:\n%s", what, d)
	}
	amcheck, err := pg.ClientBin(s.Install.Major, "pg_amcheck")
	if err != nil || s.Install.Major < 14 {
		return
	}
	s.Exec("CREATE EXTENSION amcheck")
	cmd := pg.Command(t.Context(), amcheck, "-d", "postgres", "--heapallindexed")
	cmd.Env = append(cmd.Env, s.Env()...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: pg_amcheck: %v\n%s", what, err, out)
	}
}

// sumsOf are a server's tables once it has archived all of its WAL.
func sumsOf(s *pg.Server) pg.Sums {
	want := s.Sums()
	s.ArchiveAll()
	return want
}

// noLeft fails the test if there is a backup or a lease.
func noLeft(t *testing.T, w *world.World) {
	t.Helper()
	for _, word := range []string{"/backup/", "/lease/"} {
		if keys := w.KeysWith(word); len(keys) != 0 {
			t.Errorf("left behind: %v", keys)
		}
	}
}
