package stream_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// standbyOf makes a standby of the world's server from its newest backup.
func standbyOf(t *testing.T, w *world.World) *pg.Server {
	t.Helper()
	conninfo := fmt.Sprintf("host=%s port=%d user=postgres", w.Server.SocketDir, w.Server.Port)
	dir := w.Restore("--standby", "--primary-conninfo", conninfo)
	s := pg.Attach(t, dir, pg.Options{Major: w.Server.Install.Major, Env: w.Env()})
	s.Start()
	s.AwaitValue("SELECT (count(*) > 0)::text FROM pg_stat_wal_receiver WHERE status = 'streaming'", "true")
	return s
}

// TestStandby: a backup of a standby while the primary works, proven by the standby's own WAL; then of the same server after its promotion,
// on a timeline of its own and beginning with the backup that it had as a standby.
func TestStandby(t *testing.T) {
	t.Parallel()
	w := newWorld(t, world.Options{WALSegmentSizeMiB: 1, Conf: map[string]string{"wal_keep_size": "128MB"}})
	s := w.Server
	s.PgbenchInit(1)
	stream(t, w, s)
	standby := standbyOf(t, w)
	stop := make(chan struct{})
	written := make(chan struct{})
	go func() {
		defer close(written)
		for { // the WAL that the backup needs is archived when it is full
			select {
			case <-stop:
				return
			default:
				_, err := s.TryPgbench(t.Context(), "-n", "-t", "200")
				if err == nil {
					err = s.TryExec("postgres", "SELECT pg_switch_wal()")
				}
				if err != nil {
					t.Errorf("the primary's work: %v", err)
					return
				}
			}
		}
	}()
	b := stream(t, w, standby)
	close(stop)
	<-written
	if !b.Standby || b.Timeline != 1 {
		t.Errorf("%+v", b)
	}
	want := sumsOf(s)
	r := restored(t, w, nil, false, "--backup", b.ID)
	holds(t, "restored", r, want)
	r.Stop(pg.Fast)
	s.Stop(pg.Fast)
	standby.Promote()
	standby.WaitPrimary()
	standby.Exec("UPDATE pgbench_tellers SET tbalance = 42")
	promoted := stream(t, w, standby)
	if promoted.Standby || promoted.Timeline != 2 || promoted.Reference == "" {
		t.Errorf("%+v", promoted)
	}
	want = sumsOf(standby)
	holds(t, "restored after the promotion", restored(t, w, nil, false, "--backup", promoted.ID), want)
}

// TestForeignArchive: what the archive has under the names that the backup needs is another server's WAL of the same timeline: the backup is
// refused.
func TestForeignArchive(t *testing.T) {
	t.Parallel()
	w := newWorld(t, world.Options{WALSegmentSizeMiB: 1})
	s := w.Server
	s.PgbenchInit(1)
	stream(t, w, s)
	s.Stop(pg.Fast)
	// A copy goes on from the same point under the same names, and its WAL is to come from a receiver.
	dir := w.NewDir("copy")
	if err := world.CopyDir(t.Context(), s.Dir, dir); err != nil {
		t.Fatal(err)
	}
	s.Start()
	s.PgbenchRun(0)
	s.Exec("CREATE TABLE here (a int)")
	s.ArchiveAll()
	s.ArchiveAll()
	clone := pg.Attach(t, dir, pg.Options{Major: s.Install.Major, Args: []string{"-c", "archive_mode=off"}})
	clone.Start()
	clone.Exec("CREATE TABLE elsewhere AS SELECT g FROM generate_series(1, 100) g")
	before := len(w.KeysWith("/backup/"))
	r := w.RunOn(clone, []string{streamer, "PGSTOW_ARCHIVE_TIMEOUT=2s"}, "backup", "create", "--source", "stream")
	w.Check(r, 1, "is not this server's", "it differs from the file in pg_wal")
	if after := len(w.KeysWith("/backup/")); after != before {
		t.Errorf("%d manifests, %d before", after, before)
	}
}

// TestInPlace: a tablespace that is a folder of the data directory.
func TestInPlace(t *testing.T) {
	t.Parallel()
	for _, major := range pg.Majors(t, 15, 17) { // which send such tablespaces in two ways
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			pg.Need(t, major)
			w := newWorld(t, world.Options{Major: major, WALSegmentSizeMiB: 1})
			s := w.Server
			for _, sql := range []string{"SET allow_in_place_tablespaces = on; CREATE TABLESPACE inside LOCATION ''"} {
				if out, err := pg.Command(t.Context(), client(t, "psql"), append([]string{"-X", "-d", s.DSN("postgres")}, eachStatement(sql)...)...).CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			}
			s.Exec("CREATE TABLE t TABLESPACE inside AS SELECT g AS a FROM generate_series(1, 1000) g")
			oid := s.Value("SELECT oid FROM pg_tablespace WHERE spcname = 'inside'")
			for range 2 {
				stream(t, w, s)
			}
			r := restored(t, w, nil, false)
			holds(t, "restored", r, sumsOf(s))
			if info, err := os.Lstat(filepath.Join(r.Dir, "pg_tblspc", oid)); err != nil || !info.IsDir() {
				t.Errorf("pg_tblspc/%s: %v, %v", oid, info, err)
			}
		})
	}
}

func eachStatement(sql string) (args []string) {
	for s := range strings.SplitSeq(sql, ";") {
		args = append(args, "-c", s)
	}
	return args
}
