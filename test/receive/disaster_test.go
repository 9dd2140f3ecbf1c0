package receive_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// ownStore makes a world on a MinIO server of its own, which may be frozen.
func ownStore(t *testing.T, o world.Options) *world.World {
	t.Helper()
	o.Store, o.Own = world.MinIO, true
	return world.New(t, o)
}

// TestStall: a store that hangs makes the receiver let the server go, which keeps the WAL by the slot and can be stopped; when the store is
// back, so is the receiver.
func TestStall(t *testing.T) {
	t.Parallel()
	w := ownStore(t, world.Options{NoArchive: true, WALSegmentSizeMiB: 1})
	s := w.Server
	r := receive(t, w, "--create-slot", "--stall-timeout", "2s")
	r.AwaitText("receiving timeline 1")
	s.Exec("CREATE TABLE t AS SELECT generate_series(1, 100) AS i")
	awaitStored(t, s)
	w.MinIO.Freeze()
	s.Exec("INSERT INTO t VALUES (101)")
	before := s.Value("SELECT restart_lsn::text FROM pg_replication_slots")
	r.AwaitText("the connection is closed")
	s.AwaitValue("SELECT active::text FROM pg_replication_slots", "false")
	s.Exec("INSERT INTO t SELECT generate_series(102, 20000)")
	equal(t, "restart of the slot", s.Value("SELECT restart_lsn::text FROM pg_replication_slots"), before)
	s.Stop(pg.Fast)
	s.Start()
	w.MinIO.Thaw()
	awaitStored(t, s)
	equal(t, "connections", s.Value("SELECT count(*) FROM pg_stat_replication"), "1")
	r.Stop()
}

// TestSynchronous: what a client was told to be committed is in the store, although everything else dies at once.
func TestSynchronous(t *testing.T) {
	t.Parallel()
	world.EachStore(t, func(t *testing.T, store string) {
		w := world.New(t, world.Options{Store: store, NoArchive: true, WALSegmentSizeMiB: 1, Conf: map[string]string{"max_connections": "40"}})
		s := w.Server
		s.Exec("CREATE TABLE t (i int)")
		r := receive(t, w, "--create-slot", "--synchronous", "--flush-interval", "1h")
		r.AwaitText("no commit waits for this receiver")
		r.AwaitText("receiving timeline 1")
		s.AppendConf(map[string]string{"synchronous_standby_names": "ANY 1 (pgstow)", "synchronous_commit": "on"})
		s.Reload()
		s.AwaitValue("SELECT sync_state FROM pg_stat_replication", "quorum")
		w.Backup("--wal", "include")

		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var mu sync.Mutex
		var told []int
		var clients sync.WaitGroup
		for c := range 12 {
			clients.Go(func() {
				conn, err := s.Conn(ctx, "postgres")
				if err != nil {
					return
				}
				defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
				for i := 1; ; i++ {
					row := 100000*c + i
					if _, err := conn.Exec(ctx, "INSERT INTO t VALUES ($1)", row); err != nil {
						return
					}
					mu.Lock()
					told = append(told, row)
					mu.Unlock()
				}
			})
		}
		pg.Await(t, "commits", patience, func() (bool, error) {
			mu.Lock()
			defer mu.Unlock()
			return len(told) > 400, nil
		})
		s.Kill()
		r.Kill()
		clients.Wait()
		commits, puts := len(told), strings.Count(r.Output(), "stored main/")
		t.Logf("%s: %d commits, %d objects", store, commits, puts)

		restored := w.StartRestored(w.Restore())
		have := map[string]bool{}
		for row := range strings.FieldsSeq(rows(restored, "postgres")) {
			have[row] = true
		}
		for _, row := range told {
			if !have[fmt.Sprint(row)] {
				t.Errorf("%d was acknowledged, and is lost", row)
			}
		}
	})
}

// TestRemoteApply: a server that would wait until WAL is applied is refused, wherever it says so.
func TestRemoteApply(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{NoArchive: true, WALSegmentSizeMiB: 1})
	s := w.Server
	s.Exec("CREATE ROLE careful")
	s.Exec("ALTER ROLE careful SET synchronous_commit = remote_apply")
	s.AppendConf(map[string]string{"synchronous_standby_names": "other"})
	s.Reload()
	s.AwaitValue("SHOW synchronous_standby_names", "other")
	until := s.Value("SELECT pg_current_wal_lsn()::text")
	w.Must("wal", "receive", "--create-slot", "--until-lsn", until)
	w.Expect(12, []string{"remote_apply", "careful"}, "wal", "receive", "--application-name", "Other")
	s.AppendConf(map[string]string{"synchronous_standby_names": "*", "synchronous_commit": "local"})
	s.Reload()
	s.AwaitValue("SHOW synchronous_standby_names", "*")
	w.Expect(12, []string{"remote_apply", "careful"}, "wal", "receive")
	s.AppendConf(map[string]string{"synchronous_commit": "remote_apply"})
	s.Reload()
	w.Expect(12, []string{"synchronous_commit is remote_apply", "for ever"}, "wal", "receive", "--synchronous")
}

// TestMissing: the server has removed WAL that is not stored. It is said loudly, reception goes on, and the names show the hole.
func TestMissing(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"the slot was dropped", "the slot was invalidated"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			w := world.New(t, world.Options{NoArchive: true, WALSegmentSizeMiB: 1, Conf: map[string]string{
				"max_slot_wal_keep_size": "2MB", "min_wal_size": "2MB", "max_wal_size": "4MB", "wal_keep_size": "0",
			}})
			s := w.Server
			r := receive(t, w, "--create-slot")
			r.AwaitText("receiving timeline 1")
			s.Exec("CREATE TABLE t AS SELECT 1 AS i")
			first := s.SwitchWAL()
			s.Exec("INSERT INTO t VALUES (2)")
			awaitStored(t, s)
			r.Kill()
			s.AwaitValue("SELECT active::text FROM pg_replication_slots", "false")
			if how == "the slot was dropped" {
				w.Must("wal", "receive", "--drop-slot")
			}
			path := filepath.Join(s.Dir, "pg_wal", first)
			pg.Await(t, first+" to be removed", patience, func() (bool, error) {
				s.Exec("INSERT INTO t SELECT generate_series(3, 20000)")
				s.SwitchWAL()
				s.Exec("CHECKPOINT")
				_, err := os.Stat(path)
				return errors.Is(err, os.ErrNotExist), nil
			})
			for range 4 { // and those behind it
				s.SwitchWAL()
				s.Exec("CHECKPOINT")
			}
			r = receive(t, w, "--create-slot")
			r.AwaitText("WAL IS MISSING")
			r.AwaitText("receiving timeline 1")
			s.SwitchWAL()
			s.Exec("INSERT INTO t VALUES (0)")
			awaitStored(t, s)
			equal(t, "times that it was said", strings.Count(r.Output(), "WAL IS MISSING"), 1)
			equal(t, "slot", s.Value("SELECT (wal_status <> 'lost')::text FROM pg_replication_slots"), "true")
			var timelines []struct{ Holes []struct{ First string } }
			world.Decode(t, w.Run("wal", "list", "--json").Stdout, &timelines)
			if len(timelines) != 1 || len(timelines[0].Holes) != 1 || timelines[0].Holes[0].First <= first {
				t.Errorf("the list shows no hole, or another one: %+v", timelines)
			}
			// The next one goes on behind the hole without a word about it.
			r.Stop()
			r = receive(t, w)
			r.AwaitText("receiving timeline 1")
			s.Exec("INSERT INTO t VALUES (0)")
			awaitStored(t, s)
			equal(t, "times that it was said again", strings.Count(r.Output(), "WAL IS MISSING"), 0)
			r.Stop()
		})
	}
}
