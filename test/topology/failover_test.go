package topology_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// eachMajor runs a test on PostgreSQL 15, or on the versions that are asked for.
func eachMajor(t *testing.T, f func(t *testing.T, major int)) {
	t.Helper()
	pg.Long(t, "runs several servers")
	world.EachMajor(t, pg.Majors(t), f)
}

// TestFailoverAndRewind: a primary, a standby and a standby of that one all archive into one archive, and two receivers do too. The standby is
// promoted while the primary lives on, and both write (split brain). Then the old primary is rewound, and becomes a standby of the new one.
func TestFailoverAndRewind(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		f := newField(t, world.Options{Major: major}, nil)
		a := f.Server
		f.Backup()
		fromA := f.receive("from_a", a)
		b := f.standby(role{upstream: a})
		c := f.standby(role{upstream: b})
		fromB := f.receive("from_b", b)
		for i := range 4 {
			f.rows(a, 1+1000*i, 1000)
		}
		f.level(c, a)
		f.drained(a, b, c)

		// Standbys catch up from the archive alone, too: this one was away.
		c.Stop(pg.Fast)
		f.rows(a, 10_001, 1000)
		c.Start()
		f.streams(c, b)

		// The network parts: b no longer hears of a, and is promoted. a goes on.
		a.Exec("INSERT INTO t VALUES (20000)")
		f.level(b, a)
		f.level(c, a)
		fork := a.Value("SELECT pg_walfile_name(pg_current_wal_lsn())")
		b.Promote()
		b.Exec("CHECKPOINT")
		a.Exec("INSERT INTO t VALUES (30000)")
		f.rows(a, 30_001, 3000)
		f.rows(a, 40_001, 3000)
		f.rows(b, 50_001, 3000)
		f.rows(b, 60_001, 3000)
		f.level(c, b)
		f.drained(a, b, c)
		old, fresh := a.Sums(), b.Sums()
		fromA.Stop()

		a.Stop(pg.Fast) // with its last segment archived
		f.save(a, b, c)
		f.wantRestored("timeline 1", old, "--timeline", "1")
		f.wantRestored("the newest timeline", fresh)
		if !a.Install.Has("pg_rewind") { // as in the builds of the majors that no distribution packages here
			fromB.Stop()
			f.wantHonest()
			return
		}

		// The old primary comes back. It lacks some of its own WAL by now, which the archive has.
		f.rewind(a, b, fork)
		a2 := f.attach(a.Dir, role{upstream: b})
		a2.Start()
		f.streams(a2, b)
		f.rows(b, 70_001, 1000)
		f.level(a2, b)
		f.level(c, b)
		f.drained(a2, b, c)
		fromB.Stop()
		want := b.Sums()
		for _, s := range []*pg.Server{a2, c} {
			if d := want.Diff(s.Sums()); d != "" {
				t.Errorf("%s:\n%s", s.Dir, d)
			}
		}
		f.save(a2, b, c)
		found := f.wantHonest()
		if found[fork] == 0 || found[fork+".partial"] == 0 || found["00000002.history"] != 1 {
			t.Errorf("of the fork's segment %s the archive has %v", fork, found)
		}
		f.wantRestored("after the rewind", want)
	})
}

// rewind takes a stopped server's segments before the fork away and runs pg_rewind with its restore_command.
func (f *field) rewind(old, source *pg.Server, fork string) {
	f.t.Helper()
	tool := old.Install.Bin("pg_rewind")
	removed := 0
	entries, err := os.ReadDir(filepath.Join(old.Dir, "pg_wal"))
	if err != nil {
		f.t.Fatal(err)
	}
	for _, e := range entries {
		if len(e.Name()) == 24 && e.Name() <= fork {
			if err := os.Remove(filepath.Join(old.Dir, "pg_wal", e.Name())); err != nil {
				f.t.Fatal(err)
			}
			removed++
		}
	}
	if removed == 0 {
		f.t.Fatal("there is no WAL that pg_rewind would have to fetch")
	}
	command := f.RestoreCommand()
	old.AppendConf(map[string]string{"restore_command": command})
	cmd := pg.Command(f.t.Context(), tool, "--target-pgdata="+old.Dir, "--source-server="+conninfo(source), "--restore-target-wal", "--progress", "--no-sync")
	cmd.Env = append(cmd.Env, f.Env()...)
	out, err := cmd.CombinedOutput()
	f.t.Logf("pg_rewind: %s", out)
	if err != nil {
		f.t.Fatalf("pg_rewind: %v", err)
	}
	for _, dir := range []string{"pg_wal", "."} {
		left, err := filepath.Glob(filepath.Join(old.Dir, dir, "*pgstow*"))
		if err != nil || len(left) > 0 {
			f.t.Errorf("left behind: %v %v", left, err)
		}
	}
	if err := os.WriteFile(filepath.Join(old.Dir, "standby.signal"), nil, 0o600); err != nil {
		f.t.Fatal(err)
	}
	pg.Chown(f.t, filepath.Join(old.Dir, "standby.signal"))
}

// RestoreCommand is what a server that was never restored has to be given.
func (f *field) RestoreCommand() string {
	return pg.Binary(f.t, "pgstow-wal") + " fetch %f %p"
}

// TestSegmentsWaitAtAPromotion: the archive is away when the primary dies and its standby is promoted. Both have files that wait, of both
// timelines.
func TestSegmentsWaitAtAPromotion(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		f := newField(t, world.Options{Major: major, Env: []string{"PGSTOW_PUSH_DEADLINE=1s"}}, nil)
		a := f.Server
		f.Backup()
		b := f.standby(role{upstream: a})
		f.rows(a, 1, 1000)
		f.drained(a, b)
		repo := strings.TrimPrefix(f.URL, "file://")
		rename(t, repo, repo+".away")
		for i := range 3 {
			f.rows(a, 1001+1000*i, 1000)
		}
		a.Exec("INSERT INTO t VALUES (20000)")
		f.level(b, a)
		f.save(a, b)
		a.Kill()
		b.Promote()
		for i := range 3 {
			f.rows(b, 30_001+1000*i, 1000)
		}
		waiting := b.ReadyFiles()
		if len(waiting) < 8 { // three segments of each timeline, the history, what is left of the fork's segment
			t.Fatalf("waiting: %v", waiting)
		}
		rename(t, repo+".away", repo)
		b.Await("an empty queue", patience, func() (bool, error) { return len(b.ReadyFiles()) == 0, nil })
		last := b.ArchiveAll()
		f.save(b)
		found := f.wantHonest()
		for _, name := range append(waiting, last) {
			if found[name] != 1 {
				t.Errorf("%s: %d objects", name, found[name])
			}
		}
		want := b.Sums()
		b.Kill()
		f.wantRestored("after the failover", want)
	})
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}
