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
	"strings"
	"testing"
	"time"

	"pgstow/catalog"
	"pgstow/storage"
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
