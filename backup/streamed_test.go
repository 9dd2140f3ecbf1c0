package backup_test

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgstow/backup"
	"pgstow/catalog"
	"pgstow/test/pg"
)

// variety fills a server with what a backup meets: several databases, tablespaces, large
// and small relations, all forks, large objects, unlogged tables, a file that is none of
// PostgreSQL's, a table of more than one job.
func variety(t *testing.T, s *pg.Server) {
	t.Helper()
	s.PgbenchInit(3)
	s.Exec("CREATE UNLOGGED TABLE volatile AS SELECT g AS a FROM generate_series(1, 1000) g")
	for i := range 2 {
		dir := filepath.Join(pg.TempDir(t), fmt.Sprintf("space%d", i))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		pg.Chown(t, dir)
		s.Exec(fmt.Sprintf("CREATE TABLESPACE space%d LOCATION '%s'", i, dir))
		s.Exec(fmt.Sprintf("CREATE TABLE apart%d TABLESPACE space%d AS SELECT g AS a, repeat('x', 100) AS b FROM generate_series(1, 3000) g", i, i))
	}
	s.Exec("CREATE DATABASE second")
	s.ExecIn("second", "CREATE TABLE t AS SELECT g AS a FROM generate_series(1, 100) g")
	s.Exec("CREATE TABLE empty (a int); SELECT lo_from_bytea(0, decode(repeat('ab', 20000), 'hex'))")
	s.Exec("VACUUM")
	for name, size := range map[string]int{"large.log": 9<<20 + 17, "small.txt": 100, "nothing": 0, "blob.bin": 300 << 10} {
		if err := os.WriteFile(filepath.Join(s.Dir, name), bytes.Repeat([]byte("pgstow!"), size/7+1)[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		pg.Chown(t, filepath.Join(s.Dir, name))
	}
}

// quiet waits until nothing is written any more but what a backup itself writes.
func quiet(t *testing.T, s *pg.Server) {
	t.Helper()
	s.Exec("ALTER SYSTEM SET autovacuum = off")
	s.Reload()
	s.Exec("CHECKPOINT")
}

// The stream source gives what the local one gives: the same paths, kinds, modes, sizes
// and contents.
func TestStreamEqualsLocal(t *testing.T) {
	for _, major := range pg.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) { streamEqualsLocal(t, major) })
	}
}

func streamEqualsLocal(t *testing.T, major int) {
	s := pg.New(t, pg.Options{Major: major, Checksums: true, WALSegmentSizeMiB: 1})
	variety(t, s)
	quiet(t, s)
	repo, _ := newRepo(t)
	take := func(o backup.CreateOptions) *rebuilt {
		t.Helper()
		var ev events
		o.Cluster, o.Conn, o.WAL, o.Events = "main", s.DSN("postgres"), backup.WALInclude, ev.add
		h, err := backup.Create(t.Context(), repo, o)
		if err != nil {
			t.Fatal(err)
		}
		var done backup.ProgressEvent
		for _, e := range ev.list {
			if p, ok := e.(backup.ProgressEvent); ok {
				done = p
			}
		}
		// The total is what server or walk found before, and what was read is all of it.
		if done.BytesTotal == 0 || done.BytesDone < done.BytesTotal*9/10 || done.BytesDone > done.BytesTotal*11/10 || done.FilesDone == 0 || done.BytesStored == 0 {
			t.Errorf("progress %+v", done)
		}
		return rebuild(t, repo, h)
	}
	local := take(backup.CreateOptions{Full: true})
	stream := take(backup.CreateOptions{Full: true, Source: backup.SourceStream})
	same(t, local, stream)
	if stream.header.Source != catalog.SourceStream || stream.header.Method != catalog.MethodFull || stream.header.NextXID == 0 {
		t.Errorf("header %+v", stream.header)
	}
	if len(stream.header.TablespaceMap) == 0 || !bytes.Equal(stream.header.TablespaceMap, local.header.TablespaceMap) {
		t.Errorf("tablespace map %q, local %q", stream.header.TablespaceMap, local.header.TablespaceMap)
	}
	if a, b := fmt.Sprint(local.header.Tablespaces), fmt.Sprint(stream.header.Tablespaces); a != b {
		t.Errorf("tablespaces %s, local %s", b, a)
	}
	again := take(backup.CreateOptions{Source: backup.SourceStream})
	same(t, local, again)
	if again.header.Method != catalog.MethodScan || again.header.Reference != stream.header.ID || again.header.PagesChanged > 200 {
		t.Errorf("again: %s since %q (%s), %d pages", again.header.Method, again.header.Reference, again.header.Why, again.header.PagesChanged)
	}
	s.Exec("UPDATE pgbench_accounts SET abalance = 1 WHERE aid % 5000 = 0; DROP TABLE apart0; CREATE TABLE fresh AS SELECT 1 AS a; CHECKPOINT")
	scan := take(backup.CreateOptions{Scan: true})
	changed := take(backup.CreateOptions{Source: backup.SourceStream})
	same(t, scan, changed)
	if scan.header.Reference != again.header.ID || changed.header.Reference != scan.header.ID {
		t.Errorf("references %s, %s", scan.header.Reference, changed.header.Reference)
	}
}

// same compares two backups of a server that was quiet. What the start of a backup itself
// writes is left out.
func same(t *testing.T, a, b *rebuilt) {
	t.Helper()
	if got, want := named(b), named(a); !slices.Equal(got, want) {
		t.Errorf("paths:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, path := range named(a) {
		x, y := a.entries[path], b.entries[path]
		if x.Type != y.Type || x.Mode != y.Mode && x.Type != catalog.TypeLink || x.Target != y.Target || (x.Map == nil) != (y.Map == nil) {
			t.Errorf("%s: %+v, want %+v", path, y, x)
		}
		if path == "global/pg_control" || path == "pg_logical/replorigin_checkpoint" {
			continue
		}
		if !bytes.Equal(a.files[path], b.files[path]) {
			t.Errorf("%s: %d bytes, want %d, or they differ", path, len(b.files[path]), len(a.files[path]))
		}
	}
	if !slices.IsSortedFunc(b.order, catalog.ComparePaths) {
		t.Error("the lines are not in order")
	}
}

// named are the paths outside of pg_wal.
func named(r *rebuilt) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(r.entries)), func(path string) bool { return strings.HasPrefix(path, "pg_wal/") })
}

// From 17 on a server that summarizes its WAL sends what changed. What comes of it is what
// reading every page gives, but for visibility maps, which are empty where they were sent in
// part (RULES-physical A1).
func TestServerIncremental(t *testing.T) {
	majors := []int{17} // test/stream takes 18
	if os.Getenv("PGSTOW_TEST_MAJORS") != "" {
		majors = slices.DeleteFunc(pg.Majors(t), func(m int) bool { return m < 17 })
	}
	for _, major := range majors {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			serverIncremental(t, major)
		})
	}
}

func serverIncremental(t *testing.T, major int) {
	s := pg.New(t, pg.Options{Major: major, Checksums: true, WALSegmentSizeMiB: 1, Conf: map[string]string{"summarize_wal": "on"}})
	variety(t, s)
	s.Exec("CREATE TABLE cut AS SELECT g AS a, repeat('x', 200) AS b FROM generate_series(1, 20000) g; CREATE TABLE regrown AS TABLE cut")
	s.Exec("VACUUM")
	quiet(t, s)
	repo, _ := newRepo(t)
	take := func(o backup.CreateOptions) *rebuilt {
		t.Helper()
		o.Cluster, o.Conn, o.WAL, o.Source = "main", s.DSN("postgres"), backup.WALInclude, backup.SourceStream
		h, err := backup.Create(t.Context(), repo, o)
		if err != nil {
			t.Fatal(err)
		}
		return rebuild(t, repo, h)
	}
	last := take(backup.CreateOptions{})
	for _, sql := range []string{
		"UPDATE pgbench_accounts SET abalance = 1 WHERE aid % 5000 = 0; CREATE TABLE fresh AS SELECT 1 AS a; DROP TABLE apart0|VACUUM",
		"DELETE FROM cut WHERE a > 5000; DELETE FROM regrown WHERE a > 100|VACUUM cut|VACUUM regrown|DROP DATABASE second",
		"INSERT INTO regrown SELECT g, 'again' FROM generate_series(1, 3000) g|CREATE DATABASE third",
		"SELECT 1",
	} {
		for part := range strings.SplitSeq(sql+"|VACUUM pg_database|CHECKPOINT", "|") {
			s.Exec(part)
		}
		sent := take(backup.CreateOptions{})
		if sent.header.Method != catalog.MethodStream || sent.header.Reference != last.header.ID {
			t.Fatalf("%s: %s since %q: %s", sql, sent.header.Method, sent.header.Reference, sent.header.Why)
		}
		if sent.header.BytesRead*3 > last.header.BytesRead && last.header.Method == catalog.MethodFull {
			t.Errorf("%s: %d bytes were sent, %d for all", sql, sent.header.BytesRead, last.header.BytesRead)
		}
		all := take(backup.CreateOptions{Full: true})
		maps := 0
		for path, e := range sent.entries {
			if strings.HasSuffix(path, "_vm") && e.Size == 0 && all.entries[path].Size > 0 {
				sent.files[path], sent.entries[path] = all.files[path], all.entries[path]
				maps++
			}
		}
		if maps == 0 {
			t.Errorf("%s: no visibility map was sent in part", sql)
		}
		same(t, all, sent)
		last = sent
		// The full one must not be the next reference.
		if _, err := repo.DeleteBackup(t.Context(), all.header.Ref(), all.header.ID, catalog.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			t.Fatal(sql)
		}
	}
}
