package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
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
