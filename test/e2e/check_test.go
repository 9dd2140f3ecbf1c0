package e2e_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
	"pgstow/wal/spool"
)

type findings []struct{ Level, What, Text, Hint string }

// check runs `pgstow check` and returns what it finds.
func check(t *testing.T, w *world.World, s *pg.Server, args ...string) findings {
	t.Helper()
	r := w.RunOn(s, nil, append([]string{"check", "--json"}, args...)...)
	var report struct{ Findings findings }
	if err := json.Unmarshal([]byte(r.Stdout), &report); err != nil {
		t.Fatalf("%v: %s", err, r)
	}
	failed := slices.ContainsFunc(report.Findings, func(f struct{ Level, What, Text, Hint string }) bool { return f.Level == "failed" })
	if failed != (r.Code == 1) {
		t.Errorf("exit status %d with %+v", r.Code, report.Findings)
	}
	return report.Findings
}

// find tells whether something of this kind was found that says word.
func (f findings) find(level, what, word string) bool {
	for _, one := range f {
		if one.Level == level && one.What == what && strings.Contains(one.Text, word) {
			return true
		}
	}
	return false
}

func (f findings) want(t *testing.T, level, what, word string) {
	t.Helper()
	if !f.find(level, what, word) {
		t.Errorf("no finding %s %s %q among %+v", level, what, word, f)
	}
}

func (f findings) none(t *testing.T, level string) {
	t.Helper()
	for _, one := range f {
		if one.Level == level {
			t.Errorf("%s %s: %s", one.Level, one.What, one.Text)
		}
	}
}

// TestCheckArchiving: with an archive_command, a standby, and trouble in the background.
func TestCheckArchiving(t *testing.T) {
	w := world.New(t, world.Options{})
	w.Server.Exec("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i")
	w.Backup()
	found := check(t, w, w.Server)
	found.none(t, "failed")
	found.want(t, "ok", "archiving", "arrived after")
	found.want(t, "ok", "wal", "no holes")
	found.want(t, "ok", "backlog", "are free for pg_wal")

	w.Server.Exec("SELECT pg_create_physical_replication_slot('other', true)")
	found = check(t, w, w.Server, "--no-switch")
	found.none(t, "failed") // another's slot
	found.want(t, "warning", "slots", "max_slot_wal_keep_size is unlimited")
	found = check(t, w, w.Server, "--no-switch", "--slot", "other")
	found.want(t, "failed", "slots", "no pgstow wal receive is connected by slot other")
	check(t, w, w.Server, "--no-switch", "--slot", "absent").want(t, "failed", "slots", "has no replication slot absent")

	// A hole at the head is being filled, unless the server was started anew since and has nothing waiting that would fill it.
	var names []string
	for range 3 {
		w.Server.Exec("INSERT INTO t VALUES (1)")
		names = append(names, w.Server.ArchiveAll())
	}
	key := w.Prefix() + "wal/00000001/00000000/" + names[1]
	segment := w.Read(key)
	w.Delete(key)
	found = check(t, w, w.Server, "--no-switch")
	found.none(t, "failed")
	found.want(t, "warning", "wal", names[1]+" is not there yet")
	w.Server.Restart()
	check(t, w, w.Server, "--no-switch").want(t, "failed", "wal", names[1]+" to "+names[1])
	w.Write(key, segment)

	root := filepath.Join(w.Dir, "background")
	s, err := spool.Create(spool.Identity{Program: "test"}.Name(), root)
	if err != nil {
		t.Fatal(err)
	}
	trouble := `{"name":"00000001000000000000000F","text":"no route to host","time":"2026-11-24T12:00:00Z","pgdata":"/data","cluster":"main"}`
	if err := s.PutRecord("push-trouble", []byte(trouble), time.Now()); err != nil {
		t.Fatal(err)
	}
	pg.Chown(t, root)
	check(t, w, w.Server, "--no-server", "--spool", root).want(t, "warning", "ahead", "no route to host")

	dir := w.Restore()
	if err := os.Rename(filepath.Join(dir, "recovery.signal"), filepath.Join(dir, "standby.signal")); err != nil {
		t.Fatal(err)
	}
	standby := w.Attach(dir)
	standby.Start()
	found = check(t, w, standby, "--no-switch")
	found.none(t, "failed")
	found.want(t, "ok", "timeline", "newest timeline is 1")
	found.want(t, "warning", "archiving", "once this standby is promoted nothing is archived")
	w.Write(w.Prefix()+"wal/00000003/00000003.history", []byte("only its name is looked at"))
	check(t, w, standby, "--no-switch").want(t, "warning", "timeline", "newest timeline is 3, this standby is on 1")
	check(t, w, w.Server, "--no-switch").want(t, "failed", "timeline", "newest timeline is 3, this server writes timeline 1")
}

// TestCheckReceiving: without an archive_command everything hangs on the replication slot of a receiver.
func TestCheckReceiving(t *testing.T) {
	w := world.New(t, world.Options{NoArchive: true, Conf: map[string]string{"max_slot_wal_keep_size": "1GB"}})
	w.Backup("--wal", "include")
	found := check(t, w, w.Server)
	found.want(t, "failed", "archiving", "nothing is archived")

	w.Server.Exec("SELECT pg_create_physical_replication_slot('pgstow', true)")
	found = check(t, w, w.Server)
	found.want(t, "failed", "archiving", "nothing is archived")
	found.want(t, "failed", "slots", "no pgstow wal receive is connected by slot pgstow")

	receiver, err := pg.ClientBin(pg.DefaultMajor, "pg_receivewal")
	if err != nil {
		t.Fatal(err)
	}
	dir := pg.TempDir(t)
	cmd := pg.Command(t.Context(), receiver, "-D", dir, "-S", "pgstow")
	cmd.Env = append(append(cmd.Env, w.Server.Env()...), "PGAPPNAME=pgstow")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	w.Server.AwaitValue("SELECT active FROM pg_replication_slots", "t")
	found = check(t, w, w.Server)
	found.none(t, "failed")
	found.want(t, "ok", "archiving", "pgstow wal receive archives by the replication slot pgstow")
	found.want(t, "ok", "slots", "connected by slot pgstow")
	if found.find("warning", "slots", "unlimited") {
		t.Error("max_slot_wal_keep_size is set")
	}
}

// TestCheckMajors: every major can be asked.
func TestCheckMajors(t *testing.T) {
	for _, major := range pg.Majors(t) {
		w := world.New(t, world.Options{Major: major, NoArchive: true})
		found := check(t, w, w.Server)
		found.want(t, "ok", "server", "PostgreSQL")
		found.want(t, "failed", "archiving", "nothing is archived")
		found.want(t, "ok", "backlog", "are free for pg_wal")
	}
}
