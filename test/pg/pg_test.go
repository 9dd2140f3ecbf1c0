package pg_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgstow/test/pg"
)

func TestServer(t *testing.T) {
	for _, major := range pg.Majors(t) {
		t.Run("PostgreSQL "+string(rune('0'+major/10))+string(rune('0'+major%10)), func(t *testing.T) {
			archive := pg.TempDir(t)
			s := pg.New(t, pg.Options{
				Major: major, WALSegmentSizeMiB: 1, Checksums: true,
				ArchiveCommand: `cp %p "$ARCHIVE/%f"`,
				Env:            []string{"ARCHIVE=" + archive},
				Conf:           map[string]string{"application_name": `it's \ here`},
			})
			for sql, want := range map[string]string{
				"SHOW wal_segment_size": "1MB",
				"SHOW data_checksums":   "on",
				"SHOW application_name": `it's \ here`,
				"SELECT NULL":           "",
			} {
				if got := s.Value(sql); got != want {
					t.Errorf("%s = %q, want %q", sql, got, want)
				}
			}

			s.PgbenchInit(1)
			s.PgbenchRun(time.Second)
			name := s.ArchiveAll()
			if fi, err := os.Stat(filepath.Join(archive, name)); err != nil || fi.Size() != 1<<20 {
				t.Errorf("archived segment: %v, %v", fi, err)
			}
			before := s.Sums()
			if len(before) != 4 || before["postgres.public.pgbench_accounts"].Rows != 100_000 {
				t.Errorf("sums: %v", before)
			}

			s.Kill()
			s.Start()
			if d := before.Diff(s.Sums()); d != "" {
				t.Errorf("after a kill:\n%s", d)
			}
			s.Exec("UPDATE pgbench_branches SET bbalance = bbalance + 1; CREATE TABLE extra()")
			if d := before.Diff(s.Sums()); strings.Count(d, "\n") != 2 {
				t.Errorf("difference: %q", d)
			}
			s.Stop(pg.Fast)
			if s.Running() {
				t.Error("still running")
			}
		})
	}
}

func TestRestoredAndPromote(t *testing.T) {
	a := pg.New(t, pg.Options{})
	a.Exec("CREATE TABLE t AS SELECT generate_series(1, 10) AS i")
	want := a.Sums()
	a.Stop(pg.Fast)

	standby := filepath.Join(a.Dir, "standby.signal")
	if err := os.WriteFile(standby, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	pg.Chown(t, standby)
	b := pg.Restored(t, a.Dir, pg.Options{TCP: true})
	if got := b.Value("SELECT pg_is_in_recovery()"); got != "t" {
		t.Errorf("in recovery: %s", got)
	}
	if d := want.Diff(b.Sums()); d != "" {
		t.Error(d)
	}
	b.Promote()
	b.Exec("CREATE TABLE u()")
	if got := b.Value("SHOW listen_addresses"); got != "127.0.0.1" {
		t.Errorf("listen_addresses = %s", got)
	}
}

func TestStartFails(t *testing.T) {
	s := pg.Create(t, pg.Options{Conf: map[string]string{"no_such_setting": "1"}})
	err := s.TryStart()
	if err == nil || !strings.Contains(s.LogTail(), "no_such_setting") {
		t.Errorf("TryStart = %v, log: %s", err, s.LogTail())
	}
	if s.Running() {
		t.Error("still running")
	}
}

func TestMissingVersion(t *testing.T) {
	if _, err := pg.Find(9); err == nil || !strings.Contains(err.Error(), "make postgres-9") {
		t.Errorf("Find(9) = %v", err)
	}
}
