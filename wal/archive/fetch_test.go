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
			if err := w.fetchError(plainSegment, object.ErrCorrupt, 126); !strings.Contains(err.Error(), key) {
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
		if err := w.fetchErrorCode(plainSegment, 126); !strings.Contains(err.Error(), w.key(plainSegment)) {
			t.Errorf("%s: %v does not name the object", what, err)
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
