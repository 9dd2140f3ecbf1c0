package stream_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// stranger is a user of the operating system that can read nothing of the server's.
const stranger = 65534

// TestElsewhere: pgstow runs as another user and in another network than the server: it reaches it by TCP alone, and sees none of its files.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root makes network namespaces")
	}
	if c := pg.Credential(); c == nil || c.Uid == stranger {
		t.Skip("the server's user is the stranger")
	}
	address, netns := network(t)
	s := pg.New(t, pg.Options{Checksums: true, WALSegmentSizeMiB: 1, Args: []string{"-c", "listen_addresses=" + address}})
	withStreamer(t, s)
	spaces := fill(t, s)
	home := pg.TempDir(t)
	if err := os.Chown(home, stranger, stranger); err != nil {
		t.Fatal(err)
	}
	env := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + home, "PGSTOW_REPO=file://" + home + "/repo", "PGSTOW_ENCRYPTION=none", "PGSTOW_SPOOL=" + home,
		"PGSTOW_CLUSTER=main", "PGHOST=" + address, "PGPORT=" + strconv.Itoa(s.Port), streamer,
	}
	call := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "ip", append([]string{"netns", "exec", netns,
			"setpriv", fmt.Sprintf("--reuid=%d", stranger), fmt.Sprintf("--regid=%d", stranger), "--clear-groups"}, args...)...)
		cmd.Env, cmd.Dir = env, home
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	must := func(args ...string) string {
		t.Helper()
		out, err := call(args...)
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return out
	}
	if out, err := call("ls", s.Dir); err == nil || !strings.Contains(out, "denied") {
		t.Fatalf("the stranger can read the data directory: %v\n%s", err, out)
	}
	pgstow := pg.Binary(t, "pgstow")
	must(pgstow, "init", "--plain")
	s.Exec("VACUUM")
	want := s.Sums()
	// Nobody said that it should stream: the directory is not here.
	if out := must(pgstow, "backup", "create", "--wal", "include"); !strings.Contains(out, "by the replication protocol") {
		t.Errorf("it does not say that it streams:\n%s", out)
	}
	args := []string{pgstow, "restore", filepath.Join(home, "data")}
	for i, old := range spaces {
		args = append(args, "--tablespace", fmt.Sprintf("%s=%s/space%d", old, home, i))
	}
	must(args...)
	pg.Chown(t, home)
	r := pg.Restored(t, filepath.Join(home, "data"), pg.Options{})
	r.WaitPrimary()
	holds(t, "restored", r, want)
}

// network makes a network namespace with a line to this one, of which it returns this end's address.
func network(t *testing.T) (address, netns string) {
	t.Helper()
	n := os.Getpid() % 250
	netns = fmt.Sprintf("pgstow%d", os.Getpid())
	address, other := fmt.Sprintf("10.213.%d.1", n), fmt.Sprintf("10.213.%d.2", n)
	ours, theirs := fmt.Sprintf("pgs%da", os.Getpid()%100000), fmt.Sprintf("pgs%db", os.Getpid()%100000)
	t.Cleanup(func() {
		_ = exec.Command("ip", "netns", "del", netns).Run()
		_ = exec.Command("ip", "link", "del", ours).Run()
	})
	for _, line := range []string{
		"netns add " + netns,
		"link add " + ours + " type veth peer name " + theirs + " netns " + netns,
		"addr add " + address + "/24 dev " + ours,
		"link set " + ours + " up",
		"-n " + netns + " addr add " + other + "/24 dev " + theirs,
		"-n " + netns + " link set " + theirs + " up",
	} {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Skipf("no network namespaces here: ip %s: %v\n%s", line, err, out)
		}
	}
	return address, netns
}

// TestSources: which source is taken without being asked for.
func TestSources(t *testing.T) {
	t.Parallel()
	w := newWorld(t, world.Options{WALSegmentSizeMiB: 1})
	s := w.Server
	var b backup
	world.Decode(t, w.Must("backup", "create", "--json"), &b)
	if b.Source != "local" {
		t.Errorf("as the server's user: %+v", b)
	}
	// A directory that is named must be the server's.
	other := w.NewServer(filepath.Join(w.NewDir("other"), "data"))
	w.Expect(1, []string{"no server runs in"}, "backup", "create", "--pgdata", other.Dir)
	w.Expect(64, []string{"--source is auto, local or stream"}, "backup", "create", "--source", "files")
	w.Expect(64, []string{"--offline"}, "backup", "create", "--source", "stream", "--offline", "--pgdata", other.Dir)
	// A role that may not connect for SQL streams, and one that may not replicate does nothing.
	r := w.RunOn(s, []string{streamer}, "backup", "create", "--json")
	w.Check(r, 0, "by the replication protocol", "pg_hba.conf rejects")
	world.Decode(t, r.Stdout, &b)
	if b.Source != "stream" {
		t.Errorf("a role for replication: %+v", b)
	}
	w.Check(w.RunOn(s, []string{streamer}, "backup", "create", "--source", "local"), 1, "pg_hba.conf rejects")
	s.Exec("CREATE ROLE reader LOGIN")
	w.Check(w.RunOn(s, []string{"PGUSER=reader"}, "backup", "create", "--source", "stream"), 1, "the role needs REPLICATION")
}

// TestLostConnection: the server ends the connection in the middle of a backup: that is an error, nothing is left, and the next one is whole.
func TestLostConnection(t *testing.T) {
	t.Parallel()
	w := newWorld(t, world.Options{WALSegmentSizeMiB: 1})
	s := w.Server
	spaces := fill(t, s)
	cmd := w.Command("pgstow", "backup", "create", "--source", "stream", "--rate-limit", "1MiB")
	cmd.Env = append(cmd.Env, streamer)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// At that rate it has most of the way before it, and some behind it.
	s.AwaitValue("SELECT coalesce(max(backup_streamed) > 2000000, false)::text FROM pg_stat_progress_basebackup", "true")
	s.Exec("SELECT pg_terminate_backend(pid) FROM pg_stat_progress_basebackup")
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(out.String(), "the connection was lost") || !strings.Contains(out.String(), "no backup was made") {
		t.Errorf("exit status %d:\n%s", code, out.String())
	}
	noLeft(t, w)
	b := stream(t, w, s)
	if b.Method != "full" {
		t.Errorf("%+v", b)
	}
	holds(t, "restored", restored(t, w, spaces, false), sumsOf(s))
}

// TestIdleConnection: the connection beside the one that files come by is lost meanwhile. That is made good.
func TestIdleConnection(t *testing.T) {
	t.Parallel()
	w := newWorld(t, world.Options{WALSegmentSizeMiB: 1})
	s := w.Server
	cmd := w.Command("pgstow", "backup", "create", "--source", "stream", "--rate-limit", "8MiB")
	cmd.Env = append(cmd.Env, streamer)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.AwaitValue("SELECT coalesce(max(backup_streamed) > 100000, false)::text FROM pg_stat_progress_basebackup", "true")
	killed := s.Value(`SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
		WHERE backend_type = 'walsender' AND pid NOT IN (SELECT pid FROM pg_stat_progress_basebackup)`)
	if err := cmd.Wait(); err != nil || killed != "1" {
		t.Errorf("%s connections were ended: %v\n%s", killed, err, out.String())
	}
}

// TestInterrupted: a signal ends the backup and leaves nothing.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, world.Options{WALSegmentSizeMiB: 1})
	w.Server.PgbenchInit(1)
	cmd := w.Command("pgstow", "backup", "create", "--source", "stream", "--rate-limit", "1MiB")
	cmd.Env = append(cmd.Env, streamer)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Server.AwaitValue("SELECT coalesce(max(backup_streamed) > 100000, false)::text FROM pg_stat_progress_basebackup", "true")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("it ended well")
	}
	noLeft(t, w)
	w.Server.AwaitValue("SELECT count(*)::text FROM pg_stat_progress_basebackup", "0")
}
