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
	"pgstow/storage/file"
	"pgstow/storage/object"
	"pgstow/storage/retry"
	"pgstow/wal/archive"
)

func TestPushWithALostReply(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(plainSegment)
	w.store.Add(fault.Fault{Op: fault.Put, Kind: fault.After})
	o := w.pushOptions()
	o.Store = retry.New(w.store, retry.Policy{FirstWait: time.Millisecond}, nil)
	r, err := archive.Push(t.Context(), o, w.place(switchedSegment, fixture(t, switchedSegment)))
	if err != nil || r.Outcome != archive.Stored {
		t.Fatalf("%+v, %v", r, err)
	}
	// The process dies before it hears the answer; the next one finds its own bytes.
	w.store.Add(fault.Fault{Op: fault.Put, Kind: fault.After})
	path := w.place(firstSegment, fixture(t, firstSegment))
	if _, err := archive.Push(t.Context(), w.pushOptions(), path); archive.PushExit(err) != 1 {
		t.Fatalf("got %v", err)
	}
	r, err = archive.Push(t.Context(), w.pushOptions(), path)
	if err != nil || r.Outcome != archive.Existed {
		t.Fatalf("%+v, %v", r, err)
	}
	w.store.VerifyAllHit(t)
}

func TestPushGivesUp(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what   string
		faults []fault.Fault
		change func(*archive.PushOptions)
		want   string
	}{
		{"nothing moves", []fault.Fault{{Op: fault.Put, Kind: fault.Hang}}, func(o *archive.PushOptions) { o.Stall = 50 * time.Millisecond }, "no progress"},
		{"no answer", []fault.Fault{{Op: fault.Put, Kind: fault.HangAfter}}, func(o *archive.PushOptions) { o.Stall = 50 * time.Millisecond }, "no progress"},
		{"comparison hangs", []fault.Fault{{Op: fault.Put, Err: storage.ErrExist}, {Op: fault.Get, Kind: fault.Hang}}, func(o *archive.PushOptions) { o.Stall = 50 * time.Millisecond }, "no progress"},
		{"it fails again and again", []fault.Fault{{Op: fault.Put, Times: -1}}, func(o *archive.PushOptions) {
			o.Deadline = 200 * time.Millisecond
			o.Store = retry.New(o.Store, retry.Policy{FirstWait: time.Millisecond, MaxWait: 20 * time.Millisecond, Total: time.Hour}, nil)
		}, "deadline"},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := newWorld(t)
			w.push(plainSegment)
			w.store.Add(c.faults...)
			o := w.pushOptions()
			c.change(&o)
			begin := time.Now()
			_, err := archive.Push(t.Context(), o, w.place(switchedSegment, fixture(t, switchedSegment)))
			if archive.PushExit(err) != 1 || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v", err)
			}
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

func TestPushEncrypted(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	root := t.TempDir()
	s, err := file.Open(file.Options{Root: root})
	must(t, err)
	w := newWorldOn(t, s, catalog.InitOptions{Recipients: []string{key.recipient}}, catalog.Pins{Recipients: []string{object.Fingerprint(key.recipient)}})
	names := []string{plainSegment, switchedSegment, historyFile, backupFile, partialFile}
	w.push(names...)
	w.spool = nil
	for _, name := range names { // encryption is randomised, so the bytes differ; the header tells
		r, err := archive.Push(t.Context(), w.pushOptions(), w.place(name, fixture(t, name)))
		if err != nil || r.Outcome != archive.Existed {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	for _, key := range w.keys() {
		b := w.stored(w.ref.WALPrefix() + key)
		for _, secret := range []string{"no recovery target", "a label", "START WAL"} {
			if bytes.Contains(b, []byte(secret)) {
				t.Errorf("%s has %q in it", key, secret)
			}
		}
		if !bytes.HasPrefix(b[object.HeaderSize:], []byte("age-encryption.org/v1\n")) {
			t.Errorf("%s is not encrypted", key)
		}
	}
	w.wantFetchError(plainSegment, object.ErrNoIdentity, 126)
	w.pins.Identities = newKey(t).ids
	w.wantFetchError(plainSegment, object.ErrWrongIdentity, 126)
	w.mode("standby.signal")
	w.wantFetchError(plainSegment, object.ErrWrongIdentity, 126)
	w.mode()
	w.pins.Identities = key.ids
	for _, name := range names[:4] {
		w.wantFetched(name, fixture(t, name))
	}
	// The host's pins count, whatever the spool remembers.
	w = newWorldSpool(t, w)
	w.push(plainSegment)
	w.pins = catalog.Pins{EncryptionNone: true}
	_, err = archive.Push(t.Context(), w.pushOptions(), w.place(firstSegment, fixture(t, firstSegment)))
	if !errors.Is(err, catalog.ErrRecipients) || archive.PushExit(err) != 12 {
		t.Errorf("with other pins: %v", err)
	}
}

func TestTwoPushersOfTheSameBytes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(historyFile)
	w.spool = nil
	var mu sync.Mutex
	count := map[archive.Outcome]int{}
	path := w.place(plainSegment, fixture(t, plainSegment))
	var done sync.WaitGroup
	for range 8 {
		o := w.pushOptions()
		done.Go(func() {
			r, err := archive.Push(t.Context(), o, path)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			count[r.Outcome]++
		})
	}
	done.Wait()
	if count[archive.Stored] != 1 || count[archive.Existed] != 7 {
		t.Errorf("outcomes %v", count)
	}
}

func TestTwoServersWithTheSameSegment(t *testing.T) {
	t.Parallel()
	for round := range 10 {
		w := newWorld(t)
		w.push(historyFile)
		w.spool = nil
		paths := [2]string{w.place(switchedSegment, fixture(t, switchedSegment)), filepath.Join(t.TempDir(), switchedSegment)}
		other := bytes.Clone(fixture(t, switchedSegment))
		other[len(other)-1] = byte(round + 1)
		write(t, paths[1], other)
		var errs [2]error
		var done sync.WaitGroup
		for i := range paths {
			o := w.pushOptions()
			o.Host = fmt.Sprintf("db%d", i)
			done.Go(func() { _, errs[i] = archive.Push(t.Context(), o, paths[i]) })
		}
		done.Wait()
		winner := 0
		if errs[0] != nil {
			winner = 1
		}
		if errs[winner] != nil || archive.PushExit(errs[1-winner]) != 12 || refusedBy(errs[1-winner]).Writer.Host != fmt.Sprintf("db%d", winner) {
			t.Fatalf("got %v and %v", errs[0], errs[1])
		}
		want, err := os.ReadFile(paths[winner])
		must(t, err)
		w.wantFetched(switchedSegment, want)
	}
}

func TestPushWithoutADataDirectory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	path := w.place(plainSegment, fixture(t, plainSegment))
	o := w.pushOptions()
	o.PGData, o.SystemID = "", w.ref.SystemID
	if _, err := archive.Push(t.Context(), o, path); err != nil {
		t.Fatal(err)
	}
	o.SystemID++
	o.Spool = nil
	if _, err := archive.Push(t.Context(), o, path); archive.PushExit(err) != 12 {
		t.Errorf("another system id: %v", err)
	}
	o = w.pushOptions()
	o.SystemID, o.Spool = w.ref.SystemID+1, nil
	if _, err := archive.Push(t.Context(), o, path); archive.PushExit(err) != 1 {
		t.Errorf("two system ids: %v", err)
	}
}
