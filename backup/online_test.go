package backup_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgstow/backup"
	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/object"
	"pgstow/test/pg"
	"pgstow/wal"
)

// archiver stands in for archive_command and push: the server copies into a
// folder, and Push stores what is there.
type archiver struct {
	t    *testing.T
	dir  string
	repo *catalog.Repository
	ref  catalog.ClusterRef
	done map[string]bool
}

func newArchiver(t *testing.T, repo *catalog.Repository) *archiver {
	return &archiver{t: t, dir: pg.TempDir(t), repo: repo, done: map[string]bool{}}
}

func (a *archiver) options(o pg.Options) pg.Options {
	o.ArchiveCommand = `cp %p "$ARCHIVE/.%f" && mv "$ARCHIVE/.%f" "$ARCHIVE/%f"`
	o.Env = append(o.Env, "ARCHIVE="+a.dir)
	return o
}

// push stores what the server has archived so far.
func (a *archiver) push() {
	a.t.Helper()
	entries, err := os.ReadDir(a.dir)
	if err != nil {
		a.t.Error(err)
	}
	for _, e := range entries {
		name, err := wal.ParseFileName(e.Name())
		if err != nil || a.done[e.Name()] || name.Kind == wal.Partial {
			continue
		}
		b, err := os.ReadFile(filepath.Join(a.dir, e.Name()))
		if err != nil {
			a.t.Error(err)
		}
		a.store(name, b)
	}
}

func (a *archiver) store(name wal.FileName, b []byte) {
	a.t.Helper()
	kind := map[wal.FileKind]object.Kind{
		wal.Segment: object.KindWAL, wal.BackupHistory: object.KindBackupLabel, wal.HistoryFile: object.KindHistory,
	}[name.Kind]
	enc, err := object.EncodeAll(a.repo.WriterOptions(), object.Header{
		Kind: kind, Name: name.String(), SystemID: a.ref.SystemID, Timeline: uint32(name.Timeline), Host: "archiver",
	}, b)
	if err != nil {
		a.t.Error(err)
	}
	if _, err := a.repo.Put(context.Background(), a.ref.WALKey(name, ""), enc, storage.Any); err != nil {
		a.t.Error(err)
	}
	a.done[name.String()] = true
}

// pushOnWait pushes whenever a backup waits for the archive.
func (a *archiver) pushOnWait(e backup.Event) {
	if _, ok := e.(backup.WaitingEvent); ok {
		a.push()
	}
}

// load runs pgbench until the test ends.
func load(t *testing.T, s *pg.Server) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = s.TryPgbench(ctx, "-n", "-c", "2", "-T", "600")
	}()
	t.Cleanup(func() { cancel(); <-done })
	s.Await("pgbench's first transactions", time.Minute, func() (bool, error) {
		return s.Value("SELECT (count(*) > 10)::text FROM pgbench_history") == "true", nil
	})
}

// balanced checks that a restored pgbench database is consistent.
func balanced(t *testing.T, s *pg.Server) {
	t.Helper()
	got := s.Value(`SELECT ((SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM pgbench_branches)
		AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(delta) FROM pgbench_history)
		AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(bbalance) FROM pgbench_branches))::text`)
	if got != "true" {
		t.Errorf("the restored database is not consistent: %s", got)
	}
}

// Standalone: under load, with WAL in the backup; PostgreSQL starts on what comes
// back, and none of the later changes are there.
func TestOnlineInclude(t *testing.T) {
	for _, major := range pg.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) { onlineInclude(t, major) })
	}
}

func onlineInclude(t *testing.T, major int) {
	s := pg.New(t, pg.Options{Major: major, Checksums: true, WALSegmentSizeMiB: 1})
	s.PgbenchInit(5)
	s.Exec("CREATE UNLOGGED TABLE volatile AS SELECT 1 AS a")
	load(t, s)
	repo, store := newRepo(t)
	var last string
	hook := &hookFS{on: func(path string) { last = path }}
	var ev events
	h, err := backup.Create(t.Context(), repo, backup.CreateOptions{
		Cluster: "main", Conn: s.DSN("postgres"), WAL: backup.WALInclude, Label: "with load", FS: hook, Events: ev.add,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Exec("CREATE TABLE later (a int)")
	if filepath.Base(last) != "pg_control" {
		t.Errorf("the last file read was %s", last)
	}
	if h.Start >= h.Stop || h.StoppedAt.Before(h.StartedAt) || h.NextXID == 0 || h.PostgresMajor != major || h.Timeline != 1 || h.Standby {
		t.Errorf("header %+v", h)
	}
	label, err := wal.ParseBackupLabel(h.BackupLabel)
	if err != nil || label.Label != "pgstow "+h.ID+" with load" || label.StartLSN != h.Start {
		t.Errorf("label %+v, error %v", label, err)
	}
	first, last1 := h.WALSegmentSize.SegmentOf(h.Start), h.WALSegmentSize.PrevSegmentOf(h.Stop)
	if want := int(last1-first) + 1; len(h.IncludedWAL) != want {
		t.Errorf("%d WAL files, want %d: %v", len(h.IncludedWAL), want, h.IncludedWAL)
	}
	if slots := s.Value("SELECT count(*) FROM pg_replication_slots"); slots != "0" {
		t.Errorf("%s replication slots are left", slots)
	}
	if k := keys(t, store, "main/lease/"); len(k) != 0 {
		t.Errorf("leases left: %v", k)
	}
	dir := filepath.Join(pg.TempDir(t), "data")
	rebuild(t, repo, h).write(t, dir)
	pg.Chown(t, dir)
	restored := pg.Restored(t, dir, pg.Options{Major: major})
	restored.WaitPrimary()
	balanced(t, restored)
	if got := restored.Value("SELECT count(*) FROM volatile"); got != "0" {
		t.Errorf("unlogged table: %s rows", got)
	}
	if got := restored.Value("SELECT (to_regclass('later') IS NULL)::text"); got != "true" {
		t.Error("a later table is there")
	}
	phases := []backup.Phase{}
	for _, e := range ev.list {
		if p, ok := e.(backup.PhaseEvent); ok {
			phases = append(phases, p.Phase)
		}
	}
	want := []backup.Phase{backup.PhaseConnect, backup.PhaseCheckpoint, backup.PhaseCopy, backup.PhaseStop, backup.PhaseWAL, backup.PhaseCommit}
	if !slices.Equal(phases, want) {
		t.Errorf("phases %v", phases)
	}
}

// With an archive: committed only when the archive is proven to hold this
// backup's WAL; on a host that cannot decrypt, too.
func TestOnlineArchive(t *testing.T) {
	for _, major := range pg.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) { onlineArchive(t, major) })
	}
}

func onlineArchive(t *testing.T, major int) {
	for _, encrypted := range []bool{false, true} {
		t.Run(map[bool]string{false: "plain", true: "encrypted"}[encrypted], func(t *testing.T) {
			repo, store := newRepo(t)
			reader := repo
			if encrypted {
				repo, reader, store = encryptedRepo(t)
			}
			a := newArchiver(t, repo)
			s := pg.New(t, a.options(pg.Options{Major: major, Checksums: true, WALSegmentSizeMiB: 1}))
			a.ref = catalog.ClusterRef{Name: "main", SystemID: systemID(t, s)}
			s.PgbenchInit(2)
			s.Exec("CREATE TABLE known AS SELECT 'a known plain text' AS x")
			load(t, s)
			var waited backup.WaitingEvent
			ev := events{on: func(e backup.Event) {
				if w, ok := e.(backup.WaitingEvent); ok {
					waited = w
					if k := manifests(t, store); len(k) != 0 {
						t.Errorf("committed before the WAL was proven: %v", k)
					}
				}
				a.pushOnWait(e)
			}}
			h, err := backup.Create(t.Context(), repo, backup.CreateOptions{Cluster: "main", Conn: s.DSN("postgres"), Events: ev.add})
			if err != nil {
				t.Fatal(err)
			}
			if waited.Left == 0 || waited.Stop != h.Stop {
				t.Errorf("waited for %+v", waited)
			}
			if h.WALIncluded || len(h.IncludedWAL) != 0 {
				t.Error("WAL is in the backup")
			}
			r := rebuild(t, reader, h)
			if len(r.files["base/1/PG_VERSION"]) == 0 {
				t.Error("nothing came back")
			}
			name := wal.BackupHistoryName(1, h.Start, h.WALSegmentSize)
			if !a.done[name.String()] {
				t.Errorf("%s was not archived", name)
			}
		})
	}
}

func systemID(t *testing.T, s *pg.Server) uint64 {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.Dir, "global", "pg_control"))
	if err != nil {
		t.Fatal(err)
	}
	var id uint64
	for i := range 8 {
		id |= uint64(b[i]) << (8 * i)
	}
	return id
}

func manifests(t *testing.T, s storage.Store) []string {
	return slices.DeleteFunc(keys(t, s, "main/"), func(k string) bool { return !strings.HasSuffix(k, "/manifest") })
}

// encryptedRepo opens one repository twice: as a host with the public half only,
// and as one with the identity.
func encryptedRepo(t *testing.T) (writer, reader *catalog.Repository, store storage.Store) {
	t.Helper()
	_, store = newRepo(t)
	for _, k := range keys(t, store, "repo") {
		if err := store.Delete(t.Context(), k); err != nil {
			t.Fatal(err)
		}
	}
	identity, recipient, err := object.GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	writer, err = catalog.Init(t.Context(), store, catalog.InitOptions{Recipients: []string{recipient}})
	if err != nil {
		t.Fatal(err)
	}
	ids, err := object.ParseIdentities(strings.NewReader(identity))
	if err != nil {
		t.Fatal(err)
	}
	reader, err = catalog.Open(t.Context(), store, catalog.Pins{Recipients: []string{recipient}, Identities: ids})
	if err != nil {
		t.Fatal(err)
	}
	return writer, reader, store
}

// An archive that stands still: the backup fails in time, names what is missing
// and archive_command's last failure, and does not exist.
func TestArchiveTimeout(t *testing.T) {
	repo, store := newRepo(t)
	s := pg.New(t, pg.Options{ArchiveCommand: "false"})
	var failed bool
	ev := events{on: func(e backup.Event) {
		if _, ok := e.(backup.WaitingEvent); ok && !failed {
			s.AwaitValue("SELECT (failed_count > 0)::text FROM pg_stat_archiver", "true")
			failed = true
		}
	}}
	_, err := backup.Create(t.Context(), repo, backup.CreateOptions{
		Cluster: "main", Conn: s.DSN("postgres"), ArchiveTimeout: 300 * time.Millisecond, Events: ev.add,
	})
	var timeout *backup.ArchiveTimeoutError
	if !errors.As(err, &timeout) {
		t.Fatalf("error %v", err)
	}
	if timeout.Left < 2 || len(timeout.Missing) < 2 || timeout.LastFailed == "" || timeout.LastFailedAt.IsZero() ||
		!strings.Contains(err.Error(), timeout.Missing[0]) || catalog.Hint(err) == "" {
		t.Errorf("%+v: %v", timeout, err)
	}
	if k := append(manifests(t, store), keys(t, store, "main/lease/")...); len(k) != 0 {
		t.Errorf("left behind: %v", k)
	}
}

func TestOnlineRefusals(t *testing.T) {
	repo, store := newRepo(t)
	s := pg.New(t, pg.Options{})
	other := pg.New(t, pg.Options{})
	clone := filepath.Join(t.TempDir(), "clone")
	run(t, "cp", "-a", s.Dir, clone)
	stopped := newCluster(t)
	for name, c := range map[string]struct {
		o    backup.CreateOptions
		want string
	}{
		"archive_mode off":   {backup.CreateOptions{Conn: s.DSN("postgres")}, "archive_mode is off"},
		"other server":       {backup.CreateOptions{Conn: s.DSN("postgres"), PGData: other.Dir, WAL: backup.WALInclude}, "not the directory of the server"},
		"no server there":    {backup.CreateOptions{Conn: s.DSN("postgres"), PGData: stopped, WAL: backup.WALInclude}, "no server runs in"},
		"no such database":   {backup.CreateOptions{Conn: s.DSN("nothing"), WAL: backup.WALInclude}, "does not exist"},
		"bad label":          {backup.CreateOptions{Conn: s.DSN("postgres"), WAL: backup.WALInclude, Label: "a\nb"}, "control character"},
		"offline, no PGData": {backup.CreateOptions{Offline: true}, "needs the data directory"},
		"offline, running":   {backup.CreateOptions{Offline: true, PGData: s.Dir}, "in production"},
		"cluster name":       {backup.CreateOptions{Conn: s.DSN("postgres"), WAL: backup.WALInclude, Cluster: "a/b"}, "cluster name"},
	} {
		if c.o.Cluster == "" {
			c.o.Cluster = "main"
		}
		if _, err := backup.Create(t.Context(), repo, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if k := keys(t, store, "main/"); len(k) != 0 {
		t.Errorf("something was written: %v", k)
	}
	// A clone with the server's own postmaster.pid: only its pg_control, which
	// does not move, tells.
	_, err := backup.Create(t.Context(), repo, backup.CreateOptions{Cluster: "main", Conn: s.DSN("postgres"), PGData: clone, WAL: backup.WALInclude})
	if err == nil || !strings.Contains(err.Error(), "is not the server's directory") {
		t.Errorf("clone: %v", err)
	}
	if k := append(manifests(t, store), keys(t, store, "main/lease/")...); len(k) != 0 {
		t.Errorf("left behind: %v", k)
	}
}

// B2: without its session the backup has failed, whatever was copied.
func TestSessionLost(t *testing.T) {
	repo, store := newRepo(t)
	s := pg.New(t, pg.Options{})
	killed := false
	hook := &hookFS{on: func(path string) {
		if !killed && strings.HasSuffix(path, "PG_VERSION") {
			killed = true
			s.Exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgstow backup'")
		}
	}}
	_, err := backup.Create(t.Context(), repo, backup.CreateOptions{Cluster: "main", Conn: s.DSN("postgres"), WAL: backup.WALInclude, FS: hook})
	if err == nil || !strings.Contains(err.Error(), "session is lost") {
		t.Errorf("error %v", err)
	}
	if k := append(manifests(t, store), keys(t, store, "main/lease/")...); len(k) != 0 {
		t.Errorf("left behind: %v", k)
	}
}
