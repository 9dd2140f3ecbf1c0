package archive_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/fault"
	"pgstow/storage/object"
	"pgstow/wal"
	"pgstow/wal/archive"
)

func TestPushStoresEveryKindOfFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	names := []string{historyFile, plainSegment, switchedSegment, firstSegment, secondSegment, thirdSegment, backupFile, partialFile}
	for _, name := range names {
		content := fixture(t, name)
		r, err := archive.Push(t.Context(), w.pushOptions(), w.place(name, content))
		if err != nil {
			t.Fatal(err)
		}
		if r.Outcome != archive.Stored || r.Name != name || r.PlainSize != int64(len(content)) || r.AsPartial {
			t.Errorf("%s: %+v", name, r)
		}
		stored := w.stored(r.Key)
		o, err := object.Open(stored, nil)
		must(t, err)
		plain, err := o.Plain()
		must(t, err)
		h := o.Header()
		if !bytes.Equal(plain, content) || h.Name != name || h.SystemID != w.ref.SystemID || h.Host != "db1" || h.DataDirectory == "" || h.PlainSHA256 != sha256.Sum256(content) {
			t.Errorf("%s: stored with header %+v", name, h)
		}
		if r.StoredSize != int64(len(stored)) {
			t.Errorf("%s: %d bytes stored, result says %d", name, len(stored), r.StoredSize)
		}
		if name != partialFile { // which has another key than its name
			w.wantFetched(name, content)
		}
	}
	sum := sha256.Sum256(fixture(t, partialFile))
	want := []string{
		"00000001/00000000/" + plainSegment, "00000001/00000000/" + switchedSegment, "00000001/00000000/" + firstSegment,
		"00000001/00000000/" + secondSegment, "00000001/00000000/" + thirdSegment, "00000001/00000000/" + backupFile,
		"00000001/00000000/" + partialFile + fmt.Sprintf(".%x", sum[:4]), "00000002/" + historyFile,
	}
	if keys := w.keys(); !slices.Equal(keys, want) {
		t.Errorf("keys %q, want %q", keys, want)
	}
	info, err := w.repo.Cluster(t.Context(), w.ref)
	if err != nil || info.PostgresMajor != 15 || info.SegmentSize != 1<<20 || info.PageSize != 8192 || info.RelSegSize != 131072 || info.Checksums == nil {
		t.Errorf("cluster.json: %+v, %v", info, err)
	}
}

func TestPushTellsWhatIsInASegment(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(plainSegment, switchedSegment)
	for name, flag := range map[string]uint32{plainSegment: 0, switchedSegment: object.FlagSwitch} {
		h, err := object.ParseHeader(w.stored(w.key(name)))
		must(t, err)
		f, err := wal.ParseFileName(name)
		must(t, err)
		info, err := wal.InspectSegment(fixture(t, name), f)
		must(t, err)
		start := uint64(f.Start(1 << 20))
		if h.Kind != object.KindWAL || h.Timeline != 1 || h.From != start || h.To != start+1<<20 || h.Flags&object.FlagSwitch != flag {
			t.Errorf("%s: %+v", name, h)
		}
		if h.LastRecord != uint64(info.LastRecord) || h.MaxXID != info.MaxXID || h.LastRecord == 0 || h.Time.IsZero() {
			t.Errorf("%s: %+v, inspection says %+v", name, h, info)
		}
		if (h.FirstCommit != 0) != !info.FirstCommit.IsZero() || h.LastCommit != 0 && h.LastCommit != info.LastCommit.UnixMicro() {
			t.Errorf("%s: commits from %d to %d, inspection says %+v", name, h.FirstCommit, h.LastCommit, info)
		}
	}
}

func TestPushOnEveryMajor(t *testing.T) {
	t.Parallel()
	for _, major := range []string{"13", "14", "15", "16", "17", "18"} {
		t.Run(major, func(t *testing.T) {
			w, crashed := newWorld(t), newWorld(t)
			for _, w := range []*world{w, crashed} {
				write(t, filepath.Join(w.data, "global", "pg_control"), control(t, major))
			}
			paths, err := filepath.Glob(filepath.Join("..", "testdata", major, "*", "0000000*"))
			must(t, err)
			pushed := 0
			for _, path := range paths {
				dir, base := filepath.Split(path)
				name := strings.TrimSuffix(base, ".gz")
				role := filepath.Base(dir)
				if role == "cut" {
					continue
				}
				w := w
				if role == "overwrite" { // the same names as others, of a server that crashed
					w = crashed
				}
				if _, err := archive.Push(t.Context(), w.pushOptions(), w.place(name, fixtureOf(t, major, role, name))); err != nil {
					t.Errorf("%s/%s: %v", role, name, err)
				}
				pushed++
			}
			if pushed < 8 {
				t.Errorf("only %d files were pushed", pushed)
			}
		})
	}
}

func TestPushIsOneRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(plainSegment) // opens the repository and makes the cluster
	w.store.Reset()
	w.push(switchedSegment)
	if w.store.Count(fault.Put) != 1 || w.store.Calls() != 1 {
		t.Errorf("%d requests, %d of them puts; want one put", w.store.Calls(), w.store.Count(fault.Put))
	}
	w.store.Reset()
	r, err := archive.Push(t.Context(), w.pushOptions(), filepath.Join(w.data, "pg_wal", switchedSegment))
	if err != nil || r.Outcome != archive.Marked || w.store.Calls() != 0 {
		t.Errorf("a marked file: %+v, %v, %d requests", r, err, w.store.Calls())
	}
	w.push(switchedSegment) // written again: another mtime, the same bytes
	if w.store.Count(fault.Put) != 1 || w.store.Count(fault.Get) != 1 || w.store.Calls() != 2 {
		t.Errorf("the same bytes again: %d requests, %d puts, %d gets; want one put and one get", w.store.Calls(), w.store.Count(fault.Put), w.store.Count(fault.Get))
	}
	w.store.Reset()
	w.shift = 2 * time.Hour
	w.push(firstSegment)
	if w.store.Count(fault.Put) < 1 || w.store.Count(fault.Get) < 2 {
		t.Errorf("after an hour: %d puts, %d gets: the repository was not looked at", w.store.Count(fault.Put), w.store.Count(fault.Get))
	}
	w.store.Reset()
	w.push(secondSegment)
	if w.store.Calls() != 1 {
		t.Errorf("after that: %d requests, want 1", w.store.Calls())
	}
	w.spool = nil
	w.store.Reset()
	w.push(thirdSegment)
	if w.store.Count(fault.Get) < 2 {
		t.Error("without a spool the repository must be looked at each time")
	}
}

func TestPushOfTheSameFileAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(plainSegment, historyFile, backupFile, partialFile)
	w.spool = nil
	before := w.keys()
	for _, name := range []string{plainSegment, historyFile, backupFile, partialFile} {
		r, err := archive.Push(t.Context(), w.pushOptions(), w.place(name, fixture(t, name)))
		if err != nil || r.Outcome != archive.Existed {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	if !slices.Equal(w.keys(), before) {
		t.Errorf("keys %q, were %q", w.keys(), before)
	}
}

func TestPushNeverReplaces(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(firstSegment)
	before := w.stored(w.key(firstSegment))
	// The same segment of a server with the same system id that went another way: here with one byte after the switch record changed.
	w.push(switchedSegment)
	other := bytes.Clone(fixture(t, switchedSegment))
	other[len(other)-1] = 1
	stored := w.stored(w.key(switchedSegment))
	for range 2 { // the server asks again
		_, err := archive.Push(t.Context(), w.pushOptions(), w.place(switchedSegment, other))
		refused := refusedBy(err)
		if refused == nil || archive.PushExit(err) != 12 || refused.Writer == nil || refused.Writer.Host != "db1" || !strings.Contains(err.Error(), "db1") {
			t.Fatalf("got %v", err)
		}
		hint := catalog.Hint(err)
		for _, want := range []string{"PGSTOW_CLUSTER=", "pg_ctl promote", "pgstow wal resolve --keep local|stored pg_wal/" + switchedSegment} {
			if !strings.Contains(hint, want) {
				t.Errorf("the hint lacks %q: %s", want, hint)
			}
		}
	}
	if !bytes.Equal(w.stored(w.key(switchedSegment)), stored) || !bytes.Equal(w.stored(w.key(firstSegment)), before) {
		t.Fatal("an object was replaced")
	}
	w.place(switchedSegment, fixture(t, switchedSegment))
	w.push(switchedSegment)
}

func TestPushComparesWithDamagedObjects(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(plainSegment)
	good := w.stored(w.key(plainSegment))
	flipped := bytes.Clone(good)
	flipped[100] ^= 1
	w.push(switchedSegment)
	for what, bad := range map[string][]byte{
		"cut":             good[:len(good)-1],
		"only the header": good[:object.HeaderSize],
		"header cut":      good[:100],
		"empty":           {},
		"no object":       []byte("something else"),
		"header flipped":  flipped,
		"another one":     w.stored(w.key(switchedSegment)),
	} {
		t.Run(what, func(t *testing.T) {
			w.overwrite(w.key(plainSegment), bad)
			w.spool = nil
			_, err := archive.Push(t.Context(), w.pushOptions(), w.place(plainSegment, fixture(t, plainSegment)))
			if refusedBy(err) == nil || archive.PushExit(err) != 12 {
				t.Fatalf("got %v", err)
			}
			if !bytes.Equal(w.stored(w.key(plainSegment)), bad) {
				t.Fatal("it was replaced")
			}
		})
	}
}

func TestPushRefuses(t *testing.T) {
	t.Parallel()
	seg := fixture(t, plainSegment)
	changed := func(f func(b []byte)) []byte {
		b := bytes.Clone(seg)
		f(b)
		return b
	}
	for _, c := range []struct {
		what, name string
		content    []byte
	}{
		{"truncated", plainSegment, seg[:len(seg)/2]},
		{"too long", plainSegment, append(bytes.Clone(seg), 0)},
		{"empty", plainSegment, nil},
		{"only zeros", plainSegment, make([]byte, len(seg))},
		{"renamed", behind(t, plainSegment, 16), seg},
		{"under an older timeline's name", "00000001" + forkSegment[8:], fixture(t, forkSegment)},
		{"wrong magic", plainSegment, changed(func(b []byte) { b[0] ^= 0xff })},
		{"wrong address", plainSegment, changed(func(b []byte) { b[12] ^= 1 })},
		{"padded in the middle", plainSegment, changed(func(b []byte) { clear(b[len(b)/2:]) })},
		{"padded from a page on", plainSegment, changed(func(b []byte) { clear(b[8192*100:]) })},
		{"of another server", plainSegment, foreign(seg)},
		{"a partial of another server", partialFile, foreign(fixture(t, partialFile))},
		{"cut at a fork that no history tells of", cutSegment, fixture(t, "cut")},
		{"a partial of another place", behind(t, strings.TrimSuffix(partialFile, ".partial"), 1) + ".partial", fixture(t, partialFile)},
		{"empty history", historyFile, nil},
		{"history without parent", historyFile, []byte("# nothing\n")},
		{"history of zeros", historyFile, make([]byte, 41)},
		{"history cut in a line", historyFile, fixture(t, historyFile)[:20]},
		{"history that is its own parent", "00000001.history", fixture(t, historyFile)},
		{"empty backup file", backupFile, nil},
		{"backup file cut", backupFile, fixture(t, backupFile)[:100]},
		{"renamed backup file", behind(t, backupFile[:24], 1) + ".00000028.backup", fixture(t, backupFile)},
		{"no WAL", "postgresql.conf", []byte("port = 1\n")},
		{"temporary file", "xlogtemp.123", seg},
		{"lower case", strings.ToLower(switchedSegment), fixture(t, switchedSegment)},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := newWorld(t)
			_, err := archive.Push(t.Context(), w.pushOptions(), w.place(c.name, c.content))
			if refusedBy(err) == nil || archive.PushExit(err) != 12 {
				t.Fatalf("got %v", err)
			}
			if keys := w.keys(); len(keys) > 0 {
				t.Fatalf("stored: %q", keys)
			}
			if w.store.Count(fault.Put) > 0 {
				t.Fatal("something was written")
			}
		})
	}
}

// foreign is the same segment of a server with another system id.
func foreign(seg []byte) []byte {
	b := bytes.Clone(seg)
	b[24] ^= 1 // xlp_sysid
	return b
}

func TestPushFailuresThatMayPass(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what   string
		change func(t *testing.T, w *world, path string)
	}{
		{"no file", func(t *testing.T, _ *world, path string) { must(t, os.Remove(path)) }},
		{"a folder", func(t *testing.T, _ *world, path string) { must(t, os.Remove(path)); must(t, os.Mkdir(path, 0o700)) }},
		{"no pg_control", func(t *testing.T, w *world, _ string) {
			must(t, os.Remove(filepath.Join(w.data, "global", "pg_control")))
		}},
		{"no data directory", func(_ *testing.T, w *world, _ string) { w.data = "" }},
		{"torn pg_control", func(t *testing.T, w *world, _ string) {
			write(t, filepath.Join(w.data, "global", "pg_control"), control(t, "15")[:200])
		}},
		{"no repository", func(t *testing.T, w *world, _ string) { must(t, w.below.Delete(t.Context(), catalog.RepoKey)) }},
		{"no store", func(t *testing.T, w *world, _ string) { must(t, os.RemoveAll(w.root)) }},
		{"no permission", func(_ *testing.T, w *world, _ string) {
			w.store.Add(fault.Fault{Op: fault.Put, Key: "*wal*", Err: storage.ErrPermission})
		}},
		{"put fails", func(_ *testing.T, w *world, _ string) { w.store.Add(fault.Fault{Op: fault.Put, Key: "*wal*"}) }},
		{"open fails", func(_ *testing.T, w *world, _ string) { w.store.Add(fault.Fault{Op: fault.Get}) }},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := newWorld(t)
			path := w.place(plainSegment, fixture(t, plainSegment))
			c.change(t, w, path)
			_, err := archive.Push(t.Context(), w.pushOptions(), path)
			if err == nil || archive.PushExit(err) != 1 {
				t.Fatalf("got %v", err)
			}
			w.store.VerifyAllHit(t)
		})
	}
}

func TestPushAsksAnewAfterAFailure(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(plainSegment)
	w.store.Reset()
	w.store.Add(fault.Fault{Op: fault.Put})
	path := w.place(switchedSegment, fixture(t, switchedSegment))
	if _, err := archive.Push(t.Context(), w.pushOptions(), path); err == nil {
		t.Fatal("no error")
	}
	w.store.Reset()
	w.push(switchedSegment)
	if w.store.Count(fault.Get) < 2 {
		t.Errorf("only %d gets: the repository was not looked at again", w.store.Count(fault.Get))
	}
}

func TestPushKeepsPartialFilesSideBySide(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push(partialFile)
	other := bytes.Clone(fixture(t, partialFile)) // a second promotion from the same segment: another recycled tail
	other[len(other)-1] ^= 1
	if _, err := archive.Push(t.Context(), w.pushOptions(), w.place(partialFile, other)); err != nil {
		t.Fatal(err)
	}
	if keys := w.keys(); len(keys) != 2 {
		t.Fatalf("keys %q", keys)
	}
	err := w.fetchErrorCode(partialFile, 126)
	for _, key := range w.keys() {
		name := filepath.Base(key)
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%v does not name %s", err, name)
		}
		want := other
		if sum := sha256.Sum256(fixture(t, partialFile)); strings.HasSuffix(name, fmt.Sprintf("%x", sum[:4])) {
			want = fixture(t, partialFile)
		}
		w.wantFetched(name, want)
	}
}

// A standby with archive_mode=always has the segment in which its timeline was left under its full name.
func TestPushOfASegmentThatEndsAtAFork(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.place(historyFile, fixture(t, historyFile))
	r, err := archive.Push(t.Context(), w.pushOptions(), w.place(cutSegment, fixture(t, "cut")))
	if err != nil || !r.AsPartial {
		t.Fatalf("%+v, %v", r, err)
	}
	if keys := w.keys(); len(keys) != 1 || !strings.Contains(keys[0], cutSegment+".partial.") {
		t.Fatalf("keys %q", keys)
	}
	if r, err := archive.Push(t.Context(), w.pushOptions(), filepath.Join(w.data, "pg_wal", cutSegment)); err != nil || r.Outcome != archive.Marked {
		t.Fatalf("again: %+v, %v", r, err)
	}
	w.wantFetchError(cutSegment, archive.ErrAbsent, 1)
	w.wantFetched(cutSegment+".partial", fixture(t, "cut"))
	// A history with a fork that the file does not reach proves nothing.
	start := parsed(t, cutSegment).Start(1 << 20)
	for what, h := range map[string]wal.History{
		"later":              {{Timeline: 1, End: start + 0xFFFFF}, {Timeline: 3}},
		"another timeline":   {{Timeline: 2, End: start + 100}, {Timeline: 3}},
		"before the segment": {{Timeline: 1, End: start}, {Timeline: 3}},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			w.place("00000003.history", h.Format())
			_, err := archive.Push(t.Context(), w.pushOptions(), w.place(cutSegment, fixture(t, "cut")))
			if archive.PushExit(err) != 12 {
				t.Fatalf("got %v", err)
			}
		})
	}
}
