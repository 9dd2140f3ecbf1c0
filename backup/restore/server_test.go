package restore_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgstow/backup"
	"pgstow/backup/restore"
	"pgstow/catalog"
	"pgstow/test/pg"
	"pgstow/wal"
)

const checksum = "SELECT md5(string_agg(t::text, '|' ORDER BY t::text)) FROM %s t"

// A standalone backup: restored beside the original, which runs on; the copy has none of the later changes, and nothing of
// the original's tablespace was touched.
func TestStandalone(t *testing.T) {
	s := pg.New(t, pg.Options{Checksums: true})
	space := pg.TempDir(t)
	s.Exec("CREATE TABLESPACE other LOCATION '" + space + "'")
	s.Exec("CREATE TABLE spaced TABLESPACE other AS SELECT g, repeat('x', 100) x FROM generate_series(1, 5000) g")
	s.Exec("CREATE UNLOGGED TABLE volatile AS SELECT g FROM generate_series(1, 1000) g")
	s.Exec("CREATE TABLE empty (a int)")
	s.PgbenchInit(3)
	s.Exec("ALTER SYSTEM SET work_mem = '7MB'")
	s.Exec("ALTER SYSTEM SET recovery_target_time = '2020-01-01'")
	tables := []string{"spaced", "empty", "pgbench_accounts", "pgbench_history"}
	want := map[string]string{}
	for _, table := range tables {
		want[table] = s.Value(fmt.Sprintf(checksum, table))
	}
	repo, _ := newRepo(t, nil)
	h := create(t, repo, s, backup.WALInclude)
	s.Exec("DELETE FROM spaced; DELETE FROM pgbench_accounts; INSERT INTO empty VALUES (1)")

	o := options(t)
	if _, err := restore.Plan(t.Context(), repo, o); err == nil || !strings.Contains(catalog.Hint(err), "--tablespace") {
		t.Fatalf("onto the tablespace of the running original: %v", err)
	}
	moved := filepath.Join(pg.TempDir(t), "moved")
	o.Tablespaces = map[string]string{space: moved}
	p, result := mustRestore(t, repo, o)
	if p.Backup != h.ID || p.NeedsArchive || result.Bytes != h.Bytes || p.Bytes != h.Bytes || p.Tablespaces[0].Bytes == 0 {
		t.Errorf("plan %+v\nresult %+v", p, result)
	}
	checkDirectory(t, o.Directory, h)
	verify(t, o.Directory)

	r := pg.Restored(t, o.Directory, pg.Options{})
	r.WaitPrimary()
	for _, table := range tables {
		if got := r.Value(fmt.Sprintf(checksum, table)); got != want[table] {
			t.Errorf("%s is not what it was at the backup", table)
		}
	}
	for sql, want := range map[string]string{
		"SELECT count(*) FROM volatile":                   "0",
		"SHOW work_mem":                                   "7MB",
		"SHOW archive_mode":                               "off",
		"SHOW recovery_target_time":                       "",
		"SELECT timeline_id FROM pg_control_checkpoint()": "2",
		"SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'other'": moved,
	} {
		if got := r.Value(sql); got != want {
			t.Errorf("%s: got %q, want %q", sql, got, want)
		}
	}
	if got := s.Value("SELECT count(*) FROM empty"); got != "1" {
		t.Errorf("the original has %s rows in empty", got)
	}
	r.Stop(pg.Fast)
	if tool := r.Install.Bin("pg_checksums"); r.Install.Has("pg_checksums") {
		if out, err := pg.Command(t.Context(), tool, "--check", "-D", o.Directory).CombinedOutput(); err != nil {
			t.Errorf("pg_checksums: %v\n%s", err, out)
		}
	}
}

// checkDirectory looks at what a restore leaves.
func checkDirectory(t *testing.T, dir string, h catalog.BackupHeader) {
	t.Helper()
	for _, name := range []string{restore.MarkerName, "postmaster.pid", "tablespace_map", "standby.signal"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is there: %v", name, err)
		}
	}
	for _, name := range []string{"recovery.signal", "global/pg_control", "backup_manifest", "pg_wal/archive_status", "pg_replslot", "pg_subtrans", "pg_notify"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	for _, name := range h.IncludedWAL {
		if _, err := os.Stat(filepath.Join(dir, "pg_wal/archive_status", name+".done")); err != nil {
			t.Error(err)
		}
	}
	out := sh(t, "find", dir, "(", "-type", "f", "-not", "-perm", "600", ")", "-o", "(", "-type", "d", "-not", "-perm", "700", ")", "-o", "-name", "*.pgstow")
	if out != "" {
		t.Errorf("wrong modes, or left over:\n%s", out)
	}
	if c := pg.Credential(); c != nil {
		if out := sh(t, "find", dir, "-not", "-uid", strconv.Itoa(int(c.Uid))); out != "" {
			t.Errorf("wrong owners:\n%s", out)
		}
	}
}

// Without the label a restored directory must not start: it would come up from the wrong checkpoint.
func TestLostLabel(t *testing.T) {
	s := pg.New(t, pg.Options{})
	repo, _ := newRepo(t, nil)
	create(t, repo, s, backup.WALInclude)
	o := options(t)
	mustRestore(t, repo, o)
	for _, name := range []string{"backup_label", "recovery.signal"} {
		if err := os.Remove(filepath.Join(o.Directory, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := pg.Attach(t, o.Directory, pg.Options{}).TryStart(); err == nil {
		t.Error("the server started without backup_label")
	}
}

// A cold backup starts, with its unlogged tables; under group access, and with a standby's leavings.
func TestOffline(t *testing.T) {
	s := pg.New(t, pg.Options{InitdbArgs: []string{"--allow-group-access"}})
	s.Exec("CREATE UNLOGGED TABLE volatile AS SELECT g FROM generate_series(1, 1000) g")
	s.Exec("CREATE TABLE kept AS SELECT g FROM generate_series(1, 1000) g")
	s.Stop(pg.Fast)
	repo, _ := newRepo(t, nil)
	h, err := backup.Create(t.Context(), repo, backup.CreateOptions{Cluster: "main", PGData: s.Dir, Offline: true})
	if err != nil {
		t.Fatal(err)
	}
	o := options(t)
	p, _ := mustRestore(t, repo, o)
	if !p.Offline || p.Backup != h.ID {
		t.Errorf("plan %+v", p)
	}
	if info, err := os.Stat(o.Directory); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	verify(t, o.Directory, "-n")
	r := pg.Restored(t, o.Directory, pg.Options{})
	r.WaitPrimary()
	if got := r.Value("SELECT count(*) FROM kept") + " " + r.Value("SELECT count(*) FROM volatile"); got != "1000 0" {
		t.Errorf("rows: %s", got)
	}
}

// The end of a cold backup can be asked for: there is no record at which the server could see that it is reached.
func TestOfflineImmediate(t *testing.T) {
	for _, major := range pg.Majors(t) {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			s := pg.New(t, pg.Options{Major: major})
			s.Exec("CREATE TABLE kept AS SELECT 1 n")
			s.Stop(pg.Fast)
			repo, _ := newRepo(t, nil)
			if _, err := backup.Create(t.Context(), repo, backup.CreateOptions{Cluster: "main", PGData: s.Dir, Offline: true}); err != nil {
				t.Fatal(err)
			}
			o := options(t)
			o.Target, o.Action = catalog.Target{Kind: catalog.TargetImmediate}, restore.ActionPause
			if p, _ := mustRestore(t, repo, o); len(p.Warnings) == 0 || p.Action != restore.ActionPromote {
				t.Errorf("not a word of the action: %+v", p)
			}
			r := pg.Restored(t, o.Directory, pg.Options{Major: major})
			r.WaitPrimary()
			if got := r.Value("SELECT n FROM kept"); got != "1" {
				t.Errorf("got %s", got)
			}
		})
	}
}

// Tablespaces in place are restored where they are, and the server lets them be although nobody set what it wants set.
func TestInPlaceTablespace(t *testing.T) {
	for _, major := range pg.Majors(t) {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			s := pg.New(t, pg.Options{Major: major})
			s.Exec("ALTER ROLE CURRENT_USER SET allow_in_place_tablespaces = on") // which recovery does not see
			s.Exec("CREATE TABLESPACE here LOCATION ''")
			s.Exec("CREATE TABLE inside TABLESPACE here AS SELECT 1 n")
			repo, _ := newRepo(t, nil)
			create(t, repo, s, backup.WALInclude)
			o := options(t)
			mustRestore(t, repo, o)
			r := pg.Restored(t, o.Directory, pg.Options{Major: major})
			r.WaitPrimary()
			if got := r.Value("SELECT n FROM inside"); got != "1" {
				t.Errorf("got %s", got)
			}
		})
	}
}

// Targets of every kind, inclusive and exclusive, in an encrypted repository, with targets of an earlier recovery in
// postgresql.conf.
func TestTargets(t *testing.T) {
	key := newKey(t)
	repo, store := newRepo(t, key)
	s := newArchived(t, store, key, pg.Options{})
	s.Exec("CREATE TABLE log (n int)")
	h := create(t, repo, s.Server, backup.WALArchive)
	insert := func(n int) (xid uint64) {
		xid, err := strconv.ParseUint(s.Value(fmt.Sprintf("INSERT INTO log VALUES (%d) RETURNING pg_current_xact_id()", n)), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return xid
	}
	insert(1)
	xid2 := insert(2)
	when := s.Now()
	insert(3)
	s.Exec("SELECT pg_create_restore_point('before the drop')")
	lsn, err := wal.ParseLSN(s.Value("SELECT pg_current_wal_insert_lsn()"))
	if err != nil {
		t.Fatal(err)
	}
	insert(4)
	s.Exec("CREATE DATABASE later")
	s.archiveAll(t)

	tests := []struct {
		name   string
		target catalog.Target
		rows   string
	}{
		{"latest", catalog.Target{}, "1,2,3,4"},
		{"immediate", catalog.Target{Kind: catalog.TargetImmediate}, ""},
		{"time", catalog.Target{Kind: catalog.TargetTime, Time: when}, "1,2"},
		{"lsn", catalog.Target{Kind: catalog.TargetLSN, LSN: lsn}, "1,2,3"},
		{"xid", catalog.Target{Kind: catalog.TargetXID, XID: uint32(xid2)}, "1,2"},
		{"xid exclusive", catalog.Target{Kind: catalog.TargetXID, XID: uint32(xid2), Exclusive: true}, "1"},
		{"name", catalog.Target{Kind: catalog.TargetName, Name: "before the drop"}, "1,2,3"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := options(t)
			o.Target, o.RestoreCommand = tt.target, s.command()
			p, _ := mustRestore(t, repo, o)
			if p.Backup != h.ID || p.Timeline != 1 {
				t.Errorf("plan %+v", p)
			}
			verify(t, o.Directory, "-n")
			r := pg.Restored(t, o.Directory, pg.Options{})
			r.WaitPrimary()
			if got := r.Value("SELECT coalesce(string_agg(n::text, ',' ORDER BY n), '') FROM log"); got != tt.rows {
				t.Errorf("rows %q, want %q", got, tt.rows)
			}
			later := r.Value("SELECT count(*) FROM pg_database WHERE datname = 'later'")
			if want := strconv.Itoa(len(tt.rows) / 7); later != want {
				t.Errorf("database later: %s, want %s", later, want)
			}
		})
	}
	t.Run("pause", func(t *testing.T) {
		o := options(t)
		o.Target, o.RestoreCommand, o.Action = catalog.Target{Kind: catalog.TargetLSN, LSN: lsn}, s.command(), ""
		mustRestore(t, repo, o)
		r := pg.Restored(t, o.Directory, pg.Options{})
		r.WaitPaused()
	})
	t.Run("before the backup", func(t *testing.T) {
		o := options(t)
		o.Target = catalog.Target{Kind: catalog.TargetTime, Time: h.StartedAt.Add(-3600e9)}
		var unreachable *catalog.UnreachableError
		if _, err := restore.Plan(t.Context(), repo, o); !errors.As(err, &unreachable) || len(unreachable.Nearest) == 0 {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no identity", func(t *testing.T) {
		blind, err := catalog.Open(t.Context(), store, catalog.Pins{Recipients: []string{key.recipient}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := restore.Plan(t.Context(), blind, options(t)); err == nil || !strings.Contains(catalog.Hint(err), "--identity") {
			t.Errorf("got %v", err)
		}
	})
	if holds, err := repo.Holds(t.Context(), "main", s.Now()); err != nil || !slices.ContainsFunc(holds, func(x catalog.Hold) bool { return x.Backup == h.ID && x.FromLSN == h.Start }) {
		t.Errorf("holds %+v, %v", holds, err)
	}
}
