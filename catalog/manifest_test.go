package catalog_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/fault"
	"pgstow/storage/object"
	"pgstow/wal"
)

var update = flag.Bool("update", false, "write the golden files anew")

const (
	testID  = "20261124T154500Z-k3f9"
	otherID = "20261123T000000Z-aaaa"
)

func testHeader() catalog.BackupHeader {
	return catalog.BackupHeader{
		Label: "nightly", Method: catalog.MethodScan, Source: catalog.SourceLocal, PostgresVersion: 170002, PostgresMajor: 17,
		Start: 0x2A000028, Stop: 0x2A000158, CheckpointLSN: 0x2A000080, Timeline: 2, StopTimeline: 2,
		History:   []catalog.TimelineSwitch{{Timeline: 1, End: 0x1F000000, Reason: "no recovery target specified"}},
		StartedAt: day, StoppedAt: day.Add(time.Minute), NextXID: 1<<32 + 750, CatalogVersion: 202406281, ControlVersion: 1300,
		BlockSize: 8192, RelSegSize: 131072, WALSegmentSize: wal.DefaultSegmentSize, ChecksumVersion: 1, WALLevel: "replica",
		ControlRedo: 0x2A000028, ControlTimeline: 2, BackupLabel: []byte("START WAL LOCATION: 0/2A000028\n"),
		Tablespaces: []catalog.Tablespace{
			{OID: 16400, Path: "pg_tblspc/16400", Location: "/srv/fast <disk>"},
			{OID: 16401, Path: "pg_tblspc/16401", Location: "/srv/\xff\xfe"},
		},
		Host: "db1", DataDirectory: "/var/lib/postgresql/17/main", DataDirectoryMode: 0o700, Program: "pgstow 1.0", PagesChanged: 3, BytesRead: 65536, BytesStored: 4096,
	}
}

func newManifest(t testing.TB, r *catalog.Repository, id string) *catalog.ManifestWriter {
	t.Helper()
	w, err := r.NewManifestWriter(mainRef, id)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func add(t testing.TB, w *catalog.ManifestWriter, files ...catalog.FileEntry) {
	t.Helper()
	for _, f := range files {
		if err := w.AddFile(f); err != nil {
			t.Fatal(err)
		}
	}
}

func pack(id string, n, frames int) catalog.PackEntry {
	return catalog.PackEntry{
		Backup: id, N: n, Size: 1000 + int64(n), SHA256: sha256.Sum256([]byte(fmt.Sprint(id, n))), Frames: frames, PlainSize: int64(frames) << 20,
		Created: day, LivePages: 100, Pages: 128,
	}
}

func commit(t testing.TB, w *catalog.ManifestWriter, h catalog.BackupHeader) catalog.BackupHeader {
	t.Helper()
	h, err := w.Commit(context.Background(), h)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// sample is one of each.
func sample() []catalog.FileEntry {
	return []catalog.FileEntry{
		{Path: "PG_VERSION", Type: catalog.TypeFile, Mode: 0o600, Size: 3, ModTime: day, Blob: []catalog.Slice{{Pack: 0, Frame: 1, Offset: 0, Length: 3}}, SHA256: sha256.Sum256([]byte("17\n"))},
		{Path: "base", Type: catalog.TypeDir, Mode: 0o700, ModTime: day},
		{Path: "base/5", Type: catalog.TypeDir, Mode: 0o700},
		{Path: "base/5/1247", Type: catalog.TypeFile, Mode: 0o600, Size: 16384, ModTime: day, Map: &catalog.MapRef{Pack: 1, Frame: 0, Offset: 10, Length: 90}, Damaged: []uint32{1}},
		{Path: "base/5/1248", Type: catalog.TypeFile, Mode: 0o600},
		{Path: "base\xff\xfe", Type: catalog.TypeFile, Mode: 0o640, Size: 2 << 20, Blob: []catalog.Slice{{Pack: 0, Frame: 2, Offset: 0, Length: 1 << 20}, {Pack: 0, Frame: 3, Offset: 0, Length: 1 << 20}}},
		{Path: "log & <more>", Type: catalog.TypeLink, Mode: 0o777, Target: "/var/log/postgresql"},
		{Path: "zlink", Type: catalog.TypeLink, Mode: 0o777, Target: "/\xff"},
	}
}

func writeSample(t testing.TB, r *catalog.Repository) catalog.BackupHeader {
	t.Helper()
	w := newManifest(t, r, testID)
	if i, err := w.AddPack(pack(testID, 0, 4)); err != nil || i != 0 {
		t.Fatal(i, err)
	}
	add(t, w, sample()...)
	if i, err := w.AddPack(pack(testID, 1, 1)); err != nil || i != 1 {
		t.Fatal(i, err)
	}
	return commit(t, w, testHeader())
}

func readFiles(m *catalog.ManifestReader) ([]catalog.FileEntry, error) {
	var out []catalog.FileEntry
	for f, err := range m.Files() {
		if err != nil {
			return out, err
		}
		out = append(out, f)
	}
	return out, nil
}

func TestManifestRoundTrip(t *testing.T) {
	k := newKey(t)
	for name, r := range map[string]*catalog.Repository{"plain": initPlain(t, newStore(t)), "encrypted": initEncrypted(t, newStore(t), k)} {
		t.Run(name, func(t *testing.T) {
			want := writeSample(t, r)
			m, err := r.ReadManifest(t.Context(), mainRef, testID)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(m.Header(), want) {
				t.Errorf("header\n%+v, want\n%+v", m.Header(), want)
			}
			if want.Files != 8 || want.Relations != 1 || want.Packs != 2 || want.Bytes != 3+16384+2<<20 {
				t.Errorf("counts %d %d %d %d", want.Files, want.Relations, want.Packs, want.Bytes)
			}
			if want := []catalog.PackEntry{pack(testID, 0, 4), pack(testID, 1, 1)}; !reflect.DeepEqual(m.Packs(), want) {
				t.Errorf("packs\n%+v, want\n%+v", m.Packs(), want)
			}
			for range 2 { // it can be read more than once
				files, err := readFiles(m)
				if err != nil || !reflect.DeepEqual(files, sample()) {
					t.Errorf("files %v\n%+v, want\n%+v", err, files, sample())
				}
			}
			if _, err := r.ReadManifest(t.Context(), mainRef, otherID); !errors.Is(err, catalog.ErrNoBackup) {
				t.Errorf("another backup: %v", err)
			}
		})
	}
}

// TestManifestGolden pins the lines that the format's description shows.
func TestManifestGolden(t *testing.T) {
	r := initPlain(t, newStore(t))
	writeSample(t, r)
	stored, _, err := storage.ReadAll(t.Context(), r.Store, mainRef.BackupManifestKey(testID), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	o, err := object.Open(stored, nil)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := o.Plain()
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "golden", "manifest.ndjson")
	if *update {
		if err := os.WriteFile(golden, plain, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(plain, want) {
		t.Errorf("manifest\n%s, want\n%s", plain, want)
	}
	first, err := o.Frame(0, nil)
	if err != nil || bytes.Count(first, []byte("\n")) != 1 || !bytes.HasPrefix(plain, first) {
		t.Errorf("the first frame is not the header line alone: %v", err)
	}
	// What a person checks by hand: the footer's hash is that of all lines before it.
	lines := bytes.SplitAfter(bytes.TrimSuffix(plain, []byte("\n")), []byte("\n"))
	sum := sha256.Sum256(bytes.Join(lines[:len(lines)-1], nil))
	if !bytes.Contains(lines[len(lines)-1], []byte(catalog.Digest(sum).String())) {
		t.Error("the footer has another hash")
	}
}

func TestManifestWriterRefuses(t *testing.T) {
	r := initPlain(t, newStore(t))
	dir := func(p string) catalog.FileEntry { return catalog.FileEntry{Path: p, Type: catalog.TypeDir} }
	blob := func(p string, size int64, s ...catalog.Slice) catalog.FileEntry {
		return catalog.FileEntry{Path: p, Size: size, Blob: s}
	}
	for _, tt := range []struct {
		name  string
		files []catalog.FileEntry
	}{
		{"no path", []catalog.FileEntry{dir("")}},
		{"absolute", []catalog.FileEntry{dir("/etc")}},
		{"parent", []catalog.FileEntry{dir("../x")}},
		{"parent inside", []catalog.FileEntry{dir("a/../../x")}},
		{"itself", []catalog.FileEntry{dir("./a")}},
		{"empty part", []catalog.FileEntry{dir("a//b")}},
		{"final slash", []catalog.FileEntry{dir("a/")}},
		{"NUL", []catalog.FileEntry{dir("a\x00b")}},
		{"too long", []catalog.FileEntry{dir(strings.Repeat("a/", 3000) + "b")}},
		{"order", []catalog.FileEntry{dir("b"), dir("a")}},
		{"twice", []catalog.FileEntry{dir("a"), dir("a")}},
		{"folder after its contents", []catalog.FileEntry{dir("a/b"), dir("a")}},
		{"below a file", []catalog.FileEntry{{Path: "a"}, dir("a/b")}},
		{"below a link", []catalog.FileEntry{{Path: "a", Type: catalog.TypeLink, Target: "/etc"}, {Path: "a/passwd"}}},
		{"below a link, later", []catalog.FileEntry{{Path: "a", Type: catalog.TypeLink, Target: "/etc"}, {Path: "a/b/c"}}},
		{"unknown type", []catalog.FileEntry{{Path: "a", Type: "socket"}}},
		{"a link to nothing", []catalog.FileEntry{{Path: "a", Type: catalog.TypeLink}}},
		{"a file with a target", []catalog.FileEntry{{Path: "a", Target: "b"}}},
		{"a folder with a size", []catalog.FileEntry{{Path: "a", Type: catalog.TypeDir, Size: 1}}},
		{"negative size", []catalog.FileEntry{{Path: "a", Size: -1}}},
		{"no contents", []catalog.FileEntry{{Path: "a", Size: 1}}},
		{"map of nothing", []catalog.FileEntry{{Path: "a", Map: &catalog.MapRef{Length: 1}}}},
		{"map and blob", []catalog.FileEntry{{Path: "a", Size: 1, Map: &catalog.MapRef{Length: 1}, Blob: []catalog.Slice{{Length: 1}}}}},
		{"sizes differ", []catalog.FileEntry{blob("a", 2, catalog.Slice{Length: 1})}},
		{"negative pack", []catalog.FileEntry{blob("a", 1, catalog.Slice{Pack: -1, Length: 1})}},
		{"negative offset", []catalog.FileEntry{blob("a", 1, catalog.Slice{Offset: -1, Length: 1})}},
		{"empty slice", []catalog.FileEntry{blob("a", 1, catalog.Slice{Length: 0}, catalog.Slice{Length: 1})}},
		{"slice beyond a frame", []catalog.FileEntry{blob("a", 1<<30, catalog.Slice{Length: 1 << 30})}},
		{"pack out of range", []catalog.FileEntry{blob("a", 1, catalog.Slice{Pack: 1, Length: 1})}},
		{"frame out of range", []catalog.FileEntry{blob("a", 1, catalog.Slice{Pack: 0, Frame: 4, Length: 1})}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newManifest(t, r, testID)
			if _, err := w.AddPack(pack(testID, 0, 4)); err != nil {
				t.Fatal(err)
			}
			var err error
			for _, f := range tt.files {
				err = errors.Join(err, w.AddFile(f))
			}
			if err == nil {
				_, err = w.Commit(t.Context(), testHeader())
			} else if _, again := w.Commit(t.Context(), testHeader()); again == nil {
				t.Error("committed after an error")
			}
			wantErr(t, err, catalog.ErrManifest)
			if _, err := r.Backup(t.Context(), mainRef, testID); !errors.Is(err, catalog.ErrNoBackup) {
				t.Errorf("a backup exists: %v", err)
			}
		})
	}
	w := newManifest(t, r, testID)
	if _, err := w.AddPack(catalog.PackEntry{Backup: testID}); err != nil { // reserved, and never stored
		t.Fatal(err)
	}
	_, err := w.Commit(t.Context(), testHeader())
	wantErr(t, err, catalog.ErrManifest)
}

// TestOwnLinks: what is below a tablespace's link and pg_wal belongs to the backup, since restore makes these links itself.
func TestOwnLinks(t *testing.T) {
	r := initPlain(t, newStore(t))
	w := newManifest(t, r, testID)
	add(t, w,
		catalog.FileEntry{Path: "pg_tblspc/16400", Type: catalog.TypeLink, Target: "/srv/x"},
		catalog.FileEntry{Path: "pg_tblspc/16400/PG_17_202406281", Type: catalog.TypeDir},
		catalog.FileEntry{Path: "pg_wal", Type: catalog.TypeLink, Target: "/wal"},
		catalog.FileEntry{Path: "pg_wal/000000010000000000000001"})
	commit(t, w, testHeader())
	m, err := r.ReadManifest(t.Context(), mainRef, testID)
	if err != nil {
		t.Fatal(err)
	}
	if files, err := readFiles(m); err != nil || len(files) != 4 {
		t.Errorf("%v %v", files, err)
	}
}

func TestPackReservation(t *testing.T) {
	r := initPlain(t, newStore(t))
	w := newManifest(t, r, testID)
	for n := range 3 {
		if i, err := w.AddPack(catalog.PackEntry{Backup: testID, N: n}); err != nil || i != n {
			t.Fatal(i, err)
		}
	}
	for _, n := range []int{2, 0, 1} {
		if i, err := w.AddPack(pack(testID, n, 1)); err != nil || i != n {
			t.Fatal(i, err)
		}
	}
	commit(t, w, testHeader())
	m, err := r.ReadManifest(t.Context(), mainRef, testID)
	if err != nil || len(m.Packs()) != 3 || m.Pack(2).N != 2 {
		t.Fatalf("%v %+v", err, m)
	}
}

func TestCommitOnce(t *testing.T) {
	r := initPlain(t, newStore(t))
	writeSample(t, r)
	w := newManifest(t, r, testID)
	_, err := w.Commit(t.Context(), testHeader())
	wantErr(t, err, storage.ErrExist)
	if aborted, err := r.AbortBackup(t.Context(), mainRef, testID, "host", "pgstow", day); err != nil || aborted {
		t.Errorf("a committed backup was aborted: %v", err)
	}
	if aborted, err := r.AbortBackup(t.Context(), mainRef, otherID, "sweeper", "pgstow", day); err != nil || !aborted {
		t.Fatalf("%v", err)
	}
	w = newManifest(t, r, otherID)
	_, err = w.Commit(t.Context(), testHeader())
	wantErr(t, err, catalog.ErrAborted)
	wantHint(t, err)
	if !strings.Contains(err.Error(), "sweeper") {
		t.Errorf("%v does not name who did it", err)
	}
	_, err = r.ReadManifest(t.Context(), mainRef, otherID)
	wantErr(t, err, catalog.ErrAborted)
	if list, err := r.Backups(t.Context(), mainRef); err != nil || len(list) != 1 || list[0].ID != testID {
		t.Errorf("%v %v", list, err)
	}
}

// TestManifestCache: the unencrypted form of a manifest reads like the stored one.
func TestManifestCache(t *testing.T) {
	r := initEncrypted(t, newStore(t), newKey(t))
	w := newManifest(t, r, testID)
	if _, err := w.AddPack(pack(testID, 0, 4)); err != nil {
		t.Fatal(err)
	}
	add(t, w, sample()[:3]...)
	h := commit(t, w, testHeader())
	plain, err := w.Encode(testHeader())
	if err != nil {
		t.Fatal(err)
	}
	m, err := catalog.OpenManifest(plain, nil)
	if err != nil || !reflect.DeepEqual(m.Header(), h) {
		t.Fatalf("%v", err)
	}
	if files, err := readFiles(m); err != nil || len(files) != 3 {
		t.Errorf("%v %v", files, err)
	}
	_, err = r.Put(t.Context(), mainRef.BackupManifestKey(otherID), plain, storage.IfAbsent)
	wantErr(t, err, catalog.ErrPlaintext)
	if err := w.AddFile(catalog.FileEntry{Path: "z"}); err == nil {
		t.Error("a file after Commit")
	}
}

// rebuild makes a manifest of the lines of a good one after edit has changed them; its object and its footer's hash are
// right, so what is found must be found in the lines.
func rebuild(t testing.TB, frames [][]byte, h object.Header) []byte {
	t.Helper()
	w, err := object.NewWriter(object.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return rebuildWith(t, w, frames, h)
}

func rebuildWith(t testing.TB, w *object.Writer, frames [][]byte, h object.Header) []byte {
	t.Helper()
	w.Reset()
	for _, f := range frames {
		if _, err := w.AddFrame(f); err != nil {
			t.Fatal(err)
		}
	}
	out, err := w.Finish(h)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func sampleFrames(t testing.TB) (frames [][]byte, h object.Header) {
	t.Helper()
	r := initPlain(t, newStore(t))
	writeSample(t, r)
	stored, _, err := storage.ReadAll(context.Background(), r.Store, mainRef.BackupManifestKey(testID), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	o, err := object.Open(stored, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range o.Frames() {
		f, err := o.Frame(i, nil)
		if err != nil {
			t.Fatal(err)
		}
		frames = append(frames, f)
	}
	return frames, o.Header()
}

func fixFooter(frames [][]byte) {
	last := len(frames) - 1
	sum := sha256.Sum256(bytes.Join(frames[:last], nil))
	i := bytes.Index(frames[last], []byte(`"sha256":"`)) + len(`"sha256":"`)
	frames[last] = slices.Concat(frames[last][:i], []byte(catalog.Digest(sum).String()), frames[last][i+64:])
}

func TestManifestReaderRefuses(t *testing.T) {
	good, h := sampleFrames(t)
	if len(good) != 4 {
		t.Fatalf("%d frames", len(good))
	}
	const header, files, packs, footer = 0, 1, 2, 3
	replace := func(frame int, old, with string) func([][]byte) {
		return func(f [][]byte) {
			if !bytes.Contains(f[frame], []byte(old)) {
				panic("the sample has no " + old)
			}
			f[frame] = bytes.Replace(f[frame], []byte(old), []byte(with), 1)
		}
	}
	for _, tt := range []struct {
		name string
		edit func([][]byte)
		want error
	}{
		{"newer version", replace(header, `"format":1`, `"format":2`), catalog.ErrFormatTooNew},
		{"no version", replace(header, `"format":1,`, ``), catalog.ErrManifest},
		{"not a header", replace(header, `"kind":"header"`, `"kind":"file"`), catalog.ErrManifest},
		{"header of another backup", replace(header, testID, otherID), catalog.ErrManifest},
		{"impossible id", replace(header, testID, "x"), catalog.ErrManifest},
		{"other stop", replace(header, "0/2A000158", "0/2A000159"), catalog.ErrManifest},
		{"stop before start", replace(header, "0/2A000028", "0/2B000028"), catalog.ErrManifest},
		{"header is no JSON", replace(header, `{`, `[`), catalog.ErrManifest},
		{"two lines in the header", replace(header, "\n", "\n{}\n"), catalog.ErrManifest},
		{"tablespace outside", replace(header, `"pg_tblspc/16400"`, `"../16400"`), catalog.ErrManifest},
		{"wrong pack frame", replace(header, `"pack_frame":2`, `"pack_frame":3`), catalog.ErrManifest},
		{"pack frame zero", replace(header, `"pack_frame":2`, `"pack_frame":0`), catalog.ErrManifest},
		{"other counts", replace(header, `"files":8`, `"files":9`), catalog.ErrManifest},
		{"path outside", replace(files, `"PG_VERSION"`, `"../../etc/x"`), catalog.ErrManifest},
		{"absolute path", replace(files, `"PG_VERSION"`, `"/etc/x"`), catalog.ErrManifest},
		{"path with a NUL", replace(files, `"PG_VERSION"`, `"a\u0000"`), catalog.ErrManifest},
		{"hexadecimal path outside", replace(files, `"path":"PG_VERSION"`, `"path_hex":"2e2e2f78"`), catalog.ErrManifest},
		{"two paths", replace(files, `"path":"PG_VERSION"`, `"path":"PG_VERSION","path_hex":"61"`), catalog.ErrManifest},
		{"bad hexadecimal", replace(files, `"path":"PG_VERSION"`, `"path_hex":"zz"`), catalog.ErrManifest},
		{"order", replace(files, `"PG_VERSION"`, `"zzz"`), catalog.ErrManifest},
		{"below a file", replace(files, `"path":"base/5/1248"`, `"path":"base/5/1247/x"`), catalog.ErrManifest},
		{"negative size", replace(files, `"size":3`, `"size":-3`), catalog.ErrManifest},
		{"other size", replace(files, `"size":3`, `"size":4`), catalog.ErrManifest},
		{"pack out of range", replace(files, `"map":{"pack":1`, `"map":{"pack":2`), catalog.ErrManifest},
		{"frame out of range", replace(files, `"frame":3`, `"frame":4`), catalog.ErrManifest},
		{"negative offset", replace(files, `"offset":10`, `"offset":-1`), catalog.ErrManifest},
		{"mode", replace(files, `"mode":"0600"`, `"mode":"99999"`), catalog.ErrManifest},
		{"digest", replace(files, `"sha256":"`, `"sha256":"00`), catalog.ErrManifest},
		{"unknown type", replace(files, `"type":"dir"`, `"type":"fifo"`), catalog.ErrManifest},
		{"unknown kind", replace(files, `"kind":"file"`, `"kind":"blob"`), catalog.ErrManifest},
		{"a map's size changed", replace(files, `"size":16384`, `"size":8192`), catalog.ErrManifest},
		{"a line is gone", func(f [][]byte) { f[files] = f[files][bytes.IndexByte(f[files], '\n')+1:] }, catalog.ErrManifest},
		{"a line is cut", func(f [][]byte) { f[files] = f[files][:len(f[files])-1] }, catalog.ErrManifest},
		{"pack number", replace(packs, `"index":1`, `"index":2`), catalog.ErrManifest},
		{"pack of nobody", replace(packs, testID, "x"), catalog.ErrManifest},
		{"pack without frames", replace(packs, `"frames":4`, `"frames":0`), catalog.ErrManifest},
		{"fewer frames", replace(packs, `"frames":4`, `"frames":3`), catalog.ErrManifest},
		{"pack size", replace(packs, `"size":1000`, `"size":-1`), catalog.ErrManifest},
		{"footer totals", replace(footer, `"files":8`, `"files":7`), catalog.ErrManifest},
		{"footer kind", replace(footer, `"kind":"footer"`, `"kind":"pack"`), catalog.ErrManifest},
	} {
		t.Run(tt.name, func(t *testing.T) {
			frames := slices.Clone(good)
			tt.edit(frames)
			fixFooter(frames)
			m, err := catalog.OpenManifest(rebuild(t, frames, h), nil)
			if err == nil {
				_, err = readFiles(m)
			}
			wantErr(t, err, tt.want)
		})
	}
	t.Run("another hash", func(t *testing.T) {
		frames := slices.Clone(good)
		replace(files, `"mode":"0600"`, `"mode":"0777"`)(frames)
		_, err := catalog.OpenManifest(rebuild(t, frames, h), nil)
		wantErr(t, err, catalog.ErrManifest)
	})
	t.Run("unknown fields are additions", func(t *testing.T) {
		frames := slices.Clone(good)
		replace(header, `"label"`, `"colour":"red","label"`)(frames)
		replace(files, `"mode"`, `"acl":["x"],"mode"`)(frames)
		replace(packs, `"index"`, `"tier":1,"index"`)(frames)
		replace(footer, `"files"`, `"crc":1,"files"`)(frames)
		fixFooter(frames)
		m, err := catalog.OpenManifest(rebuild(t, frames, h), nil)
		if err != nil {
			t.Fatal(err)
		}
		if files, err := readFiles(m); err != nil || !reflect.DeepEqual(files, sample()) {
			t.Errorf("%v", err)
		}
	})
	t.Run("a pack is no manifest", func(t *testing.T) {
		h := h
		h.Kind = object.KindPack
		_, err := catalog.OpenManifest(rebuild(t, good, h), nil)
		wantErr(t, err, catalog.ErrManifest)
	})
	t.Run("one frame", func(t *testing.T) {
		_, err := catalog.OpenManifest(rebuild(t, good[:1], h), nil)
		wantErr(t, err, catalog.ErrManifest)
	})
}

// FuzzManifest feeds lines of all sorts in a sound object with a right hash. Whatever is taken holds what is promised.
func FuzzManifest(f *testing.F) {
	frames, h := sampleFrames(f)
	f.Add(frames[0], frames[1], frames[2], frames[3])
	f.Add(frames[0], []byte(`{"kind":"file","path":"../x","mode":"0600"}`+"\n"), frames[2], frames[3])
	w, err := object.NewWriter(object.WriterOptions{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, a, b, c, d []byte) {
		list := [][]byte{a, b, c, d}
		for _, x := range list {
			if len(x) == 0 {
				return
			}
		}
		if i := bytes.Index(d, []byte(`"sha256":"`)); i >= 0 && len(d) >= i+len(`"sha256":"`)+64 {
			fixFooter(list)
		}
		m, err := catalog.OpenManifest(rebuildWith(t, w, list, h), nil)
		if err != nil {
			return
		}
		last := ""
		for e, err := range m.Files() {
			if err != nil {
				return
			}
			if last != "" && catalog.ComparePaths(last, e.Path) >= 0 {
				t.Fatalf("%q after %q", e.Path, last)
			}
			last = e.Path
			if filepath.IsAbs(e.Path) || !filepath.IsLocal(e.Path) || e.Size < 0 {
				t.Fatalf("%+v", e)
			}
			for _, s := range e.Blob {
				if s.Frame >= m.Pack(s.Pack).Frames {
					t.Fatalf("%+v", e)
				}
			}
			if e.Map != nil && e.Map.Frame >= m.Pack(e.Map.Pack).Frames {
				t.Fatalf("%+v", e)
			}
		}
	})
}

// TestManifestMillion writes and reads a million files and watches the heap: it must stay below 64 MiB beside the object.
func TestManifestMillion(t *testing.T) {
	if testing.Short() {
		t.Skip("writes a million lines")
	}
	const files, folders = 1_000_000, 1000
	r := initPlain(t, newStore(t))
	peak := watchHeap(t)
	writeMillion(t, r, files, folders)
	info, err := r.Store.Stat(t.Context(), mainRef.BackupManifestKey(testID))
	if err != nil {
		t.Fatal(err)
	}
	wrote := peak()
	m, err := r.ReadManifest(t.Context(), mainRef, testID)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for f, err := range m.Files() {
		if err != nil {
			t.Fatal(err)
		}
		if f.Map != nil {
			n++
		}
	}
	if n != files {
		t.Errorf("%d files", n)
	}
	read := peak()
	t.Logf("object %d MiB, peak heap beside it: %d MiB writing, %d MiB reading", info.Size>>20, (wrote-info.Size)>>20, (read-info.Size)>>20)
	if limit := int64(64 << 20); wrote-info.Size > limit || read-info.Size > limit {
		t.Error("too much memory")
	}
	runtime.KeepAlive(m)
}

func writeMillion(t *testing.T, r *catalog.Repository, files, folders int) {
	t.Helper()
	w := newManifest(t, r, testID)
	if _, err := w.AddPack(pack(testID, 0, 40)); err != nil {
		t.Fatal(err)
	}
	add(t, w, catalog.FileEntry{Path: "base", Type: catalog.TypeDir, Mode: 0o700})
	for d := range folders {
		dir := fmt.Sprintf("base/%d", 100000+d)
		add(t, w, catalog.FileEntry{Path: dir, Type: catalog.TypeDir, Mode: 0o700})
		for n := range files / folders {
			sum := sha256.Sum256([]byte{byte(d), byte(d >> 8), byte(n), byte(n >> 8)})
			offset := int(sum[0])<<8 | int(sum[1])
			add(t, w, catalog.FileEntry{
				Path: fmt.Sprintf("%s/%d", dir, 200000+n), Mode: 0o600, Size: (1 + int64(sum[2])) * 8192, ModTime: day.Add(time.Duration(sum[3]) * time.Second),
				Map: &catalog.MapRef{Pack: 0, Frame: n % 40, Offset: offset, Length: 10 + int(sum[4])},
			})
		}
	}
	if _, err := w.Commit(t.Context(), testHeader()); err != nil {
		t.Fatal(err)
	}
}

// watchHeap samples the live heap; each call of peak returns the highest since the last and begins anew.
func watchHeap(t *testing.T) (peak func() int64) {
	t.Helper()
	var high atomic.Int64
	stop := make(chan struct{})
	sample := func() {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		if h := int64(m.HeapAlloc); h > high.Load() {
			high.Store(h)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				sample()
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-done })
	return func() int64 {
		sample()
		return high.Swap(0)
	}
}

func TestBackupsList(t *testing.T) {
	k := newKey(t)
	s := newStore(t)
	r := initEncrypted(t, s, k)
	put := func(id string, tli wal.TimelineID, start, stop wal.LSN) {
		h := testHeader()
		h.Timeline, h.StopTimeline, h.Start, h.Stop = tli, tli, start, stop
		commit(t, newManifest(t, r, id), h)
	}
	put("20261124T154500Z-aaaa", 2, 6*mb, 7*mb) // the newest in spite of its id
	put("20261125T154500Z-bbbb", 1, 5*mb, 6*mb)
	put("20261126T154500Z-cccc", 1, 1*mb, 2*mb)
	if _, err := r.AbortBackup(t.Context(), mainRef, otherID, "x", "x", day); err != nil {
		t.Fatal(err)
	}
	want := []string{"20261126T154500Z-cccc", "20261125T154500Z-bbbb", "20261124T154500Z-aaaa"}
	blind, err := catalog.Open(t.Context(), s, catalog.Pins{Recipients: []string{k.recipient}})
	if err != nil {
		t.Fatal(err)
	}
	other := newKey(t)
	stranger, err := catalog.Open(t.Context(), s, catalog.Pins{Recipients: []string{k.recipient}, Identities: []object.Identity{other.identity}})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		r      *catalog.Repository
		opaque bool
	}{"identity": {r, false}, "no identity": {blind, true}, "wrong identity": {stranger, true}} {
		t.Run(name, func(t *testing.T) {
			list, err := tt.r.Backups(t.Context(), mainRef)
			if err != nil {
				t.Fatal(err)
			}
			var ids []string
			for _, b := range list {
				ids = append(ids, b.ID)
				if b.Opaque != tt.opaque || b.ManifestSize == 0 || b.Committed.IsZero() || b.Ref() != mainRef || !b.StoppedAt.Equal(day.Add(time.Minute)) || b.Host != "db1" {
					t.Errorf("%+v", b)
				}
				if (b.Label == "") != tt.opaque {
					t.Errorf("label %q", b.Label)
				}
			}
			if !slices.Equal(ids, want) {
				t.Errorf("order %v, want %v", ids, want)
			}
		})
	}
	_, err = blind.ReadManifest(t.Context(), mainRef, want[0])
	wantErr(t, err, object.ErrNoIdentity)
	wantHint(t, err)
	_, err = stranger.ReadManifest(t.Context(), mainRef, want[0])
	wantErr(t, err, object.ErrWrongIdentity)
}

// TestBackupsDamaged: a manifest that cannot be read is an error, and the others are listed all the same.
func TestBackupsDamaged(t *testing.T) {
	s := fault.New(newStore(t))
	r := initPlain(t, s)
	writeSample(t, r)
	w := newManifest(t, r, otherID)
	commit(t, w, testHeader())
	s.Add(fault.Fault{Op: fault.Get, Key: "*" + otherID + "*", Kind: fault.Flip, At: 600})
	list, err := r.Backups(t.Context(), mainRef)
	if err == nil || !strings.Contains(err.Error(), otherID) || len(list) != 1 || list[0].ID != testID {
		t.Errorf("%v %v", list, err)
	}
	s.VerifyAllHit(t)
}

// TestBackupsCost: one list and one small read for each backup, however big the manifests are.
func TestBackupsCost(t *testing.T) {
	inner := newStore(t)
	r := initPlain(t, inner)
	writeSample(t, r)
	s := fault.New(inner)
	opened, err := catalog.Open(t.Context(), s, catalog.Pins{EncryptionNone: true})
	if err != nil {
		t.Fatal(err)
	}
	before := s.Calls()
	if _, err := opened.Backups(t.Context(), mainRef); err != nil {
		t.Fatal(err)
	}
	if n := s.Calls() - before; n != 2 {
		t.Errorf("%d requests", n)
	}
}
