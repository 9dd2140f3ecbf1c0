package archive_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/fault"
	"pgstow/storage/object"
	"pgstow/wal/archive"
	"pgstow/wal/spool"
)

func TestFetchIsOneRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(plainSegment, historyFile)
	for _, mode := range []string{"", "recovery.signal", "standby.signal"} {
		w.mode()
		if mode != "" {
			w.mode(mode)
		}
		for _, name := range []string{plainSegment, historyFile} {
			w.store.Reset()
			w.wantFetched(name, fixture(t, name))
			if w.store.Count(fault.Get) != 1 || w.store.Calls() != 1 {
				t.Errorf("%s %s: %d requests, %d of them gets; want one get", mode, name, w.store.Calls(), w.store.Count(fault.Get))
			}
		}
	}
}

func TestFetchTakesWhatTheSpoolHas(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	must(t, w.spool.AddReady(plainSegment, fixture(t, plainSegment)))
	w.wantFetched(plainSegment, fixture(t, plainSegment))
	if w.store.Calls() != 0 {
		t.Errorf("%d requests", w.store.Calls())
	}
	w.push(plainSegment)
	must(t, w.spool.AddReady(plainSegment, fixture(t, plainSegment)))
	write(t, filepath.Join(w.spool.Dir(), "ready", plainSegment), make([]byte, 1<<20)) // as after a power cut
	w.wantFetched(plainSegment, fixture(t, plainSegment))
}

func TestAbsenceIsProven(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(plainSegment, historyFile, backupFile)
	w.mode("recovery.signal")
	for _, name := range []string{behind(t, plainSegment, 1), behind(t, plainSegment, 1000), "00000003.history", backupFile[:24] + ".00000100.backup", partialFile} {
		w.store.Reset()
		w.wantFetchError(name, archive.ErrAbsent, 1)
		if w.store.Count(fault.Get) < 3 {
			t.Errorf("%s: only %d gets: the repository and the cluster were not read", name, w.store.Count(fault.Get))
		}
		if w.store.Count(fault.Put) > 0 {
			t.Errorf("%s: a fetch wrote", name)
		}
	}
	w.store.Reset()
	w.wantFetchError(behind(t, plainSegment, 1), archive.ErrAbsent, 1)
	if w.store.Count(fault.List) < 1 {
		t.Error("the archive was not listed")
	}
	w.mode("standby.signal")
	for _, name := range []string{behind(t, plainSegment, 1), "00000003.history"} {
		w.store.Reset()
		w.wantFetchError(name, archive.ErrAbsent, 1)
		if w.store.Count(fault.Get) != 1 || w.store.Calls() != 1 {
			t.Errorf("%s: a standby that polls cost %d requests", name, w.store.Calls())
		}
	}
}

func TestNothingElseIsAbsence(t *testing.T) {
	t.Parallel()
	type change = func(*archive.FetchOptions)
	none := func(*archive.FetchOptions) {}
	for _, c := range []struct {
		what    string
		prepare func(t *testing.T, w *world) change
		standby int // exit code in standby mode
	}{
		{"no repository", func(t *testing.T, w *world) change {
			must(t, w.below.Delete(t.Context(), catalog.RepoKey))
			return none
		}, 1},
		{"no cluster", func(t *testing.T, w *world) change {
			must(t, w.below.Delete(t.Context(), w.ref.InfoKey()))
			return none
		}, 1},
		{"another cluster's name", func(*testing.T, *world) change {
			return func(o *archive.FetchOptions) { o.Cluster = "mian" }
		}, 1},
		{"an impossible cluster's name", func(*testing.T, *world) change {
			return func(o *archive.FetchOptions) { o.Cluster = "" }
		}, 126},
		{"store unmounted", func(t *testing.T, w *world) change {
			must(t, os.RemoveAll(w.root))
			return none
		}, 1},
		{"an empty folder in its place", func(t *testing.T, w *world) change {
			must(t, os.RemoveAll(w.root))
			must(t, os.Mkdir(w.root, 0o700))
			return none
		}, 1},
		{"no permission", func(_ *testing.T, w *world) change {
			w.store.Add(fault.Fault{Err: storage.ErrPermission, Times: -1})
			return none
		}, 1},
		{"bucket missing", func(_ *testing.T, w *world) change {
			w.store.Add(fault.Fault{Err: storage.ErrNoStore, Times: -1})
			return none
		}, 1},
		{"store fails", func(_ *testing.T, w *world) change {
			w.store.Add(fault.Fault{Times: -1})
			return none
		}, 1},
		{"store hangs", func(_ *testing.T, w *world) change {
			w.store.Add(fault.Fault{Kind: fault.Hang, Times: -1})
			return none
		}, 1},
		{"only listing fails", func(_ *testing.T, w *world) change {
			w.store.Add(fault.Fault{Op: fault.List, Times: -1})
			return none
		}, 1},
		{"only reading repo.json fails", func(_ *testing.T, w *world) change {
			w.store.Add(fault.Fault{Op: fault.Get, Key: catalog.RepoKey, Times: -1})
			return none
		}, 1},
		{"only reading cluster.json fails", func(_ *testing.T, w *world) change {
			w.store.Add(fault.Fault{Op: fault.Get, Key: w.ref.InfoKey(), Times: -1})
			return none
		}, 1},
		{"the list breaks off", func(_ *testing.T, w *world) change {
			w.store.Add(fault.Fault{Op: fault.List, Key: "*wal*", Kind: fault.Short, Times: -1})
			return none
		}, 1},
		{"archive tier", func(_ *testing.T, w *world) change {
			w.store.Add(fault.Fault{Op: fault.Get, Err: storage.ErrArchived, Times: -1})
			return none
		}, 126},
		{"no data directory", func(*testing.T, *world) change { return func(o *archive.FetchOptions) { o.PGData = "" } }, 126},
		{"no pg_control", func(t *testing.T, w *world) change {
			must(t, os.Remove(filepath.Join(w.data, "global", "pg_control")))
			return none
		}, 126},
		{"encryption pinned", func(*testing.T, *world) change {
			return func(o *archive.FetchOptions) { o.Pins = catalog.Pins{Recipients: []string{"sha256:x"}} }
		}, 1},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := newWorld(t)
			w.push(plainSegment)
			w.mode("recovery.signal")
			ch := c.prepare(t, w)
			name := behind(t, plainSegment, 1)
			if err := w.wantFetchErrorCode(name, 126, ch); errors.Is(err, archive.ErrAbsent) || errors.Is(err, archive.ErrUnreachable) {
				t.Errorf("plain recovery: %v", err)
			}
			w.mode("standby.signal")
			begin := time.Now()
			err := w.wantFetchErrorCode(name, c.standby, ch)
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("it took %s", took)
			}
			if strings.Contains(err.Error(), "unreachable") != errors.Is(err, archive.ErrUnreachable) {
				t.Errorf("standby: %v", err)
			}
		})
	}
	for _, name := range []string{"", "RECOVERYXLOG", "000000010000000000000001.", "../" + plainSegment, "00000000000000000000000A", "x.partial.00000000"} {
		w := newWorld(t)
		w.push(plainSegment)
		w.wantFetchErrorCode(name, 126)
	}
}

func TestStandbyIsToldThatNothingIsProven(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.ensure()
	w.mode("standby.signal")
	w.store.Add(fault.Fault{Kind: fault.Hang, Times: -1})
	err := w.wantFetchError(plainSegment, archive.ErrUnreachable, 1)
	if !strings.Contains(err.Error(), "unreachable, not absent") {
		t.Errorf("got %v", err)
	}
	// With both files it is a standby, as for PostgreSQL.
	w.mode("standby.signal", "recovery.signal")
	w.wantFetchError(plainSegment, archive.ErrUnreachable, 1)
}

func TestFetchTriesAgain(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what  string
		fault fault.Fault
	}{
		{"fails", fault.Fault{Op: fault.Get, Times: 2}},
		{"hangs", fault.Fault{Op: fault.Get, Kind: fault.Hang}},
		{"body breaks off", fault.Fault{Op: fault.Get, Kind: fault.Short, At: 600, Times: 2}},
		{"a byte flips on the way", fault.Fault{Op: fault.Get, Kind: fault.Flip, At: 700, Times: 2}},
		{"a byte of the header flips on the way", fault.Fault{Op: fault.Get, Kind: fault.Flip, At: 30}},
	} {
		t.Run(c.what, func(t *testing.T) {
			for _, mode := range []string{"recovery.signal", "standby.signal"} {
				w := newWorld(t)
				w.push(plainSegment)
				w.mode(mode)
				w.store.Add(c.fault)
				w.wantFetched(plainSegment, fixture(t, plainSegment), func(o *archive.FetchOptions) {
					o.Deadline, o.StandbyDeadline = time.Minute, time.Minute
				})
				w.store.VerifyAllHit(t)
			}
		})
	}
}

func TestFetchNamesWhatIsCorrupt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(plainSegment)
	key := w.key(plainSegment)
	good := w.stored(key)
	for _, at := range []int{0, 5, 20, 100, 300, 511, 512, 600, len(good) / 2, len(good) - 20, len(good) - 1} {
		bad := bytes.Clone(good)
		bad[at] ^= 0x10
		w.overwrite(key, bad)
		for _, mode := range []string{"recovery.signal", "standby.signal"} {
			w.mode(mode)
			if err := w.wantFetchError(plainSegment, object.ErrCorrupt, 126); !strings.Contains(err.Error(), key) {
				t.Errorf("byte %d: %v does not name the object", at, err)
			}
		}
	}
	w.mode()
	for _, n := range []int{0, 100, 512, len(good) - 1} {
		w.overwrite(key, good[:n])
		w.wantFetchError(plainSegment, object.ErrCorrupt, 126)
	}
	w.overwrite(key, append(bytes.Clone(good), 0))
	w.wantFetchError(plainSegment, object.ErrCorrupt, 126)
	w.overwrite(key, good)
	w.wantFetched(plainSegment, fixture(t, plainSegment))
}

func TestFetchNoticesAnotherObject(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(plainSegment, switchedSegment, historyFile)
	segment := func(h object.Header, plain []byte) []byte {
		b, err := object.EncodeAll(w.repo.WriterOptions(), h, plain)
		must(t, err)
		return b
	}
	h, err := object.ParseHeader(w.stored(w.key(plainSegment)))
	must(t, err)
	h.PlainSHA256 = [32]byte{}
	with := func(f func(h *object.Header)) object.Header {
		c := h
		f(&c)
		return c
	}
	plain := fixture(t, plainSegment)
	for what, stored := range map[string][]byte{
		"another segment":       w.stored(w.key(switchedSegment)),
		"a history":             w.stored(w.key(historyFile)),
		"another server's":      segment(with(func(h *object.Header) { h.SystemID++ }), plain),
		"another timeline's":    segment(with(func(h *object.Header) { h.Timeline++ }), plain),
		"another kind":          segment(with(func(h *object.Header) { h.Kind = object.KindPartial }), plain),
		"other content":         segment(h, fixture(t, switchedSegment)),
		"foreign content":       segment(h, foreign(plain)),
		"too short":             segment(h, plain[:1<<19]),
		"hardly anything":       segment(h, plain[:10]),
		"zeros":                 segment(h, make([]byte, 1<<20)),
		"of other segment size": segment(h, append(bytes.Clone(plain), plain...)),
	} {
		w.overwrite(w.key(plainSegment), stored)
		if err := w.wantFetchErrorCode(plainSegment, 126); !strings.Contains(err.Error(), w.key(plainSegment)) {
			t.Errorf("%s: %v does not name the object", what, err)
		}
	}
}

func TestFetchHole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(firstSegment, thirdSegment)
	w.mode("recovery.signal")
	w.wantHole(secondSegment, thirdSegment)
	w.wantFetchError(secondSegment, archive.ErrAbsent, 1, func(o *archive.FetchOptions) { o.StopAtHole = true })
	w.wantFetchError(behind(t, thirdSegment, 1), archive.ErrAbsent, 1)
	if len(w.warns) == 0 || !strings.Contains(w.warns[0], "hole") {
		t.Errorf("warnings: %q", w.warns)
	}
	// A hole in the middle of many, with another first digit behind it.
	w.wantHole(behind(t, firstSegment, -1), firstSegment)
	// The hole is filled while recovery waits.
	object := func() []byte {
		other := newWorld(t)
		other.push(secondSegment)
		return other.stored(other.key(secondSegment))
	}()
	lists := 0
	w.store.OnCall(func(c fault.Call) error {
		if c.Op == fault.List && strings.Contains(c.Key, "wal") {
			if lists++; lists == 2 {
				w.overwrite(w.key(secondSegment), object)
			}
		}
		return nil
	})
	w.wantFetched(secondSegment, fixture(t, secondSegment), func(o *archive.FetchOptions) { o.Deadline = time.Minute })
	w.store.OnCall(nil)
	w.mode("standby.signal")
	must(t, w.below.Delete(t.Context(), w.key(secondSegment)))
	w.wantFetchError(secondSegment, archive.ErrAbsent, 1)
}

func TestFetchOfAHistoryWhoseTimelineExists(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(plainSegment, forkSegment)
	w.mode("recovery.signal")
	w.wantHole(historyFile, forkSegment)
	w.wantFetchError("00000001.history", archive.ErrAbsent, 1)
	w.wantFetchError(historyFile, archive.ErrAbsent, 1, func(o *archive.FetchOptions) { o.StopAtHole = true })
	w.push(historyFile)
	w.wantFetched(historyFile, fixture(t, historyFile))
	w.wantFetchError("00000003.history", archive.ErrAbsent, 1)
}

// PostgreSQL asks the ancestors too for what its own timeline does not have.
func TestHoleBehindAForkIsNone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(plainSegment, historyFile, forkSegment)
	// The old primary went on behind the fork, and there is a hole in what it stored.
	later := behind(t, cutSegment, 2)
	w.overwrite(w.key(later), w.stored(w.key(plainSegment)))
	w.mode("recovery.signal")
	w.wantHole(behind(t, cutSegment, 1), later)
	w.wantFetchError(behind(t, cutSegment, 1), archive.ErrAbsent, 1, func(o *archive.FetchOptions) { o.Timeline = 2 })
	w.wantHole(cutSegment, later, func(o *archive.FetchOptions) { o.Timeline = 2 }) // this one has WAL before the fork
	w.wantHole(behind(t, cutSegment, 1), later, func(o *archive.FetchOptions) { o.Timeline = 1 })
	w.wantHole(behind(t, cutSegment, 1), later, func(o *archive.FetchOptions) { o.Timeline = 7 }) // of which nothing is known
}

func TestTheSegmentArrivesWhileItIsProvenAbsent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(plainSegment)
	stored := w.stored(w.key(plainSegment))
	must(t, w.below.Delete(t.Context(), w.key(plainSegment)))
	w.mode("recovery.signal")
	for _, at := range []fault.Call{{Op: fault.Get, Key: catalog.RepoKey}, {Op: fault.List, Key: w.ref.TimelinePrefix(1)}} {
		must(t, w.below.Delete(t.Context(), w.key(plainSegment)))
		hit := false
		w.store.OnCall(func(c fault.Call) error {
			if c.Op == at.Op && c.Key == at.Key && !hit {
				hit = true
				w.overwrite(w.key(plainSegment), stored)
			}
			return nil
		})
		w.wantFetched(plainSegment, fixture(t, plainSegment), func(o *archive.FetchOptions) { o.Deadline = time.Minute })
		if !hit {
			t.Errorf("no %s of %s", at.Op, at.Key)
		}
	}
}

func TestFetchLeavesTheDestinationAloneOnErrors(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(plainSegment)
	bad := w.stored(w.key(plainSegment))
	bad[len(bad)/2] ^= 1
	w.overwrite(w.key(plainSegment), bad)
	dst := w.destination()
	write(t, dst, []byte("as it was"))
	if err := archive.Fetch(t.Context(), w.fetchOptions(), plainSegment, dst); !errors.Is(err, object.ErrCorrupt) {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(dst); err != nil || string(b) != "as it was" {
		t.Errorf("%q, %v", b, err)
	}
	w.wantClean()
}

func TestFetchIntoAPlaceThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(plainSegment)
	dir := filepath.Join(w.data, "pg_wal", "dir")
	must(t, os.MkdirAll(filepath.Join(dir, "full"), 0o700))
	for _, dst := range []string{filepath.Join(w.data, "no", "such"), dir} {
		begin := time.Now()
		err := archive.Fetch(t.Context(), func() archive.FetchOptions { o := w.fetchOptions(); o.Deadline = time.Hour; return o }(), plainSegment, dst)
		if archive.FetchExit(err) != 126 {
			t.Errorf("%s: %v", dst, err)
		}
		if time.Since(begin) > 10*time.Second {
			t.Errorf("%s: it was tried again and again", dst)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(w.data, "pg_wal", "*.pgstow*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestFetchUsesTheFileOfAKilledOneAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(plainSegment)
	write(t, w.destination()+".pgstow", bytes.Repeat([]byte("rubbish"), 1<<20))
	w.wantFetched(plainSegment, fixture(t, plainSegment))
}

func TestFetchesOfOneDestination(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(plainSegment)
	w.spool = nil
	var done sync.WaitGroup
	for range 8 {
		o := w.fetchOptions()
		o.Warn, o.Deadline, o.Stall = nil, time.Minute, time.Minute
		done.Go(func() {
			for range 5 {
				if err := archive.Fetch(t.Context(), o, plainSegment, w.destination()); err != nil {
					t.Error(err)
				}
				if b, err := os.ReadFile(w.destination()); err != nil || !bytes.Equal(b, fixture(t, plainSegment)) {
					t.Errorf("%d bytes, %v", len(b), err)
				}
			}
		})
	}
	done.Wait()
	w.wantClean()
}

func TestFetchEndsWithItsContext(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.ensure()
	w.store.Add(fault.Fault{Times: -1})
	ctx, cancel := contextWithTimeout(t, 100*time.Millisecond)
	defer cancel()
	o := w.fetchOptions()
	o.Deadline = time.Hour
	if err := archive.Fetch(ctx, o, plainSegment, w.destination()); archive.FetchExit(err) != 126 || !errors.Is(err, fault.ErrInjected) {
		t.Errorf("got %v", err)
	}
}

func TestFetchWithoutADataDirectory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(plainSegment)
	dst := filepath.Join(t.TempDir(), "file")
	o := w.fetchOptions()
	o.PGData, o.SystemID = "", w.ref.SystemID
	must(t, archive.Fetch(t.Context(), o, plainSegment, dst))
	if b, err := os.ReadFile(dst); err != nil || !bytes.Equal(b, fixture(t, plainSegment)) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	o.SystemID++
	if err := archive.Fetch(t.Context(), o, plainSegment, dst); archive.FetchExit(err) != 126 {
		t.Errorf("another system id: %v", err)
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	wrap := func(err error) error { return fmt.Errorf("fetch X: %w", err) }
	for _, c := range []struct {
		err         error
		push, fetch int
	}{
		{nil, 0, 0},
		{wrap(archive.ErrAbsent), 1, 1},
		{wrap(archive.ErrUnreachable), 1, 1},
		{wrap(&archive.RefusedError{}), 12, 126},
		{&catalog.HintError{Err: wrap(&archive.RefusedError{})}, 12, 126},
		{wrap(catalog.ErrRecipients), 12, 126},
		{wrap(catalog.ErrClusterMismatch), 12, 126},
		{wrap(catalog.ErrUnsafeStore), 12, 126},
		{wrap(catalog.ErrNoRepository), 1, 126},
		{wrap(catalog.ErrNoCluster), 1, 126},
		{wrap(storage.ErrNotExist), 1, 126},
		{wrap(storage.ErrNoStore), 1, 126},
		{wrap(os.ErrNotExist), 1, 126},
		{wrap(object.ErrWrongIdentity), 1, 126},
		{wrap(&archive.HoleError{}), 1, 126},
		{wrap(&archive.DisagreeError{}), 1, 126},
		{errors.New("anything"), 1, 126},
	} {
		if got := archive.PushExit(c.err); got != c.push {
			t.Errorf("push: %v: %d, want %d", c.err, got, c.push)
		}
		if got := archive.FetchExit(c.err); got != c.fetch {
			t.Errorf("fetch: %v: %d, want %d", c.err, got, c.fetch)
		}
	}
}

// The spool may be hurt between any two calls.
func TestSpoolIsOnlyACache(t *testing.T) {
	t.Parallel()
	hurt := map[string]func(t *testing.T, dir string){
		"removed": func(t *testing.T, dir string) { must(t, os.RemoveAll(dir)) },
		"emptied": func(t *testing.T, dir string) {
			files, err := filepath.Glob(filepath.Join(dir, "*"))
			must(t, err)
			for _, f := range files {
				must(t, os.Truncate(f, 0))
			}
		},
		"zeroed": func(t *testing.T, dir string) {
			files, err := filepath.Glob(filepath.Join(dir, "*"))
			must(t, err)
			for _, f := range files {
				info, err := os.Stat(f)
				must(t, err)
				write(t, f, make([]byte, info.Size()))
			}
		},
		"read only": func(t *testing.T, dir string) {
			must(t, os.RemoveAll(dir))
			write(t, dir, nil) // works for root too
		},
	}
	for what, do := range hurt {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			w.push(historyFile)
			names := []string{plainSegment, switchedSegment, firstSegment}
			for _, name := range names {
				do(t, w.spool.Dir())
				path := w.place(name, fixture(t, name))
				for _, want := range []archive.Outcome{archive.Stored, archive.Existed} {
					r, err := archive.Push(t.Context(), w.pushOptions(), path)
					if err != nil || r.Outcome != want {
						t.Fatalf("%s: %+v, %v", name, r, err)
					}
					do(t, w.spool.Dir())
				}
			}
			for _, name := range names {
				do(t, w.spool.Dir())
				w.wantFetched(name, fixture(t, name))
			}
		})
	}
	t.Run("a mark of another file", func(t *testing.T) {
		w := newWorld(t)
		w.push(historyFile)
		path := w.place(plainSegment, fixture(t, plainSegment))
		id, err := spool.Stat(path)
		must(t, err)
		must(t, w.spool.MarkStored(switchedSegment, id))
		r, err := archive.Push(t.Context(), w.pushOptions(), path)
		if err != nil || r.Outcome != archive.Stored {
			t.Fatalf("%+v, %v", r, err)
		}
	})
}
