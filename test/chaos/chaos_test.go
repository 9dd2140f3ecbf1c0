// Package chaos_test kills PostgreSQL, pgstow and the store in random order while clients write, and destroys the cluster again and again. What
// the clients were told is compared with what is restored.
//
// PGSTOW_TEST_ROUNDS is the number of rounds, PGSTOW_TEST_SEED the seed of one run that is to be repeated.
package chaos_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

func TestMain(m *testing.M) { os.Exit(world.Main(m)) }

// rounds by default: `make chaos` gives more.
const (
	shortRounds = 9
	eraRounds   = 7 // at most, between two disasters
)

// TestChaosPush: with archive_command alone the restored cluster has each transaction that was acknowledged before the end of the last segment of
// which the server was told, or which is stored, without a hole.
func TestChaosPush(t *testing.T) {
	each(t, way{push: true},
		scenario{store: world.MinIO, segMiB: 1},
		scenario{store: world.File, segMiB: 16, encrypted: true, long: true})
}

// TestChaosReceive: with pgstow wal receive alone it has each transaction that was acknowledged before the end of the last stored piece.
func TestChaosReceive(t *testing.T) {
	each(t, way{receive: true},
		scenario{store: world.File, segMiB: 16, encrypted: true},
		scenario{store: world.MinIO, segMiB: 1, long: true})
}

// TestChaosSynchronous: where the server waits for the receiver it has each transaction that was acknowledged.
func TestChaosSynchronous(t *testing.T) {
	each(t, way{receive: true, synchronous: true},
		scenario{store: world.MinIO, segMiB: 1},
		scenario{store: world.File, segMiB: 16, long: true})
}

// TestChaosBoth: push and receive at once store the same bytes under the same names, and keep both promises.
func TestChaosBoth(t *testing.T) {
	each(t, way{push: true, receive: true},
		scenario{store: world.File, segMiB: 1},
		scenario{store: world.MinIO, segMiB: 16, encrypted: true, long: true})
}

// each runs scenarios side by side; the long ones only when rounds are asked for.
func each(t *testing.T, w way, list ...scenario) {
	t.Helper()
	t.Parallel()
	for _, sc := range list {
		if sc.way = w; sc.long && os.Getenv("PGSTOW_TEST_ROUNDS") == "" {
			continue
		}
		t.Run(fmt.Sprintf("%s %d MiB", sc.store, sc.segMiB), func(t *testing.T) { run(t, sc) })
	}
}

// run runs a scenario: rounds with one act each, and disasters between them.
func run(t *testing.T, sc scenario) {
	t.Helper()
	t.Parallel()
	st := newStage(t, sc)
	rounds := pg.Rounds(t, shortRounds)
	next := 1 + rand.New(rand.NewPCG(st.seed, 1)).IntN(eraRounds)
	for st.round = 1; st.round <= rounds; st.round++ {
		r := rand.New(rand.NewPCG(st.seed, uint64(1000+st.round)))
		heal, dieAfter := r.IntN(2) == 0, 1+r.IntN(eraRounds)
		a := st.draw(r)
		st.count(a.name)
		if heal {
			st.storeUp()
		}
		t.Logf("round %d: %s", st.round, a.name)
		st.soon(r)
		a.do(st, r)
		st.listen()
		if next--; next <= 0 || st.round == rounds {
			next = dieAfter
			st.disaster(r)
		}
	}
	st.load.Stop()
	t.Log(st.summary(rounds))
}

// summary says what has happened.
func (st *stage) summary(rounds int) string {
	lines := []string{fmt.Sprintf("seed %d: %d rounds, %d commits acknowledged", st.seed, rounds, st.ledger.Acknowledged())}
	for _, what := range slices.Sorted(maps.Keys(st.counts)) {
		lines = append(lines, fmt.Sprintf("%6d %s", st.counts[what], what))
	}
	return strings.Join(lines, "\n")
}
