package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"pgstow/test/pg"
)

// ourProcesses counts the processes of pgstow and their resident memory, in bytes; what they share is counted once for each.
func ourProcesses() (n int, rss int64, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, 0, err
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		comm, err := os.ReadFile(filepath.Join("/proc", e.Name(), "comm"))
		if name := strings.TrimSpace(string(comm)); err != nil || name != "pgstow" && name != "pgstow-wal" {
			continue // gone meanwhile, or somebody else's
		}
		environ, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if err != nil || !bytes.Contains(environ, []byte("PGSTOW_CLUSTER=bench\x00")) {
			continue
		}
		statm, err := os.ReadFile(filepath.Join("/proc", e.Name(), "statm"))
		fields := strings.Fields(string(statm))
		if err != nil || len(fields) < 2 {
			continue
		}
		pages, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil || pages == 0 {
			continue // a zombie
		}
		n++
		rss += pages * int64(os.Getpagesize())
	}
	return n, rss, nil
}

// adopt makes the processes that run ahead children of this one once nobody else's, so that their processor time can be asked for.
func (b *bench) adopt() {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		b.Fatalf("become the parent of orphans: %v", err)
	}
}

// reap waits until no process of ours is left that ran ahead: the next run must not find its help, nor pay for it. It returns their
// processor time.
func (b *bench) reap() (cpu time.Duration) {
	pg.Await(b, "the end of all processes of pgstow", time.Minute, func() (bool, error) {
		children, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
		if err != nil {
			return false, err
		}
		for _, word := range strings.Fields(string(children)) {
			pid, err := strconv.Atoi(word)
			if err != nil {
				return false, err
			}
			comm, err := os.ReadFile(filepath.Join("/proc", word, "comm"))
			if err != nil || strings.TrimSpace(string(comm)) != "pgstow" {
				continue // a server's process
			}
			var usage unix.Rusage
			if done, err := unix.Wait4(pid, nil, unix.WNOHANG, &usage); err == nil && done == pid {
				cpu += time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
			}
		}
		n, _, err := ourProcesses()
		return n == 0, err
	})
	return cpu
}

// watchMemory samples the memory of all processes of pgstow together every few milliseconds, until the returned function is called; it
// returns the greatest sum.
func (b *bench) watchMemory() (stop func() int64) {
	end, result := make(chan struct{}), make(chan int64)
	go func() {
		var peak int64
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-end:
				result <- peak
				return
			case <-tick.C:
				if _, rss, err := ourProcesses(); err == nil {
					peak = max(peak, rss)
				}
			}
		}
	}()
	return func() int64 {
		close(end)
		return <-result
	}
}
