package archive_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgstow/storage/fault"
	"pgstow/wal/archive"
	"pgstow/wal/spool"
)

// wait places a file into pg_wal and says that it waits to be archived.
func (w *world) wait(name string, content []byte) {
	w.t.Helper()
	w.place(name, content)
	must(w.t, os.MkdirAll(w.statusDir(), 0o700))
	write(w.t, filepath.Join(w.statusDir(), name+".ready"), nil)
}

func (w *world) statusDir() string { return filepath.Join(w.data, "pg_wal", "archive_status") }

func (w *world) workerOptions() archive.WorkerOptions {
	return archive.WorkerOptions{PushOptions: w.pushOptions(), Idle: 300 * time.Millisecond}
}

func (w *world) work(o archive.WorkerOptions) archive.WorkerResult {
	w.t.Helper()
	r, err := archive.RunWorker(w.t.Context(), o)
	must(w.t, err)
	return r
}

func (w *world) isMarked(name string) bool {
	w.t.Helper()
	id, err := spool.Stat(filepath.Join(w.data, "pg_wal", name))
	must(w.t, err)
	return w.spool.Stored(name, id)
}

// history is a history file of a timeline.
func history(tli int) (name string, content []byte) {
	return fmt.Sprintf("%08X.history", tli), fmt.Appendf(nil, "1\t0/A000000\tno recovery target specified\n%d\t0/B000000\tno recovery target specified\n", tli-1)
}

func TestWorkerStoresInTheServersOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var want []string
	for _, tli := range []int{0x3, 0xA} {
		name, content := history(tli)
		w.wait(name, content)
		want = append(want, name)
	}
	for _, name := range []string{firstSegment, plainSegment, switchedSegment, secondSegment} {
		w.wait(name, fixture(t, name))
		want = append(want, name)
	}
	slices.Sort(want[2:])
	write(t, filepath.Join(w.statusDir(), thirdSegment+".done"), nil)
	write(t, filepath.Join(w.statusDir(), "nonsense.ready"), nil)
	w.place(thirdSegment, fixture(t, thirdSegment))
	var sent []string
	o := w.workerOptions()
	o.Files = 1
	o.Store = recordPuts{w.store, &sent}
	r := w.work(o)
	if r.Stored != len(want) || r.Failed != 0 || r.Busy {
		t.Errorf("%+v, want %d stored", r, len(want))
	}
	sent = slices.DeleteFunc(sent, func(name string) bool { return strings.HasSuffix(name, ".json") })
	if !slices.Equal(sent, want) {
		t.Errorf("stored in the order %q, want %q", sent, want)
	}
	for _, name := range want {
		if !w.isMarked(name) {
			t.Errorf("%s is not marked", name)
		}
		if _, err := os.Stat(filepath.Join(w.statusDir(), name+".ready")); err != nil {
			t.Errorf("the worker changed archive_status: %v", err)
		}
	}
	// All is known now: neither another worker nor the server's calls ask the store.
	w.store.Reset()
	if r := w.work(w.workerOptions()); r.Stored != 0 {
		t.Errorf("stored again: %+v", r)
	}
	for _, name := range want {
		if r, err := archive.Push(t.Context(), w.pushOptions(), filepath.Join(w.data, "pg_wal", name)); err != nil || r.Outcome != archive.Marked {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	if n := w.store.Count(""); n != 0 {
		t.Errorf("%d requests for what was known", n)
	}
}

// TestWorkerReadsTheQueueInBatches: a long queue is read once for many files, and no more is stored ahead than the spool remembers.
func TestWorkerReadsTheQueueInBatches(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const files = 300
	for i := range files {
		w.wait(history(i + 3))
	}
	o := w.workerOptions()
	const window = 128
	if r := w.work(o); r.Stored != window || r.Scans > 3 {
		t.Errorf("%+v, want %d stored and few readings of the folder", r, window)
	}
	// The server takes what is stored, as fast as it can.
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; i < files && !stop.Load(); {
			name, _ := history(i + 3)
			id, err := spool.Stat(filepath.Join(w.data, "pg_wal", name))
			if err != nil || !w.spool.Stored(name, id) {
				<-time.After(time.Millisecond)
				continue
			}
			if err := os.Rename(filepath.Join(w.statusDir(), name+".ready"), filepath.Join(w.statusDir(), name+".done")); err != nil {
				t.Error(err)
			}
			i++
		}
	}()
	o.Idle = 5 * time.Second
	r := w.work(o)
	stop.Store(true)
	<-done
	if r.Stored != files-window || r.Scans > 40 {
		t.Errorf("%+v, want %d stored; %+v", r, files-window, archive.Troubles(time.Now(), filepath.Dir(w.spool.Dir())))
	}
}

func TestWorkerAndOthersFiles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.wait(plainSegment, fixture(t, plainSegment))
	w.wait(firstSegment, fixture(t, firstSegment))
	w.wait(secondSegment, make([]byte, 1<<20)) // damaged
	w.wait(thirdSegment, fixture(t, thirdSegment))
	w.wait(switchedSegment, fixture(t, switchedSegment))
	must(t, os.Remove(filepath.Join(w.data, "pg_wal", switchedSegment)))
	claim, ok := w.spool.Claim("push", firstSegment)
	if !ok {
		t.Fatal("no claim")
	}
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() { // another call gets on with it
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
				claim.Beat()
			}
		}
	}()
	r := w.work(w.workerOptions())
	close(stop)
	<-done
	claim.Release()
	if r.Stored != 2 || r.Failed != 1 {
		t.Errorf("%+v, want 2 stored and 1 failed once", r)
	}
	if w.isMarked(firstSegment) || w.isMarked(secondSegment) || !w.isMarked(thirdSegment) {
		t.Error("the wrong files are marked")
	}
	troubles := archive.Troubles(time.Now(), filepath.Dir(w.spool.Dir()))
	if len(troubles) != 1 || troubles[0].Name != secondSegment || !strings.Contains(troubles[0].Text, "refused") || troubles[0].PGData != w.data || troubles[0].Cluster != "main" {
		t.Errorf("troubles %+v", troubles)
	}
	w.wait(secondSegment, fixture(t, secondSegment))
	if r := w.work(w.workerOptions()); r.Stored != 2 || r.Failed != 0 {
		t.Errorf("%+v, want the rest", r)
	}
	if troubles := archive.Troubles(time.Now(), filepath.Dir(w.spool.Dir())); len(troubles) != 0 {
		t.Errorf("troubles that are over: %+v", troubles)
	}
}

func TestWorkerLeavesAFailingStoreAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(plainSegment)
	for i := range 40 {
		w.wait(history(i + 3))
	}
	w.store.Reset()
	w.store.Add(fault.Fault{Op: fault.Put, Times: -1})
	o := w.workerOptions()
	r := w.work(o)
	if r.Stored != 0 || r.Failed == 0 || r.Failed > archive.DefaultAhead {
		t.Errorf("%+v, want at most the files that were on their way", r)
	}
	if n := w.store.Count(fault.Put); n > archive.DefaultAhead {
		t.Errorf("%d requests to a store that fails", n)
	}
}

func TestOnlyOneWorker(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	lock, ok := w.spool.Lock("worker", time.Hour)
	if !ok {
		t.Fatal("no lock")
	}
	w.wait(plainSegment, fixture(t, plainSegment))
	if r := w.work(w.workerOptions()); !r.Busy || r.Stored != 0 {
		t.Errorf("%+v beside another worker", r)
	}
	if !archive.WorkerRuns(w.options()) {
		t.Error("the other one does not count")
	}
	past := time.Now().Add(-time.Minute)
	must(t, os.Chtimes(filepath.Join(w.spool.Dir(), "worker.lock"), past, past))
	if archive.WorkerRuns(w.options()) {
		t.Error("one that hangs counts")
	}
	if r := w.work(w.workerOptions()); r.Busy || r.Stored != 1 {
		t.Errorf("%+v instead of one that hangs", r)
	}
	if lock.Held() {
		t.Error("the one that hangs would not notice")
	}
	lock.Release()
}

// TestBeside: where no worker can be, a call stores others' files with its own, and its result is its own file's.
func TestBeside(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.wait(plainSegment, fixture(t, plainSegment))
	bad, _ := history(2)
	w.wait(bad, []byte("nothing\n"))
	for i := range 3 {
		w.wait(history(i + 3))
	}
	o := w.pushOptions()
	o.Beside = 4
	o.Store = slowPuts{w.store, plainSegment, func() bool {
		return w.store.Count(fault.Put) >= 4 // cluster.json and three others
	}}
	r, err := archive.Push(t.Context(), o, filepath.Join(w.data, "pg_wal", plainSegment))
	if err != nil || r.Outcome != archive.Stored {
		t.Fatalf("%+v, %v", r, err)
	}
	for i := range 3 {
		if name, _ := history(i + 3); !w.isMarked(name) {
			t.Errorf("%s is not marked", name)
		}
	}
	if w.isMarked(bad) || !w.isMarked(plainSegment) {
		t.Error("the wrong files are marked")
	}

	// A file that is not in the server's pg_wal has no neighbours.
	elsewhere := filepath.Join(t.TempDir(), switchedSegment)
	write(t, elsewhere, fixture(t, switchedSegment))
	w.wait(history(9))
	o = w.pushOptions()
	o.Beside = 4
	started := 0
	_, err = archive.Push(t.Context(), o, elsewhere)
	must(t, err)
	o.StartWorker = func() error { started++; return nil }
	_, err = archive.Push(t.Context(), o, w.place(firstSegment, fixture(t, firstSegment)))
	must(t, err)
	if name, _ := history(9); w.isMarked(name) || started != 1 {
		t.Errorf("the neighbour is marked: %v; workers started: %d", w.isMarked(name), started)
	}
}
