package badstore_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgstow/test/badstore/proxy"
	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// flaky are faults that come by chance: about one request in five goes wrong in one of the ways that stores and networks have. A store that lies
// in all of its answers is another matter.
func flaky() []proxy.Fault {
	const always = proxy.Always
	return []proxy.Fault{
		{Name: "SlowDown", Times: always, Chance: 0.04, Do: proxy.Error(503, "SlowDown")},
		{Name: "internal error", Times: always, Chance: 0.02, Do: proxy.Empty(500)},
		{Name: "page", Times: always, Chance: 0.03, Do: proxy.Page(200)},
		{Name: "bad gateway", Times: always, Chance: 0.02, Do: proxy.BadGateway},
		{Name: "late", Times: always, Chance: 0.05, Do: proxy.Late(100 * time.Millisecond)},
		{Name: "reset", Times: always, Chance: 0.03, Do: proxy.ResetRequest(1000)},
		{Name: "lost reply", Times: always, Chance: 0.03, Do: proxy.LoseReply},
		{Name: "conflict", Kind: proxy.Put, Times: always, Chance: 0.04, Do: proxy.Error(409, "ConditionalRequestConflict")},
		{Name: "cut", Kind: proxy.Get, Times: always, Chance: 0.06, Do: proxy.CutBody(2000)},
		{Name: "cut list", Kind: proxy.List, Times: always, Chance: 0.05, Do: proxy.CutBody(200)},
		{Name: "empty list", Kind: proxy.List, Times: always, Chance: 0.05, Do: proxy.Empty(200)},
		{Name: "404", Kind: proxy.Get, Times: always, Chance: 0.03, Do: proxy.Page(404)},
	}
}

// TestFaultyStoreForEverything: init, a server that archives, backup, receive, restore, and recovery. All of it ends well.
func TestFaultyStoreForEverything(t *testing.T) {
	pg.Long(t, "a server's life on a store that fails")
	t.Parallel()
	for round := range pg.Rounds(t, 1) {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			everything(t, seed+uint64(round))
		})
	}
}

func everything(t *testing.T, seed uint64) {
	s := newFlakyStage(t, seed, world.Options{
		WALSegmentSizeMiB: 1, Conf: map[string]string{"wal_keep_size": "256MB", "max_replication_slots": "5"},
	})
	a := s.Server
	a.PgbenchInit(1)
	s.Backup()

	// A backlog, so that a worker stores ahead, and a receiver at the same time.
	receiver := s.Receive(nil, "--create-slot")
	a.Exec("ALTER SYSTEM SET archive_command = 'false'")
	a.Reload()
	a.AwaitValue("SHOW archive_command", "false")
	for range 10 {
		a.Pgbench("-n", "-t", "100")
		a.SwitchWAL()
	}
	a.Exec("ALTER SYSTEM RESET archive_command")
	a.Reload()
	last := a.ArchiveAll()
	s.Backup()
	a.Exec("CREATE TABLE last AS SELECT 1 AS i")
	end := a.CurrentLSN()
	a.Await("the receiver to have stored it", 2*time.Minute, func() (bool, error) {
		v, err := a.TryValue("postgres", "SELECT coalesce(bool_or(flush_lsn >= $1::pg_lsn), false) FROM pg_stat_replication", end)
		return v == "true" || v == "t", err
	})
	want := a.Sums()
	receiver.Stop()
	segments := saved(t, a)
	a.Kill() // nothing is archived any more: the end is in pieces

	compared := 0
	for _, key := range s.KeysWith("/wal/") {
		name := key[strings.LastIndexByte(key, '/')+1:]
		if body, ok := segments[name]; ok && name <= last {
			dst := filepath.Join(s.folder(t, "check", 0o755), "segment")
			s.Check(s.RunWith([]string{"PGSTOW_REPO=" + s.URLBy(s.MinIO.Endpoint)}, "wal", "fetch", "--pgdata", a.Dir, name, dst), 0)
			wantSame(t, dst, body)
			compared++
		}
	}
	if compared < 10 {
		t.Errorf("only %d segments of the archive could be compared", compared)
	}
	for _, args := range [][]string{nil, {"--backup", s.first(t)}} {
		dir := s.Restore(append(args, "--action", "promote")...)
		r := s.Attach(dir)
		r.Start()
		r.WaitPrimary()
		if d := want.Diff(r.Sums()); d != "" {
			t.Errorf("restored with %v:\n%s", args, d)
		}
		r.Kill()
	}
	hit := 0
	for _, f := range flaky() {
		hit += s.proxy.Hits(f.Name)
	}
	asked := s.proxy.Requests("")
	t.Logf("%d of %d requests went wrong: %s", hit, len(asked), proxy.Kinds(asked))
	if hit < 20 {
		t.Errorf("only %d faults in %d requests", hit, len(asked))
	}
}

// newFlakyStage is newStage whose store is flaky from its first request on.
func newFlakyStage(t *testing.T, seed uint64, o world.Options) *stage {
	t.Helper()
	return newStageWith(t, seed, flaky(), o)
}

// first is the id of the first backup.
func (s *stage) first(t *testing.T) string {
	t.Helper()
	var backups []struct{ ID string }
	world.Decode(t, s.Must("backup", "list", "--json"), &backups)
	if len(backups) < 2 {
		t.Fatalf("backups: %+v", backups)
	}
	return backups[0].ID
}

// saved copies the segments of a server, which the test compares with after its end.
func saved(t *testing.T, a *pg.Server) map[string]string {
	t.Helper()
	dir := filepath.Join(pg.TempDir(t), "pg_wal")
	if err := world.CopyDir(t.Context(), filepath.Join(a.Dir, "pg_wal"), dir); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	for _, e := range entries {
		if len(e.Name()) == 24 {
			names[e.Name()] = filepath.Join(dir, e.Name())
		}
	}
	return names
}

// TestStoreWithoutConditions: a store that knows no conditional requests and says nothing of it is refused, at init, and later when it has replaced
// a better one.
func TestStoreWithoutConditions(t *testing.T) {
	pg.Long(t, "starts a server and a store")
	t.Parallel()
	s := newStage(t, world.Options{WALSegmentSizeMiB: 1, Stopped: true, NoArchive: true})
	ignorant := proxy.Fault{Name: "ignorant", Kind: proxy.Put, Times: proxy.Always, Do: proxy.Unconditional}
	s.proxy.Add(ignorant)
	elsewhere := "PGSTOW_REPO=" + strings.Replace(s.URL, "/pg?", "/other?", 1)
	r := s.RunWith([]string{elsewhere}, "init", "--plain", "--pgdata", s.Server.Dir)
	if r.Code == 0 || !strings.Contains(r.Stderr, "conditional") {
		t.Errorf("init on a store without conditions: %s", r)
	}
	if s.proxy.Hits("ignorant") == 0 {
		t.Error("the fault never acted")
	}
	unsafe := []string{elsewhere, "PGSTOW_ALLOW_UNSAFE_STORE=true"}
	s.Check(s.RunWith(unsafe, "init", "--plain", "--pgdata", s.Server.Dir), 0, "warning", "no conditional writes")
	s.Check(s.RunWith(unsafe, "info"), 0, "warning", "no conditional writes")

	// The one that was good at init.
	r = s.Run("check")
	if r.Code == 0 || !strings.Contains(r.Stdout+r.Stderr, "conditional") {
		t.Errorf("check of a store that ignores conditions now: %s", r)
	}
	// One that has a new address is probed before a backup, and told of at each push.
	moved := proxy.New(t, s.MinIO.Endpoint, seed)
	moved.Add(ignorant)
	there := "PGSTOW_REPO=" + s.URLBy(moved.Endpoint)
	s.Server.Start()
	s.Check(s.RunWith([]string{there}, "backup", "create"), 12, "conditional")
	name := s.segments(1)[0]
	s.Check(s.push(s.path(name), there), 0, "relying on the probe")
}
