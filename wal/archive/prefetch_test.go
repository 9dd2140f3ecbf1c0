package archive_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pgstow/storage"
	"pgstow/storage/fault"
	"pgstow/storage/object"
	"pgstow/wal"
	"pgstow/wal/archive"
	"pgstow/wal/spool"
)

// recovering is a world whose archive has many segments in a row, and a recovery that asks for one after the other.
type recovering struct {
	*world
	t       *testing.T
	header  object.Header
	options func(*archive.FetchOptions)

	mu      sync.Mutex
	asked   map[string]int // GETs by the last part of their keys
	lists   int
	started []string

	runs    sync.WaitGroup
	idle    time.Duration
	results chan archive.PrefetchResult
	alive   func() bool
	gone    chan struct{}
}

// newRecovering stores segments 1 to n behind plainSegment.
func newRecovering(t *testing.T, n int) *recovering {
	t.Helper()
	w := newWorld(t)
	w.push(plainSegment)
	r := &recovering{world: w, t: t, asked: map[string]int{}, results: make(chan archive.PrefetchResult, 1000), idle: time.Minute}
	var err error
	r.header, err = object.ParseHeader(w.stored(w.key(plainSegment)))
	must(t, err)
	for i := 1; i <= n; i++ {
		r.storeSegment(behind(t, plainSegment, i))
	}
	w.mode("recovery.signal")
	w.store.OnCall(func(c fault.Call) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		switch c.Op {
		case fault.Get:
			r.asked[filepath.Base(c.Key)]++
		case fault.List:
			r.lists++
		}
		return nil
	})
	t.Cleanup(func() {
		must(t, os.RemoveAll(filepath.Join(w.data, "recovery.signal"))) // ends prefetchers
		must(t, os.RemoveAll(filepath.Join(w.data, "standby.signal")))
		r.runs.Wait()
	})
	return r
}

// content is that of a segment of any name: the fixture's with another address and timeline, and bytes of its own.
func (r *recovering) content(name string) []byte {
	r.t.Helper()
	f := parsed(r.t, name)
	b := bytes.Clone(fixture(r.t, plainSegment))
	binary.LittleEndian.PutUint32(b[4:], uint32(f.Timeline))
	binary.LittleEndian.PutUint64(b[8:], uint64(f.Start(1<<20)))
	copy(b[1<<19:], name)
	return b
}

func (r *recovering) object(name string) []byte {
	r.t.Helper()
	h := r.header
	h.Name, h.Timeline, h.PlainSHA256 = name, uint32(parsed(r.t, name).Timeline), [32]byte{}
	b, err := object.EncodeAll(r.repo.WriterOptions(), h, r.content(name))
	must(r.t, err)
	return b
}

func (r *recovering) storeSegment(name string) {
	r.t.Helper()
	_, err := r.below.Put(r.t.Context(), r.key(name), r.object(name), storage.Any)
	must(r.t, err)
}

func (r *recovering) fetchOptions() archive.FetchOptions {
	o := r.world.fetchOptions()
	o.Prefetch, o.StartPrefetch = 16, r.start
	if r.options != nil {
		r.options(&o)
	}
	return o
}

// start starts a prefetcher, as the program would start a process.
func (r *recovering) start(name string) error {
	r.mu.Lock()
	r.started = append(r.started, name)
	r.mu.Unlock()
	o, timeline := r.world.options(), wal.TimelineID(0)
	o.Warn = nil
	if r.options != nil {
		f := archive.FetchOptions{Options: o}
		r.options(&f)
		o.Spool, timeline = f.Spool, f.Timeline
	}
	r.runs.Go(func() {
		result, err := archive.Prefetch(r.t.Context(), archive.PrefetchOptions{Options: o, Timeline: timeline, Segments: 16, Idle: r.idle, Alive: r.alive}, name)
		if err != nil {
			r.t.Error(err)
		}
		r.results <- result
	})
	return nil
}

// read is one call of restore_command.
func (r *recovering) read(name string) error {
	r.t.Helper()
	dst := r.destination()
	must(r.t, os.RemoveAll(dst))
	if err := archive.Fetch(r.t.Context(), r.fetchOptions(), name, dst); err != nil {
		return err
	}
	got, err := os.ReadFile(dst)
	must(r.t, err)
	want := r.content(name)
	if name == plainSegment {
		want = fixture(r.t, name)
	}
	if !bytes.Equal(got, want) {
		r.t.Fatalf("%s: wrong bytes were handed over", name)
	}
	return nil
}

func (r *recovering) mustRead(names ...string) {
	r.t.Helper()
	for _, n := range names {
		must(r.t, r.read(n))
	}
}

// wantCode reads what must not be had.
func (r *recovering) wantCode(name string, code int) {
	r.t.Helper()
	if err := r.read(name); archive.FetchExit(err) != code {
		r.t.Fatalf("%s: %v, want exit code %d", name, err, code)
	}
}

func (r *recovering) nth(n int) string {
	r.t.Helper()
	if n == 0 {
		return plainSegment
	}
	return behind(r.t, plainSegment, n)
}

// count returns how often a segment's object was asked for.
func (r *recovering) count(name string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked[name]
}

func (r *recovering) await(what string, cond func() bool) {
	r.t.Helper()
	tick, end := time.NewTicker(5*time.Millisecond), time.After(30*time.Second)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-end:
			r.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// awaitReady waits until a segment lies in the spool.
func (r *recovering) awaitReady(name string) {
	r.t.Helper()
	r.await(name+" in the spool", func() bool { return r.spool.HasReady(name) })
}

// awaitEnd waits until a prefetcher has ended, and what it left behind is nothing.
func (r *recovering) awaitEnd() archive.PrefetchResult {
	r.t.Helper()
	select {
	case result := <-r.results:
		left, err := filepath.Glob(filepath.Join(r.spool.Dir(), "*", "*"))
		if err != nil || len(left) > 0 {
			r.t.Errorf("left in the spool: %v %v", left, err)
		}
		return result
	case <-time.After(30 * time.Second):
		r.t.Fatal("the prefetcher does not end")
		return archive.PrefetchResult{}
	}
}

func TestPrefetchServesARecovery(t *testing.T) {
	t.Parallel()
	const n = 40
	r := newRecovering(t, n)
	total := 0
	for i := 0; i <= n; i++ {
		r.mustRead(r.nth(i))
		total += r.count(r.nth(i))
		if i == 10 { // now the reader is slow
			r.awaitReady(r.nth(14))
		}
	}
	result := r.awaitEnd()
	beyond := 0
	for i := n + 1; i < n+40; i++ {
		beyond += r.count(r.nth(i))
	}
	if total > n+1+4 { // one twice only where a transfer hung for seconds
		t.Errorf("%d requests for %d segments", total, n+1)
	}
	if beyond < 1 || beyond > 8 || r.lists > 0 {
		t.Errorf("%d requests behind the end, %d lists", beyond, r.lists)
	}
	r.wantCode(r.nth(n+1), 1)
	r.mustRead(r.nth(n)) // as recovery does at its end
	if result.Taken < n-5 || len(r.started) != 1 || result.Depth > 16 {
		t.Errorf("%+v, %d prefetchers", result, len(r.started))
	}
}

func TestPrefetchOnlyForRecoveriesThatCatchUp(t *testing.T) {
	t.Parallel()
	r := newRecovering(t, 8)
	off := func(f func(*archive.FetchOptions)) {
		r.options = f
		r.mustRead(r.nth(0), r.nth(1))
		if len(r.started) > 0 {
			t.Error("started")
		}
		r.options = nil
	}
	off(func(o *archive.FetchOptions) { o.Prefetch = 0 })
	off(func(o *archive.FetchOptions) { o.Spool = nil })
	off(func(o *archive.FetchOptions) { o.PGData, o.SystemID = "", r.ref.SystemID })
	r.mode()
	off(nil)
	r.mode("recovery.signal")
	for _, name := range []string{r.nth(2), "segment"} { // pg_rewind, and somebody
		if err := archive.Fetch(t.Context(), r.fetchOptions(), r.nth(2), filepath.Join(r.data, "pg_wal", name)); err != nil || len(r.started) > 0 {
			t.Fatalf("%s: %v, started: %v", name, err, r.started)
		}
	}
	// A standby at the head of the archive: what it asks for is not there yet, then it is, and so on.
	r.mode("standby.signal")
	must(t, os.RemoveAll(filepath.Join(r.spool.Dir(), "fetched.record")))
	for i := range 6 {
		object := r.stored(r.key(r.nth(i + 1)))
		must(t, r.below.Delete(t.Context(), r.key(r.nth(i+1))))
		r.mustRead(r.nth(i))
		r.wantCode(r.nth(i+1), 1)
		r.wantCode(r.nth(i+1), 1)
		r.overwrite(r.key(r.nth(i+1)), object)
	}
	if len(r.started) > 0 {
		t.Errorf("started for a standby that waits: %v", r.started)
	}
	r.mustRead(r.nth(6), r.nth(7), r.nth(8))
	if len(r.started) != 1 || r.started[0] != r.nth(8) {
		t.Errorf("started for a standby that catches up: %v", r.started)
	}
	if result := r.awaitEnd(); result.Fetched > 0 {
		t.Errorf("%+v", result)
	}
}

func TestPrefetchFollowsRecoveryElsewhere(t *testing.T) {
	t.Parallel()
	r := newRecovering(t, 12)
	second := func(i int) string { return "00000002" + r.nth(i)[8:] }
	for i := 6; i <= 20; i++ {
		r.storeSegment(second(i))
	}
	r.mustRead(r.nth(0), r.nth(1), r.nth(2))
	r.awaitReady(r.nth(6))
	for i := 6; i <= 12; i++ { // the new timeline begins in a segment that the old one has too
		r.mustRead(second(i))
	}
	r.awaitReady(second(13))
	if r.spool.HasReady(r.nth(6)) || r.spool.HasReady(r.nth(7)) {
		t.Error("what the old timeline has is still there")
	}
	r.mustRead(r.nth(3), r.nth(4)) // backwards
	r.awaitReady(r.nth(5))
	if r.spool.HasReady(second(13)) {
		t.Error("what the new timeline has is still there")
	}
	for i := 13; i <= 20; i++ {
		r.mustRead(second(i))
	}
	r.wantCode(second(21), 1)
	if len(r.started) != 1 {
		t.Errorf("%d prefetchers", len(r.started))
	}
	r.awaitEnd()
}

func TestPrefetchLeavesTroubleToTheCall(t *testing.T) {
	t.Parallel()
	r := newRecovering(t, 12)
	must(t, r.below.Delete(t.Context(), r.key(r.nth(8)))) // a hole
	good := r.stored(r.key(r.nth(4)))
	bad := bytes.Clone(good)
	bad[len(bad)/2] ^= 1
	r.overwrite(r.key(r.nth(4)), bad)
	r.mustRead(r.nth(0), r.nth(1), r.nth(2), r.nth(3))
	r.wantCode(r.nth(4), 126)
	r.overwrite(r.key(r.nth(4)), r.stored(r.key(r.nth(5)))) // sound, and of another name
	r.wantCode(r.nth(4), 126)
	r.overwrite(r.key(r.nth(4)), good)
	r.mustRead(r.nth(4), r.nth(5))
	r.mustRead(r.nth(6), r.nth(7))
	r.wantCode(r.nth(8), 126)
	r.overwrite(r.key(r.nth(8)), r.object(r.nth(8)))
	r.mustRead(r.nth(8), r.nth(9), r.nth(10))
}

// TestPrefetchOfAnOutage: what a store fails to give costs a try, and is asked for by the call.
func TestPrefetchOfAnOutage(t *testing.T) {
	t.Parallel()
	r := newRecovering(t, 10)
	r.options = func(o *archive.FetchOptions) { o.Deadline = time.Minute }
	for _, kind := range []fault.Kind{fault.Before, fault.Short, fault.Flip} {
		r.store.Add(fault.Fault{Op: fault.Get, Key: "*/" + r.nth(3), Kind: kind, At: 700, Times: 2})
		for i := 0; i <= 10; i++ {
			r.mustRead(r.nth(i))
		}
		r.wantCode(r.nth(11), 1)
		r.store.VerifyAllHit(t)
	}
}

// TestPrefetchWithADamagedSpool: whatever happens to what waits, the right bytes arrive.
func TestPrefetchWithADamagedSpool(t *testing.T) {
	t.Parallel()
	r := newRecovering(t, 40)
	next, there := 0, 0
	for what, do := range map[string]func(path string){
		"removed":       func(path string) { must(t, os.RemoveAll(path)) },
		"emptied":       func(path string) { _ = os.Truncate(path, 0) },
		"truncated":     func(path string) { _ = os.Truncate(path, 4096) },
		"zero-filled":   func(path string) { zero(t, path) },
		"another's":     func(path string) { _ = os.WriteFile(path, r.content(r.nth(39)), 0o600) },
		"folder gone":   func(string) { r.remove(filepath.Join(r.spool.Dir(), "ready")) },
		"spool gone":    func(string) { r.remove(r.spool.Dir()) },
		"lock gone":     func(string) { _ = os.Remove(filepath.Join(r.spool.Dir(), "prefetch.lock")) },
		"claims gone":   func(string) { r.remove(filepath.Join(r.spool.Dir(), "claims")) },
		"all forgotten": func(string) { _ = os.Remove(filepath.Join(r.spool.Dir(), "fetched.record")) },
	} {
		s, err := spool.Create("0123456789abcdef0123456789abcdef", filepath.Dir(r.spool.Dir()))
		must(t, err)
		r.spool = s
		r.mustRead(r.nth(next))
		if r.spool.HasReady(r.nth(next + 1)) {
			there++
		}
		do(filepath.Join(r.spool.Dir(), "ready", r.nth(next+1)))
		do(filepath.Join(r.spool.Dir(), "ready", r.nth(next+2)+".sum"))
		r.mustRead(r.nth(next+1), r.nth(next+2), r.nth(next+3))
		next += 3
		if t.Failed() {
			t.Fatal(what)
		}
	}
	if there == 0 {
		t.Error("nothing ever lay in the spool to be damaged")
	}
}

// remove removes a folder into which a prefetcher writes.
func (r *recovering) remove(folder string) {
	r.t.Helper()
	r.await("the end of "+folder, func() bool { return os.RemoveAll(folder) == nil })
}

func zero(t *testing.T, path string) {
	t.Helper()
	if info, err := os.Stat(path); err == nil {
		must(t, os.WriteFile(path, make([]byte, info.Size()), 0o600))
	}
}

func TestPrefetchEnds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what string
		end  func(r *recovering)
		want string
	}{
		{"idle", func(*recovering) {}, "nothing is wanted"},
		{"recovery over", func(r *recovering) { r.mode() }, "recovery is over"},
		{"server gone", func(r *recovering) { close(r.gone) }, "the server is gone"},
		{"lock removed", func(r *recovering) { must(t, os.Remove(filepath.Join(r.spool.Dir(), "prefetch.lock"))) }, "the lock was taken over or removed"},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			r := newRecovering(t, 10)
			r.gone = make(chan struct{})
			r.alive = func() bool {
				select {
				case <-r.gone:
					return false
				default:
					return true
				}
			}
			if c.what == "idle" {
				r.idle = 100 * time.Millisecond
			}
			r.mustRead(r.nth(0))
			if c.what != "idle" {
				r.awaitReady(r.nth(4))
			}
			c.end(r)
			select {
			case result := <-r.results:
				if result.End != c.want {
					t.Errorf("ended because %s", result.End)
				}
			case <-time.After(30 * time.Second):
				t.Fatal("it does not end")
			}
		})
	}
}

func TestOnePrefetcherOnly(t *testing.T) {
	t.Parallel()
	r := newRecovering(t, 10)
	must(t, r.spool.AddReady(r.nth(7), []byte("left by one that was killed")))
	r.mustRead(r.nth(0))
	r.awaitReady(r.nth(2))
	must(t, r.start(r.nth(0)))
	if result := <-r.results; !result.Busy {
		t.Errorf("the second one: %+v", result)
	}
	r.mustRead(r.nth(1), r.nth(2), r.nth(3), r.nth(4), r.nth(5), r.nth(6), r.nth(7))
}

// TestFetchBeside: where there can be no prefetcher a call fetches the next few, and lets them be when its time is up.
func TestFetchBeside(t *testing.T) {
	t.Parallel()
	r := newRecovering(t, 10)
	r.options = func(o *archive.FetchOptions) { o.StartPrefetch = nil }
	for i := 0; i <= 10; i++ {
		r.mustRead(r.nth(i))
	}
	r.wantCode(r.nth(11), 1)
	beyond, waiting := 0, 0
	for i := range 20 {
		if i > 10 {
			beyond += r.count(r.nth(i))
		}
		if r.spool.HasReady(r.nth(i)) {
			waiting++
		}
	}
	if beyond > 1+3*2 || waiting > 0 || r.lists > 2 {
		t.Errorf("%d requests behind the end, %d lists, %d files wait", beyond, r.lists, waiting)
	}
	// A neighbour that hangs does not hold up the call, and one that is damaged does not fail it.
	r.mode("recovery.signal")
	must(t, os.RemoveAll(filepath.Join(r.spool.Dir(), "fetched.record")))
	r.store.Add(fault.Fault{Op: fault.Get, Key: "*/" + r.nth(1), Kind: fault.Hang}, fault.Fault{Op: fault.Get, Key: "*/" + r.nth(2)})
	r.mustRead(r.nth(0))
	if r.spool.HasReady(r.nth(1)) {
		t.Error("what hung has come")
	}
	r.mustRead(r.nth(1), r.nth(2), r.nth(3))
}

func TestPrefetchSaysOnceWhatHindersIt(t *testing.T) {
	t.Parallel()
	r := newRecovering(t, 10)
	must(t, r.spool.PutRecord("prefetch-trouble", []byte("no space left"), time.Now()))
	r.mustRead(r.nth(0))
	must(t, r.spool.PutRecord("prefetch-trouble", []byte("no space left"), time.Now()))
	r.remove(filepath.Join(r.spool.Dir(), "ready"))
	r.mustRead(r.nth(9))
	if told := strings.Join(r.warns, "\n"); strings.Count(told, "no space left") != 1 {
		t.Errorf("told: %q", told)
	}
}

// TestPrefetchStopsAtTheForkOfTheChosenTimeline: what the old timeline has behind it never happened where recovery is heading, and a call serves
// no more of it than the part before.
func TestPrefetchStopsAtTheForkOfTheChosenTimeline(t *testing.T) {
	t.Parallel()
	for _, beside := range []bool{false, true} {
		r := newRecovering(t, 8)
		r.options = func(o *archive.FetchOptions) {
			o.Timeline = 2
			if beside {
				o.StartPrefetch = nil
			}
		}
		fork := parsed(t, r.nth(3)).Start(1<<20) + 100
		write(t, filepath.Join(r.data, "pg_wal", "00000002.history"), []byte("1\t"+fork.String()+"\tfork\n"))
		r.mustRead(r.nth(0), r.nth(1), r.nth(2))
		if !beside {
			if result := r.awaitEnd(); result.End != "there is nothing more to be had" {
				t.Errorf("%+v", result)
			}
		}
		for i := 3; i <= 8; i++ {
			if n := r.count(r.nth(i)); n > 0 || r.spool.HasReady(r.nth(i)) {
				t.Errorf("beside: %v: segment %d was asked for %d times", beside, i, n)
			}
		}
		must(t, os.Remove(filepath.Join(r.data, "pg_wal", "00000002.history")))
		r.mode()
	}
}
