package catalog_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/object"
)

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
