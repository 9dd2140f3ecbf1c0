package repair_test

import (
	"testing"
	"time"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// TestForkedSegment: the dead primary's segment in which the timelines part was stored whole, and of the new timeline the archive has the
// history only. Recovery to the new timeline must not replay what the old one has behind the fork.
func TestForkedSegment(t *testing.T) {
	w := world.New(t, world.Options{WALSegmentSizeMiB: 1, Conf: keeping, Env: []string{"PGSTOW_PUSH_AHEAD=0"}})
	a := w.Server
	a.Exec("CREATE TABLE t AS SELECT 0 AS i")
	w.Backup()
	b := standby(t, w)
	a.Exec("INSERT INTO t VALUES (1)")
	b.AwaitValue("SELECT count(*) FROM t", "2")
	b.AppendConf(map[string]string{"archive_command": w.ArchiveCommand()})
	b.Stop(pg.Fast)
	a.AppendConf(map[string]string{"archive_command": "false"})
	a.Reload()
	a.AwaitValue("SHOW archive_command", "false")
	unarchived(a, "2", "3", "4")
	a.Kill()
	promote(t, b)
	pg.Await(t, "the history", time.Minute, func() (bool, error) { return len(w.WALKeys("00000002.history")) == 1, nil })
	b.Kill()
	repair(t, w, 0, nil, "--pgdata", a.Dir)
	for timeline, want := range map[string]string{"latest": "0 1", "1": "0 1 2 3 4"} {
		s := w.StartRestored(w.Restore("--timeline", timeline))
		equal(t, "rows of timeline "+timeline, []string{rows(s)}, []string{want})
		s.Kill()
	}
}
