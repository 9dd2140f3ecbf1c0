package chaos_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// act is something that happens to a running system. What it does follows from the numbers that it draws; what that hits depends on the moment.
type act struct {
	name   string
	weight int
	needs  func(scenario) bool // nil: always
	do     func(*stage, *rand.Rand)
}

func needsStore(sc scenario) bool { return sc.store == world.MinIO }
func needsPush(sc scenario) bool  { return sc.way.push }

var acts = []act{
	{"kill the server with all its children", 6, nil, (*stage).killServer},
	{"kill the postmaster alone", 4, nil, (*stage).killPostmaster},
	{"kill one child of the server", 6, nil, (*stage).killChild},
	{"kill one pgstow", 8, nil, (*stage).killOne},
	{"kill every pgstow", 4, nil, (*stage).killAll},
	{"kill server and pgstow at once", 4, nil, (*stage).reboot},
	{"stop one pgstow for a moment", 5, nil, (*stage).stopOne},
	{"kill the store", 6, needsStore, (*stage).killStore},
	{"freeze the store for a moment", 3, needsStore, (*stage).freezeStore},
	{"kill store and server", 3, needsStore, (*stage).killStoreAndServer},
	{"delete the spool", 3, needsPush, (*stage).deleteSpool},
	{"spoil the spool", 3, needsPush, (*stage).spoilSpool},
	{"fill the spool", 3, needsPush, (*stage).fillSpool},
	{"switch segments", 5, nil, (*stage).switchSegments},
	{"back up", 3, nil, (*stage).backUp},
	{"kill a backup", 3, nil, (*stage).killBackup},
}

// draw chooses an act by its weight.
func (st *stage) draw(r *rand.Rand) act {
	var possible []act
	sum := 0
	for _, a := range acts {
		if a.needs == nil || a.needs(st.scenario) {
			possible = append(possible, a)
			sum += a.weight
		}
	}
	n := r.IntN(sum)
	for _, a := range possible {
		if n -= a.weight; n < 0 {
			return a
		}
	}
	return possible[0]
}

const someCommits = 40 // how many commits pass between two acts, at most

// soon waits for the clients: for a number of commits, but not for a server or a store that is down.
func (st *stage) soon(r *rand.Rand) {
	st.advance(1+r.IntN(someCommits), 700*time.Millisecond)
}

func (st *stage) killServer(*rand.Rand) {
	st.Server.Kill()
	st.listen()
	st.start()
}

// killPostmaster leaves the children to themselves: they see it and end.
func (st *stage) killPostmaster(*rand.Rand) {
	_ = syscall.Kill(st.Server.PID(), syscall.SIGKILL)
	if _, err := st.Server.Wait(time.Minute); err != nil {
		st.fatalf("%v", err)
	}
	st.start()
}

// killChild makes the postmaster end all the others and recover.
func (st *stage) killChild(r *rand.Rand) {
	pick := r.IntN(1 << 20)
	if list := children(st.Server.PID()); len(list) > 0 {
		_ = syscall.Kill(list[pick%len(list)], syscall.SIGKILL)
	}
	st.ready()
}

func (st *stage) killOne(r *rand.Rand) {
	st.call()
	if pid := st.aStranger(r.IntN(1 << 20)); pid != 0 {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		st.count("pgstow killed")
	}
}

func (st *stage) killAll(r *rand.Rand) {
	st.call()
	if st.aStranger(r.IntN(1<<20)) == 0 {
		return
	}
	for _, pid := range st.strangers() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		st.count("pgstow killed")
	}
}

// reboot is what the machine's power button does, but for what had not reached the disk.
func (st *stage) reboot(r *rand.Rand) {
	st.killAll(r)
	st.Server.Kill()
	for _, pid := range st.strangers() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	st.listen()
	st.start()
}

func (st *stage) stopOne(r *rand.Rand) {
	commits := r.IntN(3 * someCommits)
	st.call()
	pid := st.aStranger(r.IntN(1 << 20))
	if pid == 0 {
		return
	}
	st.count("pgstow stopped")
	_ = syscall.Kill(pid, syscall.SIGSTOP)
	st.advance(commits, 3*time.Second)
	_ = syscall.Kill(pid, syscall.SIGCONT)
}

// killStore leaves it down for this round, and often for the next one.
func (st *stage) killStore(*rand.Rand) {
	st.MinIO.Kill()
	st.storeOut = true
}

func (st *stage) killStoreAndServer(r *rand.Rand) {
	st.killStore(r)
	st.killServer(r)
}

func (st *stage) freezeStore(r *rand.Rand) {
	commits := r.IntN(3 * someCommits)
	if st.storeOut {
		return
	}
	st.MinIO.Freeze()
	st.advance(commits, time.Second)
	st.MinIO.Thaw()
}

func (st *stage) switchSegments(r *rand.Rand) {
	for range 1 + r.IntN(4) {
		st.call()
		st.advance(5, 100*time.Millisecond)
	}
}

// call ends the segment, so that there is something to do for pgstow. The server may be on its way down.
func (st *stage) call() {
	if st.Server.TryExec("postgres", "SELECT pg_logical_emit_message(false, 'switch', 'x'); SELECT pg_switch_wal()") != nil {
		st.count("switches failed")
	}
}

// deleteSpool is what somebody does who needs room.
func (st *stage) deleteSpool(*rand.Rand) {
	entries, err := os.ReadDir(st.spool)
	if err != nil {
		st.fatalf("%v", err)
	}
	for _, e := range entries {
		// A process may be writing there: what it adds is left.
		_ = os.RemoveAll(filepath.Join(st.spool, e.Name()))
	}
}

// spoilSpool changes a byte of each file there, or cuts it.
func (st *stage) spoilSpool(r *rand.Rand) {
	cut := r.IntN(3) == 0
	_ = filepath.WalkDir(st.spool, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil //nolint:nilerr // it has gone
		}
		spoil(path, cut)
		return nil
	})
}

// spoil does what it can: the file may go meanwhile.
func spoil(path string, cut bool) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return
	}
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, info.Size()/2); err == nil {
		_, _ = f.WriteAt([]byte{b[0] ^ 0xff}, info.Size()/2)
	}
	if cut {
		_ = f.Truncate(info.Size() / 2)
	}
}

// fillSpool lays a small and full file system over the spool; where nothing may be mounted the spool cannot be written. A later round ends it.
func (st *stage) fillSpool(r *rand.Rand) {
	if st.full != nil {
		st.full()
		st.full = nil
		return
	}
	options := "size=64k,mode=0700"
	if c := pg.Credential(); c != nil {
		options += fmt.Sprintf(",uid=%d,gid=%d", c.Uid, c.Gid)
	}
	switch err := unix.Mount("pgstow-test", st.spool, "tmpfs", 0, options); {
	case err == nil:
		st.full = func() {
			if err := unix.Unmount(st.spool, unix.MNT_DETACH); err != nil {
				st.fatalf("unmount: %v", err)
			}
		}
		if r.IntN(2) == 0 { // else there is room for marks, and for nothing else
			_ = os.WriteFile(filepath.Join(st.spool, "filler"), make([]byte, 64<<10), 0o600)
		}
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES), errors.Is(err, unix.ENOSYS):
		st.full = func() { _ = os.Chmod(st.spool, 0o700) }
		if err := os.Chmod(st.spool, 0o500); err != nil {
			st.fatalf("%v", err)
		}
	default:
		st.fatalf("mount: %v", err)
	}
}

// backUp must succeed: nothing is in its way but what earlier rounds have left behind.
func (st *stage) backUp(*rand.Rand) {
	st.storeUp()
	st.ready()
	st.Backup(st.backupArgs()...)
	st.count("backups")
}

func (st *stage) killBackup(r *rand.Rand) {
	after := time.Duration(r.Int64N(int64(1500 * time.Millisecond)))
	cmd := st.Command("pgstow", append([]string{"backup", "create"}, st.backupArgs()...)...)
	if killed := st.killAfter(cmd, after); killed {
		st.count("backups killed")
	}
}

// killAfter runs a command and kills it after a while; false: it had ended before.
func (st *stage) killAfter(cmd *exec.Cmd, after time.Duration) bool {
	if err := cmd.Start(); err != nil {
		st.fatalf("%v", err)
	}
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	_ = cmd.Wait() // it may fail: the store may be down
	return !timer.Stop()
}
