package delta_test

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// TestStandby makes a standby beside its primary, with the tablespace elsewhere: it catches up from the archive while it cannot
// reach the primary, streams by its slot when it can, and takes over.
func TestStandby(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		w := world.New(t, world.Options{Major: major, WALSegmentSizeMiB: 1, Checksums: true})
		s := w.Server
		space := pg.TempDir(t)
		s.Exec("CREATE TABLESPACE one LOCATION '" + space + "'")
		s.Exec("CREATE TABLE log (n int) TABLESPACE one; INSERT INTO log VALUES (1)")
		w.Backup()
		s.Exec("SELECT pg_create_physical_replication_slot('second')")
		s.Exec("INSERT INTO log VALUES (2)")
		s.ArchiveAll()

		w.Check(w.RunRestore(w.NewDir("wrong"), "--standby", "--immediate"), 64, "has no target")
		w.Check(w.RunRestore(w.NewDir("wrong"), "--standby", "--action", "promote"), 64, "a standby has none")
		w.Check(w.RunRestore(w.NewDir("wrong"), "--primary-conninfo", "host=x"), 64, "only a standby")
		dir := w.NewDir("standby")
		nobody := "host=" + w.Dir + " port=1"
		restore(t, w, dir, "--standby", "--primary-conninfo", nobody, "--primary-slot-name", "second", "--tablespace", space+"="+w.NewDir("moved"))
		verify(w, dir, major)
		standby := w.Attach(dir)
		standby.Start()
		standby.AwaitValue("SELECT string_agg(n::text, ' ' ORDER BY n) FROM log", "1 2")
		for setting, want := range map[string]string{
			"primary_slot_name": "second", "recovery_target_timeline": "latest", "archive_mode": "on", "primary_conninfo": nobody, "transaction_read_only": "on",
		} {
			if got := standby.Value("SHOW " + setting); got != want {
				t.Errorf("%s is %q, want %q", setting, got, want)
			}
		}
		standby.Exec("ALTER SYSTEM SET primary_conninfo = '" + s.DSN("postgres") + "'")
		standby.Reload()
		s.Exec("INSERT INTO log VALUES (3)") // in no full segment yet
		standby.AwaitValue("SELECT string_agg(n::text, ' ' ORDER BY n) FROM log", "1 2 3")
		if active := s.Value("SELECT active FROM pg_replication_slots"); active != "t" {
			t.Errorf("the slot is active: %s", active)
		}
		s.Stop(pg.Fast)
		standby.Promote()
		standby.Exec("INSERT INTO log VALUES (4)")
		standby.ArchiveAll()
		sound(t, standby)
	})
}

// TestInterruptedProgram kills a restore that a rate limit holds up: what it leaves does not start, and the same command goes
// on, keeps what is there, and so reads less.
func TestInterruptedProgram(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{Store: world.MinIO, Count: true, WALSegmentSizeMiB: 1})
	for i := range 4 {
		w.Server.Exec(fmt.Sprintf("CREATE TABLE noise%d AS SELECT i, md5(i::text || random()) FROM generate_series(1, 100000) i", i))
	}
	w.Backup()
	w.Server.ArchiveAll()
	want := w.Server.Sums()
	w.ForgetRequests()
	restore(t, w, w.NewDir("whole"))
	whole, _ := packBytes(w)

	dir := w.NewDir("restored")
	cmd := w.Command("pgstow", "restore", dir, "--rate-limit", strconv.FormatInt(whole/10, 10))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pg.Await(t, "a part of the data", patient, func() (bool, error) { return allocated(dir) > 30<<20, nil })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("the restore was over before it was killed")
	}
	if err := w.Attach(dir).TryStart(); err == nil {
		t.Fatal("a half-done restore has started")
	}
	w.ForgetRequests()
	o := restore(t, w, dir)
	rest, _ := packBytes(w)
	if !o.Plan.Resume || o.Result.BytesKept < 2<<20 || rest > whole*8/10 {
		t.Errorf("%d bytes of packs for the rest, %d for all; %+v", rest, whole, o)
	}
	verify(w, dir, pg.DefaultMajor)
	r := w.StartRestored(dir)
	r.WaitPrimary()
	same(t, "restored", want, r)
}

// allocated is what the files below a folder take on disk.
func allocated(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() { // files come and go while the restore works
			if info, err := d.Info(); err == nil {
				n += info.Sys().(*syscall.Stat_t).Blocks * 512
			}
		}
		return nil
	})
	return n
}
