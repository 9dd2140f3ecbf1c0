package e2e_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
	"pgstow/wal"
)

// step is one transaction that inserted one row.
type step struct {
	xid    string
	lsn    string // where its commit record begins
	commit string // its commit time, to the microsecond
	name   string // of the restore point made after it
}

// history is a server with a backup after row 0, and five steps behind it.
type history struct {
	*world.World
	backup world.Backup
	steps  []step // steps[i] inserted row i+1
}

func newHistory(t *testing.T, o world.Options) *history {
	t.Helper()
	o.Conf = map[string]string{"track_commit_timestamp": "on"}
	h := &history{World: world.New(t, o)}
	h.Server.Exec("CREATE TABLE t AS SELECT 0 AS i")
	h.backup = h.Backup()
	for i := 1; i <= 5; i++ {
		s := step{name: fmt.Sprintf("after %d", i)}
		s.xid = h.Server.Value(fmt.Sprintf("INSERT INTO t VALUES (%d) RETURNING pg_current_xact_id()", i))
		s.commit = h.Server.Value("SELECT to_char(pg_xact_commit_timestamp('"+s.xid+"') AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')") + "+00"
		h.Server.Exec("SELECT pg_create_restore_point('" + s.name + "')")
		h.steps = append(h.steps, s)
	}
	for i := range h.steps {
		h.steps[i].lsn = commitLSN(t, h.Server, h.backup.StopLSN, h.steps[i].xid)
	}
	h.Server.ArchiveAll()
	return h
}

// commitLSN asks pg_waldump where the commit record of a transaction begins.
func commitLSN(t *testing.T, s *pg.Server, from, xid string) string {
	t.Helper()
	first := s.Value("SELECT pg_walfile_name('" + from + "')")
	last := s.Value("SELECT pg_walfile_name(pg_current_wal_lsn())")
	end := s.Value("SELECT pg_current_wal_flush_lsn()")
	out := program(t, "pg_waldump", "-p", s.Dir+"/pg_wal", "-s", from, "-e", end, "-r", "Transaction", "-x", xid, first, last)
	m := regexp.MustCompile(`lsn: ([0-9A-F]+/[0-9A-F]+).*desc: COMMIT`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no commit of %s between %s and %s:\n%s", xid, from, end, out)
	}
	// pg_waldump pads the low half to eight digits, PostgreSQL's own output does not.
	high, low, _ := strings.Cut(m[1], "/")
	return high + "/" + strings.TrimLeft(low, "0")
}

// segmentStart is where the 16 MiB segment begins that holds an LSN.
func segmentStart(t *testing.T, lsn string) string {
	t.Helper()
	at, err := wal.ParseLSN(lsn)
	if err != nil {
		t.Fatal(err)
	}
	const size = wal.SegmentSize(16 << 20)
	return size.Start(size.SegmentOf(at)).String()
}

// rows are the values in t.
func rows(s *pg.Server) string {
	return s.Value("SELECT string_agg(i::text, ' ' ORDER BY i) FROM t")
}

// TestTargets: each kind of target, inclusive and exclusive. All stop and pause, which is the default.
func TestTargets(t *testing.T) {
	world.EachStore(t, func(t *testing.T, store string) {
		h := newHistory(t, world.Options{Store: store})
		for _, c := range []struct {
			name string
			args []string
			want string
		}{
			{"time", []string{"--to-time", h.steps[2].commit}, "0 1 2 3"},
			{"time exclusive", []string{"--to-time", h.steps[2].commit, "--exclusive"}, "0 1 2"},
			{"lsn", []string{"--to-lsn", h.steps[1].lsn}, "0 1 2"},
			{"lsn exclusive", []string{"--to-lsn", h.steps[1].lsn, "--exclusive"}, "0 1"},
			{"xid", []string{"--to-xid", h.steps[3].xid}, "0 1 2 3 4"},
			{"xid exclusive", []string{"--to-xid", h.steps[3].xid, "--exclusive"}, "0 1 2 3"},
			{"name", []string{"--to-name", h.steps[0].name}, "0 1"},
			{"immediate", []string{"--immediate"}, "0"},
		} {
			t.Run(c.name, func(t *testing.T) {
				h := h.In(t)
				s := h.StartRestored(h.Restore(c.args...))
				equal(t, "rows", rows(s), c.want)
				equal(t, "in recovery, paused at the target", s.Value("SELECT pg_is_in_recovery()"), "t")
				if err := s.TryExec("postgres", "INSERT INTO t VALUES (99)"); err == nil {
					t.Error("a server that is paused at its target takes writes")
				}
				s.Kill()
			})
		}
	})
}

// TestTargetActions: pause and go on, promote, shut down.
func TestTargetActions(t *testing.T) {
	pg.Long(t, "restores once more for each action than TestTargets")
	world.EachStore(t, func(t *testing.T, store string) {
		h := newHistory(t, world.Options{Store: store})
		target := []string{"--to-name", h.steps[2].name}

		t.Run("pause", func(t *testing.T) {
			h := h.In(t)
			s := h.StartRestored(h.Restore(append(target, "--action", "pause")...))
			s.WaitPaused()
			equal(t, "rows", rows(s), "0 1 2 3")
			s.Exec("SELECT pg_wal_replay_resume()")
			s.WaitPrimary()
			equal(t, "rows after resume", rows(s), "0 1 2 3")
			equal(t, "timeline", s.Value("SELECT timeline_id FROM pg_control_checkpoint()"), "2")
			s.Kill()
		})
		t.Run("promote", func(t *testing.T) {
			h := h.In(t)
			dir := h.Restore(append(target, "--action", "promote")...)
			s := h.StartRestored(dir)
			s.WaitPrimary()
			equal(t, "rows", rows(s), "0 1 2 3")
			s.Exec("INSERT INTO t VALUES (100)")
			missing(t, dir+"/recovery.signal")
			s.Kill()
		})
		t.Run("shutdown", func(t *testing.T) {
			h := h.In(t)
			dir := h.Restore(append(target, "--action", "shutdown")...)
			s := h.Attach(dir)
			if err := s.Launch(); err != nil {
				t.Fatal(err)
			}
			state, err := s.Wait(time.Minute)
			if err != nil || !state.Success() {
				t.Fatalf("the server ended with %v, %v\n%s", state, err, s.LogTail())
			}
			if !strings.Contains(s.Log(), "shutdown at recovery target") {
				t.Errorf("the log does not speak of the target:\n%s", s.LogTail())
			}
			appendTo(t, dir+"/postgresql.auto.conf", "recovery_target_action = 'promote'\n")
			s.Start()
			s.WaitPrimary()
			equal(t, "rows", rows(s), "0 1 2 3")
			s.Kill()
		})
	})
}

// TestTargetUnreachable: a target before the backup's end or behind the archive is refused before anything is downloaded or written.
func TestTargetUnreachable(t *testing.T) {
	world.EachStore(t, func(t *testing.T, store string) {
		h := newHistory(t, world.Options{Store: store, Count: store == world.MinIO})
		before := h.backup.StartedAt.Add(-time.Hour).UTC().Format(time.RFC3339)
		after := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
		end := h.Server.Value("SELECT pg_current_wal_lsn()") // in the segment that is not archived yet
		archived := segmentStart(t, end)
		for _, c := range []struct {
			name  string
			args  []string
			words []string
		}{
			{"time before", []string{"--to-time", before}, []string{h.backup.ID, h.backup.StopLSN, h.backup.StoppedAt.UTC().Format("2006-01-02 15:04:05")}},
			{"lsn before", []string{"--to-lsn", h.backup.StartLSN}, []string{h.backup.ID, h.backup.StopLSN}},
			{"xid before", []string{"--to-xid", "3"}, []string{h.backup.ID, h.backup.StopLSN}},
			{"time behind", []string{"--to-time", after}, []string{archived, h.steps[4].commit[:19]}},
			{"lsn behind", []string{"--to-lsn", end}, []string{archived}},
			{"lsn far behind", []string{"--to-lsn", "FF/0"}, []string{archived}},
			{"xid behind", []string{"--to-xid", "1000000"}, []string{archived}},
			{"no such name", []string{"--to-name", "no such point"}, []string{archived, "no such point"}},
			{"no such timeline", []string{"--timeline", "7"}, []string{"timeline 7"}},
		} {
			t.Run(c.name, func(t *testing.T) {
				h := h.In(t)
				if h.MinIO != nil {
					h.ForgetRequests()
				}
				dir := h.NewDir("untouched")
				r := h.RunRestore(dir, c.args...)
				h.Check(r, 13, c.words...)
				missing(t, dir)
				if h.MinIO == nil {
					return
				}
				if len(h.RequestsFor("GET", "/manifest")) == 0 {
					t.Error("the proxy saw no request: the next check proves nothing")
				}
				if got := h.RequestsFor("", "/pack/"); len(got) > 0 {
					t.Errorf("packs were asked for: %v", got)
				}
			})
		}
	})
}
