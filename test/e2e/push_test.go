package e2e_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// push calls pgstow-wal as the archiver would, for any file.
func push(w *world.World, pgdata, path string) world.Result {
	return w.RunProgram("pgstow-wal", "push", "--pgdata", pgdata, path)
}

// dropSpool removes what the spool remembers, so that the next push knows nothing of earlier ones.
func dropSpool(t *testing.T, w *world.World) {
	t.Helper()
	spools, err := filepath.Glob(filepath.Join(w.Dir, "spool*", "*"))
	if err != nil || len(spools) == 0 {
		t.Fatalf("no spool to remove: %v", err)
	}
	for _, s := range spools {
		if err := os.RemoveAll(s); err != nil {
			t.Fatal(err)
		}
	}
}

// unchanged fails the test unless the repository is byte for byte what it was.
func unchanged(t *testing.T, w *world.World, before map[string][]byte) {
	t.Helper()
	after := w.ReadEverything()
	for key := range after {
		if _, ok := before[key]; !ok {
			t.Errorf("%s is new", key)
		}
	}
	for key, body := range before {
		if !bytes.Equal(after[key], body) {
			t.Errorf("%s has changed", key)
		}
	}
}

// TestDiverged: a copy of the data directory runs beside the original. Both archive the same names: the second is refused, and told by whom.
func TestDiverged(t *testing.T) {
	world.EachStore(t, func(t *testing.T, store string) {
		w := world.New(t, world.Options{Store: store})
		original := w.Server
		original.Exec("CREATE TABLE t AS SELECT 0 AS i")
		original.Stop(pg.Fast)
		copied := filepath.Join(w.NewDir("copy"), "data")
		if err := os.Mkdir(filepath.Dir(copied), 0o755); err != nil {
			t.Fatal(err)
		}
		pg.Chown(t, filepath.Dir(copied))
		if err := world.CopyDir(t.Context(), original.Dir, copied); err != nil {
			t.Fatal(err)
		}
		original.Start()
		second := w.Attach(copied)
		second.Start()
		equal(t, "system identifier", second.SystemID(), original.SystemID())

		insert(original, "1", "")
		insert(second, "2", "")
		name := original.ArchiveAll()
		before := w.ReadEverything()
		equal(t, "segment of the copy", second.SwitchWAL(), name)
		second.AwaitValue("SELECT failed_count > 0 AND last_failed_wal = '"+name+"' FROM pg_stat_archiver", "t")

		host, err := os.Hostname()
		if err != nil {
			t.Fatal(err)
		}
		r := push(w, copied, filepath.Join(copied, "pg_wal", name))
		w.Check(r, 12, name, host, original.Dir, "PGSTOW_CLUSTER", "promote")
		unchanged(t, w, before)
		equal(t, "archived by the copy", second.Value("SELECT archived_count FROM pg_stat_archiver"), "0")
		if !strings.Contains(second.Log(), "exit code 12") {
			t.Errorf("the server's log does not show exit status 12:\n%s", second.LogTail())
		}

		// The way out that the message names first: an archive of its own.
		r = w.RunProgramWith([]string{"PGSTOW_CLUSTER=copy"}, "pgstow-wal", "push", "--pgdata", copied, filepath.Join(copied, "pg_wal", name))
		w.Check(r, 0)
		if keys := w.WALKeys(name); len(keys) != 2 {
			t.Errorf("want the segment of both servers: %v", keys)
		}
		insert(original, "3", "")
		original.ArchiveAll()
	})
}

// TestPushTwice: the reply to the first push was lost, and nothing is known of it.
func TestPushTwice(t *testing.T) {
	world.EachStore(t, func(t *testing.T, store string) {
		w := world.New(t, world.Options{Store: store, Count: store == world.MinIO})
		name := w.Server.ArchiveAll()
		before := w.ReadEverything()
		path := filepath.Join(w.Server.Dir, "pg_wal", name)

		if w.MinIO != nil {
			w.ForgetRequests()
		}
		w.Check(push(w, w.Server.Dir, path), 0)
		if w.MinIO != nil && len(w.Requests()) > 0 {
			t.Errorf("the spool knew the file, and yet the store was asked: %v", w.Requests())
		}
		dropSpool(t, w)
		w.Check(push(w, w.Server.Dir, path), 0)
		if w.MinIO != nil {
			equal(t, "PUTs refused by the store", len(w.RequestsFor("PUT", name)), 1)
		}
		unchanged(t, w, before)
		equal(t, "objects of "+name, len(w.WALKeys(name)), 1)
	})
}

// TestPushRefuses: files that are not what their name says.
func TestPushRefuses(t *testing.T) {
	world.EachStore(t, func(t *testing.T, store string) {
		w := world.New(t, world.Options{Store: store, WALSegmentSizeMiB: 1, NoArchive: true})
		foreignName, foreign := foreignSegment(t, w)
		w.Server.SwitchWAL()
		w.Server.Exec("CREATE TABLE first()") // so that the LSN is in the segment that the next statement fills
		name := w.Server.Value("SELECT pg_walfile_name(pg_current_wal_lsn())")
		w.Server.Exec("CREATE TABLE t AS SELECT repeat('x', 500) AS pad, i FROM generate_series(1, 10000) AS i")
		other := name[:22] + "FF"
		full, err := os.ReadFile(filepath.Join(w.Server.Dir, "pg_wal", name))
		if err != nil {
			t.Fatal(err)
		}
		before := w.ReadEverything()
		padded := bytes.Clone(full)
		clear(padded[len(padded)/2:])
		torn := bytes.Clone(full)
		copy(torn[len(torn)/2:], bytes.Repeat([]byte{0x5a}, 8192))
		for _, c := range []struct {
			what, name string
			body       []byte
		}{
			{"truncated", name, full[:len(full)/2]},
			{"truncated in a page", name, full[:len(full)-100]},
			{"empty", name, nil},
			{"too long", name, append(bytes.Clone(full), make([]byte, 8192)...)},
			{"twice as long", name, append(bytes.Clone(full), full...)},
			{"renamed", other, full},
			{"padded with zeros", name, padded},
			{"all zeros", name, make([]byte, len(full))},
			{"overwritten in the middle", name, torn},
			{"of another server", foreignName, foreign},
			{"text under a segment's name", name, []byte("not WAL\n")},
			{"a history that is none", "00000002.history", []byte("no history\n")},
		} {
			t.Run(c.what, func(t *testing.T) {
				w := w.In(t)
				dir := w.NewDir("bad")
				path := filepath.Join(dir, c.name)
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, c.body, 0o644); err != nil {
					t.Fatal(err)
				}
				w.Check(push(w, w.Server.Dir, path), 12, c.name)
			})
		}
		unchanged(t, w, before)
		// The file itself is fine: what was refused was the damage.
		w.Check(push(w, w.Server.Dir, filepath.Join(w.Server.Dir, "pg_wal", name)), 0)
		equal(t, "objects", len(w.WALKeys(name)), 1)
	})
}

// foreignSegment is a whole segment of a server with another system identifier.
func foreignSegment(t *testing.T, w *world.World) (name string, body []byte) {
	t.Helper()
	s := pg.New(t, pg.Options{WALSegmentSizeMiB: 1, Conf: map[string]string{"wal_keep_size": "64MB"}})
	if s.SystemID() == w.Server.SystemID() {
		t.Fatal("both servers have one system identifier")
	}
	name = s.SwitchWAL()
	body, err := os.ReadFile(filepath.Join(s.Dir, "pg_wal", name))
	if err != nil {
		t.Fatal(err)
	}
	return name, body
}

// TestRequestsPerSegment: in the steady state a segment is one PUT, and nothing else is asked.
func TestRequestsPerSegment(t *testing.T) {
	pg.Long(t, "starts a server and a store")
	t.Parallel()
	w := world.New(t, world.Options{Store: world.MinIO, Count: true, WALSegmentSizeMiB: 1})
	w.Server.ArchiveAll() // the first push looks at the repository
	w.ForgetRequests()
	const n = 8
	names := map[string]bool{}
	for range n {
		names[w.Server.ArchiveAll()] = true
	}
	equal(t, "segments", len(names), n)
	requests := w.Requests()
	equal(t, "requests", len(requests), n)
	for _, r := range requests {
		if r.Method != "PUT" || r.Status != 200 || !names[filepath.Base(r.Path)] {
			t.Errorf("a request that is not the PUT of a segment: %+v", r)
		}
	}

	// The same with files that wait: an outage lets some gather, then they are stored. Not one request more either.
	w.Server.Exec("ALTER SYSTEM SET archive_command = 'false'")
	w.Server.Reload()
	w.Server.AwaitValue("SHOW archive_command", "false")
	last := ""
	for range n {
		last = w.Server.SwitchWAL()
	}
	w.ForgetRequests()
	w.Server.Exec("ALTER SYSTEM RESET archive_command")
	w.Server.Reload()
	w.Server.WaitArchived(last)
	pg.Await(t, "all files to be archived", time.Minute, func() (bool, error) { return len(w.Server.ReadyFiles()) == 0, nil })
	equal(t, "requests after the outage", len(w.Requests()), n)
}
