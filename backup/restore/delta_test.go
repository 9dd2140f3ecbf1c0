package restore_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pgstow/backup/restore"
	"pgstow/catalog"
)

// deltaOptions are those of a delta restore over what an earlier restore with o has made.
func deltaOptions(o restore.Options) restore.Options {
	o.Delta = true
	return o
}

// spoil puts into a data directory what does not belong there, some of it leading outside, where nothing may change.
func spoil(t *testing.T, dir string) (outside string) {
	t.Helper()
	outside = t.TempDir()
	write(t, filepath.Join(outside, "precious", "1"), "precious")
	write(t, filepath.Join(outside, "xact", "0000"), "precious")
	write(t, filepath.Join(dir, "base/5/99999"), "no relation of the backup")
	write(t, filepath.Join(dir, "base/77/1/2/3"), "no database of the backup")
	write(t, filepath.Join(dir, "pg_replslot/old/state"), "x")
	write(t, filepath.Join(dir, "standby.signal"), "")
	write(t, filepath.Join(dir, "backup_label.old"), "x")
	write(t, filepath.Join(dir, "pg_wal/summaries/x"), "x")
	write(t, filepath.Join(dir, "postmaster.opts"), "x")
	link(t, filepath.Join(outside, "precious"), filepath.Join(dir, "base/78"))
	link(t, filepath.Join(outside, "precious"), filepath.Join(dir, "base/77/link"))
	link(t, filepath.Join(outside, "precious"), filepath.Join(dir, "pg_tblspc/12345"))
	link(t, filepath.Join(outside, "precious/1"), filepath.Join(dir, "base/5/88888"))
	// What belongs, of the wrong kind.
	for _, name := range []string{"pg_xact", "PG_VERSION", "base/5/16384"} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link(t, filepath.Join(outside, "xact"), filepath.Join(dir, "pg_xact"))
	write(t, filepath.Join(dir, "PG_VERSION/x"), "x")
	if err := syscall.Mkfifo(filepath.Join(dir, "base/5/16384"), 0o600); err != nil {
		t.Fatal(err)
	}
	return outside
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

// listing is all that is below a folder.
func listing(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			rel, _ := filepath.Rel(dir, path)
			list = append(list, fmt.Sprintf("%s %v", rel, d.Type()))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestDelta restores over a copy that is damaged, and has grown, in every way: the result is what a new restore makes, and
// nothing beyond it was touched.
func TestDelta(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			var key *keyPair
			if seed == 2 {
				key = newKey(t)
			}
			repo, store := newRepo(t, key)
			s := newSynthetic(t, repo, store, 100+seed)
			s.build(12, 8)
			o := options(t)
			mustRestore(t, repo, o)
			want := listing(t, o.Directory)
			damage(t, o.Directory, rand.New(rand.NewPCG(seed, 5)))
			outside := spoil(t, o.Directory)
			before := listing(t, outside)

			o = deltaOptions(o)
			p := mustPlan(t, repo, o)
			if err := restore.Compare(t.Context(), repo, &p, restore.RunOptions{}); err != nil {
				t.Fatal(err)
			}
			if d := p.Delta; d.RemoveFiles < 9 || !slices.Contains(d.Removes, "base/77/") || d.BytesKept == 0 || d.BytesFetch == 0 || d.Packs == 0 {
				t.Errorf("the plan: %+v", d)
			}
			r, err := restore.Run(t.Context(), repo, p, restore.RunOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if r.BytesKept != p.Delta.BytesKept || r.BytesWritten != p.Delta.BytesFetch || r.FilesRemoved != p.Delta.RemoveFiles || r.BytesRemoved != p.Delta.RemoveBytes {
				t.Errorf("the plan said %+v, the result is %+v", p.Delta, r)
			}
			s.check(o.Directory)
			verify(t, o.Directory, "-n")
			if got := listing(t, o.Directory); !slices.Equal(got, want) {
				t.Errorf("the directory has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			if after := listing(t, outside); !slices.Equal(after, before) {
				t.Errorf("outside: %v, before %v", after, before)
			}
			if b, err := os.ReadFile(filepath.Join(outside, "xact", "0000")); err != nil || string(b) != "precious" {
				t.Errorf("a file behind a link: %q, %v", b, err)
			}
		})
	}
}

// TestDeltaReadsWhatDiffers changes n pages of a copy: n pages are written, and from the store come the frames that
// they lie in and the maps, whatever the size of the rest.
func TestDeltaReadsWhatDiffers(t *testing.T) {
	repo, store := newRepo(t, nil)
	s := newSynthetic(t, repo, store, 55)
	s.build(12, 4)
	o := options(t)
	_, whole := mustRestore(t, repo, o)
	var none int64
	for _, n := range []int{0, 1, 12} {
		changed := 0
		for path, data := range s.want {
			if changed < n && strings.HasPrefix(path, "base/5/") && len(data) > 0 {
				patch(t, filepath.Join(o.Directory, path), int64(len(data)/2))
				changed++
			}
		}
		_, r := mustRestore(t, repo, deltaOptions(o))
		if r.BytesWritten > int64(n)*pageSize+pageSize || r.BytesKept < whole.BytesWritten-int64(n+1)*pageSize { // and pg_control
			t.Errorf("%d pages changed: %+v", n, r)
		}
		const frame = 12 * 40 * pageSize // the largest that strew makes, as plain bytes
		if n == 0 {
			none = r.BytesRead
		}
		if r.BytesRead > none+int64(n)*frame || r.BytesRead > whole.BytesRead/2 {
			t.Errorf("%d pages changed: %d bytes were read, %d when none was, %d for all", n, r.BytesRead, none, whole.BytesRead)
		}
		s.check(o.Directory)
	}
}

// patch changes one byte.
func patch(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	one := make([]byte, 1)
	_, err = f.ReadAt(one, at)
	one[0] ^= 0xff
	if err == nil {
		_, err = f.WriteAt(one, at)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestDeltaInterrupted ends a delta restore after each step: from the first on the old copy cannot be started, another kind of
// restore is refused there, and the same one goes on.
func TestDeltaInterrupted(t *testing.T) {
	repo, store := newRepo(t, nil)
	s := newSynthetic(t, repo, store, 43)
	s.build(8, 4)
	for _, step := range []string{restore.StepMarker, restore.StepData, restore.StepSync, restore.StepSettings, restore.StepControl} {
		t.Run(step, func(t *testing.T) {
			o := options(t)
			mustRestore(t, repo, o)
			damage(t, o.Directory, rand.New(rand.NewPCG(3, 3)))
			spoil(t, o.Directory)
			o = deltaOptions(o)
			_, err := restore.Run(t.Context(), repo, mustPlan(t, repo, o), restore.RunOptions{FailAfter: failAfter(step)})
			if !errors.Is(err, errInjected) {
				t.Fatal(err)
			}
			if _, err := os.Lstat(filepath.Join(o.Directory, "global/pg_control")); (err == nil) != (step == restore.StepControl) {
				t.Errorf("pg_control: %v", err)
			}
			plain := o
			plain.Delta = false
			_, err = restore.Plan(t.Context(), repo, plain)
			checkRefusal(t, err, "another plan", "--delta")
			p := mustPlan(t, repo, o)
			if !p.Resume {
				t.Error("the plan does not say that it goes on")
			}
			if _, err := restore.Run(t.Context(), repo, p, restore.RunOptions{}); err != nil {
				t.Fatal(err)
			}
			s.check(o.Directory)
			verify(t, o.Directory, "-n")
			if _, err := os.Lstat(filepath.Join(o.Directory, restore.MarkerName)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("marker: %v", err)
			}
		})
	}
}

// A half-done restore of another plan is an older copy like any other.
func TestDeltaOverAnotherPlan(t *testing.T) {
	repo, store := newRepo(t, nil)
	s := newSynthetic(t, repo, store, 44)
	s.build(8, 4)
	o := options(t)
	o.Target = catalog.Target{Kind: catalog.TargetImmediate}
	_, err := restore.Run(t.Context(), repo, mustPlan(t, repo, o), restore.RunOptions{FailAfter: failAfter(restore.StepSync)})
	if !errors.Is(err, errInjected) {
		t.Fatal(err)
	}
	o.Target = catalog.Target{}
	if _, r := mustRestore(t, repo, deltaOptions(o)); r.BytesKept == 0 {
		t.Errorf("nothing was kept: %+v", r)
	}
	s.check(o.Directory)
	verify(t, o.Directory, "-n")
}

// TestDeltaRefusals: what is not certainly a stopped copy of this very system is left alone.
func TestDeltaRefusals(t *testing.T) {
	repo, store := newRepo(t, nil)
	s := newSynthetic(t, repo, store, 45)
	s.build(4, 2)
	control := func(id uint64) string {
		b := slices.Clone(s.want["global/pg_control"])
		binary.LittleEndian.PutUint64(b, id)
		return string(b)
	}
	marker := func(id uint64) string { return fmt.Sprintf(`{"format":1,"system_id":"%d"}`, id) }
	tests := []struct {
		name      string
		files     map[string]string
		force     bool
		why, hint string
	}{
		{name: "empty"},
		{name: "somebody's home", files: map[string]string{"letters/1": "x"}, why: "neither global/pg_control nor WAL", hint: "an empty one"},
		{name: "only a version", files: map[string]string{"PG_VERSION": "15\n", "base/1/1": "x"}, why: "neither global/pg_control nor WAL"},
		{name: "another system", files: map[string]string{"global/pg_control": control(1), "PG_VERSION": "15\n"}, why: "neither global/pg_control nor WAL"},
		{name: "a damaged pg_control of this one", files: map[string]string{"global/pg_control": control(s.ref.SystemID), "x": "y"}},
		{name: "half done of another system", files: map[string]string{restore.MarkerName: marker(1), "x": "y"}, why: "half-done restore of system 1"},
		{name: "half done of this one", files: map[string]string{restore.MarkerName: marker(s.ref.SystemID), "x": "y"}},
		{name: "postmaster.pid", files: map[string]string{"global/pg_control": control(s.ref.SystemID), "postmaster.pid": "1\n"}, why: "has a postmaster.pid", hint: "--force"},
		{name: "postmaster.pid, forced", files: map[string]string{"global/pg_control": control(s.ref.SystemID), "postmaster.pid": "1\n"}, force: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := deltaOptions(options(t))
			o.Force = tt.force
			if err := os.Mkdir(o.Directory, 0o700); err != nil {
				t.Fatal(err)
			}
			for name, text := range tt.files {
				write(t, filepath.Join(o.Directory, name), text)
			}
			before := listing(t, o.Directory)
			_, err := restore.Plan(t.Context(), repo, o)
			checkRefusal(t, err, tt.why, tt.hint)
			if after := listing(t, o.Directory); !slices.Equal(before, after) {
				t.Errorf("a plan has changed the directory: %v", after)
			}
			if tt.why == "" {
				mustRestore(t, repo, o)
				s.check(o.Directory)
			}
		})
	}
}

func TestChooseDatabases(t *testing.T) {
	known := []catalog.Database{
		{OID: 1, Name: "template1", Template: true}, {OID: 4, Name: "template0", Template: true}, {OID: 5, Name: "postgres"},
		{OID: 16384, Name: "shop"}, {OID: 16385, Name: `a "b"`}, {OID: 16386, Name: "pattern", Template: true}, {OID: 16387, Name: "16384"}, {OID: 16400, Name: "came later"},
	}
	sizes := map[uint32]int64{1: 10, 4: 10, 5: 10, 16384: 20, 16385: 30, 16386: 40, 16387: 50, 16399: 60}
	for _, tt := range []struct {
		wanted   string
		restored string // OIDs
		drops    []string
		err      string
	}{
		{wanted: "shop", restored: "1 4 5 16384", drops: []string{`DROP DATABASE "a ""b""";`, `ALTER DATABASE "pattern" IS_TEMPLATE false; DROP DATABASE "pattern";`, `DROP DATABASE "16384";`, ""}},
		{wanted: "16384", restored: "1 4 5 16387"}, // a name comes first
		{wanted: "16385,16399", restored: "1 4 5 16385 16399"},
		{wanted: "postgres", restored: "1 4 5"},
		{wanted: "shpo", err: `database shpo: the backup has none of this name or OID: it has template1 (1), template0 (4), postgres (5), shop (16384), a "b" (16385), pattern (16386), 16384 (16387), 16399`},
		{wanted: "came later", err: "came later"},
	} {
		restored, left, err := restore.ChooseDatabases(known, sizes, strings.Split(tt.wanted, ","))
		if tt.err != "" {
			if !errors.Is(err, restore.ErrOptions) || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: %v", tt.wanted, err)
			}
			continue
		}
		var oids, drops []string
		for _, d := range restored {
			oids = append(oids, fmt.Sprint(d.OID))
		}
		for _, d := range left {
			drops = append(drops, d.Drop)
		}
		if err != nil || strings.Join(oids, " ") != tt.restored || len(oids)+len(drops) != len(sizes) || tt.drops != nil && !slices.Equal(drops, tt.drops) {
			t.Errorf("%s: restored %v, dropped %v, %v", tt.wanted, oids, drops, err)
		}
	}
	if _, _, err := restore.ChooseDatabases(nil, sizes, []string{"shop"}); err == nil || !strings.Contains(err.Error(), "no server was asked for names") {
		t.Errorf("no names: %v", err)
	}
}

func TestDatabaseOf(t *testing.T) {
	for path, want := range map[string]uint32{
		"base/5/1259": 5, "base/16384/PG_VERSION": 16384, "pg_tblspc/99/PG_15_202209061/16385/1": 16385,
		"base/5": 0, "global/1262": 0, "pg_tblspc/99/PG_14_202107181/16385/1": 0, "base/pgsql_tmp/x": 0, "pg_xact/0000": 0,
	} {
		got, ok := restore.DatabaseOf(path, "PG_15_202209061")
		if got != want || ok != (want != 0) {
			t.Errorf("%s: %d, %v", path, got, ok)
		}
	}
}
