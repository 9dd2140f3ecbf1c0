package e2e_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// saved is a copy of the segment that a killed server was writing to.
type saved struct {
	name string
	body []byte
}

// saveSegment reads the segment that a server was writing to when it was killed; where that is must be asked before.
func saveSegment(t *testing.T, s *pg.Server, name string) saved {
	t.Helper()
	body, err := os.ReadFile(filepath.Join(s.Dir, "pg_wal", name))
	if err != nil {
		t.Fatal(err)
	}
	return saved{name, body}
}

// addTo puts the saved segment into a restored directory, as the manual advises.
func (v saved) addTo(t *testing.T, dir string) {
	t.Helper()
	path := filepath.Join(dir, "pg_wal", v.name)
	if err := os.WriteFile(path, v.body, 0o600); err != nil {
		t.Fatal(err)
	}
	pg.Chown(t, path)
}

func insert(s *pg.Server, row, point string) {
	s.Exec("INSERT INTO t VALUES (" + row + ")")
	if point != "" {
		s.Exec("SELECT pg_create_restore_point('" + point + "')")
	}
}

func timeline(s *pg.Server) string { return s.Value("SELECT timeline_id FROM pg_control_checkpoint()") }

// TestTimelines: a server dies, two restores of it are promoted from the same segment, a third from a point in time; each writes on and archives in
// the original's place. Afterwards every timeline can be recovered, to its end and to points on it.
func TestTimelines(t *testing.T) {
	pg.Long(t, "restores a dozen times")
	world.EachStore(t, func(t *testing.T, store string) {
		w := world.New(t, world.Options{Store: store, WALSegmentSizeMiB: 1})
		a := w.Server
		a.Exec("CREATE TABLE t AS SELECT 0 AS i")
		first := w.Backup()
		insert(a, "1", "one")
		insert(a, "2", "two")
		a.ArchiveAll()
		insert(a, "3", "three")
		current := a.Value("SELECT pg_walfile_name(pg_current_wal_lsn())")
		a.Kill()
		short := saveSegment(t, a, current)
		a.Start()
		insert(a, "4", "four")
		equal(t, "segment", a.Value("SELECT pg_walfile_name(pg_current_wal_lsn())"), current)
		a.Kill()
		long := saveSegment(t, a, current)
		if keys := w.WALKeys(current); len(keys) > 0 {
			t.Fatalf("the segment that must not be archived is: %v", keys)
		}

		// Timeline 2 goes on from what was saved first.
		b := takeOver(t, w, []saved{short})
		equal(t, "rows on timeline 2", rows(b), "0 1 2 3")
		equal(t, "timeline", timeline(b), "2")
		insert(b, "20", "twenty")
		second := w.BackupOf(b)
		equal(t, "timeline of the second backup", second.Timeline, 2)
		insert(b, "21", "")
		b.ArchiveAll()
		b.Stop(pg.Fast)
		keep := w.ReadEverything()

		// Timeline 3 begins in the same segment, a little later.
		c := takeOver(t, w, []saved{long}, "--timeline", "1")
		equal(t, "rows on timeline 3", rows(c), "0 1 2 3 4")
		equal(t, "timeline", timeline(c), "3")
		insert(c, "30", "")
		c.ArchiveAll()
		c.Stop(pg.Fast)

		// Timeline 4 begins at a point in time.
		d := takeOver(t, w, nil, "--timeline", "1", "--to-name", "one", "--action", "promote")
		equal(t, "rows on timeline 4", rows(d), "0 1")
		equal(t, "timeline", timeline(d), "4")
		insert(d, "40", "")
		fourth := w.BackupOf(d)
		equal(t, "timeline of the fourth backup", fourth.Timeline, 4)
		insert(d, "41", "")
		newest := d.ArchiveAll()
		renamed(t, w, d, newest, "00000003"+newest[8:])
		d.Stop(pg.Fast)

		archivedFiles(t, w, current)
		for key, body := range keep {
			if !bytes.Equal(w.Read(key), body) {
				t.Errorf("%s was overwritten", key)
			}
		}
		for _, c := range []struct{ args, want string }{
			{"--timeline 1", "0 1 2"}, // its last segment was archived as .partial alone, which is never served by itself
			{"--timeline 1 --to-name one", "0 1"},
			{"--timeline 2", "0 1 2 3 20 21"},
			{"--timeline 2 --to-name two", "0 1 2"},
			{"--timeline 2 --to-name twenty --backup " + first.ID, "0 1 2 3 20"},
			{"--timeline 2 --immediate --backup " + second.ID, "0 1 2 3 20"},
			{"--timeline 3", "0 1 2 3 4 30"},
			{"--timeline 4", "0 1 40 41"},
			{"--timeline latest", "0 1 40 41"},
			{"--timeline current --backup " + second.ID, "0 1 2 3 20 21"},
		} {
			t.Run(c.args, func(t *testing.T) {
				w := w.In(t)
				s := w.StartRestored(w.Restore(strings.Fields(c.args)...))
				equal(t, "rows", rows(s), c.want)
				s.Kill()
			})
		}
		dir := w.NewDir("refused")
		w.Expect(13, []string{second.ID, "timeline"}, "restore", dir, "--timeline", "1", "--backup", second.ID)
		w.Expect(13, []string{"twenty"}, "restore", dir, "--timeline", "3", "--to-name", "twenty")
		missing(t, dir)
		windows(t, w)
	})
}

// takeOver restores in the original's place, adds saved segments, and waits until the server is promoted.
func takeOver(t *testing.T, w *world.World, segments []saved, args ...string) *pg.Server {
	t.Helper()
	dir := w.Restore(append([]string{"--take-over"}, args...)...)
	for _, s := range segments {
		s.addTo(t, dir)
	}
	s := w.StartRestored(dir)
	s.WaitPrimary()
	// The checkpoint of the promotion tells the new timeline in pg_control.
	s.Exec("CHECKPOINT")
	return s
}

// renamed pushes a segment under the name of an older timeline.
func renamed(t *testing.T, w *world.World, s *pg.Server, name, as string) {
	t.Helper()
	body, err := os.ReadFile(filepath.Join(s.Dir, "pg_wal", name))
	if err != nil {
		t.Fatal(err)
	}
	path := w.NewDir("renamed")
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(path, as)
	if err := os.WriteFile(path, body, 0o644); err != nil {
		t.Fatal(err)
	}
	known := len(w.WALKeys(as))
	w.Check(push(w, s.Dir, path), 12, as)
	equal(t, "objects of "+as, len(w.WALKeys(as)), known)
}

func archivedFiles(t *testing.T, w *world.World, current string) {
	t.Helper()
	for _, name := range []string{"00000002.history", "00000003.history", "00000004.history"} {
		if len(w.WALKeys(name)) != 1 {
			t.Errorf("%s is not in the archive once: %v", name, w.WALKeys(name))
		}
	}
	if keys := w.WALKeys(current + ".partial"); len(keys) != 2 {
		t.Errorf("the two partial segments are not side by side: %v", keys)
	}
	backups := 0
	for _, k := range w.KeysWith("/wal/") {
		if strings.HasSuffix(k, ".backup") {
			backups++
		}
	}
	equal(t, "backup history files", backups, 3)
}

// windows checks that info knows where each timeline can be recovered.
func windows(t *testing.T, w *world.World) {
	t.Helper()
	var info struct {
		Clusters []struct {
			Windows []struct {
				Timeline int
				Hole     string
			}
		}
	}
	world.Decode(t, w.Must("info", "--json"), &info)
	seen := map[int]bool{}
	for _, c := range info.Clusters {
		for _, win := range c.Windows {
			seen[win.Timeline] = true
			if win.Hole != "" {
				t.Errorf("a hole at %s on timeline %d", win.Hole, win.Timeline)
			}
		}
	}
	for tli := 1; tli <= 4; tli++ {
		if !seen[tli] {
			t.Errorf("info has no window on timeline %d: %+v", tli, info)
		}
	}
}
