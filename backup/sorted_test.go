package backup_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"pgstow/backup"
	"pgstow/catalog"
)

// Lines come back in the manifest's order, whether they fit into memory or lie in many
// runs on disk, of which nothing is left.
func TestSortedLines(t *testing.T) {
	for _, limit := range []int{1, 2000, 1 << 30} {
		dir := t.TempDir()
		rng := rand.New(rand.NewPCG(1, uint64(limit)))
		var want []string
		s := backup.NewSortedLines(dir, limit)
		for _, i := range rng.Perm(500) {
			path := fmt.Sprintf("base/%d/%d", i%7, i)
			want = append(want, path)
			if err := s.Add(path, []byte{byte(i), byte(i >> 8)}); err != nil {
				t.Fatal(err)
			}
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("limit %d: %v in the folder, %v", limit, left, err)
		}
		slices.SortFunc(want, catalog.ComparePaths)
		var got []string
		err := s.Each(func(path string, m []byte) {
			got = append(got, path)
			if name := path[strings.LastIndexByte(path, '/')+1:]; name != fmt.Sprint(int(m[0])|int(m[1])<<8) {
				t.Errorf("limit %d: %s has the map of another", limit, path)
			}
		})
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("limit %d: %d of %d lines, or not in order, error %v", limit, len(got), len(want), err)
		}
	}
	s := backup.NewSortedLines(t.TempDir(), 1)
	for _, path := range []string{"a", "b", "a"} {
		if err := s.Add(path, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Each(func(string, []byte) {}); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("the same path twice: %v", err)
	}
}

// What is known of a reference is found by its path, once.
func TestLookup(t *testing.T) {
	lines := []catalog.FileEntry{
		{Path: "base/1/1259", Type: catalog.TypeFile, Size: 8192, Map: &catalog.MapRef{Pack: 3, Frame: 70000, Offset: 5, Length: 9}, Damaged: []uint32{7, 131072}},
		{Path: "base/1/\xff", Type: catalog.TypeFile, Size: 1 << 40, Map: &catalog.MapRef{}},
		{Path: "pg_xact/0000", Type: catalog.TypeFile, Size: 262144, SHA256: catalog.Digest{1, 2, 3}, Blob: []catalog.Slice{{Pack: 1, Frame: 2, Offset: 3, Length: 4}, {Pack: 300}}},
	}
	for _, collide := range []bool{false, true} {
		l, err := backup.NewLookup(t.TempDir(), collide, lines...)
		if err != nil {
			t.Fatal(err)
		}
		if e, err := l.Take("base/1/1260"); e != nil || err != nil {
			t.Errorf("a file that is not there: %+v, %v", e, err)
		}
		for _, want := range lines[:2] {
			got, err := l.Take(want.Path)
			if err != nil || got == nil || fmt.Sprintf("%+v %+v", *got.Map, got.Damaged) != fmt.Sprintf("%+v %+v", *want.Map, want.Damaged) || got.Size != want.Size || got.Path != want.Path {
				t.Errorf("%q: %+v, %v, want %+v", want.Path, got, err, want)
			}
			if again, err := l.Take(want.Path); again != nil || err != nil {
				t.Errorf("%q: taken twice, %v", want.Path, err)
			}
		}
		if got, err := l.Take("pg_xact/0000"); err != nil || fmt.Sprintf("%+v", *got) != fmt.Sprintf("%+v", lines[2]) {
			t.Errorf("%+v, %v, want %+v", got, err, lines[2])
		}
	}
}
