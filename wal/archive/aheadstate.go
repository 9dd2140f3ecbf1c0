package archive

import (
	"context"
	"time"

	"pgstow/storage"
	"pgstow/wal/spool"
)

// watch lets everything that moves to or from the store count for the whole run.
func (a *ahead) watch(outer context.Context) context.Context {
	return storage.WithProgress(outer, func(n int) error {
		a.moved.now()
		return storage.Progress(outer, n)
	})
}

// skips tells whether there is nothing to do for a file, as far as is known without looking.
func (a *ahead) skips(name string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.busy[name] || a.isMark[name] || time.Now().Before(a.rest)
}

func (a *ahead) setBusy(name string, busy bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if busy {
		a.busy[name] = true
	} else {
		delete(a.busy, name)
	}
}

// hasFailed tells whether a file is left to the server's own call.
func (a *ahead) hasFailed(name string, id spool.FileID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	f, ok := a.failed[name]
	if !ok {
		return false
	}
	if f.id != id || !f.until.IsZero() && time.Now().After(f.until) {
		delete(a.failed, name)
		return false
	}
	return true
}

func (a *ahead) addMark(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.isMark[name] {
		a.marked, a.isMark[name] = append(a.marked, name), true
	}
}

// tooFar tells whether as many files are stored ahead of the server as may be. It looks which ones the server has taken.
func (a *ahead) tooFar() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	left := a.marked[:0]
	for i, name := range a.marked {
		// The server takes them nearly in order: what follows one that it still waits for need not be looked at, unless there are too many.
		if i > 0 && len(left) == i && len(a.marked) < window {
			left = append(left, a.marked[i:]...)
			break
		}
		if isReady(a.status, name) {
			left = append(left, name)
			continue
		}
		delete(a.isMark, name)
		a.worked.now()
	}
	a.marked = left
	return len(a.marked)+len(a.busy) >= window
}
