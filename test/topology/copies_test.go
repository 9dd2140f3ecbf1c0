package topology_test

import (
	"bytes"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
	"pgstow/wal"
)

// TestTwoPromotions: two standbys of a dead primary are promoted, one of which had less of its WAL. Both call their timeline 2. The archive keeps
// the first one's; the second is refused, and loses nothing.
func TestTwoPromotions(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		f := newField(t, world.Options{Major: major}, nil)
		a := f.Server
		f.Backup()
		ahead := f.standby(role{upstream: a, archive: "on"})
		// This one has no restore_command, or it would see that there is a timeline 2 and choose the next.
		short := f.standby(role{upstream: a, archive: "on"})
		f.rows(a, 1, 1000)
		f.level(ahead, a)
		f.level(short, a)
		short.Stop(pg.Fast)
		short = f.attach(short.Dir, role{archive: "on", restore: "-"})
		a.Exec("INSERT INTO t VALUES (20000)")
		f.level(ahead, a)
		f.drained(a)
		f.save(a)
		a.Kill()

		ahead.Promote()
		f.rows(ahead, 30_001, 3000)
		f.rows(ahead, 40_001, 3000)
		f.drained(ahead)
		before := f.ReadEverything()
		short.Start()
		short.Promote()
		f.rows(short, 50_001, 3000)
		f.rows(short, 60_001, 3000)
		short.AwaitValue("SELECT failed_count > 0 AND last_failed_wal = '00000002.history' FROM pg_stat_archiver", "t")
		f.Check(f.RunProgram("pgstow-wal", "push", "--pgdata", short.Dir, filepath.Join(short.Dir, "pg_wal", "00000002.history")), 12,
			ahead.Dir, "PGSTOW_CLUSTER", "promote")
		f.save(ahead, short)
		found := f.wantHonest()
		for key, body := range before {
			if !bytes.Equal(f.Read(key), body) {
				t.Errorf("%s has changed", key)
			}
		}
		partials := slices.DeleteFunc(slices.Sorted(maps.Keys(found)), func(name string) bool { return !strings.HasSuffix(name, ".partial") })
		t.Logf("partial segments: %v of %v", partials, found)
		f.wantRestored("the archive", ahead.Sums())

		// Its own archive is the way out that the message names. Nothing of it is missing.
		want := short.Sums()
		short.Stop(pg.Fast)
		short.SetEnv("PGSTOW_CLUSTER", "other")
		short.Start()
		short.ArchiveAll()
		short.Await("an empty queue", patience, func() (bool, error) { return len(short.ReadyFiles()) == 0, nil })
		f.save(short)
		f.wantHonest()
		f.Check(f.RunOn(short, []string{"PGSTOW_CLUSTER=other"}, "backup", "create"), 0)
		dir := f.NewDir("other")
		f.Check(f.RunWith([]string{"PGSTOW_CLUSTER=other"}, "restore", dir, "--action", "promote"), 0)
		restored := f.attach(dir, role{archive: "off", cluster: "other"})
		restored.Start()
		restored.WaitPrimary()
		if d := want.Diff(restored.Sums()); d != "" {
			t.Errorf("the second one's archive:\n%s", d)
		}
	})
}

// TestPartialTwice: two restores are promoted from the same segment, one after the other, each with an unlike rest behind the fork. Both .partial
// files are archived, and neither blocks what follows.
func TestPartialTwice(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		f := newField(t, world.Options{Major: major}, nil)
		a := f.Server
		f.Backup()
		f.rows(a, 1, 1000)
		one := f.standby(role{upstream: a})
		two := f.standby(role{upstream: a})
		a.Exec("INSERT INTO t VALUES (20000)")
		f.level(one, a)
		f.level(two, a)
		one.Promote()
		f.rows(one, 30_001, 1000)
		// The second stays with the first timeline a while, in the same segment.
		a.Exec("INSERT INTO t VALUES (20001)")
		f.level(two, a)
		fork := a.Value("SELECT pg_walfile_name(pg_current_wal_lsn())")
		f.drained(a, one)
		f.save(a)
		a.Kill()
		two.Promote()
		two.Exec("CHECKPOINT")
		if tli := two.Value("SELECT timeline_id FROM pg_control_checkpoint()"); tli != "3" {
			t.Errorf("the second promotion made timeline %s", tli)
		}
		f.rows(two, 40_001, 1000)
		f.drained(one, two)
		f.save(one, two)
		found := f.wantHonest()
		if found[fork+".partial"] != 2 || found["00000002.history"] != 1 || found["00000003.history"] != 1 {
			t.Errorf("of %s.partial the archive has %v", fork, found)
		}
		f.wantRestored("timeline 2", one.Sums(), "--timeline", "2")
		f.wantRestored("timeline 3", two.Sums(), "--timeline", "3")
	})
}

// TestDrillNextToProduction: a restore is tried on the side, promoted and written to. Production, its standby and the archive do not notice.
func TestDrillNextToProduction(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		f := newField(t, world.Options{Major: major}, nil)
		a := f.Server
		f.Backup()
		f.rows(a, 1, 1000)
		b := f.standby(role{upstream: a})
		f.drained(a, b)
		before := f.ReadEverything()
		want := a.Sums()

		drill := f.StartRestored(f.Restore("--action", "promote"))
		drill.WaitPrimary()
		if d := want.Diff(drill.Sums()); d != "" {
			t.Errorf("the drill:\n%s", d)
		}
		f.rows(drill, 50_001, 3000)
		f.rows(drill, 60_001, 3000)
		drill.Exec("CHECKPOINT")
		if mode := drill.Value("SHOW archive_mode"); mode != "off" {
			t.Errorf("archive_mode of the drill is %s", mode)
		}
		drill.Stop(pg.Fast)
		drill.Start()
		f.rows(drill, 70_001, 100)
		after := f.ReadEverything()
		for key := range after {
			if _, ok := before[key]; !ok && strings.Contains(key, "/wal/") {
				t.Errorf("%s was stored meanwhile", key)
			}
		}

		// Production goes on, and so does its standby, on timeline 1.
		f.rows(a, 20_001, 1000)
		f.level(b, a)
		f.drained(a, b)
		if tli := b.Value("SELECT received_tli FROM pg_stat_wal_receiver"); tli != "1" {
			t.Errorf("the standby follows timeline %s", tli)
		}
		f.save(a, b)
		found := f.wantHonest()
		if n := found["00000002.history"]; n != 0 {
			t.Error("the drill's timeline is in the archive")
		}
		f.wantRestored("production", a.Sums())
	})
}

// TestTwoServersOfOneName: another server, made anew, is given the same configuration. Both archive, each under its own system identifier, and a
// restore wants to be told which.
func TestTwoServersOfOneName(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		f := newField(t, world.Options{Major: major}, nil)
		a := f.Server
		f.Backup()
		b := pg.New(t, pg.Options{
			Major: major, WALSegmentSizeMiB: 1, ArchiveCommand: f.ArchiveCommand(), Env: f.Env(), Conf: map[string]string{"wal_keep_size": "512MB"},
		})
		if a.SystemID() == b.SystemID() {
			t.Fatal("both have one system identifier")
		}
		b.Exec("CREATE TABLE t (i int)")
		f.BackupOf(b)
		for i := range 3 {
			f.rows(a, 1+1000*i, 1000)
			f.rows(b, 50_001+1000*i, 1000)
		}
		f.drained(a, b)
		f.save(a, b)
		found := f.wantHonest()
		twice := 0
		for name, n := range found {
			if parsed, err := wal.ParseFileName(name); err == nil && parsed.Kind == wal.Segment && n == 2 {
				twice++
			}
		}
		if twice == 0 {
			t.Errorf("no segment has the same name on both: %v", found)
		}
		f.Check(f.RunRestore(f.NewDir("which"), "--action", "promote"), 12, a.SystemID(), b.SystemID(), "--system-id")
		f.wantRestored("the first", a.Sums(), "--system-id", a.SystemID())
		f.wantRestored("the second", b.Sums(), "--system-id", b.SystemID())
	})
}
