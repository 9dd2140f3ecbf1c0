package chaos_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"pgstow/wal"
	"pgstow/wal/pgcontrol"
)

// disaster takes the machine away for good: server, data directory, and mostly the spool. Now and then its disk can be read once more. What is in the archive is judged, the cluster is
// restored in the original's place, and what the new server has is compared with what the clients know.
func (st *stage) disaster(r *rand.Rand) {
	st.t.Helper()
	calm, keepSpool, disturbed, patient := r.IntN(4) == 0, r.IntN(4) == 0, r.IntN(2) == 0, r.IntN(3) > 0
	readable := r.IntN(4) == 0 // the disk, once more
	switch {
	case calm:
		st.settle()
	case patient && st.way.push:
		st.progress()
	}
	st.listen()
	st.Server.Kill()
	st.load.Stop()
	if st.receiver != nil {
		st.receiver.kill()
	}
	st.endStrangers()
	st.listen()
	st.makeRoom()
	st.storeUp()
	if readable {
		st.save()
	}
	if err := os.RemoveAll(st.Server.Dir); err != nil {
		st.fatalf("%v", err)
	}
	if !keepSpool {
		st.deleteSpool(r)
	}

	a := st.list()
	p := st.promised(a, calm || readable)
	st.judgeArchive(a)
	dir := st.restore(r, disturbed)
	st.recover(r, dir, disturbed)
	for !st.arrive() {
		// The server is not started again: the directory is restored anew.
		st.count("recoveries killed at their very end")
		st.recover(r, st.restore(r, false), false)
	}
	st.judgeServer(p)
	st.era++
	st.count("disasters")
	st.told = map[string]bool{}
	st.branch = st.branchOf()
	st.receive()
	st.write()
}

// save stores what the archive lacks of the dead server's WAL: then nothing is lost.
func (st *stage) save() {
	st.t.Helper()
	result := st.Run("wal", "repair", "--pgdata", st.Server.Dir)
	if result.Code == 3 && !strings.Contains(result.Stderr, fmt.Sprintf(" %08X00000000", uint32(st.branch.timeline))) {
		st.count("holes of old timelines") // earlier disasters have left them
	} else if result.Code != 0 {
		st.fatalf("%s", result)
	}
	st.count("disks that could be read")
}

// progress waits until there is something of this era in the archive. It may not come: PostgreSQL starts an archiver that was killed with its
// command only after ten seconds, and asks one that has failed three times to wait a minute.
func (st *stage) progress() {
	st.storeUp()
	ctx, cancel := context.WithTimeout(st.t.Context(), 12*time.Second)
	defer cancel()
	for st.toldTo() <= st.branch.begin && ctx.Err() == nil {
		st.advance(10, 100*time.Millisecond)
		st.listen()
	}
}

// settle ends the load and waits until the archive has all of it: after whatever has happened, archiving gets on by itself.
func (st *stage) settle() {
	st.t.Helper()
	st.storeUp()
	st.ready()
	st.load.Stop()
	st.count("calm disasters")
	if st.way.push {
		name := st.Server.SwitchWAL()
		st.await("the archiving of "+name, startLimit, func() (bool, error) {
			st.listen()
			return st.told[name], nil
		})
	}
	if st.way.receive {
		st.awaitReceived()
	}
}

// awaitReceived waits until the archive has all that the server has written.
func (st *stage) awaitReceived() {
	st.t.Helper()
	at, err := wal.ParseLSN(st.Server.CurrentLSN())
	if err != nil {
		st.fatalf("%v", err)
	}
	st.await("the receiving of "+at.String(), startLimit, func() (bool, error) { return st.storedTo(st.list()) >= at, nil })
}

// promised is what the way of archiving promises of the transactions that were acknowledged.
func (st *stage) promised(a archived, calm bool) promise {
	stored := max(st.storedTo(a), st.toldTo())
	return promise{everything: st.way.synchronous || calm, stored: stored}
}

// judgeArchive fails the test if something that is stored is not right, or something is not stored that the server was told is.
func (st *stage) judgeArchive(a archived) {
	st.t.Helper()
	problems := append(st.audit(a), st.broken(a)...)
	if len(problems) > 0 {
		slices.Sort(problems)
		st.fatalf("the archive after disaster %d:\n%s", st.era+1, strings.Join(problems[:min(len(problems), maxProblems)], "\n"))
	}
}

// restore brings the cluster back, and repeats that if it is killed.
func (st *stage) restore(r *rand.Rand, disturbed bool) string {
	st.t.Helper()
	dir := st.NewDir("restored")
	if after := time.Duration(r.Int64N(int64(time.Second))); disturbed {
		cmd := st.Command("pgstow", "restore", dir, "--take-over")
		cmd.Env = append(cmd.Env, st.IdentityEnv()...)
		if st.killAfter(cmd, after) {
			st.count("restores killed")
		} else if cmd.ProcessState.ExitCode() == 0 {
			return dir
		}
	}
	// The machine may have been lost while segments were stored side by side.
	result := st.RunRestore(dir, "--take-over")
	if result.Code == 13 && strings.Contains(result.Stderr, "--stop-at-hole") {
		st.count("holes at the end")
		result = st.RunRestore(dir, "--take-over", "--stop-at-hole")
	}
	if result.Code != 0 {
		st.fatalf("%s", result)
	}
	return dir
}

// arrive starts the server, again and again if need be, until it takes writes; false: it must not be started any more.
func (st *stage) arrive() bool {
	st.t.Helper()
	adrift := false
	st.await("the end of recovery", startLimit, func() (bool, error) {
		if adrift = st.adrift(); adrift {
			return true, nil
		}
		up := st.Server.Running() || st.Server.TryStart() == nil
		return up && st.writable(), nil
	})
	return !adrift
}

// adrift tells whether a recovery was killed after PostgreSQL had removed recovery.signal and before the end of its last checkpoint, or could not
// fetch the history of the timeline that it left, which it asks for in between. Started again, the
// server would not know of the timeline that it had chosen, and go on writing the old one (StartupXLOG in backend/access/transam/xlog.c).
func (st *stage) adrift() bool {
	if st.Server.Running() {
		return false
	}
	_, err := os.Stat(filepath.Join(st.Server.Dir, "recovery.signal"))
	b, err2 := os.ReadFile(filepath.Join(st.Server.Dir, "global", "pg_control"))
	if err2 != nil {
		st.fatalf("%v", err2)
	}
	control, err2 := pgcontrol.Parse(b)
	if err2 != nil {
		st.fatalf("%v", err2)
	}
	return errors.Is(err, os.ErrNotExist) && control.State != pgcontrol.StateInProduction
}

// recover lets a restored server recover. Disturbed, the server and its calls of pgstow are killed on the way.
func (st *stage) recover(r *rand.Rand, dir string, disturbed bool) {
	st.t.Helper()
	st.Server = st.Attach(dir)
	for _, v := range st.IdentityEnv() {
		name, value, _ := strings.Cut(v, "=")
		st.Server.SetEnv(name, value)
	}
	kills := r.IntN(4)
	for range kills {
		after, server, pick := time.Duration(r.Int64N(int64(400*time.Millisecond))), r.IntN(2) == 0, r.IntN(1<<20)
		if !disturbed {
			continue
		}
		if st.adrift() {
			return
		}
		st.disturb(after, server, pick)
	}
}

// disturb lets a recovery run for a while and kills the server or its restore_command.
func (st *stage) disturb(after time.Duration, server bool, pick int) {
	if !st.Server.Running() {
		if err := st.Server.Launch(); err != nil {
			st.fatalf("%v", err)
		}
	}
	rest(st.t.Context(), after)
	st.count("recoveries disturbed")
	if server {
		st.Server.Kill()
		return
	}
	if pid := st.aStranger(pick); pid != 0 {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// judgeServer fails the test if the restored server breaks the promise.
func (st *stage) judgeServer(p promise) {
	st.t.Helper()
	rows, err := readRows(st.t.Context(), st.Server)
	if err != nil {
		st.fatalf("the restored rows: %v", err)
	}
	v := st.ledger.Judge(rows, p)
	if len(v.problems) > 0 {
		st.fatalf("after disaster %d the restored cluster is wrong (%d transactions were promised, %d are there):\n%s", st.era+1, v.due, v.present, v)
	}
	gone, alive := st.ledger.Settle(v)
	st.counts["acknowledged and lost by right"] += gone
	st.t.Logf("round %d, disaster %d: %d transactions were promised, %d are there, %d of them without an answer; %d acknowledged ones are lost by right; stored up to %s",
		st.round, st.era+1, v.due, alive, v.unplanned, gone, p.stored)
}

// branchOf is the timeline of the restored server.
func (st *stage) branchOf() branch {
	st.t.Helper()
	st.Server.Exec("CHECKPOINT") // it writes the timeline into pg_control
	n, err := strconv.ParseUint(st.Server.Value("SELECT timeline_id FROM pg_control_checkpoint()"), 10, 32)
	if err != nil {
		st.fatalf("%v", err)
	}
	tli := wal.TimelineID(n)
	b, err := os.ReadFile(filepath.Join(st.Server.Dir, "pg_wal", wal.HistoryName(tli).String()))
	if err != nil {
		st.fatalf("%v", err)
	}
	h, err := wal.ParseHistory(tli, b)
	if err != nil {
		st.fatalf("%v", err)
	}
	_, fork, ok := h.Parent()
	if !ok {
		st.fatalf("timeline %d has no parent", tli)
	}
	return branch{tli, fork}
}

// makeRoom ends that the spool is full.
func (st *stage) makeRoom() {
	if st.full != nil {
		st.full()
		st.full = nil
	}
}
