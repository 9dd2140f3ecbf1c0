package prefetch_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// TestRecovery: all that is in the archive is recovered, each segment by one request; when recovery is over, so is the prefetcher.
func TestRecovery(t *testing.T) {
	world.EachStore(t, func(t *testing.T, store string) {
		s := newStage(t, world.Options{Store: store, Count: store == world.MinIO, Encrypted: store == world.File}, 24)
		dir := s.restore()
		if store == world.MinIO {
			s.ForgetRequests()
		}
		server := s.recovered(dir, s.IdentityEnv()...)
		if store == world.MinIO {
			s.wantFewRequests(4)
		}
		s.awaitGone()
		if left := waiting(t, s.spool()); len(left) > 0 {
			t.Errorf("left in the spool: %v", left)
		}
		server.Stop(pg.Fast)
	})
}

// TestPrefetchWorks: the segments behind the one that recovery waits for lie in the spool, and a server that is stopped takes the prefetcher with it.
func TestPrefetchWorks(t *testing.T) {
	t.Parallel()
	s := newStage(t, world.Options{}, 8)
	dir := s.restore()
	gate := s.newSpool("")
	program := pg.Binary(t, "pgstow-wal")
	server := pg.Attach(t, dir, pg.Options{Env: s.Env(), Args: []string{
		"-c", "restore_command=[ %f != " + s.segments[2] + " ] || while [ ! -e " + gate + "/open ]; do sleep 0.1; done; " + program + " fetch %f %p",
	}})
	if err := server.Launch(); err != nil {
		t.Fatal(err)
	}
	pg.Await(t, "segments in the spool", patient, func() (bool, error) {
		files := strings.Join(waiting(t, s.spool()), " ")
		return strings.Contains(files, s.segments[2]+".sum") && strings.Contains(files, s.segments[3]+".sum"), nil
	})
	// Each call that finds none starts one, of which the lock leaves one.
	pg.Await(t, "one prefetcher alone", patient, func() (bool, error) { return len(prefetchers(t, s.Dir)) == 1, nil })
	server.Stop(pg.Immediate)
	s.awaitGone()
	if left := waiting(t, s.spool()); len(left) > 0 {
		t.Errorf("left in the spool: %v", left)
	}
	if err := os.WriteFile(filepath.Join(gate, "open"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.recovered(dir).Stop(pg.Fast)
}

// TestTwoRecoveries: two servers of one system recover on one host, with the same spool folder.
func TestTwoRecoveries(t *testing.T) {
	t.Parallel()
	s := newStage(t, world.Options{}, 12)
	first, second := s.attach(s.restore()), s.attach(s.restore())
	for _, server := range []*pg.Server{first, second} {
		if err := server.Launch(); err != nil {
			t.Fatal(err)
		}
	}
	for _, server := range []*pg.Server{first, second} {
		s.wantRecovered(server)
		server.Stop(pg.Fast)
	}
	s.awaitGone()
}

// TestAcrossTimelines: recovery goes on from one timeline to the next, twice, while the segments of the old one were fetched ahead.
func TestAcrossTimelines(t *testing.T) {
	t.Parallel()
	s := newRunning(t, world.Options{Store: world.MinIO, Count: true}, 6)
	s.Server.Stop(pg.Fast)
	for range 2 {
		next := s.attach(s.restore("--take-over"))
		next.Start()
		s.awaitPrimary(next)
		s.fill(next, 6)
		s.want = next.Sums()
		next.Stop(pg.Fast)
	}
	if tli := s.segments[len(s.segments)-1][:8]; tli != "00000003" {
		t.Fatalf("the last timeline is %s", tli)
	}
	dir := s.restore()
	s.ForgetRequests()
	s.recovered(dir).Stop(pg.Fast)
	s.awaitGone()
	twice := 0
	for name, n := range s.counts() {
		if n > 1 && s.has(name) {
			twice += n - 1
		}
	}
	if twice > 6 {
		t.Errorf("%d requests were repeated: %v", twice, s.counts())
	}
}

func (s *stage) has(name string) bool {
	for _, n := range s.segments {
		if n == name {
			return true
		}
	}
	return false
}

// TestStandbyAtTheHead: a standby that has caught up asks for nothing but what comes next.
func TestStandbyAtTheHead(t *testing.T) {
	t.Parallel()
	s := newRunning(t, world.Options{Store: world.MinIO, Count: true}, 6)
	dir := s.Restore()
	if err := os.Rename(filepath.Join(dir, "recovery.signal"), filepath.Join(dir, "standby.signal")); err != nil {
		t.Fatal(err)
	}
	standby := pg.Attach(t, dir, pg.Options{Env: s.Env(), Args: []string{
		"-c", "restore_command=" + command(t), "-c", "wal_retrieve_retry_interval=100ms",
	}})
	standby.Start()
	caughtUp := func() {
		t.Helper()
		rows := s.Server.Value("SELECT count(*) FROM t")
		pg.Await(t, rows+" rows on the standby", patient, func() (bool, error) {
			got, err := standby.TryValue("postgres", "SELECT count(*) FROM t")
			return err == nil && got == rows, nil
		})
	}
	caughtUp()
	s.awaitGone() // the prefetcher that helped to catch up
	s.ForgetRequests()
	for range 4 {
		s.fill(s.Server, 1)
		caughtUp()
		next := s.Server.Value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
		polls := func() int { return s.counts()[next] }
		pg.Await(t, "two questions for "+next, patient, func() (bool, error) { return polls() >= 2, nil })
		for name := range s.counts() {
			if name > next {
				t.Errorf("%s was asked for, which is behind the head %s", name, next)
			}
		}
	}
	for _, name := range s.segments[6:] {
		found := 0
		for _, r := range s.RequestsFor("GET", name) {
			if r.Status == 200 {
				found++
			}
		}
		if found != 1 {
			t.Errorf("%s was fetched %d times", name, found)
		}
	}
	if pids := prefetchers(t, s.Dir); len(pids) > 0 {
		t.Errorf("%d prefetchers for a standby that has caught up", len(pids))
	}
	standby.Promote() // not held up by anything
	standby.Stop(pg.Fast)
}

// TestRewind: pg_rewind runs the same restore_command, and gets the right files without a prefetcher. It comes with Debian's PostgreSQL alone.
func TestRewind(t *testing.T) {
	t.Parallel()
	majors := slices.DeleteFunc(pg.Majors(t), func(major int) bool { return !pg.Need(t, major).Has("pg_rewind") })
	if len(majors) == 0 {
		majors = []int{pg.DefaultMajor}
	}
	for _, major := range majors {
		t.Run(strconv.Itoa(major), func(t *testing.T) { rewind(t, major) })
	}
}

func rewind(t *testing.T, major int) {
	t.Helper()
	s := newRunning(t, world.Options{Major: major, Checksums: true, Conf: map[string]string{"max_wal_size": "2MB", "min_wal_size": "2MB"}}, 2)
	next := s.attach(s.restore("--take-over"))
	next.Start()
	s.awaitPrimary(next)
	s.fill(next, 2)
	s.want = next.Sums()
	next.Stop(pg.Fast)
	// The old primary goes its own way until it has no WAL of the common past left.
	old := s.Server
	fork := s.segments[1]
	for range 40 {
		if _, err := os.Stat(filepath.Join(old.Dir, "pg_wal", fork)); os.IsNotExist(err) {
			break
		}
		old.WaitArchived(old.SwitchWAL())
		old.Exec("CHECKPOINT")
	}
	if _, err := os.Stat(filepath.Join(old.Dir, "pg_wal", fork)); !os.IsNotExist(err) {
		t.Fatalf("%s is still there: %v", fork, err)
	}
	old.AppendConf(map[string]string{"restore_command": command(t)})
	old.Stop(pg.Fast)
	before := waiting(t, s.spool())
	cmd := pg.Command(t.Context(), pg.Need(t, major).Bin("pg_rewind"), "--restore-target-wal", "--target-pgdata", old.Dir, "--source-pgdata", next.Dir, "--progress")
	cmd.Env = append(cmd.Env, s.Env()...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("pg_rewind: %v\n%s", err, out)
	}
	if pids := prefetchers(t, s.Dir); len(pids) > 0 || len(waiting(t, s.spool())) > len(before) {
		t.Errorf("%d prefetchers of pg_rewind", len(pids))
	}
	if !strings.Contains(string(out), "Done!") {
		t.Errorf("pg_rewind said:\n%s", out)
	}
	signal := filepath.Join(old.Dir, "recovery.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pg.Chown(t, signal)
	rewound := pg.Attach(t, old.Dir, pg.Options{Major: major, Env: s.Env(), Args: []string{"-c", "restore_command=" + command(t), "-c", "archive_mode=off", "-c", "recovery_target_timeline=latest"}})
	rewound.Start()
	s.wantRecovered(rewound)
	rewound.Stop(pg.Fast)
}

// TestServerIsProcessOne: where the server would adopt a detached process, the calls fetch the next few themselves.
func TestServerIsProcessOne(t *testing.T) {
	t.Parallel()
	user := pg.Credential()
	if user == nil {
		pg.Missing(t, "root, to make a PID namespace")
	}
	tool, err := exec.LookPath("unshare")
	if err != nil {
		pg.Missing(t, "unshare")
	}
	s := newStage(t, world.Options{Store: world.MinIO, Count: true}, 16)
	dir := s.restore()
	s.ForgetRequests()
	server := s.attach(dir)
	log, err := os.OpenFile(server.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.CommandContext(t.Context(), tool, "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc",
		"setpriv", "--reuid="+strconv.Itoa(int(user.Uid)), "--regid="+strconv.Itoa(int(user.Gid)), "--clear-groups",
		server.Install.Bin("postgres"), "-D", dir, "-p", strconv.Itoa(server.Port), "-k", server.SocketDir, "-c", "listen_addresses=",
		"-c", "restore_command="+command(t))
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir()}, s.Env()...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = server.SocketDir, log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	s.wantRecovered(server)
	if line, err := os.ReadFile(filepath.Join(dir, "postmaster.pid")); err != nil || !strings.HasPrefix(string(line), "1\n") {
		t.Errorf("the server is not process 1: %q, %v", line, err)
	}
	if pids := prefetchers(t, s.Dir); len(pids) > 0 {
		t.Errorf("%d prefetchers", len(pids))
	}
	locks, err := filepath.Glob(filepath.Join(s.spool(), "*", "prefetch.lock"))
	if err != nil || len(locks) > 0 {
		t.Errorf("a prefetcher was there: %v, %v", locks, err)
	}
	if beside, err := filepath.Glob(filepath.Join(s.spool(), "*", "fetched.record")); err != nil || len(beside) == 0 {
		t.Errorf("nothing was noted: %v", err)
	}
	s.wantFewRequests(3 * len(s.segments)) // what did not come in time is asked for again
}
