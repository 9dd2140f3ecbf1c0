package badstore_test

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgstow/test/badstore/proxy"
	"pgstow/test/pg"
)

// Deadlines: soon where a call is to give up, late where it is to succeed on a busy machine too.
const (
	pushSoon = "PGSTOW_PUSH_DEADLINE=2s"
	pushLate = "PGSTOW_PUSH_DEADLINE=50s"
)

type pushCase struct {
	name  string
	kind  string // of the requests that go wrong; "" is PUT
	times int    // 0 is once
	skip  int
	do    proxy.Action
	code  int    // of the first call; the second, with a good store, succeeds in any case but 12
	kinds string // requests of the first call
	again string // requests of the second one; "" for the usual: PUT 1 after a failure, none after a success
	says  string
}

func pushCases() []pushCase {
	const always = proxy.Always
	return []pushCase{
		{name: "slow", do: proxy.Late(300 * time.Millisecond), kinds: "PUT 1"},
		{name: "SlowDown", times: 4, do: proxy.Error(503, "SlowDown"), kinds: "PUT 5"},
		{name: "SlowDown for ever", times: always, do: proxy.Error(503, "SlowDown"), code: 1, says: "SlowDown"},
		{name: "SlowDown before the body was read", times: 2, do: proxy.EarlyError(503, "SlowDown"), kinds: "PUT 3"},
		{name: "internal error without a word", do: proxy.Empty(500), kinds: "PUT 2"},
		{name: "reset before the body", do: proxy.ResetRequest(0), kinds: "PUT 2"},
		{name: "reset in mid-body", times: 3, do: proxy.ResetRequest(100_000), kinds: "PUT 4"},
		{name: "reset for ever", times: always, do: proxy.ResetRequest(100_000), code: 1, says: "put"},
		{name: "reply lost", do: proxy.LoseReply, kinds: "PUT 2 HEAD 1"},
		{name: "reply lost twice", times: 2, do: proxy.LoseReply, kinds: "PUT 3 HEAD 1"},
		{name: "reply lost for ever", times: always, do: proxy.LoseReply, code: 1, again: "PUT 1 GET 1"},
		{name: "stored, and 502", do: proxy.BadGateway, kinds: "PUT 2 HEAD 1"},
		{name: "stored, without an ETag", do: proxy.Tag(""), kinds: "PUT 2 HEAD 1"},
		{name: "wrong ETag", do: proxy.Tag(`"wrong"`), kinds: "PUT 1"},
		{name: "conflict", times: 3, do: proxy.Error(409, "ConditionalRequestConflict"), kinds: "PUT 4"},
		{name: "conflict for ever", times: always, do: proxy.Error(409, "ConditionalRequestConflict"), code: 1, says: "ConditionalRequestConflict"},
		{name: "condition not met, and nothing there", do: proxy.Error(412, "PreconditionFailed"), code: 1, kinds: "PUT 1 GET 1"},
		{name: "an error that is OK", do: proxy.Error(200, "InternalError"), kinds: "PUT 2"},
		{name: "a page that is OK", times: 2, do: proxy.Page(200), kinds: "PUT 3"},
		{name: "a page that is OK, for ever", times: always, do: proxy.Page(200), code: 1, says: "page"},
		{name: "a page that is unavailable", times: 2, do: proxy.Page(503), kinds: "PUT 3"},
		{name: "a page that is not found", do: proxy.Page(404), kinds: "PUT 2"},
		{name: "forbidden by something on the way", do: proxy.Page(403), code: 1, kinds: "PUT 1"},
		{name: "moved", do: proxy.Redirect(http.StatusMovedPermanently, "http://127.0.0.1:1/"), code: 1, kinds: "PUT 1", says: "301"},
		{name: "moved for now", do: proxy.Redirect(http.StatusTemporaryRedirect, "http://127.0.0.1:1/"), code: 1, kinds: "PUT 1", says: "307"},
		{name: "hangs", do: proxy.Hang, code: 1, kinds: "PUT 1", says: "deadline"},
		{name: "clock an hour late", times: always, do: proxy.Clock(-time.Hour), kinds: "PUT 1"},
	}
}

// TestPush stores segments in stores that fail in one way each.
func TestPush(t *testing.T) {
	pg.Long(t, "two calls for each way a store fails")
	t.Parallel()
	s := newStage(t, archiveOptions())
	cases := pushCases()
	names := s.segments(len(cases) + 1)
	s.Server.Stop(pg.Fast)

	// In the steady state, one PUT and nothing else.
	s.Check(s.push(s.path(names[len(cases)])), 0)
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := s.in(t)
			pushOne(t, s, c, names[i])
		})
	}
}

func pushOne(t *testing.T, s *stage, c pushCase, name string) {
	kind := c.kind
	if kind == "" {
		kind = proxy.Put
	}
	s.proxy.Add(proxy.Fault{Name: name, Kind: kind, Key: name, Skip: c.skip, Times: c.times, Do: c.do})
	spool := "PGSTOW_SPOOL=" + s.folder(t, "spool", 0o700)
	deadline := pushLate
	if c.code != 0 {
		deadline = pushSoon
	}
	begin := time.Now()
	r := s.push(s.path(name), spool, deadline)
	s.Check(r, c.code, c.says)
	// Beside its deadline a call may take what a busy machine makes of starting a process.
	if took := time.Since(begin); took > 40*time.Second && c.code != 0 {
		t.Errorf("it gave up after %s", took)
	}
	s.wantKinds(t, "the first call", name, c.kinds)
	if s.proxy.Hits(name) == 0 {
		t.Error("the fault never acted")
	}
	first := len(s.proxy.Requests(name))
	if c.times == proxy.Always {
		s.proxy.Remove(name)
	}
	s.Check(s.push(s.path(name), spool, pushLate), 0)
	again := c.again
	if again == "" && c.code != 0 {
		again = "PUT 1"
	}
	if got := proxy.Kinds(s.proxy.Requests(name)[first:]); got != again {
		t.Errorf("the second call: requests %q, want %q", got, again)
	}
	s.wantStored(t, name)
}

// TestPushOfTheSame: the archive has the segment, or another one of that name, and the question which it is meets a bad store.
func TestPushOfTheSame(t *testing.T) {
	pg.Long(t, "two calls for each way a store fails")
	t.Parallel()
	s := newStage(t, archiveOptions())
	cases := []pushCase{
		{name: "nothing wrong", do: proxy.Pass, kinds: "PUT 1 GET 1"},
		{name: "SlowDown", times: 2, do: proxy.Error(503, "SlowDown"), kinds: "PUT 1 GET 3"},
		{name: "cut", do: proxy.CutBody(100), kinds: "PUT 1 GET 2"},
		{name: "a page", do: proxy.Page(200), kinds: "PUT 1 GET 2"},
		{name: "gone", do: proxy.Error(404, "NoSuchKey"), code: 1, kinds: "PUT 1 GET 1"},
		{name: "the range is not heeded", times: proxy.Always, do: proxy.WholeBody, code: 1, says: "range"},
		{name: "hangs", do: proxy.Hang, code: 1, kinds: "PUT 1 GET 1"},
	}
	names := s.segments(2 * len(cases))
	s.Server.Stop(pg.Fast)
	for _, name := range names {
		s.Check(s.push(s.path(name)), 0)
	}
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			same, other := names[2*i], names[2*i+1]
			for _, name := range []string{same, other} {
				s.proxy.Add(proxy.Fault{Name: name, Kind: proxy.Get, Key: name, Times: c.times, Do: c.do})
			}
			s := s.in(t)
			t.Run("equal", func(t *testing.T) { pushSame(t, s.in(t), c, same, s.path(same), 0) })
			t.Run("different", func(t *testing.T) {
				s := s.in(t)
				pushSame(t, s, c, other, s.forged(t, other), 12)
			})
		})
	}
}

// forged makes a segment that is whole, of this server, and another than the one it is named after.
func (s *stage) forged(t *testing.T, name string) string {
	t.Helper()
	body, err := os.ReadFile(s.path(name))
	if err != nil {
		t.Fatal(err)
	}
	// The last bytes lie behind the switch record, where nothing is looked at.
	body[len(body)-1] ^= 0xff
	dir := filepath.Join(s.folder(t, "forged", 0o755), "pg_wal")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, body, 0o644); err != nil {
		t.Fatal(err)
	}
	pg.Chown(t, dir)
	return path
}

func pushSame(t *testing.T, s *stage, c pushCase, name, path string, verdict int) {
	key := s.WALKeys(name)[0]
	before := s.Read(key)
	done := len(s.proxy.Requests(name))
	spool := "PGSTOW_SPOOL=" + s.folder(t, "spool", 0o700)
	deadline, code := pushLate, verdict
	if c.code != 0 {
		deadline, code = pushSoon, c.code
	}
	s.Check(s.push(path, spool, deadline), code, c.says)
	asked := s.proxy.Requests(name)[done:]
	if code == 12 {
		// One more: whether a person has set these bytes aside.
		last := asked[len(asked)-1]
		if last.Kind != proxy.Get || last.Key == "pg/"+key || last.Status != 404 {
			t.Errorf("the last request is %s", last)
		}
		asked = asked[:len(asked)-1]
	}
	if got := proxy.Kinds(asked); c.kinds != "" && got != c.kinds {
		t.Errorf("requests %q, want %q", got, c.kinds)
	}
	s.proxy.Remove(name)
	s.Check(s.push(path, spool, pushLate), verdict)
	if !bytes.Equal(s.Read(key), before) {
		t.Error("what was stored has changed")
	}
}

// TestPushAndRepository: the first push on a host asks for the repository and the cluster, and for nothing else.
func TestPushAndRepository(t *testing.T) {
	pg.Long(t, "two calls for each way a store fails")
	t.Parallel()
	s := newStage(t, archiveOptions())
	cases := []struct {
		name, kind, key string
		times           int
		do              proxy.Action
		code            int
		says            string
	}{
		{"SlowDown", proxy.Get, "repo.json", 3, proxy.Error(503, "SlowDown"), 0, ""},
		{"a page", proxy.Get, "repo.json", 2, proxy.Page(200), 0, ""},
		{"a page for ever", proxy.Get, "repo.json", proxy.Always, proxy.Page(200), 1, "page"},
		{"cut", proxy.Get, "repo.json", 2, proxy.CutBody(10), 0, ""},
		{"short", proxy.Get, "repo.json", proxy.Always, proxy.ShortBody(10), 1, "repo.json"},
		{"no length", proxy.Get, "cluster.json", proxy.Always, proxy.Unmeasured(1 << 20), 1, "how long"},
		{"no repository", proxy.Get, "repo.json", proxy.Always, proxy.Error(404, "NoSuchKey"), 1, "no repository"},
		{"no bucket", proxy.Get, "repo.json", proxy.Always, proxy.Error(404, "NoSuchBucket"), 1, "NoSuchBucket"},
		{"clock an hour late", "", "", proxy.Always, proxy.Clock(-time.Hour), 0, ""},
		{"clock an hour early", "", "", proxy.Always, proxy.Clock(time.Hour), 0, ""},
		{"denied", proxy.Get, "", proxy.Always, proxy.Error(403, "AccessDenied"), 1, "AccessDenied"},
	}
	names := s.segments(len(cases))
	s.Server.Stop(pg.Fast)
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := s.in(t)
			t.Cleanup(s.proxy.Reset)
			s.proxy.Add(proxy.Fault{Name: c.name, Kind: c.kind, Key: c.key, Times: c.times, Do: c.do})
			deadline := pushLate
			if c.code != 0 {
				deadline = pushSoon
			}
			spool := "PGSTOW_SPOOL=" + s.folder(t, "spool", 0o700)
			s.Check(s.push(s.path(names[i]), spool, deadline), c.code, c.says)
			if s.proxy.Hits(c.name) == 0 {
				t.Error("the fault never acted")
			}
			if c.code != 0 && len(s.WALKeys(names[i])) > 0 {
				t.Error("it was stored in what was not known to be the archive")
			}
			s.proxy.Reset()
			s.Check(s.push(s.path(names[i]), spool, pushLate), 0)
			s.wantStored(t, names[i])
			// From now on one request a segment.
			s.proxy.Forget()
			name := names[(i+1)%len(names)]
			r := s.push(s.path(name), spool, pushLate)
			s.Check(r, 0)
			want := "PUT 1"
			if i+1 == len(names) {
				want = "PUT 1 GET 1" // that one is there
			}
			if got := proxy.Kinds(s.proxy.Requests("")); got != want {
				t.Errorf("requests %q, want %q", got, want)
			}
			if i+1 < len(names) {
				s.Delete(s.WALKeys(name)...)
			}
			if strings.Contains(r.Stderr, "warning") {
				t.Errorf("%s", r)
			}
		})
	}
}
