package pg

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// removeSharedMemory removes the System V segment that a killed postmaster has left: a few bytes, of which the kernel has room for 4096 in all
// (PGSharedMemoryCreate in src/backend/port/sysv_shmem.c). A server that starts again removes its own; one whose directory is gone does not.
func removeSharedMemory(postmaster int) {
	b, err := os.ReadFile("/proc/sysvipc/shm")
	if err != nil {
		return // this kernel has none
	}
	for line := range strings.Lines(string(b)) {
		// key shmid perms size cpid lpid nattch ...
		f := strings.Fields(line)
		if len(f) < 7 || f[4] != strconv.Itoa(postmaster) || f[6] != "0" {
			continue
		}
		if id, err := strconv.Atoi(f[1]); err == nil {
			_, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil) // somebody may have been faster
		}
	}
}
