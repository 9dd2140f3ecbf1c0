package chaos_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgstow/catalog"
	"pgstow/storage/object"
	"pgstow/storage/s3"
	"pgstow/test/e2e/world"
	"pgstow/test/minio"
	"pgstow/wal"
)

// way is how the WAL gets into the archive, and so what is promised.
type way struct {
	push        bool // by archive_command
	receive     bool // by pgstow wal receive
	synchronous bool // the server waits for the receiver with each commit
}

// scenario is one run.
type scenario struct {
	way       way
	store     string // world.File or world.MinIO
	segMiB    int
	encrypted bool
	long      bool // not without being asked
	// archiveCommand replaces the one that the world would set.
	archiveCommand string
}

// stage is a cluster with its clients, its archive and all that can be killed.
type stage struct {
	*world.World
	scenario

	t      *testing.T
	seed   uint64
	round  int
	random *rand.Rand // of this round: the same in each run with the same seed
	ledger *ledger
	load   *load
	spool  string
	ref    catalog.ClusterRef
	size   wal.SegmentSize
	ids    []object.Identity

	era      int // number of disasters so far
	branch   branch
	told     map[string]bool // WAL files that the server was told are archived, on the present timeline
	audited  map[string]bool // keys of objects that have been looked at
	receiver *receiver       // nil while there is none
	storeOut bool            // MinIO is down
	full     func()          // makes room in the spool again; nil while there is
	counts   map[string]int  // of what happened, for the end
}

// branch is the timeline that the server writes.
type branch struct {
	timeline wal.TimelineID
	begin    wal.LSN // the fork, or on timeline 1 where the first backup starts
}

// seedOf is the seed of a test: PGSTOW_TEST_SEED; else with a given number of rounds another one in each run; else that of the test's name.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	if text := os.Getenv("PGSTOW_TEST_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("PGSTOW_TEST_SEED: %v", err)
		}
		return seed
	}
	if os.Getenv("PGSTOW_TEST_ROUNDS") != "" {
		return uint64(time.Now().UnixMilli())
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(t.Name()))
	return h.Sum64() >> 32
}

// newStage makes the cluster, its archive and a first backup, and lets the clients write.
func newStage(t *testing.T, sc scenario) *stage {
	t.Helper()
	st := &stage{
		scenario: sc, t: t, seed: seedOf(t), size: wal.SegmentSize(sc.segMiB << 20),
		told: map[string]bool{}, audited: map[string]bool{}, counts: map[string]int{},
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d, round %d, after disaster %d: PGSTOW_TEST_SEED=%d makes the same choices again", st.seed, st.round, st.era, st.seed)
			if st.receiver != nil {
				t.Logf("end of what the receiver has said:\n%s", st.receiver.tail())
			}
		}
	})
	st.random = rand.New(rand.NewPCG(st.seed, 0))
	st.ledger = newLedger(st.seed, workers)
	st.World = newWorld(t, sc)
	t.Cleanup(func() {
		st.Server.Kill()
		st.endStrangers()
		st.makeRoom()
	})
	st.spool = filepath.Join(st.Dir, "spool1")
	if sc.encrypted {
		st.ids = identities(t, st.IdentityFile)
	}
	id, err := strconv.ParseUint(st.Server.SystemID(), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	st.ref = catalog.ClusterRef{Name: "main", SystemID: id}
	st.receive()
	st.Server.Exec(createTable)
	st.write()
	b := st.Backup(st.backupArgs()...)
	begin, err := wal.ParseLSN(b.StartLSN)
	if err != nil {
		t.Fatal(err)
	}
	st.branch = branch{1, begin}
	return st
}

// newWorld makes a world whose MinIO is its own and may be killed.
func newWorld(t *testing.T, sc scenario) *world.World {
	t.Helper()
	o := world.Options{
		WALSegmentSizeMiB: sc.segMiB, Encrypted: sc.encrypted, NoArchive: !sc.way.push, ArchiveCommand: sc.archiveCommand, Checksums: true,
		Env: []string{"PGSTOW_PUSH_DEADLINE=5s", "PGSTOW_ARCHIVE_TIMEOUT=2m"},
		Conf: map[string]string{
			// What was archived stays long enough to be seen as such; the rest is what makes a test's server fast.
			"wal_keep_size": "512MB", "max_wal_size": strconv.Itoa(8*max(sc.segMiB, 4)) + "MB",
			"archive_timeout": "5s", "autovacuum_naptime": "10s", "wal_sender_timeout": "10s",
		},
	}
	if sc.way.synchronous {
		o.Conf["synchronous_commit"], o.Conf["synchronous_standby_names"] = "on", receiverName
	}
	var m *minio.Server
	const bucket = "chaos"
	if sc.store == world.MinIO {
		m = minio.New(t, minio.Options{Buckets: []string{bucket}})
		o.Env = append(append(o.Env, m.Env()...), "PGSTOW_REPO="+m.URL(bucket, "pg"))
	}
	w := world.New(t, o)
	if m == nil {
		return w
	}
	store, err := s3.Open(t.Context(), s3.Options{
		Bucket: bucket, Prefix: "pg", Endpoint: m.Endpoint, Region: minio.Region,
		Credentials: &s3.Credentials{AccessKey: minio.AccessKey, SecretKey: minio.SecretKey},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.MinIO, w.URL, w.Kind, w.Store = m, m.URL(bucket, "pg"), world.MinIO, store
	return w
}

func identities(t *testing.T, path string) []object.Identity {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := object.ParseIdentities(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// receive starts the receiver, if there is to be one.
func (st *stage) receive() {
	st.t.Helper()
	if st.way.receive {
		st.receiver = startReceiver(st)
	}
}

// write lets the clients write.
func (st *stage) write() {
	st.t.Helper()
	st.load = startLoad(st.t, st.Server, st.ledger, st.era, st.segMiB)
	st.t.Cleanup(st.load.Stop)
}

// backupArgs are those of every backup: without archive_command only the receiver stores its WAL.
func (st *stage) backupArgs() []string {
	if st.way.push {
		return nil
	}
	return []string{"--wal", "include"}
}

// count notes that something happened.
func (st *stage) count(what string) { st.counts[what]++ }

// fatalf ends the test with the seed and the round.
func (st *stage) fatalf(format string, args ...any) {
	st.t.Helper()
	st.t.Fatalf("seed %d, round %d: %s", st.seed, st.round, fmt.Sprintf(format, args...))
}

// await is pg.Await that names seed and round, and the end of the server's log.
func (st *stage) await(what string, timeout time.Duration, cond func() (bool, error)) {
	st.t.Helper()
	st.Server.Await(fmt.Sprintf("%s (seed %d, round %d)", what, st.seed, st.round), timeout, cond)
}

// advance waits until so many more commits are acknowledged; when that takes too long, since all that could acknowledge one is down, it goes on.
func (st *stage) advance(commits int, limit time.Duration) {
	ctx, cancel := context.WithTimeout(st.t.Context(), limit)
	defer cancel()
	for want := st.ledger.Acknowledged() + commits; st.ledger.Acknowledged() < want && ctx.Err() == nil; {
		rest(ctx, 2*time.Millisecond)
	}
}

const startLimit = 2 * time.Minute

// start starts the server as its operator would, and again if it does not come up: processes of a killed one may still be there, and a killed
// restore_command ends a recovery.
func (st *stage) start() {
	st.t.Helper()
	st.await("the server to take writes", startLimit, func() (bool, error) {
		up := st.Server.Running() || st.Server.TryStart() == nil
		return up && st.writable(), nil
	})
}

// ready waits until the server takes writes: after the death of one of its processes it restarts by itself.
func (st *stage) ready() {
	st.t.Helper()
	st.await("the server to take writes again", startLimit, func() (bool, error) {
		if !st.Server.Running() {
			return false, errors.New("it has ended")
		}
		return st.writable(), nil
	})
}

func (st *stage) writable() bool {
	v, err := st.Server.TryValue("postgres", "SELECT pg_is_in_recovery()")
	return err == nil && v == "f"
}

// storeUp ends an outage of the store.
func (st *stage) storeUp() {
	st.t.Helper()
	if st.storeOut {
		st.MinIO.Start()
		st.storeOut = false
	}
}

// listen notes which files the server was told to be archived: they have to be there, whatever happens. It looks at the data directory, so that
// a dead server's word counts too. Of older timelines only what a promotion leaves counts: the rest was restored from the archive, and be it
// from pieces (KeepFileRestoredFromArchive in backend/access/transam/xlogarchive.c).
func (st *stage) listen() {
	st.t.Helper()
	if !st.way.push {
		return // a restore leaves such files too
	}
	done, err := filepath.Glob(filepath.Join(st.Server.Dir, "pg_wal", "archive_status", "*.done"))
	if err != nil {
		st.fatalf("%v", err)
	}
	for _, path := range done {
		f, err := wal.ParseFileName(strings.TrimSuffix(filepath.Base(path), ".done"))
		if err != nil {
			st.fatalf("%s: %v", path, err)
		}
		if f.Kind != wal.Segment || f.Timeline == st.branch.timeline {
			st.told[f.String()] = true
		}
	}
}
