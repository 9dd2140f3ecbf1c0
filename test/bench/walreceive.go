package main

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"pgstow/test/minio"
	"pgstow/test/pg"
)

// flushInterval is the default of `pgstow wal receive`.
const flushInterval = time.Second

// receive times streaming: how long after its commit a transaction is in the store, what it costs to receive, and what commits that wait for
// the store cost.
func (b *bench) receive(m *minio.Server) {
	server := pg.New(b, pg.Options{Conf: map[string]string{
		"wal_level": "replica", "max_wal_senders": "8", "max_replication_slots": "8", "max_wal_size": "16GB", "shared_buffers": "256MB", "checkpoint_timeout": "1h",
	}, Fsync: true})
	server.PgbenchInit(20)
	b.lag(m, server)
	b.synchronous(m, server)
}

// receiver starts `pgstow wal receive` and waits until it streams. stop ends it as systemd would.
func (b *bench) receiver(env []string, server *pg.Server, args ...string) (stop func() sample) {
	words := append([]string{"wal", "receive", "--slot", "bench", "--create-slot", "--pgdata", server.Dir}, args...)
	cmd := pg.Command(b.ctx(), filepath.Join(b.bin, "pgstow"), words...)
	cmd.Env = append(append(cmd.Env, env...), server.Env()...)
	var out syncBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		b.Fatalf("%v", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	pg.Await(b, "a receiver that streams", time.Minute, func() (bool, error) {
		select {
		case err := <-done:
			return false, fmt.Errorf("it ended: %w\n%s", err, out.String())
		default:
		}
		n, err := server.TryValue("postgres", "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND flush_lsn IS NOT NULL")
		return n == "1", err
	})
	return func() sample {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := <-done; err != nil {
			b.Fatalf("pgstow wal receive: %v\n%s", err, out.String())
		}
		return sample{cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), rss: peak(cmd)}
	}
}

// lag commits rows one by one, with pauses, and sees when the server is told that each is stored; then it has a full load received.
func (b *bench) lag(m *minio.Server, server *pg.Server) {
	set := &walSet{server: server}
	env := b.walRepository(m, set)
	stop := b.receiver(env, server)
	conn, err := server.Conn(b.ctx(), "postgres")
	if err != nil {
		b.Fatalf("%v", err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	server.Exec("CREATE TABLE IF NOT EXISTS lag (id serial, t timestamptz DEFAULT now())")
	stored := &side{name: "commit to stored"}
	for range 30 {
		if _, err := conn.Exec(b.ctx(), "INSERT INTO lag DEFAULT VALUES"); err != nil {
			b.Fatalf("%v", err)
		}
		begun := time.Now()
		var lsn string
		if err := conn.QueryRow(b.ctx(), "SELECT pg_current_wal_flush_lsn()::text").Scan(&lsn); err != nil {
			b.Fatalf("%v", err)
		}
		for ok := false; !ok; {
			if err := conn.QueryRow(b.ctx(), "SELECT coalesce(bool_or(flush_lsn >= $1::pg_lsn), false) FROM pg_stat_replication", lsn).Scan(&ok); err != nil {
				b.Fatalf("%v", err)
			}
		}
		stored.samples = append(stored.samples, sample{wall: time.Since(begun)})
		<-time.After(time.Duration(len(stored.samples)*37%400) * time.Millisecond) // commits fall anywhere between two flushes
	}
	b.rows = append(b.rows, row{"receive: from commit to stored", stored, &side{name: "flush interval of 1 s", samples: []sample{{wall: flushInterval}}}, "<= 1 + a PUT"})

	before := server.Value("SELECT pg_current_wal_flush_lsn() - '0/0'::pg_lsn")
	for range 12 {
		server.Exec("CHECKPOINT")
		server.Pgbench("-n", "-c", "4", "-j", "2", "-t", "2000", "postgres")
	}
	server.AwaitValue("SELECT bool_and(flush_lsn >= pg_current_wal_flush_lsn() - 1000) FROM pg_stat_replication", "t")
	used := stop()
	written := b.number(server.Value("SELECT pg_current_wal_flush_lsn() - '0/0'::pg_lsn")) - b.number(before)
	perGB := time.Duration(float64(used.cpu) / written * 1e9)
	b.Logf("receive: %.2f GB of WAL took %v of processor time, %v a GB, %d MB", written/1e9, short(used.cpu), short(perGB), used.rss/1e6)
	one := &side{name: "pgstow wal receive", samples: []sample{{wall: perGB, cpu: perGB, rss: used.rss}}}
	b.rows = append(b.rows, row{"receive: processor time for a GB of WAL", one, &side{name: "a second", samples: []sample{{wall: time.Second}}}, "report"})
}

func (b *bench) number(s string) float64 {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		b.Fatalf("%v", err)
	}
	return f
}

// synchronous pairs pgbench with 16 clients whose commits wait for the store with the same that do not.
func (b *bench) synchronous(m *minio.Server, server *pg.Server) {
	set := &walSet{server: server}
	env := b.walRepository(m, set)
	waits, free := &side{name: "commits wait for the store"}, &side{name: "asynchronous"}
	var tps [2][]float64
	for i := range b.rounds {
		for j, s := range []*side{waits, free} {
			var stop func() sample
			if j == 0 {
				stop = b.receiver(env, server, "--synchronous")
				server.Exec("ALTER SYSTEM SET synchronous_standby_names = '*'")
			} else {
				stop = b.receiver(env, server)
				server.Exec("ALTER SYSTEM SET synchronous_standby_names = ''")
			}
			server.Reload()
			server.AwaitValue("SELECT sync_state FROM pg_stat_replication", []string{"sync", "async"}[j])
			rate := b.tps(server.Pgbench("-n", "-c", "16", "-j", "2", "-T", "10", "postgres"))
			tps[j] = append(tps[j], rate)
			s.samples = append(s.samples, sample{wall: time.Duration(float64(time.Second) / rate)})
			server.Exec("ALTER SYSTEM SET synchronous_standby_names = ''")
			server.Reload()
			server.AwaitValue("SELECT sync_state FROM pg_stat_replication", "async")
			stop()
		}
		b.Logf("synchronous %d/%d: %.0f and %.0f transactions a second", i+1, b.rounds, tps[0][i], tps[1][i])
	}
	for _, t := range tps {
		slices.Sort(t)
	}
	b.Logf("synchronous: %.0f transactions a second, asynchronous: %.0f", tps[0][len(tps[0])/2], tps[1][len(tps[1])/2])
	b.rows = append(b.rows, row{"receive: pgbench -c 16, time a transaction", waits, free, "report"})
}

var tpsLine = regexp.MustCompile(`(?m)^tps = ([0-9.]+)`)

func (b *bench) tps(output string) float64 {
	found := tpsLine.FindStringSubmatch(output)
	if found == nil {
		b.Fatalf("no tps in %s", output)
	}
	return b.number(found[1])
}

// syncBuffer collects the output of a process that runs.
type syncBuffer struct {
	mu sync.Mutex
	b  []byte
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.b = append(s.b, p...)
	return len(p), nil
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.b)
}
