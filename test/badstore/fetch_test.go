package badstore_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgstow/test/badstore/proxy"
	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

const (
	fetchSoon = "PGSTOW_FETCH_DEADLINE=2s"
	fetchLate = "PGSTOW_FETCH_DEADLINE=50s"
)

// What a fetch may say: the file is there; proven absent, or not now for a standby; anything else.
const (
	served = 0
	absent = 1
	failed = 126
)

type fetchCase struct {
	name    string
	kind    string // of the requests that go wrong; "" is GET
	key     string // a part of their key; "" is the file's own
	times   int    // 0 is once
	do      proxy.Action
	plain   int    // exit status in plain recovery
	standby int    // and of a standby
	kinds   string // requests for the file in plain recovery; "" is not asserted
	says    string
}

// directory makes what a fetch looks at of a data directory in recovery.
func (s *stage) directory(t *testing.T, signal string) string {
	t.Helper()
	dir := s.folder(t, "data", 0o700)
	control, err := os.ReadFile(filepath.Join(s.Server.Dir, "global", "pg_control"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct {
		name string
		body []byte
	}{{"global/pg_control", control}, {"PG_VERSION", []byte("15\n")}, {signal, nil}, {"pg_wal/archive_status/none", nil}} {
		path := filepath.Join(dir, f.name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f.body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(filepath.Join(dir, "pg_wal", "archive_status")); err != nil {
		t.Fatal(err)
	}
	pg.Chown(t, dir)
	return dir
}

// fetch asks as recovery does.
func (s *stage) fetch(dir, name string, env ...string) world.Result {
	return s.RunProgramWith(env, "pgstow-wal", "fetch", "--pgdata", dir, name, filepath.Join(dir, "pg_wal", "RECOVERYXLOG"))
}

func fetchCases(portal string) []fetchCase {
	const always = proxy.Always
	return []fetchCase{
		{name: "nothing wrong", do: proxy.Pass, kinds: "GET 1"},
		{name: "slow", do: proxy.Late(300 * time.Millisecond), kinds: "GET 1"},
		{name: "SlowDown", times: 4, do: proxy.Error(503, "SlowDown"), kinds: "GET 5"},
		{name: "SlowDown for ever", times: always, do: proxy.Error(503, "SlowDown"), plain: failed, standby: absent, says: "SlowDown"},
		{name: "internal error without a word", times: 2, do: proxy.Empty(500), kinds: "GET 3"},
		{name: "reset before the answer", times: 2, do: proxy.ResetRequest(0), kinds: "GET 3"},
		{name: "reset for ever", times: always, do: proxy.ResetRequest(0), plain: failed, standby: absent},
		{name: "cut in mid-body", do: proxy.CutBody(100_000), kinds: "GET 2"},
		{name: "cut again and again", times: 5, do: proxy.CutBody(30_000), kinds: "GET 6"},
		{name: "cut in the header", times: 3, do: proxy.CutBody(100), kinds: "GET 4"},
		{name: "short", do: proxy.ShortBody(100_000), kinds: "GET 2"},
		{name: "short and empty", do: proxy.ShortBody(0), kinds: "GET 2"},
		{name: "short for ever", times: always, do: proxy.ShortBody(100_000), plain: failed, standby: failed, says: "corrupt"},
		{name: "short, of unknown length", do: proxy.ShortUnmeasured(100_000), kinds: "GET 2"},
		{name: "whole, of unknown length", do: proxy.Unmeasured(1 << 20), kinds: "GET 2"},
		{name: "of unknown length for ever", times: always, do: proxy.Unmeasured(1 << 20), plain: failed, standby: absent, says: "how long"},
		{name: "a byte is wrong", do: proxy.Flip(70_000), kinds: "GET 2"},
		{name: "a byte is wrong for ever", times: always, do: proxy.Flip(70_000), plain: failed, standby: failed, says: "corrupt"},
		{name: "a page that is OK", times: 2, do: proxy.Page(200), kinds: "GET 3"},
		{name: "a page that is OK, for ever", times: always, do: proxy.Page(200), plain: failed, standby: absent, says: "web page"},
		{name: "a page that is unavailable", times: 2, do: proxy.Page(503), kinds: "GET 3"},
		{name: "a page that is not found", times: 2, do: proxy.Page(404), kinds: "GET 3"},
		{name: "a page that is not found, for ever", times: always, do: proxy.Page(404), plain: failed, standby: absent},
		{name: "not found, without a word, for ever", times: always, do: proxy.Empty(404), plain: failed, standby: absent},
		{name: "an error that is OK", do: proxy.Error(200, "InternalError"), kinds: "GET 2"},
		{name: "an error that is OK, for ever", times: always, do: proxy.Error(200, "InternalError"), plain: failed, standby: failed, says: "corrupt"},
		{name: "denied", times: always, do: proxy.Error(403, "AccessDenied"), plain: failed, standby: absent, kinds: "GET 1", says: "AccessDenied"},
		{name: "in an archive tier", times: always, do: proxy.Error(403, "InvalidObjectState"), plain: failed, standby: failed, kinds: "GET 1", says: "archive tier"},
		{name: "no bucket", times: always, do: proxy.Error(404, "NoSuchBucket"), plain: failed, standby: absent, says: "NoSuchBucket"},
		{name: "not there, though listed", do: proxy.Error(404, "NoSuchKey"), standby: absent, kinds: "GET 2"},
		{name: "not there, though listed, for ever", times: always, do: proxy.Error(404, "NoSuchKey"), plain: failed, standby: absent, says: "changing"},
		{name: "moved", times: always, do: proxy.Redirect(301, portal), plain: failed, standby: absent, kinds: "GET 1", says: "301"},
		{name: "moved for now to a portal", times: 2, do: proxy.Redirect(307, portal), kinds: "GET 3"},
		{name: "moved to a portal for ever", times: always, do: proxy.Redirect(307, portal), plain: failed, standby: absent, says: "web page"},
		{name: "hangs", times: always, do: proxy.Hang, plain: failed, standby: absent, kinds: "GET 1"},
		{name: "a byte at a time", times: always, do: proxy.Trickle(10 * time.Millisecond), plain: failed, standby: absent},
		{name: "another ETag", times: always, do: proxy.Tag(`"other"`), kinds: "GET 1"},
		{name: "no ETag", times: always, do: proxy.Tag(""), kinds: "GET 1"},
	}
}

// TestFetch brings segments back from stores that fail in one way each.
func TestFetch(t *testing.T) {
	pg.Long(t, "two calls for each way a store fails")
	t.Parallel()
	s := newStage(t, archiveOptions())
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte("<html>Welcome to our hotel</html>"))
	}))
	t.Cleanup(page.Close)
	cases := fetchCases(page.URL + "/")
	names := s.segments(len(cases) + 1)
	s.Server.Stop(pg.Fast)
	for _, name := range names {
		s.Check(s.push(s.path(name)), 0)
	}
	s.proxy.Forget()
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			name := names[i]
			s := s.in(t)
			t.Run("recovery", func(t *testing.T) { fetchOne(t, s.in(t), c, name, "recovery.signal", c.plain, c.kinds) })
			t.Run("standby", func(t *testing.T) { fetchOne(t, s.in(t), c, name, "standby.signal", c.standby, "") })
		})
	}
}

func fetchOne(t *testing.T, s *stage, c fetchCase, name, signal string, code int, kinds string) {
	dir := s.directory(t, signal)
	fault := name + " " + signal
	kind, key := c.kind, c.key
	if kind == "" {
		kind = proxy.Get
	}
	if key == "" {
		key = name
	}
	s.proxy.Add(proxy.Fault{Name: fault, Kind: kind, Key: key, Times: c.times, Do: c.do})
	deadline := fetchLate
	if code != served {
		deadline = fetchSoon
	}
	done := len(s.proxy.Requests("/" + name))
	begin := time.Now()
	r := s.fetch(dir, name, deadline)
	s.Check(r, code)
	if took := time.Since(begin); code != served && took > 40*time.Second {
		t.Errorf("it gave up after %s", took)
	}
	switch {
	case code == failed:
		s.Check(r, code, c.says)
	case code == absent && !strings.Contains(c.name, "though listed"): // that is what the store said, and proof is not for a standby
		s.Check(r, code, "unreachable, not absent", c.says)
	}
	if s.proxy.Hits(fault) == 0 {
		t.Error("the fault never acted")
	}
	if got := proxy.Kinds(s.proxy.Requests("/" + name)[done:]); kinds != "" && got != kinds {
		t.Errorf("requests %q, want %q:\n%s", got, kinds, lines(s.proxy.Requests("/" + name)[done:]))
	}
	s.proxy.Remove(fault)
	if code != served {
		wantNone(t, filepath.Join(dir, "pg_wal"))
		// The store is well again, and so is the next call.
		done = len(s.proxy.Requests("/" + name))
		s.Check(s.fetch(dir, name, fetchLate), served)
		if got := proxy.Kinds(s.proxy.Requests("/" + name)[done:]); got != "GET 1" {
			t.Errorf("the second call: requests %q, want one GET", got)
		}
	}
	wantSame(t, filepath.Join(dir, "pg_wal", "RECOVERYXLOG"), s.path(name))
}

// TestFetchOfAbsent asks for what is not in the archive, of stores that hinder the proof. Nothing but the proof is 1 in plain recovery.
func TestFetchOfAbsent(t *testing.T) {
	pg.Long(t, "two calls for each way a store fails")
	t.Parallel()
	s := newStage(t, archiveOptions())
	names := s.segments(3)
	s.Server.Stop(pg.Fast)
	for _, name := range names[:2] {
		s.Check(s.push(s.path(name)), 0)
	}
	const always = proxy.Always
	const list = proxy.List
	for _, c := range []fetchCase{
		{name: "nothing wrong", kind: proxy.Get, do: proxy.Pass, plain: absent},
		{name: "SlowDown", kind: list, key: "/wal/", times: 3, do: proxy.Error(503, "SlowDown"), plain: absent},
		{name: "SlowDown for ever", kind: list, key: "/wal/", times: always, do: proxy.Error(503, "SlowDown"), plain: failed, says: "SlowDown"},
		{name: "an empty list of another kind", kind: list, key: "/wal/", times: always, do: proxy.Empty(200), plain: failed, says: "not a list"},
		{name: "once an empty answer", kind: list, key: "/wal/", do: proxy.Empty(200), plain: absent},
		{name: "a page that is OK", kind: list, key: "/wal/", times: always, do: proxy.Page(200), plain: failed, says: "web page"},
		{name: "an error that is OK", kind: list, key: "/wal/", times: always, do: proxy.Error(200, "InternalError"), plain: failed},
		{name: "a list cut short", kind: list, key: "/wal/", times: always, do: proxy.ShortBody(150), plain: failed},
		{name: "a list broken off", kind: list, key: "/wal/", times: always, do: proxy.CutBody(150), plain: failed},
		{name: "denied to list", kind: list, key: "/wal/", times: always, do: proxy.Error(403, "AccessDenied"), plain: failed, says: "AccessDenied"},
		{name: "no bucket to list", kind: list, key: "/wal/", times: always, do: proxy.Error(404, "NoSuchBucket"), plain: failed, says: "NoSuchBucket"},
		{name: "listing hangs", kind: list, key: "/wal/", times: always, do: proxy.Hang, plain: failed},
		{name: "not found, without a word", times: always, do: proxy.Empty(404), plain: failed},
		{name: "a page that is not found", times: always, do: proxy.Page(404), plain: failed},
		{name: "no repository", key: "repo.json", times: always, do: proxy.Error(404, "NoSuchKey"), plain: failed, says: "no repository"},
		{name: "the repository is a page", key: "repo.json", times: always, do: proxy.Page(200), plain: failed, says: "web page"},
		{name: "no cluster", key: "cluster.json", times: always, do: proxy.Error(404, "NoSuchKey"), plain: failed},
		{name: "the cluster's file is cut", key: "cluster.json", times: always, do: proxy.ShortBody(20), plain: failed},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := s.in(t)
			for _, name := range []string{names[2], "00000002.history"} {
				t.Run(name, func(t *testing.T) { fetchAbsent(t, s.in(t), c, name) })
			}
		})
	}
}

// fetchAbsent uses a store's prefix of its own, since the requests that go wrong are those of every fetch: a proxy for each call.
func fetchAbsent(t *testing.T, s *stage, c fetchCase, name string) {
	dir := s.directory(t, "recovery.signal")
	p := proxy.New(t, s.MinIO.Endpoint, seed)
	repo := "PGSTOW_REPO=" + s.URLBy(p.Endpoint)
	kind, key := c.kind, c.key
	if kind == "" {
		kind = proxy.Get
	}
	if key == "" {
		key = name
	}
	p.Add(proxy.Fault{Name: c.name, Kind: kind, Key: key, Times: c.times, Do: c.do})
	deadline := fetchLate
	if c.plain == failed {
		deadline = fetchSoon
	}
	s.Check(s.fetch(dir, name, repo, deadline), c.plain, c.says)
	if p.Hits(c.name) == 0 {
		t.Error("the fault never acted")
	}
	p.Reset()
	p.Forget()
	s.Check(s.fetch(dir, name, repo, fetchLate), absent)
	wantNone(t, filepath.Join(dir, "pg_wal"))
	// The proof: the file, the repository (of two objects and a list), the cluster, and a list of what is behind the file, which elsewhere than
	// at Amazon takes four requests.
	asked := p.Requests("")
	if len(asked) > 9 || !strings.HasSuffix(asked[0].Key, name) || asked[len(asked)-1].Kind != proxy.List {
		t.Errorf("the proof took\n%s", lines(asked))
	}
}

// TestFetchBeforeStaleList: the list lacks what was stored last. What the list shows behind is a hole, never the end.
func TestFetchBeforeStaleList(t *testing.T) {
	pg.Long(t, "two calls for each way a store fails")
	t.Parallel()
	s := newStage(t, archiveOptions())
	names := s.segments(3)
	s.Server.Stop(pg.Fast)
	for _, name := range names {
		s.Check(s.push(s.path(name)), 0)
	}
	dir := s.directory(t, "recovery.signal")
	// A cache on the way says that the second is not there, and the list does not know it yet.
	s.proxy.Add(proxy.Fault{Kind: proxy.Get, Key: names[1], Times: proxy.Always, Do: proxy.Error(404, "NoSuchKey")})
	s.proxy.Add(proxy.Fault{Kind: proxy.List, Times: proxy.Always, Do: proxy.Stale(names[1])})
	s.Check(s.fetch(dir, names[1], fetchSoon), failed, "hole at "+names[1], names[2])
	s.proxy.Reset()
	// It is seen while the fetch waits.
	s.proxy.Add(proxy.Fault{Kind: proxy.Get, Key: names[1], Times: 3, Do: proxy.Error(404, "NoSuchKey")})
	s.proxy.Add(proxy.Fault{Kind: proxy.List, Times: 2, Do: proxy.Stale(names[1])})
	s.Check(s.fetch(dir, names[1], fetchLate), served)
	wantSame(t, filepath.Join(dir, "pg_wal", "RECOVERYXLOG"), s.path(names[1]))
}
