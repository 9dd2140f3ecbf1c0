package repair_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// keeping are the settings of a server that keeps its WAL.
var keeping = map[string]string{"wal_keep_size": "64MB", "min_wal_size": "32MB", "autovacuum": "off"}

// TestHole: objects are lost, and the running server's pg_wal still has them.
func TestHole(t *testing.T) {
	world.EachStore(t, func(t *testing.T, store string) {
		w := world.New(t, world.Options{Store: store, WALSegmentSizeMiB: 1, Conf: keeping})
		s := w.Server
		s.Exec("CREATE TABLE t AS SELECT 0 AS i")
		w.Backup()
		names := fill(t, s, 6)
		s.Exec("INSERT INTO t VALUES (1)")
		s.ArchiveAll()
		lost := []string{names[1], names[3], names[4]}
		for _, name := range lost {
			w.Delete(w.WALKeys(name)...)
		}
		if store == world.File {
			age(t, w)
			w.Expect(3, []string{lost[0], lost[1]}, "wal", "list")
			w.Expect(1, []string{lost[0]}, "check", "--no-server")
		}
		w.Expect(13, []string{lost[0]}, "restore", w.NewDir("refused"))

		dry := repair(t, w, 0, nil, "--pgdata", s.Dir, "--dry-run")
		equal(t, "would be stored", dry.names("missing"), lost)
		archived(t, w, false, lost...)
		before := w.KeysWith("/wal/")
		r := repair(t, w, 0, nil, "--pgdata", s.Dir)
		equal(t, "stored", r.names("stored"), lost)
		if !r.Running || len(r.Holes) > 0 {
			t.Errorf("running: %t, holes: %v", r.Running, r.Holes)
		}
		want := slices.Clone(before)
		for _, name := range lost {
			want = append(want, w.WALKeys(name)...)
		}
		slices.Sort(want)
		equal(t, "keys", w.KeysWith("/wal/"), want)
		again := repair(t, w, 0, nil, "--pgdata", s.Dir)
		equal(t, "stored again", again.names("stored"), nil)
		if got := len(again.names("existed")); got < len(names) {
			t.Errorf("only %d files were compared", got)
		}
		w.Expect(0, nil, "wal", "list")
		restored := w.StartRestored(w.Restore())
		equal(t, "rows", []string{rows(restored)}, []string{"0 1"})
		restored.Kill()
	})
}

// TestRecycled: a server that never archived anything leaves nothing but real WAL in the archive, and its folder as it was.
func TestRecycled(t *testing.T) {
	w := world.New(t, world.Options{WALSegmentSizeMiB: 1, NoArchive: true, Conf: map[string]string{"min_wal_size": "32MB", "max_wal_size": "32MB"}})
	s := w.Server
	s.Exec("CREATE TABLE t AS SELECT 0 AS i")
	for range 3 {
		fill(t, s, 8)
		s.Exec("CHECKPOINT")
	}
	s.Exec("INSERT INTO t VALUES (1)")
	current := s.Value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
	files, err := filepath.Glob(filepath.Join(s.Dir, "pg_wal", "0*"))
	if err != nil {
		t.Fatal(err)
	}
	var future []string
	for _, f := range files {
		if filepath.Base(f) > current {
			future = append(future, filepath.Base(f))
		}
	}
	running := repair(t, w, 0, nil, "--pgdata", s.Dir)
	archived(t, w, false, current)
	equal(t, "left to the running server", running.names("skipped"), []string{current})

	s.Kill()
	before := snapshot(t, s.Dir)
	r := repair(t, w, 0, nil, "--pgdata", s.Dir)
	if len(future) < 5 || r.Recycled < len(future) {
		t.Errorf("%d recycled files were seen, and pg_wal has %v", r.Recycled, future)
	}
	archived(t, w, false, future...)
	equal(t, "stored", r.names("stored"), []string{current})
	if after := snapshot(t, s.Dir); len(after) != len(before) {
		t.Error("the folder was changed")
	} else {
		for path, state := range before {
			if after[path] != state {
				t.Errorf("%s was %s and is %s", path, state, after[path])
			}
		}
	}
	again := repair(t, w, 0, nil, "--pgdata", s.Dir)
	equal(t, "stored again", again.names("stored"), nil)
	equal(t, "kept", again.names("skipped"), nil)
}

// TestStandby: only a standby still has what the archive lost.
func TestStandby(t *testing.T) {
	w := world.New(t, world.Options{WALSegmentSizeMiB: 1, Conf: map[string]string{"max_wal_size": "2MB", "min_wal_size": "2MB", "wal_keep_size": "1MB"}})
	s := w.Server
	s.Exec("CREATE TABLE t AS SELECT 0 AS i")
	w.Backup()
	b := standby(t, w)
	names := fill(t, s, 4)
	awaitArchived(t, w, names...)
	s.Exec("INSERT INTO t VALUES (1)")
	b.AwaitValue("SELECT count(*) FROM t", "2")
	more := fill(t, s, 4)
	awaitArchived(t, w, more...)
	s.Exec("CHECKPOINT")
	s.Exec("CHECKPOINT")
	if _, err := os.Stat(filepath.Join(s.Dir, "pg_wal", names[1])); err == nil {
		t.Fatal("the primary still has the segment")
	}
	b.AwaitValue("SELECT count(*) FROM pg_stat_wal_receiver WHERE flushed_lsn >= '"+s.CurrentLSN()+"'", "1")
	w.Delete(w.WALKeys(names[1])...)
	w.Delete(w.WALKeys(names[2])...)
	r := repair(t, w, 3, []string{names[1] + " to " + names[2]}, "--pgdata", s.Dir)
	if len(r.Holes) != 1 || r.Holes[0].First != names[1] || r.Holes[0].Last != names[2] || r.Holes[0].Segments != 2 {
		t.Errorf("holes: %v", r.Holes)
	}
	// The folder alone, when the archive knows one server by the name.
	r = repair(t, w, 0, nil, "--from", filepath.Join(b.Dir, "pg_wal"))
	equal(t, "stored", r.names("stored"), names[1:3])
	if !r.Running {
		t.Error("the standby was not seen")
	}
	// On the standby's host.
	w.Delete(w.WALKeys(names[2])...)
	equal(t, "stored", repair(t, w, 0, nil, "--pgdata", b.Dir).names("stored"), names[2:3])
	restored := w.StartRestored(w.Restore())
	equal(t, "rows", []string{rows(restored)}, []string{"0 1"})
}

// standby makes one that streams from the world's server and keeps what it gets.
func standby(t *testing.T, w *world.World) *pg.Server {
	t.Helper()
	dir := w.Restore()
	if err := os.Rename(filepath.Join(dir, "recovery.signal"), filepath.Join(dir, "standby.signal")); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(filepath.Join(dir, "postgresql.auto.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = file.WriteString("primary_conninfo = '" + strings.ReplaceAll(w.Server.DSN("postgres"), "'", "''") + "'\nrecovery_target_timeline = 'latest'\nwal_keep_size = '64MB'\n")
	}
	if err == nil {
		err = file.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	b := w.Attach(dir)
	b.Start()
	b.AwaitValue("SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'", "1")
	return b
}

// TestOwner: root mends the archive of a server that is not root's, and the server goes on in it.
func TestOwner(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root acts for other users")
	}
	w := world.New(t, world.Options{WALSegmentSizeMiB: 1, Conf: keeping})
	names := fill(t, w.Server, 3)
	awaitArchived(t, w, names...)
	key := w.WALKeys(names[1])[0]
	w.Delete(key)
	cmd := exec.CommandContext(t.Context(), pg.Binary(t, "pgstow"), "wal", "repair", "--pgdata", w.Server.Dir)
	cmd.Env = w.Env()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	path := filepath.Join(strings.TrimPrefix(w.URL, "file://"), key)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid != pg.Credential().Uid {
		t.Errorf("%s belongs to user %d", path, uid)
	}
	awaitArchived(t, w, fill(t, w.Server, 1)[0])
}
