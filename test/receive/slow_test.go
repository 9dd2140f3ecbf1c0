package receive_test

import (
	"strings"
	"testing"

	"pgstow/test/e2e/world"
)

// TestSenderTimeout: while a store keeps the receiver waiting, nothing of what the server sends is read, its questions included. It is told all
// the same that somebody is there, however short its patience is: else each wait would cost a connection.
func TestSenderTimeout(t *testing.T) {
	t.Parallel()
	w := ownStore(t, world.Options{NoArchive: true, WALSegmentSizeMiB: 1, Conf: map[string]string{"wal_sender_timeout": "2s"}})
	s := w.Server
	r := receive(t, w, "--create-slot", "--stall-timeout", "10m")
	r.AwaitText("receiving timeline 1")
	s.Exec("CREATE TABLE t (i int, text text)")
	awaitStored(t, s)
	pid := s.Value("SELECT pid FROM pg_stat_replication")
	w.MinIO.Freeze()
	s.Exec("INSERT INTO t SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 30000) AS i") // more than waits anywhere on the way
	until := s.Value("SELECT (clock_timestamp() + '7 s')::text")
	s.AwaitValue("SELECT coalesce(bool_or(reply_time > '"+until+"'), false)::text FROM pg_stat_replication", "true")
	equal(t, "the server's process for it", s.Value("SELECT coalesce(max(pid), 0) FROM pg_stat_replication"), pid)
	w.MinIO.Thaw()
	awaitStored(t, s)
	equal(t, "the server's process for it", s.Value("SELECT pid FROM pg_stat_replication"), pid)
	if strings.Contains(s.Log(), "replication timeout") {
		t.Error("the server has ended a connection")
	}
	r.Stop()
}
