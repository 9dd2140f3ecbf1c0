// Package repair_test mends archives with `pgstow wal repair`: from the pg_wal of running and of dead servers, of standbys, and never from
// that of a server that went another way.
package repair_test

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

func TestMain(m *testing.M) { os.Exit(world.Main(m)) }

// repaired is what `wal repair --json` prints.
type repaired struct {
	From     string `json:"from"`
	Running  bool   `json:"running"`
	Recycled int    `json:"recycled"`
	Files    []struct {
		Name   string `json:"name"`
		Action string `json:"action"`
		Key    string `json:"key"`
		ToLSN  string `json:"to_lsn"`
		Piece  bool   `json:"piece"`
		Stored int64  `json:"bytes_stored"`
		Reason string `json:"reason"`
	} `json:"files"`
	Holes []struct {
		First    string `json:"first"`
		Last     string `json:"last"`
		Segments int    `json:"segments"`
	} `json:"holes"`
}

// names are those of the files with an action, in order.
func (r repaired) names(action string) []string {
	var names []string
	for _, f := range r.Files {
		if f.Action == action {
			names = append(names, f.Name)
		}
	}
	return names
}

// repair runs the command with this exit status.
func repair(t *testing.T, w *world.World, code int, words []string, args ...string) repaired {
	t.Helper()
	r := w.Expect(code, words, append([]string{"wal", "repair", "--json"}, args...)...)
	var out repaired
	world.Decode(t, r.Stdout, &out)
	return out
}

// cutOff makes a primary and its standby, which is stopped. Row 1 of table t is the last that both have, and nothing that the primary writes then
// leaves its host.
func cutOff(t *testing.T, o world.Options) (w *world.World, a, b *pg.Server) {
	t.Helper()
	o.WALSegmentSizeMiB, o.Conf, o.Env = 1, keeping, []string{"PGSTOW_PUSH_AHEAD=0"}
	w = world.New(t, o)
	a = w.Server
	a.Exec("CREATE TABLE t AS SELECT 0 AS i")
	w.Backup()
	b = standby(t, w)
	a.Exec("INSERT INTO t VALUES (1)")
	b.AwaitValue("SELECT count(*) FROM t", "2")
	b.AppendConf(map[string]string{"archive_command": w.ArchiveCommand()})
	b.Stop(pg.Fast)
	a.AppendConf(map[string]string{"archive_command": "false"})
	a.Reload()
	a.AwaitValue("SHOW archive_command", "false")
	return w, a, b
}

func equal(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("%s: %v, want %v", what, got, want)
	}
}

// rows are those of table t.
func rows(s *pg.Server) string {
	return s.Value("SELECT coalesce(string_agg(i::text, ' ' ORDER BY i), '') FROM t")
}

// fill writes WAL and has n segments archived or, without an archiver, just filled; it returns their names.
func fill(t *testing.T, s *pg.Server, n int) []string {
	t.Helper()
	var names []string
	for range n {
		s.Exec("SELECT pg_logical_emit_message(false, 'x', 'y')")
		names = append(names, s.Value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())"))
		s.Exec("SELECT pg_switch_wal()")
	}
	return names
}

// awaitArchived waits until the archive has segments: later ones may be stored before earlier ones.
func awaitArchived(t *testing.T, w *world.World, names ...string) {
	t.Helper()
	for _, name := range names {
		pg.Await(t, name+" in the archive", time.Minute, func() (bool, error) { return len(w.WALKeys(name)) == 1, nil })
	}
}

// archived fails the test unless these are in the archive, or are not.
func archived(t *testing.T, w *world.World, want bool, names ...string) {
	t.Helper()
	for _, name := range names {
		if got := len(w.WALKeys(name)) > 0; got != want {
			t.Fatalf("%s in the archive: %t", name, got)
		}
	}
}

// age makes all objects of a file store an hour older.
func age(t *testing.T, w *world.World) {
	t.Helper()
	old := time.Now().Add(-time.Hour)
	err := filepath.WalkDir(strings.TrimPrefix(w.URL, "file://"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return os.Chtimes(path, old, old)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// snapshot is what can be seen of a folder: names, modes, sizes, times and bytes.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	seen := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		var sum [32]byte
		if d.Type().IsRegular() {
			body, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum = sha256.Sum256(body)
		}
		seen[path] = fmt.Sprintf("%v %d %v %x", info.Mode(), info.Size(), info.ModTime(), sum)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return seen
}
