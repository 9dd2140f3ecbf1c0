package backup_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgstow/backup"
	"pgstow/catalog"
	"pgstow/test/pg"
	"pgstow/wal"
)

// standbyOf makes a standby of a running server, by a backup of ours.
func standbyOf(t *testing.T, primary *pg.Server) *pg.Server {
	t.Helper()
	repo, _ := newRepo(t)
	h, err := backup.Create(t.Context(), repo, backup.CreateOptions{Cluster: "seed", Conn: primary.DSN("postgres"), WAL: backup.WALInclude})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(pg.TempDir(t), "data")
	rebuild(t, repo, h).write(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "standby.signal"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pg.Chown(t, dir)
	conninfo := fmt.Sprintf("host=%s port=%d user=postgres", primary.SocketDir, primary.Port)
	s := pg.Restored(t, dir, pg.Options{Major: primary.Install.Major, Args: []string{"-c", "primary_conninfo=" + conninfo, "-c", "archive_mode=off"}})
	s.AwaitValue("SELECT (count(*) > 0)::text FROM pg_stat_wal_receiver WHERE status = 'streaming'", "true")
	return s
}

// B3, A12, D1: a backup from a standby under load, with the primary's archive.
func TestStandby(t *testing.T) {
	for _, major := range pg.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) { standbyBackup(t, major) })
	}
}

func standbyBackup(t *testing.T, major int) {
	repo, store := newRepo(t)
	a := newArchiver(t, repo)
	primary := pg.New(t, a.options(pg.Options{Major: major, Checksums: true, WALSegmentSizeMiB: 1}))
	a.ref = catalog.ClusterRef{Name: "main", SystemID: systemID(t, primary)}
	primary.PgbenchInit(2)
	load(t, primary)
	standby := standbyOf(t, primary)

	var last string
	hook := &hookFS{on: func(path string) { last = path }}
	ev := events{on: func(e backup.Event) {
		if w, ok := e.(backup.WaitingEvent); ok {
			if k := manifests(t, store); len(k) != 0 {
				t.Errorf("committed before the WAL was proven: %v", k)
			}
			if !w.Standby {
				t.Error("the wait is not told to be a standby's")
			}
			if w.Waited > 0 {
				primary.SwitchWAL()
			}
			a.push()
		}
	}}
	h, err := backup.Create(t.Context(), repo, backup.CreateOptions{Cluster: "main", Conn: standby.DSN("postgres"), FS: hook, Events: ev.add})
	if err != nil {
		t.Fatal(err)
	}
	if !h.Standby || h.Timeline != 1 || h.StopTimeline != 1 || h.Start > h.Stop {
		t.Errorf("header %+v", h)
	}
	if filepath.Base(last) != "pg_control" {
		t.Errorf("the last file read was %s", last)
	}
	r := rebuild(t, repo, h)
	dir := filepath.Join(pg.TempDir(t), "data")
	r.write(t, dir)
	_ = os.Remove(filepath.Join(dir, "standby.signal"))
	if err := os.WriteFile(filepath.Join(dir, "recovery.signal"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pg.Chown(t, dir)
	restored := pg.Restored(t, dir, pg.Options{Major: major, Env: []string{"ARCHIVE=" + a.dir}, Args: []string{
		"-c", `restore_command=cp "$ARCHIVE/%f" %p`, "-c", "recovery_target=immediate", "-c", "recovery_target_action=promote",
		"-c", "archive_mode=off",
	}})
	restored.WaitPrimary()
	balanced(t, restored)
}

// A standby's last segment that is nowhere archived: the wait ends and says how
// to help.
func TestStandbyWaitsBounded(t *testing.T) {
	repo, store := newRepo(t)
	primary := pg.New(t, pg.Options{})
	primary.PgbenchInit(1)
	standby := standbyOf(t, primary)
	_, err := backup.Create(t.Context(), repo, backup.CreateOptions{
		Cluster: "main", Conn: standby.DSN("postgres"), ArchiveTimeout: 200 * time.Millisecond,
	})
	var timeout *backup.ArchiveTimeoutError
	if !errors.As(err, &timeout) || !timeout.Standby || !strings.Contains(catalog.Hint(err), "pg_switch_wal") {
		t.Errorf("error %v, hint %q", err, catalog.Hint(err))
	}
	if k := append(manifests(t, store), keys(t, store, "main/lease/")...); len(k) != 0 {
		t.Errorf("left behind: %v", k)
	}
}

// B3: promotion during the backup ends it.
func TestStandbyPromoted(t *testing.T) {
	repo, store := newRepo(t)
	primary := pg.New(t, pg.Options{})
	standby := standbyOf(t, primary)
	promoted := false
	hook := &hookFS{on: func(path string) {
		if !promoted && strings.HasSuffix(path, "PG_VERSION") {
			promoted = true
			standby.Promote()
			standby.WaitPrimary()
		}
	}}
	_, err := backup.Create(t.Context(), repo, backup.CreateOptions{
		Cluster: "main", Conn: standby.DSN("postgres"), WAL: backup.WALInclude, FS: hook,
	})
	if err == nil || !strings.Contains(err.Error(), "promoted") {
		t.Errorf("error %v", err)
	}
	if k := append(manifests(t, store), keys(t, store, "main/lease/")...); len(k) != 0 {
		t.Errorf("left behind: %v", k)
	}
}

// D2: on timeline 2 the history file is needed; if archive_command has not stored
// it, the backup does.
func TestTimelineTwo(t *testing.T) {
	repo, store := newRepo(t)
	a := newArchiver(t, repo)
	primary := pg.New(t, pg.Options{WALSegmentSizeMiB: 1})
	primary.PgbenchInit(1)
	s := standbyOf(t, primary)
	s.Promote()
	s.WaitPrimary()
	s.Stop(pg.Fast)
	s = pg.Restored(t, s.Dir, pg.Options{Env: []string{"ARCHIVE=" + a.dir}, Args: []string{
		"-c", "archive_mode=on", "-c", `archive_command=case %f in *.history) exit 0;; esac; cp %p "$ARCHIVE/%f"`,
	}})
	a.ref = catalog.ClusterRef{Name: "main", SystemID: systemID(t, s)}
	ev := events{on: a.pushOnWait}
	h, err := backup.Create(t.Context(), repo, backup.CreateOptions{Cluster: "main", Conn: s.DSN("postgres"), Events: ev.add})
	if err != nil {
		t.Fatal(err)
	}
	if h.Timeline != 2 || h.StopTimeline != 2 || len(h.History) != 1 || h.History[0].Timeline != 1 {
		t.Errorf("timelines %d, %d, history %+v", h.Timeline, h.StopTimeline, h.History)
	}
	if k := keys(t, store, a.ref.HistoryKey(2)); len(k) != 1 {
		t.Error("the history file is not in the archive")
	}
	offline, err := func() (catalog.BackupHeader, error) {
		s.Stop(pg.Fast)
		return backup.Create(t.Context(), repo, backup.CreateOptions{Cluster: "main", PGData: s.Dir, Offline: true})
	}()
	if err != nil {
		t.Fatal(err)
	}
	if offline.StopTimeline != 2 || len(offline.IncludedWAL) < 2 || offline.IncludedWAL[0] != wal.HistoryName(2).String() {
		t.Errorf("offline: timeline %d, WAL %v", offline.StopTimeline, offline.IncludedWAL)
	}
}

// A14 on a standby that was shut down: its WAL from the last restartpoint on.
func TestOfflineStandby(t *testing.T) {
	repo, _ := newRepo(t)
	primary := pg.New(t, pg.Options{Checksums: true, WALSegmentSizeMiB: 1})
	primary.PgbenchInit(1)
	standby := standbyOf(t, primary)
	primary.Exec("CREATE TABLE t AS SELECT g FROM generate_series(1, 20000) g")
	standby.AwaitValue("SELECT (to_regclass('t') IS NOT NULL)::text", "true")
	want := standby.Sums()
	standby.Stop(pg.Fast)
	h, err := backup.Create(t.Context(), repo, backup.CreateOptions{Cluster: "main", PGData: standby.Dir, Offline: true})
	if err != nil {
		t.Fatal(err)
	}
	if !h.Standby || h.Source != catalog.SourceOffline || h.Stop < h.Start {
		t.Errorf("header %+v", h)
	}
	dir := filepath.Join(pg.TempDir(t), "data")
	rebuild(t, repo, h).write(t, dir)
	_ = os.Remove(filepath.Join(dir, "standby.signal"))
	if err := os.WriteFile(filepath.Join(dir, "recovery.signal"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pg.Chown(t, dir)
	restored := pg.Restored(t, dir, pg.Options{Args: []string{"-c", "restore_command=false", "-c", "archive_mode=off"}})
	restored.WaitPrimary()
	if diff := want.Diff(restored.Sums()); diff != "" {
		t.Error(diff)
	}
}
