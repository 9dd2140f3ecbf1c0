package repair_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// unarchived writes rows that no archiver stores, several segments of them, and returns the names of the full ones and of the unfinished one.
func unarchived(s *pg.Server, insert ...string) (full []string, last string) {
	for _, row := range insert[:len(insert)-1] {
		s.Exec("INSERT INTO t VALUES (" + row + ")")
		full = append(full, s.Value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())"))
		s.Exec("SELECT pg_switch_wal()")
	}
	s.Exec("INSERT INTO t VALUES (" + insert[len(insert)-1] + ")")
	return full, s.Value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
}

// TestDeadPrimary: a primary dies with WAL that nobody has, and its standby takes over without it. Before pg_rewind throws that WAL away,
// `wal repair` saves it: every commit of the dead server can be restored, and the new timeline is what it was.
func TestDeadPrimary(t *testing.T) {
	for _, state := range []string{"crashed", "stopped"} {
		t.Run(state, func(t *testing.T) {
			w, a, b := cutOff(t, world.Options{Checksums: true})
			full, last := unarchived(a, "2", "3", "4", "5")
			if state == "crashed" {
				a.Kill()
			} else {
				a.Stop(pg.Fast)
				last = newest(t, a.Dir)
			}
			archived(t, w, false, append(full, last)...)

			promote(t, b)
			b.Exec("INSERT INTO t VALUES (20)")
			onB := fill(t, b, 2)

			before := snapshot(t, a.Dir)
			r := repair(t, w, 0, nil, "--pgdata", a.Dir)
			equal(t, "changed", changed(before, snapshot(t, a.Dir)), nil)
			stored := r.names("stored")
			for _, name := range append(slices.Clone(full), last) {
				if !slices.Contains(stored, name) {
					t.Errorf("%s was not stored: %v", name, stored)
				}
			}
			if r.Running || len(w.KeysWith(last)) != 1 || len(w.KeysWith(last+".0")) != 1 {
				t.Errorf("running: %t; of the unfinished segment the archive has %v", r.Running, w.KeysWith(last))
			}
			equal(t, "stored again", repair(t, w, 0, nil, "--pgdata", a.Dir).names("stored"), nil)

			if state == "crashed" {
				rewind(t, a, b)
				a.AwaitValue("SELECT string_agg(i::text, ' ' ORDER BY i) FROM t", "0 1 20")
			}
			awaitArchived(t, w, onB...)
			for timeline, want := range map[string]string{"1": "0 1 2 3 4 5", "latest": "0 1 20"} {
				s := w.StartRestored(w.Restore("--timeline", timeline))
				equal(t, "rows of timeline "+timeline, []string{rows(s)}, []string{want})
				s.Kill()
			}
		})
	}
}

// TestHandOver: what was saved of a dead primary reaches its standby before it is promoted. Nothing is lost.
func TestHandOver(t *testing.T) {
	w := world.New(t, world.Options{WALSegmentSizeMiB: 1, Conf: keeping, Env: []string{"PGSTOW_PUSH_AHEAD=0"}})
	a := w.Server
	a.Exec("CREATE TABLE t AS SELECT 0 AS i")
	w.Backup()
	b := standby(t, w)
	b.Stop(pg.Fast)
	a.AppendConf(map[string]string{"archive_command": "false"})
	a.Reload()
	a.AwaitValue("SHOW archive_command", "false")
	_, last := unarchived(a, "1", "2", "3")
	a.Kill()
	repair(t, w, 0, nil, "--pgdata", a.Dir)
	w.Must("wal", "fetch", "--incomplete", last, filepath.Join(b.Dir, "pg_wal", last))
	b.Start()
	b.AwaitValue("SELECT string_agg(i::text, ' ' ORDER BY i) FROM t", "0 1 2 3")
	b.Promote()
	equal(t, "rows", []string{rows(b)}, []string{"0 1 2 3"})
}

// promote starts a standby whose primary is gone, and makes it the primary, with an archiver of its own.
func promote(t *testing.T, b *pg.Server) {
	t.Helper()
	auto := filepath.Join(b.Dir, "postgresql.auto.conf")
	text, err := os.ReadFile(auto)
	if err != nil {
		t.Fatal(err)
	}
	kept := slices.DeleteFunc(strings.Split(string(text), "\n"), func(line string) bool { return strings.HasPrefix(line, "archive_mode") })
	if err := os.WriteFile(auto, []byte(strings.Join(kept, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	b.Start()
	b.Promote()
	b.Exec("CHECKPOINT") // else pg_control does not tell pg_rewind of the new timeline
}

// rewind makes the dead primary follow the new one.
func rewind(t *testing.T, a, b *pg.Server) {
	t.Helper()
	out, err := pg.Command(t.Context(), a.Install.Bin("pg_rewind"), "-D", a.Dir, "--source-server", b.DSN("postgres"), "--write-recovery-conf", "--no-sync").CombinedOutput()
	if err != nil {
		t.Fatalf("pg_rewind: %v\n%s", err, out)
	}
	a.Start()
}

// newest is the last segment in a stopped server's pg_wal that holds what its name says.
func newest(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "pg_wal", "0*0?"))
	if err != nil {
		t.Fatal(err)
	}
	last := ""
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(f)
		if len(name) == 24 && !bytes.Equal(b[8:16], make([]byte, 8)) && name > last && startsAsNamed(b, name) {
			last = name
		}
	}
	return last
}

// startsAsNamed compares the address in the first page, of a segment of 1 MiB, with the name.
func startsAsNamed(b []byte, name string) bool {
	addr := uint64(0)
	for i := range 8 {
		addr |= uint64(b[8+i]) << (8 * i)
	}
	return strings.HasSuffix(name, hex8(uint32(addr>>32))+hex8(uint32(addr)>>20))
}

func hex8(n uint32) string {
	const digits = "0123456789ABCDEF"
	var b [8]byte
	for i := range b {
		b[7-i] = digits[n>>(4*i)&15]
	}
	return string(b[:])
}

// changed names what differs between two snapshots.
func changed(before, after map[string]string) []string {
	var names []string
	for path, state := range before {
		if after[path] != state {
			names = append(names, path)
		}
	}
	for path := range after {
		if _, ok := before[path]; !ok {
			names = append(names, path)
		}
	}
	return names
}

// TestForeign: another server's WAL, and files that are none.
func TestForeign(t *testing.T) {
	w := world.New(t, world.Options{WALSegmentSizeMiB: 1, Conf: keeping})
	names := fill(t, w.Server, 2)
	awaitArchived(t, w, names...)
	other := pg.New(t, pg.Options{WALSegmentSizeMiB: 1, Conf: keeping})
	fill(t, other, 3)
	other.Stop(pg.Fast)
	keys := w.KeysWith("/")
	r := repair(t, w, 12, []string{"system id"}, "--from", filepath.Join(other.Dir, "pg_wal"))
	if len(r.names("refused")) < 3 || len(r.names("stored")) > 0 {
		t.Errorf("refused: %v, stored: %v", r.names("refused"), r.names("stored"))
	}
	equal(t, "keys", w.KeysWith("/"), keys)
	w.Expect(64, []string{"--pgdata", "--from"}, "wal", "repair")
	w.Expect(1, []string{"nowhere"}, "wal", "repair", "--from", filepath.Join(w.Dir, "nowhere"))
}

// TestSplitBrain: a copy of a server went its own way on the same timeline. Nothing of that gets into the archive of the one that lives,
// neither over its segments nor behind them.
func TestSplitBrain(t *testing.T) {
	w := world.New(t, world.Options{WALSegmentSizeMiB: 1, Conf: keeping})
	a := w.Server
	a.Exec("CREATE TABLE t AS SELECT 0 AS i")
	common := fill(t, a, 3)
	awaitArchived(t, w, common...)
	a.Stop(pg.Fast)
	copied := filepath.Join(w.Dir, "copy")
	if err := world.CopyDir(t.Context(), a.Dir, copied); err != nil {
		t.Fatal(err)
	}
	b := pg.Attach(t, copied, pg.Options{Args: []string{"-c", "archive_mode=off"}})
	b.Start()
	b.Exec("INSERT INTO t VALUES (200)")
	own := fill(t, b, 6)
	b.Kill()

	a.Start()
	a.Exec("INSERT INTO t VALUES (1)")
	lives := fill(t, a, 2)
	awaitArchived(t, w, lives...)
	a.Kill()
	lost := common[1]
	w.Delete(w.WALKeys(lost)...)
	keep := w.ReadEverything()
	r := repair(t, w, 12, []string{lives[0], "stored by", a.Dir, "resolve"}, "--pgdata", copied)
	equal(t, "stored", r.names("stored"), []string{lost})
	for _, name := range []string{lives[0], own[len(own)-1]} { // in between their WAL may be equal again
		if !slices.Contains(r.names("refused"), name) {
			t.Errorf("%s was not refused: %v", name, r.names("refused"))
		}
	}
	for key, body := range w.ReadEverything() {
		if old, ok := keep[key]; ok && !bytes.Equal(old, body) || !ok && !strings.HasSuffix(key, lost) {
			t.Errorf("%s was changed", key)
		}
	}
	// The one that lives is all right.
	repair(t, w, 0, nil, "--pgdata", a.Dir)
}
