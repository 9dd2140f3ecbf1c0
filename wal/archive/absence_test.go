package archive_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/fault"
	"pgstow/wal/archive"
)

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
			if err := w.fetchErrorCode(name, 126, ch); errors.Is(err, archive.ErrAbsent) || errors.Is(err, archive.ErrUnreachable) {
				t.Errorf("plain recovery: %v", err)
			}
			w.mode("standby.signal")
			begin := time.Now()
			err := w.fetchErrorCode(name, c.standby, ch)
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

// TestFetchHoldsToThePins: the common case reads the file alone and not what the repository says of itself, so the file has to agree.
func TestFetchHoldsToThePins(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(plainSegment, historyFile)
	for _, pins := range []catalog.Pins{{}, {Recipients: []string{"sha256:x"}}, {Identities: newKey(t).ids}} {
		for _, name := range []string{plainSegment, historyFile} {
			w.wantFetchError(name, catalog.ErrRecipients, 126, func(o *archive.FetchOptions) { o.Pins = pins })
		}
	}
	w.wantFetched(plainSegment, fixture(t, plainSegment))
}

func TestStandbyIsToldThatNothingIsProven(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.ensure()
	w.mode("standby.signal")
	w.store.Add(fault.Fault{Kind: fault.Hang, Times: -1})
	err := w.fetchError(plainSegment, archive.ErrUnreachable, 1)
	if !strings.Contains(err.Error(), "unreachable, not absent") {
		t.Errorf("got %v", err)
	}
	// With both files it is a standby, as for PostgreSQL.
	w.mode("standby.signal", "recovery.signal")
	w.wantFetchError(plainSegment, archive.ErrUnreachable, 1)
}

// TestPromotionWithoutTheStore: a server that is being promoted has no signal file any more, and asks for the history of its timeline.
func TestPromotionWithoutTheStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.ensure()
	w.store.Add(fault.Fault{Kind: fault.Hang, Times: -1})
	history := func(name string) error {
		dst := filepath.Join(w.data, "pg_wal", "RECOVERYHISTORY")
		o := w.fetchOptions()
		o.Deadline = time.Hour
		ctx, cancel := contextWithTimeout(t, 2*time.Second)
		defer cancel()
		return archive.Fetch(ctx, o, name, dst)
	}
	if err := history("00000001.history"); !errors.Is(err, archive.ErrAbsent) {
		t.Errorf("timeline 1: %v", err)
	}
	w.place(historyFile, fixture(t, historyFile))
	if err := history(historyFile); !errors.Is(err, archive.ErrUnreachable) || archive.FetchExit(err) != 1 {
		t.Errorf("with the server's own copy: %v", err)
	}
	// Recovery that is not at its end has to wait, and so has a server without a copy.
	for _, c := range []struct{ name, signal string }{{historyFile, "recovery.signal"}, {"00000009.history", ""}} {
		if c.signal != "" {
			w.mode(c.signal)
		} else {
			w.mode()
		}
		if err := history(c.name); err == nil || archive.FetchExit(err) != 126 {
			t.Errorf("%s, %q: %v", c.name, c.signal, err)
		}
	}
	// With the store there it gets the archive's.
	w.store.Reset()
	w.mode()
	w.push(historyFile)
	if err := history(historyFile); err != nil {
		t.Error(err)
	}
}

// TestFetchDeadlineIsShorterThanStall: a store that hangs is waited for no longer than the deadline says.
func TestFetchDeadlineIsShorterThanStall(t *testing.T) {
	t.Parallel()
	for _, signal := range []string{"recovery.signal", "standby.signal"} {
		w := newWorld(t)
		w.ensure()
		w.mode(signal)
		w.store.Add(fault.Fault{Kind: fault.Hang, Times: -1})
		ctx, cancel := contextWithTimeout(t, time.Minute)
		defer cancel()
		o := w.fetchOptions()
		o.Stall = time.Hour
		if err := archive.Fetch(ctx, o, plainSegment, w.destination()); err == nil || ctx.Err() != nil {
			t.Errorf("%s: %v", signal, err)
		}
	}
}

// trickle is a store whose bodies come a byte at a time.
type trickle struct{ storage.Store }

func (s trickle) Get(ctx context.Context, key string, r storage.Range) (io.ReadCloser, storage.Info, error) {
	body, info, err := s.Store.Get(ctx, key, r)
	if err == nil {
		body = &trickledBody{ctx, body}
	}
	return body, info, err
}

type trickledBody struct {
	ctx context.Context
	io.ReadCloser
}

func (b *trickledBody) Read(p []byte) (int, error) {
	select {
	case <-b.ctx.Done():
		return 0, b.ctx.Err()
	case <-time.After(10 * time.Millisecond):
	}
	return b.ReadCloser.Read(p[:1])
}

// TestFetchOfATrickle: a body that moves, but hardly, is given up like one that does not.
func TestFetchOfATrickle(t *testing.T) {
	t.Parallel()
	for _, signal := range []string{"recovery.signal", "standby.signal"} {
		w := newWorld(t)
		w.push(plainSegment)
		w.mode(signal)
		ctx, cancel := contextWithTimeout(t, time.Minute)
		defer cancel()
		o := w.fetchOptions()
		o.Store = trickle{w.below}
		err := archive.Fetch(ctx, o, plainSegment, w.destination())
		if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "no progress") || errors.Is(err, archive.ErrAbsent) {
			t.Errorf("%s: %v", signal, err)
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
	must(t, os.Remove(filepath.Join(w.data, "pg_wal", historyFile))) // it would say where recovery is heading
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
