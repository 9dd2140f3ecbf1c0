package chaos_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// strangers are the processes of pgstow that work for this stage's server, whoever has started them: calls of archive_command and
// restore_command, what these have left to work on, the receiver, backups. In the order of their ids.
func (st *stage) strangers() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		st.fatalf("%v", err)
	}
	var found []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err == nil && ofProgram(pid) && st.owns(pid) {
			found = append(found, pid)
		}
	}
	sort.Ints(found)
	return found
}

// ofProgram tells whether a process runs one of our programs. One that has ended has none.
func ofProgram(pid int) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && strings.HasPrefix(filepath.Base(exe), "pgstow")
}

// owns tells whether a process was given this stage's spool, or works there.
func (st *stage) owns(pid int) bool {
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	if err == nil && strings.HasPrefix(cwd, st.Dir+"/") {
		return true
	}
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return err == nil && bytes.Contains(env, []byte("PGSTOW_SPOOL="+st.spool+"\x00"))
}

// children are the processes that a process has started.
func children(pid int) []int {
	var found []int
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil
	}
	for _, path := range tasks {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		for _, f := range strings.Fields(string(b)) {
			if child, err := strconv.Atoi(f); err == nil {
				found = append(found, child)
			}
		}
	}
	sort.Ints(found)
	return found
}

// endStrangers kills all processes of pgstow, until there are none.
func (st *stage) endStrangers() {
	deadline := time.Now().Add(time.Minute)
	for {
		list := st.strangers()
		for _, pid := range list {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if len(list) == 0 {
			return
		}
		if time.Now().After(deadline) {
			st.t.Errorf("processes %v do not die", list)
			return
		}
		rest(st.t.Context(), 2*time.Millisecond)
	}
}

// aStranger waits a little for a process of pgstow and returns one of them by a number; 0 if there is none.
func (st *stage) aStranger(pick int) int {
	for deadline := time.Now().Add(500 * time.Millisecond); time.Now().Before(deadline); {
		if list := st.strangers(); len(list) > 0 {
			return list[pick%len(list)]
		}
		rest(st.t.Context(), time.Millisecond)
	}
	return 0
}
