package delta_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// TestDeltaBesideTheOriginal: the copy of a data directory has links to the original's tablespaces. A delta restore of it never
// touches them, while the original runs or not, unless they are its own; and in a tablespace that is its own it leaves alone
// what another cluster has there.
func TestDeltaBesideTheOriginal(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{WALSegmentSizeMiB: 1, Checksums: true})
	s := w.Server
	space := pg.TempDir(t)
	s.Exec("CREATE TABLESPACE one LOCATION '" + space + "'")
	s.Exec("CREATE TABLE spaced TABLESPACE one AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i")
	oid := s.Value("SELECT oid FROM pg_tablespace WHERE spcname = 'one'")
	file := s.Value("SELECT pg_relation_filepath('spaced')")
	w.Backup()
	s.ArchiveAll()
	s.Stop(pg.Fast)
	dir := w.NewDir("copy")
	if err := world.CopyDir(t.Context(), s.Dir, dir); err != nil {
		t.Fatal(err)
	}
	w.Check(w.RunRestore(dir, "--delta"), 1, "leads to where the original has it", "--tablespace "+oid+"="+space)
	s.Start()
	s.Exec("INSERT INTO spaced VALUES (0, 'after the backup'); CHECKPOINT")
	w.Check(w.RunRestore(dir, "--delta"), 1, "leads to where the original has it")
	w.Check(w.RunRestore(dir, "--delta", "--tablespace", oid+"="+space), 1, "is in use by the server in "+s.Dir)

	moved := w.NewDir("moved")
	restore(t, w, dir, "--delta", "--tablespace", oid+"="+moved, "--immediate", "--action", "promote")
	w.VerifyBackup(dir, false)
	if n := s.Value("SELECT count(*) FROM spaced"); n != "20001" {
		t.Errorf("the original has %s rows", n)
	}

	// From now on the place is the copy's own. Another cluster has a folder there, and so has the file system.
	kept := []string{filepath.Join(moved, "PG_13_202007201", "5", "1"), filepath.Join(moved, "lost+found", "x")}
	strange := filepath.Join(moved, strings.Split(file, "/")[2], "99", "1")
	for _, path := range append(kept, strange) {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pg.Chown(t, moved)
	damage(t, filepath.Join(dir, file), 3)
	if o := restore(t, w, dir, "--delta", "--immediate", "--action", "promote"); o.Result.FilesRemoved == 0 || o.Result.BytesWritten > 100<<10 {
		t.Errorf("%+v", o.Result)
	}
	for _, path := range kept {
		if err := os.Remove(path); err != nil { // it would be strange to pg_verifybackup as well
			t.Error(err)
		}
	}
	if _, err := os.Stat(strange); !os.IsNotExist(err) {
		t.Errorf("%s: %v", strange, err)
	}
	w.VerifyBackup(dir, false)
	r := w.StartRestored(dir)
	r.WaitPrimary()
	if n := r.Value("SELECT count(*) FROM spaced"); n != "20000" {
		t.Errorf("the copy has %s rows", n)
	}
	sound(t, r)

	// In its own place the original may use its own tablespace.
	s.Stop(pg.Fast)
	w.Must("wal", "repair", "--pgdata", s.Dir)
	restore(t, w, s.Dir, "--delta", "--action", "promote", "--take-over")
	s.Start()
	s.WaitPrimary()
	if n := s.Value("SELECT count(*) FROM spaced"); n != "20001" {
		t.Errorf("the original has %s rows after its own restore", n)
	}
}
