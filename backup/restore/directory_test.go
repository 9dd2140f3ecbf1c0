package restore_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgstow/backup/restore"
	"pgstow/catalog"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDirectory(t *testing.T) {
	plan := restore.Marker{Format: 1, Repository: "r", Cluster: "main", SystemID: 7, Backup: "b1", Target: "latest", Timeline: 1}
	marker := func(change func(*restore.Marker)) string {
		m := plan
		change(&m)
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	same := marker(func(*restore.Marker) {})
	tests := []struct {
		name   string
		files  map[string]string // relative to the directory; nil: it does not exist
		force  bool
		resume bool
		why    string // "": allowed
		hint   string
	}{
		{name: "absent"},
		{name: "empty", files: map[string]string{}},
		{name: "file in it", files: map[string]string{"x": ""}, why: "not empty (x)", hint: "empty or a new directory"},
		{name: "killed while the marker was written", files: map[string]string{restore.MarkerName + ".pgstow": "{"}},
		{name: "mount point", files: map[string]string{"lost+found": ""}, why: "not empty", hint: "mount point"},
		{name: "forced does not overwrite", files: map[string]string{"PG_VERSION": "15"}, force: true, why: "not empty"},
		{name: "running server", files: map[string]string{"postmaster.pid": "1", "PG_VERSION": "15"}, why: "postmaster.pid", hint: "--force"},
		{name: "marker and postmaster.pid", files: map[string]string{restore.MarkerName: same, "postmaster.pid": "1"}, why: "postmaster.pid"},
		{name: "the same, forced", files: map[string]string{restore.MarkerName: same, "postmaster.pid": "1"}, force: true, resume: true},
		{name: "same plan", files: map[string]string{restore.MarkerName: same, "base/1/1": "x"}, resume: true},
		{name: "other backup", files: map[string]string{restore.MarkerName: marker(func(m *restore.Marker) { m.Backup = "b2" })}, why: "another plan: backup b2 of main to latest", hint: "--backup b2"},
		{name: "other target", files: map[string]string{restore.MarkerName: marker(func(m *restore.Marker) { m.Target = "lsn 0/1" })}, why: "another plan"},
		{name: "other tablespaces", files: map[string]string{restore.MarkerName: marker(func(m *restore.Marker) { m.Tablespaces = map[string]string{"pg_tblspc/1": "/x"} })}, why: "another plan"},
		{name: "other repository", files: map[string]string{restore.MarkerName: marker(func(m *restore.Marker) { m.Repository = "s" })}, why: "another plan"},
		{name: "garbage marker", files: map[string]string{restore.MarkerName: "{"}, why: "cannot be read"},
		{name: "newer marker", files: map[string]string{restore.MarkerName: marker(func(m *restore.Marker) { m.Format = 2 })}, why: "cannot be read"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			if tt.files != nil {
				if err := os.Mkdir(dir, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			for name, text := range tt.files {
				write(t, filepath.Join(dir, name), text)
			}
			resume, err := restore.CheckDirectory(dir, plan, tt.force)
			if resume != tt.resume {
				t.Errorf("resume = %v", resume)
			}
			checkRefusal(t, err, tt.why, tt.hint)
		})
	}
}

// checkRefusal wants a DirectoryError with these words, or none at all.
func checkRefusal(t *testing.T, err error, why, hint string) {
	t.Helper()
	if why == "" {
		if err != nil {
			t.Errorf("refused: %v", err)
		}
		return
	}
	var refusal *restore.DirectoryError
	if !errors.As(err, &refusal) || !strings.Contains(err.Error(), why) {
		t.Errorf("got %v, want a refusal with %q", err, why)
	}
	if !strings.Contains(catalog.Hint(err), hint) {
		t.Errorf("hint %q lacks %q", catalog.Hint(err), hint)
	}
}

func TestDirectoryNeedsAParent(t *testing.T) {
	_, err := restore.CheckDirectory(filepath.Join(t.TempDir(), "not-mounted", "data"), restore.Marker{}, false)
	checkRefusal(t, err, "no directory", "mount")
}

func TestDirectoryIsAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	write(t, path, "")
	_, err := restore.CheckDirectory(path, restore.Marker{}, false)
	checkRefusal(t, err, "not a directory", "")
}

func TestTablespaces(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	data, live, empty := filepath.Join(root, "data"), filepath.Join(root, "live"), filepath.Join(root, "empty")
	write(t, filepath.Join(live, "PG_15_202209061", "x"), "")
	for _, dir := range []string{data, empty} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	backup := []catalog.Tablespace{{OID: 100, Path: "pg_tblspc/100", Location: live}, {OID: 101, Path: "pg_tblspc/101", Location: filepath.Join(root, "b")}, {OID: 102, Path: "pg_tblspc/102", InPlace: true}}
	tests := []struct {
		name    string
		mapping map[string]string
		resume  bool
		why     string
		hint    string
	}{
		{name: "not mapped, the original is live", why: "the original may be using it", hint: "--tablespace 100="},
		{name: "mapped by OID", mapping: map[string]string{"100": empty}},
		{name: "mapped by location", mapping: map[string]string{live: filepath.Join(root, "new")}},
		{name: "the other one to the live place", mapping: map[string]string{"100": empty, "101": live}, why: "is not empty"},
		{name: "into the data directory", mapping: map[string]string{"100": filepath.Join(data, "ts")}, why: "lie in each other"},
		{name: "around the data directory", mapping: map[string]string{"100": root}, why: "lie in each other"},
		{name: "both to one place", mapping: map[string]string{"100": empty, "101": empty}, why: "tablespaces 100 and 101"},
		{name: "one in the other", mapping: map[string]string{"100": empty, "101": filepath.Join(empty, "sub")}, why: "tablespaces 100 and 101"},
		{name: "relative", mapping: map[string]string{"100": "here"}, why: "absolute path"},
		{name: "no parent", mapping: map[string]string{"100": filepath.Join(root, "no", "where")}, why: "no directory"},
		{name: "our own half-done files", resume: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			list, err := restore.PlanTablespaces(backup, tt.mapping)
			if err == nil {
				err = restore.ResolveTablespaces(list)
			}
			if err == nil {
				err = restore.CheckTablespaces(data, list, tt.resume)
			}
			checkRefusal(t, err, tt.why, tt.hint)
		})
	}
	if _, err := restore.PlanTablespaces(backup, map[string]string{"/nowhere": empty}); !errors.Is(err, restore.ErrOptions) {
		t.Errorf("a mapping that fits no tablespace: %v", err)
	}
}

// A link to the live place is the live place.
func TestTablespaceThroughALink(t *testing.T) {
	root := t.TempDir()
	live, link := filepath.Join(root, "live"), filepath.Join(root, "link")
	write(t, filepath.Join(live, "PG_15_202209061", "x"), "")
	if err := os.Symlink(live, link); err != nil {
		t.Fatal(err)
	}
	list, err := restore.PlanTablespaces([]catalog.Tablespace{{OID: 100, Path: "pg_tblspc/100", Location: live}}, map[string]string{"100": link})
	if err == nil {
		err = restore.ResolveTablespaces(list)
	}
	if err == nil {
		err = restore.CheckTablespaces(filepath.Join(root, "data"), list, false)
	}
	checkRefusal(t, err, "not empty", "--tablespace")
}
