package outage_test

import (
	"context"
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

// pushShort is a push that gives up soon.
const pushShort = "PGSTOW_PUSH_DEADLINE=2s"

// TestOutageUnderLoad: the store is killed, twice, while pgbench writes and PostgreSQL archives. PostgreSQL keeps its segments, pgstow catches up,
// and nothing is missing.
func TestOutageUnderLoad(t *testing.T) {
	pg.Long(t, "takes a quarter of a minute")
	t.Parallel()
	w := newStage(t, world.Options{WALSegmentSizeMiB: 1, Env: []string{pushShort}, Conf: map[string]string{"max_wal_size": "16MB"}})
	s := w.Server
	first := s.Value("SELECT pg_walfile_name(pg_current_wal_lsn())") // before it there is only what initdb wrote, which nobody archives
	s.PgbenchInit(1)
	w.Backup()

	stop := load(t, s)
	for range 2 {
		awaitArchived(t, s, archivedCount(t, s)+3)
		w.MinIO.Kill()
		failed, switched := failedCount(t, s), len(s.ReadyFiles())
		s.Await("failed pushes and waiting segments", time.Minute, func() (bool, error) {
			return failedCount(t, s) >= failed+1 && len(s.ReadyFiles()) >= switched+6, nil
		})
		// However much of it there is, what is not stored is kept. A name read before may be archived by nobody now.
		for _, name := range s.ReadyFiles() {
			if _, err := os.Stat(filepath.Join(s.Dir, "pg_wal", name)); err != nil {
				t.Errorf("PostgreSQL has dropped a segment: %v", err)
			}
		}
		w.MinIO.Start()
	}
	awaitArchived(t, s, archivedCount(t, s)+3)
	stop()
	want := s.Sums()
	last := s.ArchiveAll()
	s.Await("an empty queue", time.Minute, func() (bool, error) { return len(s.ReadyFiles()) == 0, nil })

	wantGapless(t, w, first, last)
	s.Kill()
	restored := w.StartRestored(w.Restore("--action", "promote"))
	restored.WaitPrimary()
	if d := want.Diff(restored.Sums()); d != "" {
		t.Errorf("restored:\n%s", d)
	}
}

// load runs pgbench until stop is called, which waits until its sessions are gone.
func load(t *testing.T, s *pg.Server) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := s.TryPgbench(ctx, "-n", "-c", "2", "-T", "600", "-R", "600")
		done <- err
	}()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		ended := ctx.Err() != nil
		select {
		case err := <-done:
			t.Errorf("pgbench ended by itself: %v", err)
			return
		default:
		}
		cancel()
		if err := <-done; err == nil {
			t.Error("pgbench ended by itself")
		}
		if !ended && s.Running() {
			s.AwaitValue("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'", "0")
		}
	}
	t.Cleanup(stop)
	return stop
}

func archivedCount(t *testing.T, s *pg.Server) int { return statArchiver(t, s, "archived_count") }

func failedCount(t *testing.T, s *pg.Server) int { return statArchiver(t, s, "failed_count") }

func statArchiver(t *testing.T, s *pg.Server, column string) int {
	t.Helper()
	n, err := strconv.Atoi(s.Value("SELECT " + column + " FROM pg_stat_archiver"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func awaitArchived(t *testing.T, s *pg.Server, n int) {
	t.Helper()
	s.Await(fmt.Sprintf("%d archived files", n), time.Minute, func() (bool, error) { return archivedCount(t, s) >= n, nil })
}

// wantGapless fails the test unless the archive is one range of segments.
func wantGapless(t *testing.T, w *world.World, first, last string) {
	t.Helper()
	var timelines []struct {
		Ranges []struct {
			First, Last string
			Segments    int
		}
		Holes []any
	}
	world.Decode(t, w.Must("wal", "list", "--json"), &timelines)
	if len(timelines) != 1 || len(timelines[0].Ranges) != 1 || len(timelines[0].Holes) != 0 {
		t.Fatalf("the archive has holes: %+v", timelines)
	}
	r := timelines[0].Ranges[0]
	if r.First != first || r.Last != last {
		t.Errorf("the archive is %s to %s, want %s to %s", r.First, r.Last, first, last)
	}
	// The same by the objects' names, as nobody of ours counts them.
	begin, err1 := strconv.ParseInt(first[8:], 16, 64)
	end, err2 := strconv.ParseInt(last[8:], 16, 64)
	if err1 != nil || err2 != nil || begin>>32 != end>>32 || end-begin < 10 {
		t.Fatalf("from %s to %s: not what this test is made for", first, last)
	}
	stored := strings.Join(w.KeysWith("/wal/"), "\n") + "\n"
	for n := begin; n <= end; n++ {
		if name := fmt.Sprintf("/00000001%016X\n", n); !strings.Contains(stored, name) {
			t.Errorf("%s is not in the archive", strings.TrimSpace(name))
		}
	}
	if r.Segments != int(end-begin)+1 {
		t.Errorf("%d segments from %s to %s", r.Segments, first, last)
	}
}

// TestOutageAndFastShutdown: a server whose archive cannot be reached stops in bounded time, and archives the rest after its next start. The archiver
// ends the round that it is in, and makes one more, each of at most three pushes with a second between (PgArchiverMainLoop and
// pgarch_ArchiverCopyLoop in pgarch.c): six pushes at most, each of which ends by its deadline, or after 15 s without progress.
func TestOutageAndFastShutdown(t *testing.T) {
	pg.Long(t, "takes a quarter of a minute")
	t.Parallel()
	for _, frozen := range []bool{false, true} {
		name := "killed"
		if frozen {
			name = "frozen"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const pushes, deadline, pauses = 6, 2 * time.Second, 4 * time.Second
			w := newStage(t, world.Options{WALSegmentSizeMiB: 1, Env: []string{pushShort}})
			s := w.Server
			s.Exec("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i")
			s.ArchiveAll()
			if frozen {
				w.MinIO.Freeze()
			} else {
				w.MinIO.Kill()
			}
			failed := failedCount(t, s)
			var names []string
			for range 3 {
				s.Exec("INSERT INTO t SELECT generate_series(1, 1000)")
				names = append(names, s.SwitchWAL())
			}
			want := s.Sums()
			s.Await("a push that fails", time.Minute, func() (bool, error) { return failedCount(t, s) > failed, nil })
			begin := time.Now()
			s.Stop(pg.Fast)
			took := time.Since(begin)
			t.Logf("a fast shutdown with a %s store took %s", name, took.Round(100*time.Millisecond))
			if most := pushes*deadline + pauses + 5*time.Second; took > most {
				t.Errorf("the shutdown took %s, at most %s was to be expected", took, most)
			}
			if log := s.Log(); !strings.Contains(log, "database system is shut down") {
				t.Errorf("it was no clean shutdown:\n%s", s.LogTail())
			}
			for _, n := range names {
				if _, err := os.Stat(filepath.Join(s.Dir, "pg_wal", n)); err != nil {
					t.Errorf("a segment that is not archived is gone: %v", err)
				}
			}
			if frozen {
				w.MinIO.Thaw()
			} else {
				w.MinIO.Start()
			}
			s.Start()
			for _, n := range names {
				s.WaitArchived(n)
			}
			if d := want.Diff(s.Sums()); d != "" {
				t.Error(d)
			}
			wantStored(t, w, names...)
		})
	}
}

// wantStored fails the test unless each file is one object.
func wantStored(t *testing.T, w *world.World, names ...string) {
	t.Helper()
	for _, n := range names {
		if keys := w.WALKeys(n); len(keys) != 1 {
			t.Errorf("%s: %v", n, keys)
		}
	}
}
