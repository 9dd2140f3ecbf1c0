package receive_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
	"pgstow/wal"
)

// TestSlot: the life of the replication slot, and what is refused before it begins.
func TestSlot(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{NoArchive: true, WALSegmentSizeMiB: 1})
	s := w.Server
	slots := func() string {
		return s.Value("SELECT coalesce(string_agg(slot_name || ' ' || (restart_lsn IS NOT NULL), ','), '') FROM pg_replication_slots")
	}
	w.Expect(64, []string{"needs a replication slot"}, "wal", "receive", "--slot", "")
	w.Expect(64, []string{"lower case"}, "wal", "receive", "--slot", "Pg-Stow")
	w.Expect(64, []string{"--until-lsn"}, "wal", "receive", "--until-lsn", "x")
	w.Expect(1, []string{"does not exist", "--create-slot"}, "wal", "receive")
	w.Expect(1, []string{"does not exist"}, "wal", "receive", "--drop-slot")
	w.Expect(12, []string{"system id"}, "wal", "receive", "--create-slot", "--system-id", "1")
	equal(t, "slots", slots(), "")

	// One that others made and that holds nothing is made anew.
	s.Exec("SELECT pg_create_physical_replication_slot('pgstow')")
	equal(t, "slots", slots(), "pgstow false")
	until := s.Value("SELECT pg_current_wal_lsn()::text")
	w.Expect(0, []string{"made anew"}, "wal", "receive", "--until-lsn", until)
	equal(t, "slots", slots(), "pgstow true")

	// --until-lsn ends when all is stored, also in the middle of a segment, and again at once.
	s.Exec("CREATE TABLE t AS SELECT generate_series(1, 50000) AS i")
	until = s.Value("SELECT pg_current_wal_lsn()::text")
	w.Must("wal", "receive", "--create-slot", "--no-loop", "--until-lsn", until)
	w.Must("wal", "receive", "--until-lsn", until)
	s.AwaitValue("SELECT (restart_lsn >= '"+until+"')::text FROM pg_replication_slots", "true")
	if n := len(segments(w)); n < 2 {
		t.Errorf("%d full segments", n)
	}

	// A second receiver with the same slot is told so.
	r := receive(t, w)
	r.AwaitText("receiving timeline 1")
	w.Expect(1, []string{"is active", "another receiver"}, "wal", "receive", "--no-loop")
	w.Expect(1, []string{"another receiver"}, "wal", "receive", "--drop-slot")

	// A fast stop of the server does not wait for an interval; the receiver goes on when it is back.
	s.Stop(pg.Fast)
	r.AwaitText("the next try in")
	s.Start()
	s.Exec("INSERT INTO t VALUES (0)")
	awaitStored(t, s)
	r.Stop()
	w.Must("wal", "receive", "--drop-slot")
	equal(t, "slots", slots(), "")
}

// TestStop: SIGTERM stores what has arrived, however long the interval is, and a service manager is told how things are.
func TestStop(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{NoArchive: true, WALSegmentSizeMiB: 1})
	s := w.Server
	path := filepath.Join(w.Dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	pg.Chown(t, path)
	said := &world.Output{}
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := conn.Read(b)
			if err != nil {
				return
			}
			_, _ = said.Write(append(b[:n:n], '\n'))
		}
	}()
	told := func(text string) {
		t.Helper()
		pg.Await(t, "the service manager to be told "+text, patience, func() (bool, error) { return strings.Contains(said.String(), text), nil })
	}
	r := w.Receive([]string{"NOTIFY_SOCKET=" + path}, "--create-slot", "--flush-interval", "1h")
	told("READY=1")
	s.Exec("CREATE TABLE t AS SELECT generate_series(1, 100) AS i")
	want := lsn(t, s.Value("SELECT pg_current_wal_lsn()::text"))
	told("received " + want.String())
	told("WATCHDOG=1")
	r.Stop()
	told("STOPPING=1")
	s.AwaitValue("SELECT (restart_lsn >= '"+want.String()+"')::text FROM pg_replication_slots", "true")
	last := pieces(w)
	if len(last) == 0 || !strings.HasSuffix(last[len(last)-1], fmt.Sprintf("-%016X", uint64(want))) {
		t.Errorf("pieces up to %s are wanted: %v", want, last)
	}
}

func lsn(t *testing.T, text string) wal.LSN {
	t.Helper()
	l, err := wal.ParseLSN(text)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestUnit: the unit file that is in the repository says what a receiver needs, and systemd, where it is installed, accepts it.
func TestUnit(t *testing.T) {
	t.Parallel()
	root, err := pg.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	unit, err := os.ReadFile(filepath.Join(root, "docs", "systemd", "pgstow-receive@.service"))
	if err != nil {
		t.Fatal(err)
	}
	const installed = "/usr/local/bin/pgstow "
	if !strings.Contains(string(unit), "ExecStart="+installed) {
		t.Fatalf("ExecStart is not %s", installed)
	}
	for _, line := range []string{"[Unit]", "[Service]", "Type=notify", "[Install]"} {
		if !strings.Contains("\n"+string(unit), "\n"+line+"\n") {
			t.Errorf("there is no line %s", line)
		}
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		return // not part of what make installs
	}
	text := strings.ReplaceAll(string(unit), "ExecStart="+installed, "ExecStart="+pg.Binary(t, "pgstow")+" ")
	if found := faultsOf(t, analyze, text); len(found) > 0 {
		t.Errorf("systemd-analyze: %s", found)
	}
	if found := faultsOf(t, analyze, strings.Replace(text, "Type=notify", "Type=nothing", 1)); len(found) == 0 {
		t.Error("systemd-analyze finds no fault where there is one")
	}
}

// faultsOf are the lines in which systemd-analyze finds fault with a unit. Its exit status counts units that are not ours, too.
func faultsOf(t *testing.T, analyze, unit string) (found []string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pgstow-receive@main.service")
	if err := os.WriteFile(path, []byte(unit), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", path).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, filepath.Base(path)) {
			found = append(found, line)
		}
	}
	return found
}
