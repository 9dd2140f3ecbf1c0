package restore_test

import (
	"os"
	"path/filepath"
	"testing"

	"pgstow/backup"
	"pgstow/test/pg"
)

// Debian's layout: all configuration in /etc, postgresql.conf includes a folder beside it, empty as it is at first or not.
// What was included is included where it is now, and what is no more is not asked for; nothing leads to the original.
func TestWithConfigIncludes(t *testing.T) {
	s := pg.New(t, pg.Options{})
	outside := pg.TempDir(t)
	s.Stop(pg.Fast)
	for _, name := range []string{"postgresql.conf", "pg_hba.conf", "pg_ident.conf"} {
		sh(t, "mv", filepath.Join(s.Dir, name), filepath.Join(outside, name))
	}
	for _, dir := range []string{"conf.d", "empty.d", "deep"} {
		if err := os.Mkdir(filepath.Join(outside, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	appendTo(t, filepath.Join(outside, "conf.d", "20-late.conf"), "work_mem = '7MB'\nmaintenance_work_mem = '20MB'\n")
	appendTo(t, filepath.Join(outside, "conf.d", "10-early.conf"), "work_mem = '5MB'\nrecovery_target_xid = '5'\n")
	appendTo(t, filepath.Join(outside, "deep", "one.conf"), "include 'two.conf'\n")
	appendTo(t, filepath.Join(outside, "deep", "two.conf"), "temp_buffers = '9MB'\n")
	appendTo(t, filepath.Join(outside, "nothing.conf"), "# no setting\n")
	inside := filepath.Join(s.Dir, "inside.conf")
	appendTo(t, inside, "effective_cache_size = '77MB'\n")
	sh(t, "chown", "--reference="+s.Dir, inside)
	conf := filepath.Join(outside, "postgresql.conf")
	appendTo(t, conf, "\ndata_directory = '"+s.Dir+"'\nhba_file = '"+outside+"/pg_hba.conf'\nident_file = '"+outside+"/pg_ident.conf'\n"+
		"include_dir = 'conf.d'\ninclude_dir 'empty.d'\ninclude '"+outside+"/deep/one.conf'\ninclude 'nothing.conf'\n"+
		"include_if_exists 'never.conf'\ninclude '"+inside+"'\n")
	live := pg.Restored(t, s.Dir, pg.Options{Args: []string{"-c", "config_file=" + conf}})
	repo, _ := newRepo(t, nil)
	create(t, repo, live, backup.WALInclude)
	live.Stop(pg.Fast)
	if err := os.RemoveAll(outside); err != nil { // another host
		t.Fatal(err)
	}

	o := options(t)
	o.WithConfig = true
	_, result := mustRestore(t, repo, o)
	if len(result.Warnings) != 0 {
		t.Errorf("warnings: %q", result.Warnings)
	}
	verify(t, o.Directory)
	r := pg.Restored(t, o.Directory, pg.Options{})
	r.WaitPrimary()
	for name, want := range map[string]string{
		"work_mem": "7MB", "maintenance_work_mem": "20MB", "temp_buffers": "9MB", "effective_cache_size": "77MB", "recovery_target_xid": "",
	} {
		if got := r.Value("SHOW " + name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

// A postgresql.conf in the data directory can include files from outside too.
func TestInsideIncludesOutside(t *testing.T) {
	extra := filepath.Join(pg.TempDir(t), "extra.conf")
	appendTo(t, extra, "work_mem = '6MB'\n")
	s := pg.New(t, pg.Options{Conf: map[string]string{"include": extra}})
	repo, _ := newRepo(t, nil)
	create(t, repo, s, backup.WALInclude)
	s.Stop(pg.Fast)
	if err := os.Remove(extra); err != nil {
		t.Fatal(err)
	}
	o := options(t)
	o.WithConfig = true
	mustRestore(t, repo, o)
	verify(t, o.Directory)
	r := pg.Restored(t, o.Directory, pg.Options{})
	r.WaitPrimary()
	if got := r.Value("SHOW work_mem"); got != "6MB" {
		t.Errorf("work_mem is %s", got)
	}
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
