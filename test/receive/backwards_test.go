package receive_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// TestBackwards: a server's disk is brought back from a snapshot, and the server goes on from there on its old timeline. What it writes
// then does not fit what the archive has, and recovery would end where the two meet: nothing of it may be stored, or reported as stored,
// whether the server is behind the archive when the receiver looks, or past its end already.
func TestBackwards(t *testing.T) {
	t.Parallel()
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprintf("late %v", late), func(t *testing.T) {
			t.Parallel()
			w := world.New(t, world.Options{NoArchive: true, WALSegmentSizeMiB: 1})
			s := w.Server
			s.Exec("CREATE TABLE t (i int)")
			r := receive(t, w, "--create-slot")
			r.AwaitText("receiving timeline 1")
			w.Backup("--wal", "include")
			s.Exec("INSERT INTO t SELECT generate_series(1, 1000)")
			awaitStored(t, s)
			s.Stop(pg.Fast)
			snapshot := w.NewDir("snapshot")
			if err := world.CopyDir(t.Context(), s.Dir, snapshot); err != nil {
				t.Fatal(err)
			}
			s.Start()
			s.Exec("INSERT INTO t SELECT generate_series(1001, 60000)")
			s.SwitchWAL()
			awaitStored(t, s)
			want := s.Sums()
			before := segments(w)
			if late {
				r.Kill()
			}
			s.Kill()
			if err := os.RemoveAll(s.Dir); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(snapshot, s.Dir); err != nil {
				t.Fatal(err)
			}
			s.Start()
			if late {
				s.Exec("INSERT INTO t SELECT generate_series(100001, 200000)")
				r = receive(t, w)
			}
			r.WantExit(12)
			if out, want := r.Output(), map[bool]string{false: "and it is no standby", true: "goes on from a record at"}[late]; !strings.Contains(out, want) {
				t.Errorf("it does not say %q:\n%s", want, out)
			}
			if !late {
				s.Exec("INSERT INTO t SELECT generate_series(100001, 200000)")
			}
			equal(t, "segments", fmt.Sprint(segments(w)), fmt.Sprint(before))
			last := slices.Max(before)
			equal(t, "what the slot still holds", s.Value("SELECT (pg_walfile_name(restart_lsn) <= $1)::text FROM pg_replication_slots", last), "true")
			s.Kill()
			restored := w.StartRestored(w.Restore())
			if d := want.Diff(restored.Sums()); d != "" {
				t.Error(d)
			}
		})
	}
}
