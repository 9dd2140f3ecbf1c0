package outage_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// Fetches that give up soon.
const (
	short    = "PGSTOW_FETCH_DEADLINE=3s"
	shortest = "PGSTOW_FETCH_DEADLINE=500ms"
)

// noPrefetch is for tests in which the store must be asked for a segment when recovery does.
const noPrefetch = "PGSTOW_PREFETCH=0"

// TestOutageOfRecovery: a store that is gone, before recovery begins and in the middle of it, stops the server; when the store is there again,
// so is everything.
func TestOutageOfRecovery(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		a := newArchived(t, major)
		dir := a.Restore("--action", "promote")

		a.MinIO.Kill()
		s := a.server(t, dir, "", short) // with the restore_command that the restore wrote
		launch(t, s)
		wantAborted(t, s)
		if log := s.Log(); !strings.Contains(log, "pgstow: fetch") || !strings.Contains(log, a.MinIO.Endpoint) && !strings.Contains(log, "refused") {
			t.Errorf("the log does not say why:\n%s", s.LogTail())
		}
		a.MinIO.Start()

		s = a.server(t, dir, a.gate.Command("", ""), short)
		a.gate.Shut()
		launch(t, s)
		a.gate.Await(s)
		a.MinIO.Kill()
		a.gate.Open()
		wantAborted(t, s)
		if log := s.Log(); !strings.Contains(log, "consistent recovery state reached") {
			t.Errorf("recovery was not yet consistent, so that this proved little:\n%s", log)
		}
		a.MinIO.Start()
		a.wantRecovered(t, a.server(t, dir, "", short))
	})
}

// TestOutageIsToldFromTheEnd: the checks of this package see a recovery that was ended early, as it is by a command that answers an outage with 1.
func TestOutageIsToldFromTheEnd(t *testing.T) {
	t.Parallel()
	a := newArchived(t, pg.DefaultMajor)
	dir := a.Restore("--action", "promote")
	s := a.server(t, dir, a.gate.Command("", "|| exit 1"), shortest, noPrefetch)
	a.gate.Shut()
	launch(t, s)
	a.gate.Await(s)
	a.MinIO.Kill()
	a.gate.Open()
	s.WaitPrimary()
	if a.want.Diff(s.Sums()) == "" {
		t.Error("nothing is missing")
	}
	if found := finished(t, dir, s.Log()); found == "" {
		t.Error("the log and the directory look as if recovery had not ended")
	}
}

// TestOutageOfStandby: a standby goes on asking, read-only, and gets on when the store is there again.
func TestOutageOfStandby(t *testing.T) {
	pg.Long(t, "takes a quarter of a minute")
	eachMajor(t, func(t *testing.T, major int) {
		a := newArchived(t, major)
		dir := a.Restore()
		rename(t, filepath.Join(dir, "recovery.signal"), filepath.Join(dir, "standby.signal"))
		s := a.server(t, dir, a.gate.Command("", ""))
		a.gate.Shut()
		launch(t, s)
		a.gate.Await(s)
		a.MinIO.Kill()
		a.gate.Open()
		s.Await("two answers that the store cannot be reached", time.Minute, func() (bool, error) {
			return strings.Count(s.Log(), "unreachable, not absent") >= 2, nil
		})
		before := s.Value("SELECT count(*) FROM t")
		if before == a.rows || s.Value("SELECT pg_is_in_recovery()") != "t" {
			t.Errorf("during the outage: %s rows, in recovery: %s", before, s.Value("SELECT pg_is_in_recovery()"))
		}
		a.MinIO.Start()
		s.AwaitValue("SELECT count(*) FROM t", a.rows)
		if d := a.want.Diff(s.Sums()); d != "" {
			t.Error(d)
		}
		if got := s.Value("SELECT pg_is_in_recovery()"); got != "t" {
			t.Errorf("in recovery: %s", got)
		}
		for _, text := range endOfRecovery {
			if strings.Contains(s.Log(), text) {
				t.Errorf("%q in the log of a standby", text)
			}
		}
		s.Stop(pg.Fast)
	})
}

// TestOutageByMistake: an address that is wrong, or a repository that is no more, is no end of WAL.
func TestOutageByMistake(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		a := newArchived(t, major)
		dir := a.Restore("--action", "promote")
		unreadable := a.file(t, "unreadable.toml", "repo = \"file:///nowhere\"\n", 0o000)
		broken := a.file(t, "broken.toml", "repo = \n", 0o644)
		for _, c := range []struct {
			name, flags, says string
			env               []string
			do                func(t *testing.T) (undo func())
		}{
			{name: "wrong cluster", flags: "--cluster wrong", says: "wrong"},
			{name: "wrong cluster in the environment", env: []string{"PGSTOW_CLUSTER=typo"}, says: "typo"},
			{name: "wrong prefix", flags: "--repo '" + a.MinIO.URL(a.Bucket, "elsewhere") + "'", says: "no repository"},
			{name: "wrong bucket", flags: "--repo '" + a.MinIO.URL("no-such-bucket", "pg") + "'", says: "no-such-bucket"},
			{name: "wrong credentials", env: []string{"AWS_SECRET_ACCESS_KEY=wrong"}, says: "credentials"},
			{name: "unreadable configuration", flags: "--config " + unreadable, says: unreadable},
			{name: "no configuration", flags: "--config /no/such/file.toml", says: "/no/such/file.toml"},
			{name: "broken configuration", flags: "--config " + broken, says: broken},
			{name: "wrong value", env: []string{"PGSTOW_FETCH_DEADLINE=soon"}, says: "PGSTOW_FETCH_DEADLINE"},
			{name: "unknown flag", flags: "--no-such-flag", says: "no-such-flag"},
			{name: "removed repo.json", do: a.without("repo.json"), says: "no repository"},
			{name: "removed cluster.json", do: a.without("cluster.json"), says: "main"},
			{name: "removed segment", env: []string{noPrefetch}, do: a.without("/" + a.gate.Segment), says: "hole at " + a.gate.Segment},
			{name: "emptied bucket", do: a.without(""), says: "no repository"},
		} {
			ok := t.Run(c.name, func(t *testing.T) {
				s := a.server(t, dir, a.gate.Command(c.flags, ""), append([]string{shortest}, c.env...)...)
				if c.do == nil { // the mistake was there from the beginning
					launch(t, s)
					wantAborted(t, s)
				} else {
					a.gate.Shut()
					launch(t, s)
					a.gate.Await(s)
					undo := c.do(t)
					defer undo()
					a.gate.Open()
					wantAborted(t, s)
				}
				if log := s.Log(); !strings.Contains(log, c.says) {
					t.Errorf("the log does not say %q:\n%s", c.says, s.LogTail())
				}
			})
			if !ok {
				return // the directory may be spoiled
			}
		}
		a.wantRecovered(t, a.server(t, dir, "", short))
	})
}

// TestOutageByMistakeInTheMiddle: the same mistakes, made when recovery is already consistent and could be ended.
func TestOutageByMistakeInTheMiddle(t *testing.T) {
	t.Parallel()
	a := newArchived(t, pg.DefaultMajor)
	dir := a.Restore("--action", "promote")
	for i, flags := range []string{
		"--cluster wrong", "--repo '" + a.MinIO.URL("no-such-bucket", "pg") + "'", "--config /no/such/file.toml", "--no-such-flag", "--encryption=maybe",
	} {
		// Only the segment behind the gate is asked for in the wrong way.
		command := a.gate.Command("$( [ \"$1\" = "+a.gate.Segment+" ] && echo \""+strings.ReplaceAll(flags, "'", "")+"\" )", "")
		s := a.server(t, dir, command, short)
		launch(t, s)
		wantAborted(t, s)
		if !strings.Contains(s.Log(), "consistent recovery state reached") {
			t.Errorf("%d: not consistent:\n%s", i, s.LogTail())
		}
	}
	a.wantRecovered(t, a.server(t, dir, "", short))
}

// TestOutageAndImmediateShutdown: SIGQUIT reaches a fetch that hangs, and is not taken for an answer.
func TestOutageAndImmediateShutdown(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		a := newArchived(t, major)
		dir := a.Restore("--action", "promote")
		// Without prefetch it is the segment behind the gate that hangs; with it that one may be there already, and a later one does.
		for segment, env := range map[string]string{a.gate.Segment: noPrefetch, "": "PGSTOW_PREFETCH=16"} {
			stopWhileFetching(t, a, dir, segment, env)
		}
		a.wantRecovered(t, a.server(t, dir, ""))
	})
}

// stopWhileFetching stops a recovery at once that waits for a segment, any if it is "", of a store that hangs.
func stopWhileFetching(t *testing.T, a *archived, dir, segment string, env ...string) {
	t.Helper()
	s := a.server(t, dir, a.gate.Command("", ""), env...)
	a.gate.Shut()
	launch(t, s)
	a.gate.Await(s)
	a.MinIO.Freeze()
	a.gate.Open()
	awaitHangingFetch(t, s, segment)
	begin := time.Now()
	s.Stop(pg.Immediate)
	// The postmaster waits five seconds for its children before it kills them.
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("the shutdown took %s", took)
	}
	log := s.Log()
	if !strings.Contains(log, "consistent recovery state reached") || !strings.Contains(log, "received immediate shutdown request") {
		t.Errorf("the log:\n%s", log)
	}
	wantUnfinished(t, dir, log)
	a.MinIO.Thaw()
}

// awaitHangingFetch waits until pgstow, called for a segment by this server, has a connection open.
func awaitHangingFetch(t *testing.T, s *pg.Server, segment string) {
	t.Helper()
	s.Await("a fetch of "+segment+" that waits for the store", time.Minute, func() (bool, error) {
		processes, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			return false, err
		}
		for _, p := range processes {
			cmdline, err := os.ReadFile(filepath.Join(p, "cmdline"))
			args := strings.Split(string(cmdline), "\x00")
			if err != nil || len(args) < 5 || args[0] != "pgstow" || args[2] != "fetch" || !strings.Contains(string(cmdline), segment) {
				continue
			}
			if cwd, err := os.Readlink(filepath.Join(p, "cwd")); err != nil || cwd != s.Dir {
				continue
			}
			descriptors, err := filepath.Glob(filepath.Join(p, "fd", "*"))
			if err != nil {
				return false, err
			}
			for _, fd := range descriptors {
				if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, "socket:") {
					return true, nil
				}
			}
		}
		return false, nil
	})
}

// without returns a function that takes away all objects with a word in their key, and returns another that puts them back.
func (a *archived) without(word string) func(t *testing.T) func() {
	return func(t *testing.T) func() {
		t.Helper()
		kept := map[string][]byte{}
		for _, k := range a.KeysWith(word) {
			kept[k] = a.Read(k)
		}
		if len(kept) == 0 {
			t.Fatalf("no object has %q in its key", word)
		}
		for k := range kept {
			a.Delete(k)
		}
		return func() {
			for k, body := range kept {
				a.Write(k, body)
			}
		}
	}
}

// file makes a file with this content and mode.
func (a *archived) file(t *testing.T, name, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(a.NewDir("conf"), name)
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	pg.Chown(t, path)
	return path
}

func launch(t *testing.T, s *pg.Server) {
	t.Helper()
	if err := s.Launch(); err != nil {
		t.Fatal(err)
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// TestOutageProvenAbsence: what follows the archive's end is proven to be absent, and what is there is served, with the same call.
func TestOutageProvenAbsence(t *testing.T) {
	t.Parallel()
	a := newArchived(t, pg.DefaultMajor)
	dst := filepath.Join(a.NewDir("fetched"), "segment")
	if err := os.Mkdir(filepath.Dir(dst), 0o755); err != nil {
		t.Fatal(err)
	}
	pg.Chown(t, filepath.Dir(dst))
	fetch := func(name string) world.Result {
		return a.RunWith([]string{shortest, "PGSTOW_PGDATA=" + a.Server.Dir}, "wal", "fetch", name, dst)
	}
	for name, code := range map[string]int{a.next: 1, "00000002.history": 1, "000000010000000A00000001": 1, a.gate.Segment: 0} {
		a.Check(fetch(name), code)
	}
	a.MinIO.Kill()
	for _, name := range []string{a.next, "00000002.history", a.gate.Segment} {
		begin := time.Now()
		a.Check(fetch(name), 126, fmt.Sprintf("fetch %s", name))
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("with %s a fetch gave up after %s", shortest, strconv.FormatFloat(took.Seconds(), 'f', 1, 64)+" s")
		}
	}
}
