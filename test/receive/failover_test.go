package receive_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// newStandby makes a streaming standby of the world's server from a backup in the repository.
func newStandby(t *testing.T, w *world.World) *pg.Server {
	t.Helper()
	dir := w.Restore()
	if err := os.Rename(filepath.Join(dir, "recovery.signal"), filepath.Join(dir, "standby.signal")); err != nil {
		t.Fatal(err)
	}
	standby := w.Attach(dir)
	standby.AppendConf(map[string]string{"primary_conninfo": fmt.Sprintf("host=%s port=%d user=postgres", w.Server.SocketDir, w.Server.Port)})
	// What restore has set in postgresql.auto.conf stays; the archive is not needed to stream.
	standby.Start()
	w.Server.AwaitValue("SELECT count(*) FROM pg_stat_replication WHERE application_name = 'walreceiver'", "1")
	return standby
}

func dsnOf(servers ...*pg.Server) string {
	hosts, ports := "", ""
	for i, s := range servers {
		if i > 0 {
			hosts, ports = hosts+",", ports+","
		}
		hosts, ports = hosts+s.SocketDir, fmt.Sprintf("%s%d", ports, s.Port)
	}
	return fmt.Sprintf("host=%s port=%s user=postgres", hosts, ports)
}

// TestFailover: a primary dies, its standby is promoted. One receiver knows both and goes over to the new primary; another one was
// receiving from the standby all the time and follows its switch to the new timeline. Both write into one archive, and it has every row.
func TestFailover(t *testing.T) {
	t.Parallel()
	for _, major := range pg.AllMajors(t) {
		if major != 13 && major != pg.DefaultMajor && major != 18 {
			continue
		}
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			pg.Need(t, major)
			w := world.New(t, world.Options{Major: major, NoArchive: true, WALSegmentSizeMiB: 1})
			a := w.Server
			w.Backup("--wal", "include")
			b := newStandby(t, w)
			follows := receive(t, w, "--dsn", dsnOf(a, b)+" target_session_attrs=primary", "--create-slot", "--application-name", "follows")
			follows.AwaitText("receiving timeline 1")
			stays := receive(t, w, "--dsn", dsnOf(b), "--slot", "stays", "--create-slot", "--application-name", "stays")
			stays.AwaitText("receiving timeline 1")
			a.Exec("CREATE TABLE t AS SELECT generate_series(1, 20000) AS i")
			a.SwitchWAL()
			a.Exec("INSERT INTO t VALUES (30000)")
			awaitStoredBy(t, a, "follows")
			b.AwaitValue(fmt.Sprintf("SELECT (pg_last_wal_replay_lsn() >= '%s')::text", a.CurrentLSN()), "true")

			prefix := w.Prefix()
			a.Kill()
			b.Promote()
			follows.AwaitText("receiving timeline 2")
			stays.AwaitText("timeline 1 ended at")
			stays.AwaitText("receiving timeline 2")
			b.Exec("INSERT INTO t VALUES (40000)")
			b.SwitchWAL()
			b.Exec("INSERT INTO t VALUES (50000)")
			awaitStoredBy(t, b, "follows")
			awaitStoredBy(t, b, "stays")
			if len(w.Keys(prefix+"wal/00000002/00000002.history")) != 1 {
				t.Errorf("the history is not stored: %v", w.Keys(prefix+"wal/00000002/"))
			}
			want := b.Sums()
			b.Kill()
			follows.Kill()
			stays.Kill()
			restored := w.StartRestored(w.Restore())
			if d := want.Diff(restored.Sums()); d != "" {
				t.Error(d)
			}
			equal(t, "timeline", restored.Value("SELECT timeline_id FROM pg_control_checkpoint()"), "3")
		})
	}
}

// TestTwoReceivers: two with a slot each, that come and go, make one archive.
func TestTwoReceivers(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{NoArchive: true, WALSegmentSizeMiB: 1})
	s := w.Server
	s.Exec("CREATE TABLE t (i int)")
	one := receive(t, w, "--slot", "one", "--create-slot", "--application-name", "one", "--flush-interval", "50ms")
	one.AwaitText("receiving timeline 1")
	two := receive(t, w, "--slot", "two", "--create-slot", "--application-name", "two", "--synchronous")
	two.AwaitText("receiving timeline 1")
	w.Backup("--wal", "include")
	for i := range 6 {
		s.Exec(fmt.Sprintf("INSERT INTO t SELECT generate_series(%d, %d)", 1+5000*i, 5000*(i+1)))
		switch i {
		case 1:
			one.Kill()
		case 2:
			one = receive(t, w, "--slot", "one", "--application-name", "one", "--flush-interval", "50ms")
			one.AwaitText("receiving timeline 1")
		case 3:
			two.Stop()
		case 4:
			two = receive(t, w, "--slot", "two", "--application-name", "two")
			two.AwaitText("receiving timeline 1")
		}
	}
	awaitStoredBy(t, s, "one")
	awaitStoredBy(t, s, "two")
	want := s.Sums()
	s.Kill()
	one.Kill()
	two.Kill()
	restored := w.StartRestored(w.Restore())
	if d := want.Diff(restored.Sums()); d != "" {
		t.Error(d)
	}
}
