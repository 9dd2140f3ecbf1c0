package restore_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgstow/backup"
	"pgstow/backup/restore"
	"pgstow/catalog"
	"pgstow/test/pg"
	"pgstow/wal"
)

// A server promoted after a point in time recovery writes on, and is backed up, on timeline 2. Places on both timelines
// can be reached, from the backups of both.
func TestTimelines(t *testing.T) {
	repo, store := newRepo(t, nil)
	first := newArchived(t, store, nil, pg.Options{})
	first.Exec("CREATE TABLE log (n int); INSERT INTO log VALUES (1)")
	h1 := create(t, repo, first.Server, backup.WALArchive)
	first.Exec("INSERT INTO log VALUES (2)")
	fork := lsnOf(t, first.Value("SELECT pg_current_wal_insert_lsn()"))
	first.Exec("INSERT INTO log VALUES (3)")
	first.archiveAll(t)
	first.Stop(pg.Fast)

	o := options(t)
	o.Target, o.RestoreCommand, o.TakeOver = catalog.Target{Kind: catalog.TargetLSN, LSN: fork}, first.command(), true
	if p, _ := mustRestore(t, repo, o); p.ArchiveMode != "kept" {
		t.Errorf("archive mode %q", p.ArchiveMode)
	}
	second := pg.Restored(t, o.Directory, pg.Options{})
	second.WaitPrimary()
	if mode := second.Value("SHOW archive_mode"); mode != "on" {
		t.Fatalf("archive_mode is %s after a take-over", mode)
	}
	second.Exec("INSERT INTO log VALUES (4)")
	h2 := create(t, repo, second, backup.WALArchive)
	second.Exec("INSERT INTO log VALUES (5)")
	first.Server = second // its archive_command copies into the same folder
	first.archiveAll(t)

	for _, tt := range []struct {
		name     string
		timeline catalog.TimelineChoice
		backup   string
		rows     string
		on       wal.TimelineID
	}{
		{"latest", catalog.TimelineChoice{}, h2.ID, "1,2,4,5", 2},
		{"first timeline", catalog.TimelineChoice{ID: 1}, h1.ID, "1,2,3", 1},
		{"over the fork", catalog.TimelineChoice{ID: 2}, h1.ID, "1,2,4,5", 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := options(t)
			o.Target, o.RestoreCommand, o.Backup = catalog.Target{Timeline: tt.timeline}, first.command(), tt.backup
			p, _ := mustRestore(t, repo, o)
			if p.Timeline != tt.on || p.Backup != tt.backup {
				t.Errorf("plan: backup %s on timeline %d", p.Backup, p.Timeline)
			}
			verify(t, o.Directory, "-n")
			r := pg.Restored(t, o.Directory, pg.Options{})
			r.WaitPrimary()
			if got := r.Value("SELECT string_agg(n::text, ',' ORDER BY n) FROM log"); got != tt.rows {
				t.Errorf("rows %s, want %s", got, tt.rows)
			}
		})
	}
}

func lsnOf(t *testing.T, text string) wal.LSN {
	t.Helper()
	lsn, err := wal.ParseLSN(text)
	if err != nil {
		t.Fatal(err)
	}
	return lsn
}

// A standby made from a backup follows the running primary.
func TestStandby(t *testing.T) {
	s := pg.New(t, pg.Options{Conf: map[string]string{"recovery_target_name": "x", "recovery_min_apply_delay": "0"}})
	s.Exec("CREATE TABLE log (n int)")
	repo, _ := newRepo(t, nil)
	create(t, repo, s, backup.WALInclude)
	o := options(t)
	o.Action, o.Standby, o.PrimaryConnInfo = "", true, s.DSN("postgres")
	p, _ := mustRestore(t, repo, o)
	if !p.Standby || p.ArchiveMode != "kept" {
		t.Errorf("plan %+v", p)
	}
	if _, err := os.Stat(filepath.Join(o.Directory, "recovery.signal")); err == nil {
		t.Error("there is a recovery.signal")
	}
	r := pg.Restored(t, o.Directory, pg.Options{})
	s.Exec("INSERT INTO log VALUES (7)")
	r.AwaitValue("SELECT coalesce(sum(n), 0) FROM log", "7")
	if got := r.Value("SELECT pg_is_in_recovery()"); got != "t" {
		t.Errorf("in recovery: %s", got)
	}
}

// Two servers under one name: "latest" could be the wrong one's.
func TestTwoSystems(t *testing.T) {
	repo, store := newRepo(t, nil)
	var ids []string
	var headers []catalog.BackupHeader
	for range 2 {
		s := newArchived(t, store, nil, pg.Options{})
		headers = append(headers, create(t, repo, s.Server, backup.WALArchive))
		ids = append(ids, s.SystemID())
		s.archiveAll(t)
	}
	o := options(t)
	o.RestoreCommand = "false"
	if _, err := restore.Plan(t.Context(), repo, o); err == nil || !strings.Contains(err.Error(), ids[0]) || !strings.Contains(err.Error(), ids[1]) {
		t.Errorf("got %v", err)
	}
	o.Backup = headers[0].ID
	if p := mustPlan(t, repo, o); p.SystemID != headers[0].SystemID {
		t.Errorf("by backup: system %d", p.SystemID)
	}
	o.Backup, o.SystemID = "", headers[1].SystemID
	if p := mustPlan(t, repo, o); p.Backup != headers[1].ID {
		t.Errorf("by system: backup %s", p.Backup)
	}
}

// Configuration that lay outside of the data directory comes into it on request, without what points out of it.
func TestWithConfig(t *testing.T) {
	s := pg.New(t, pg.Options{})
	outside := pg.TempDir(t)
	s.Exec("CREATE TABLE log AS SELECT 1 n")
	s.Stop(pg.Fast)
	for _, name := range []string{"postgresql.conf", "pg_hba.conf", "pg_ident.conf"} {
		sh(t, "mv", filepath.Join(s.Dir, name), filepath.Join(outside, name))
	}
	conf := filepath.Join(outside, "postgresql.conf")
	f, err := os.OpenFile(conf, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(f, "\ndata_directory = '%s'\nhba_file = '%s/pg_hba.conf'\nident_file = '%s/pg_ident.conf'\nwork_mem = '9MB'\nrecovery_target_xid = '5'\n", s.Dir, outside, outside)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	live := pg.Restored(t, s.Dir, pg.Options{Args: []string{"-c", "config_file=" + conf}})
	repo, _ := newRepo(t, nil)
	h := create(t, repo, live, backup.WALInclude)
	if len(h.ConfigFiles) == 0 {
		t.Fatalf("the backup has no configuration files: %+v", h)
	}
	o := options(t)
	if p, _ := mustRestore(t, repo, o); len(p.Warnings) == 0 {
		t.Error("no word of the configuration files")
	}
	if _, err := os.Stat(filepath.Join(o.Directory, "postgresql.conf")); err == nil {
		t.Error("postgresql.conf came unasked")
	}
	verify(t, o.Directory)

	o = options(t)
	o.WithConfig = true
	mustRestore(t, repo, o)
	verify(t, o.Directory)
	r := pg.Restored(t, o.Directory, pg.Options{})
	r.WaitPrimary()
	for sql, want := range map[string]string{"SHOW data_directory": o.Directory, "SHOW work_mem": "9MB", "SHOW recovery_target_xid": "", "SELECT n FROM log": "1", "SHOW hba_file": filepath.Join(o.Directory, "pg_hba.conf")} {
		if got := r.Value(sql); got != want {
			t.Errorf("%s: got %q, want %q", sql, got, want)
		}
	}
}

// Each major starts from what is restored of it.
func TestMajors(t *testing.T) {
	for _, major := range pg.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			s := pg.New(t, pg.Options{Major: major, Checksums: true})
			s.Exec("CREATE TABLE log AS SELECT g n FROM generate_series(1, 10000) g")
			repo, _ := newRepo(t, nil)
			create(t, repo, s, backup.WALInclude)
			s.Exec("DELETE FROM log")
			o := options(t)
			o.Target = catalog.Target{Kind: catalog.TargetImmediate}
			mustRestore(t, repo, o)
			if major < 17 {
				verify(t, o.Directory, "-n") // by 15's tool
			}
			r := pg.Restored(t, o.Directory, pg.Options{Major: major})
			r.WaitPrimary()
			if got := r.Value("SELECT count(*) FROM log"); got != "10000" {
				t.Errorf("%s rows", got)
			}
		})
	}
}
