package backup_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgstow/backup"
	"pgstow/catalog"
	"pgstow/test/pg"
	"pgstow/wal"
)

// A stopped cluster comes back byte by byte: what is in the backup equals the
// directory, and what is not in it is what every backup leaves out.
func TestOfflineBackupEqualsDirectory(t *testing.T) {
	s := pg.New(t, pg.Options{Checksums: true})
	space := pg.TempDir(t)
	s.Exec("CREATE TABLESPACE other LOCATION '" + space + "'")
	s.Exec("CREATE TABLE spaced TABLESPACE other AS SELECT g, repeat('x', 100) FROM generate_series(1, 5000) g")
	s.Exec("CREATE UNLOGGED TABLE volatile AS SELECT g FROM generate_series(1, 1000) g")
	s.Exec("CREATE TABLE gone AS SELECT g FROM generate_series(1, 1000) g")
	s.Exec("CREATE TABLE empty (a int)")
	s.PgbenchInit(5)
	node := s.Value("SELECT pg_relation_filepath('volatile')")
	s.Stop(pg.Fast)

	repo, _ := newRepo(t)
	var ev events
	h, err := backup.Create(t.Context(), repo, backup.CreateOptions{
		Cluster: "main", PGData: s.Dir, Offline: true, Label: "cold one", Host: "here", Program: "test", Events: ev.add, Workers: 3,
	})
	if err != nil {
		t.Fatal(err)
	}
	r := rebuild(t, repo, h)
	if h.Source != catalog.SourceOffline || h.Label != "cold one" || !h.WALIncluded || h.Damaged != 0 || len(h.BackupLabel) != 0 {
		t.Errorf("header %+v", h)
	}
	if h.Start != h.Stop || h.Start == 0 || h.CheckpointLSN < h.Start || h.NextXID == 0 || h.ControlRedo != h.Start {
		t.Errorf("start %s stop %s checkpoint %s xid %d", h.Start, h.Stop, h.CheckpointLSN, h.NextXID)
	}
	if len(h.Tablespaces) != 1 || h.Tablespaces[0].Location != space {
		t.Errorf("tablespaces %+v", h.Tablespaces)
	}
	missing := compareDirectory(t, r, s.Dir, "")
	link := "pg_tblspc/" + filepath.Base(h.Tablespaces[0].Path)
	missing = append(missing, compareDirectory(t, r, filepath.Join(s.Dir, link), link)...)
	for _, path := range missing {
		if !leftOut(path, node) {
			t.Errorf("%s is not in the backup", path)
		}
	}
	if _, ok := r.files[node+"_init"]; !ok {
		t.Error("the init fork of the unlogged table is not in the backup")
	}
	// The WAL: the segment with the shutdown checkpoint, zeros behind its end.
	if len(h.IncludedWAL) == 0 {
		t.Fatal("no WAL in the backup")
	}
	for _, name := range h.IncludedWAL {
		f, err := wal.ParseFileName(name)
		if err != nil {
			t.Fatal(err)
		}
		if f.Kind != wal.Segment {
			continue
		}
		local, err := os.ReadFile(filepath.Join(s.Dir, "pg_wal", name))
		if err != nil {
			t.Fatal(err)
		}
		got := r.files["pg_wal/"+name]
		info, _ := wal.InspectSegment(got, f)
		n := int(info.CompleteTo - f.Start(h.WALSegmentSize))
		if len(got) != len(local) || n == 0 || !slices.Equal(got[:n], local[:n]) {
			t.Errorf("%s differs before its end at %s", name, info.CompleteTo)
		}
	}
	if !ev.has(func(e backup.Event) bool {
		p, ok := e.(backup.ProgressEvent)
		return ok && p.BytesDone == p.BytesTotal && p.BytesTotal > 0 && p.FilesDone > 900
	}) {
		t.Error("no progress event says that all was read")
	}
}

// compareDirectory compares all files below dir with the backup's below path and
// returns those that the backup has not.
func compareDirectory(t *testing.T, r *rebuilt, dir, path string) (missing []string) {
	t.Helper()
	root, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	err = filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil || file == root {
			return err
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		rel = filepath.Join(path, rel)
		e, ok := r.entries[rel]
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case !ok:
			missing = append(missing, rel)
		case d.IsDir() != (e.Type == catalog.TypeDir) || fs.FileMode(e.Mode) != info.Mode().Perm():
			t.Errorf("%s: %v %v in the backup", rel, e.Type, e.Mode)
		case d.Type().IsRegular():
			if !e.ModTime.Equal(info.ModTime()) {
				t.Errorf("%s: time %v, want %v", rel, e.ModTime, info.ModTime())
			}
			r.same(t, rel, file)
			n++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n == 0 {
		t.Errorf("nothing compared below %s", dir)
	}
	return missing
}

func leftOut(path, unlogged string) bool {
	top, rest, _ := strings.Cut(path, "/")
	switch top {
	case "pg_wal", "pg_stat_tmp", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_subtrans":
		return rest != ""
	}
	base := filepath.Base(path)
	return path == "postmaster.opts" || strings.HasPrefix(base, "pgsql_tmp") || strings.HasPrefix(base, "pg_internal.init") ||
		path == unlogged || strings.HasPrefix(path, unlogged+"_") && !strings.HasSuffix(path, "_init")
}

// What the backup holds is a cluster: PostgreSQL starts on it.
func TestOfflineBackupStarts(t *testing.T) {
	for _, major := range pg.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) { offlineStarts(t, major) })
	}
}

func offlineStarts(t *testing.T, major int) {
	s := pg.New(t, pg.Options{Major: major, Checksums: true})
	s.PgbenchInit(2)
	want := s.Sums()
	s.Stop(pg.Fast)
	repo, _ := newRepo(t)
	h, err := backup.Create(t.Context(), repo, backup.CreateOptions{Cluster: "main", PGData: s.Dir, Offline: true})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(pg.TempDir(t), "data")
	rebuild(t, repo, h).write(t, dir)
	pg.Chown(t, dir)
	if diff := want.Diff(pg.Restored(t, dir, pg.Options{Major: major}).Sums()); diff != "" {
		t.Error(diff)
	}
}

func TestOfflineRefusesRunningServer(t *testing.T) {
	repo, store := newRepo(t)
	dir := newCluster(t)
	if err := os.WriteFile(filepath.Join(dir, "postmaster.pid"), []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := backup.Create(t.Context(), repo, backup.CreateOptions{Cluster: "main", PGData: dir, Offline: true})
	if err == nil || !strings.Contains(err.Error(), "a server runs") {
		t.Errorf("postmaster.pid: %v", err)
	}

	s := pg.New(t, pg.Options{})
	s.Kill()
	if err := os.Remove(filepath.Join(s.Dir, "postmaster.pid")); err != nil {
		t.Fatal(err)
	}
	_, err = backup.Create(t.Context(), repo, backup.CreateOptions{Cluster: "main", PGData: s.Dir, Offline: true})
	if err == nil || !strings.Contains(err.Error(), "in production") {
		t.Errorf("crashed server: %v", err)
	}
	if k := keys(t, store, "main/"); len(k) != 0 {
		t.Errorf("something was written: %v", k)
	}
}

// A server that is started while its directory is read cold makes the backup fail.
func TestOfflineNoticesStart(t *testing.T) {
	repo, store := newRepo(t)
	dir := newCluster(t)
	hook := &hookFS{on: func(path string) {
		if strings.HasSuffix(path, "PG_VERSION") && strings.Contains(path, "base") {
			_ = os.WriteFile(filepath.Join(dir, "postmaster.pid"), []byte("1\n"), 0o600)
		}
	}}
	_, err := backup.Create(t.Context(), repo, backup.CreateOptions{Cluster: "main", PGData: dir, Offline: true, FS: hook})
	if err == nil || !strings.Contains(err.Error(), "a server runs") {
		t.Errorf("error %v", err)
	}
	for _, k := range keys(t, store, "main/") {
		if strings.HasSuffix(k, "/manifest") || strings.Contains(k, "/lease/") {
			t.Errorf("left behind: %s", k)
		}
	}
}
