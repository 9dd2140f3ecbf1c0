package archive_test

import (
	"bytes"
	"strings"
	"testing"

	"pgstow/storage/fault"
	"pgstow/storage/object"
	"pgstow/wal/archive"
)

// conflict is a world where the archive has another switched segment than the server.
func conflict(t *testing.T) (w *world, stored, local []byte, path string) {
	t.Helper()
	w = newWorld(t)
	w.push(switchedSegment)
	w.spool = nil
	stored = fixture(t, switchedSegment)
	local = bytes.Clone(stored)
	local[len(local)-1] = 1
	path = w.place(switchedSegment, local)
	return w, stored, local, path
}

func TestResolveKeepsBoth(t *testing.T) {
	t.Parallel()
	for keep, name := range map[archive.Keep]string{archive.KeepStored: "stored", archive.KeepLocal: "local"} {
		t.Run(name, func(t *testing.T) {
			w, stored, local, path := conflict(t)
			if _, err := archive.Push(t.Context(), w.pushOptions(), path); archive.PushExit(err) != 12 {
				t.Fatalf("got %v", err)
			}
			kept, other := stored, local
			if keep == archive.KeepLocal {
				kept, other = local, stored
			}
			for range 2 { // a second time there is nothing more to do
				r, err := archive.Resolve(t.Context(), w.pushOptions(), path, keep)
				if err != nil || r.Key != w.key(switchedSegment) {
					t.Fatalf("%+v, %v", r, err)
				}
				if r.Aside == "" {
					continue
				}
				o, err := object.Open(w.stored(r.Aside), nil)
				must(t, err)
				plain, err := o.Plain()
				must(t, err)
				if !bytes.Equal(plain, other) || !strings.HasPrefix(r.Aside, r.Key+".aside.") {
					t.Errorf("%s has other bytes", r.Aside)
				}
			}
			w.wantFetched(switchedSegment, kept)
			for range 2 { // the server goes on
				r, err := archive.Push(t.Context(), w.pushOptions(), path)
				if err != nil || r.Outcome != archive.Existed {
					t.Fatalf("%+v, %v", r, err)
				}
			}
			w.mode("recovery.signal") // what was set aside is neither a segment nor a piece
			w.wantFetchError(firstSegment, archive.ErrAbsent, 1)
			w.wantHole(behind(t, switchedSegment, -1), switchedSegment)
			third := bytes.Clone(local)
			third[len(third)-1] = 2
			if _, err := archive.Push(t.Context(), w.pushOptions(), w.place(switchedSegment, third)); archive.PushExit(err) != 12 {
				t.Errorf("a third one: %v", err)
			}
		})
	}
}

func TestResolveOfADamagedObject(t *testing.T) {
	t.Parallel()
	w, _, local, path := conflict(t)
	w.overwrite(w.key(switchedSegment), []byte("not an object"))
	r, err := archive.Resolve(t.Context(), w.pushOptions(), path, archive.KeepLocal)
	if err != nil || string(w.stored(r.Aside)) != "not an object" {
		t.Fatalf("%+v, %v", r, err)
	}
	w.wantFetched(switchedSegment, local)
}

func TestResolveOfTheSameBytes(t *testing.T) {
	t.Parallel()
	w, stored, _, _ := conflict(t)
	r, err := archive.Resolve(t.Context(), w.pushOptions(), w.place(switchedSegment, stored), archive.KeepLocal)
	if err != nil || r.Aside != "" || len(w.keys()) != 1 {
		t.Errorf("%+v, %v, %q", r, err, w.keys())
	}
}

func TestResolveInterrupted(t *testing.T) {
	t.Parallel()
	for n := 1; ; n++ {
		w, stored, local, path := conflict(t)
		w.store.Crash(n, n%2 == 0, nil)
		_, err := archive.Resolve(t.Context(), w.pushOptions(), path, archive.KeepLocal)
		w.store.Reset()
		got, ferr := w.fetch(switchedSegment)
		if ferr != nil || !bytes.Equal(got, stored) && !bytes.Equal(got, local) {
			t.Fatalf("after call %d: %d bytes, %v", n, len(got), ferr)
		}
		if _, rerr := archive.Resolve(t.Context(), w.pushOptions(), path, archive.KeepLocal); rerr != nil {
			t.Fatalf("again after call %d: %v", n, rerr)
		}
		w.wantFetched(switchedSegment, local)
		if len(w.keys()) != 2 {
			t.Fatalf("keys %q", w.keys())
		}
		if err == nil {
			break
		}
		if n > 50 {
			t.Fatal("it never came to an end")
		}
	}
	w, _, _, path := conflict(t)
	w.store.OnCall(func(c fault.Call) error {
		if c.Op == fault.Put && strings.Contains(c.Key, ".aside.") {
			w.overwrite(w.key(switchedSegment), []byte("somebody else was here"))
		}
		return nil
	})
	if _, err := archive.Resolve(t.Context(), w.pushOptions(), path, archive.KeepLocal); archive.PushExit(err) != 1 {
		t.Errorf("got %v", err)
	}
	if string(w.stored(w.key(switchedSegment))) != "somebody else was here" {
		t.Error("it was replaced")
	}
}
