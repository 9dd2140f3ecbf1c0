package ahead_test

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// memory samples the largest sums of what our programs held at a time.
type memory struct {
	mu    sync.Mutex
	own   int64 // bytes that the kernel could not have taken back
	total int64 // with the pages of programs and mapped files, counted for each process that sees them
}

// watch samples until stop is called.
func (m *memory) watch(dir string) (stop func()) {
	ended := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		for {
			select {
			case <-ended:
				return
			case <-time.After(5 * time.Millisecond):
				own, total := ours(dir)
				m.mu.Lock()
				m.own, m.total = max(m.own, own), max(m.total, total)
				m.mu.Unlock()
			}
		}
	})
	return func() {
		close(ended)
		done.Wait()
	}
}

// ours sums the memory of the programs that have a spool below dir in their environment.
func ours(dir string) (own, total int64) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, 0
	}
	for _, e := range entries {
		line, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err != nil || !bytes.Contains(bytes.SplitN(line, []byte{0}, 2)[0], []byte("pgstow")) {
			continue
		}
		environ, err := os.ReadFile("/proc/" + e.Name() + "/environ")
		if err != nil || !bytes.Contains(environ, []byte("PGSTOW_SPOOL="+dir+"/")) {
			continue
		}
		own += field(e.Name(), "RssAnon:") + field(e.Name(), "RssShmem:")
		total += field(e.Name(), "VmRSS:")
	}
	return own, total
}

func field(pid, name string) int64 {
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(status), name)
	kilobytes, err := strconv.ParseInt(strings.Fields(rest + " 0")[0], 10, 64)
	if err != nil {
		return 0
	}
	return kilobytes << 10
}

// queue is how many files of which size wait.
type queue struct{ mib, files int }

// TestMemory: a queue of files of any size is stored within the memory that is promised, all processes together. The largest segments that there are
// take half a minute and 6 GiB of disk: `make chaos RUN=TestMemory PKG=./test/ahead`. Those of 256 MiB do not fit into that memory either.
func TestMemory(t *testing.T) {
	queues := []queue{{16, 12}, {256, 1}}
	if pg.Rounds(t, 0) > 0 {
		queues = append(queues, queue{1024, 1})
	}
	for _, c := range queues {
		t.Run(fmt.Sprintf("%d MiB", c.mib), func(t *testing.T) {
			if c.mib > 16 {
				pg.Long(t, "writes 2 GiB")
			}
			t.Parallel()
			const limit = 200 << 20
			s := newStage(t, world.Options{WALSegmentSizeMiB: c.mib, Env: []string{foreverIdle}, Conf: map[string]string{
				"max_wal_size": "16GB", "min_wal_size": strconv.Itoa(2*c.mib) + "MB", "full_page_writes": "off",
			}})
			// WAL that does not compress, which is the most to hold.
			s.Server.Exec(`CREATE FUNCTION fill() RETURNS void LANGUAGE plpgsql AS $$
				DECLARE
					segment text := pg_walfile_name(pg_current_wal_insert_lsn());
					noise bytea; -- longer than what is compressed at a time
				BEGIN
					SELECT string_agg(decode(md5(random()::text || i), 'hex'), '') INTO noise FROM generate_series(1, 100000) i;
					WHILE pg_walfile_name(pg_current_wal_insert_lsn()) = segment LOOP
						PERFORM pg_logical_emit_message(false, 'noise', noise);
					END LOOP;
				END $$`)
			for range c.files {
				if c.mib < 1024 {
					s.Server.Exec("SELECT fill()")
				} else {
					s.Server.SwitchWAL()
				}
			}
			s.Server.SwitchWAL()
			s.settle()
			if len(s.names) < c.files {
				t.Fatalf("only %d files wait", len(s.names))
			}
			var m memory
			stop := m.watch(s.Dir)
			s.resume(program(t))
			s.awaitEmpty()
			stop()
			s.wantAll()
			t.Logf("%d files of %d MiB: at most %d MiB at a time, %d with mapped files", len(s.names), c.mib, m.own>>20, m.total>>20)
			if m.own == 0 || m.own > limit || c.mib == 16 && m.total > limit {
				t.Errorf("%d bytes of memory, %d with mapped files, want at most %d", m.own, m.total, limit)
			}
		})
	}
}
