package ahead_test

import (
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// vandal does things to a spool.
type vandal struct {
	random *rand.Rand
	root   string // the folder of spools
	deeds  map[string]int
}

// files are all of the spools' files.
func (v *vandal) files() (all []string) {
	_ = filepath.WalkDir(v.root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			all = append(all, path)
		}
		return nil
	})
	return all
}

func (v *vandal) act() {
	each := func(do func(path string)) {
		for _, path := range v.files() {
			do(path)
		}
	}
	spools, _ := filepath.Glob(filepath.Join(v.root, "*"))
	eachSpool := func(do func(path string)) {
		for _, path := range spools {
			do(path)
		}
	}
	deeds := []struct {
		name string
		do   func()
	}{
		{"all removed", func() { eachSpool(func(path string) { _ = os.RemoveAll(path) }) }},
		{"files removed", func() { each(func(path string) { _ = os.Remove(path) }) }},
		{"emptied", func() { each(func(path string) { _ = os.Truncate(path, 0) }) }},
		{"cut", func() { each(func(path string) { _ = os.Truncate(path, int64(v.random.IntN(1<<14))) }) }},
		{"overwritten", func() {
			noise := make([]byte, 1<<14)
			for i := range noise {
				noise[i] = byte(v.random.Uint32())
			}
			each(func(path string) { _ = os.WriteFile(path, noise, 0o600) })
		}},
		{"a bit flipped", func() {
			each(func(path string) {
				b, err := os.ReadFile(path)
				if err == nil && len(b) > 0 {
					b[v.random.IntN(len(b))] ^= 1 << v.random.IntN(8)
					_ = os.WriteFile(path, b, 0o600)
				}
			})
		}},
		{"not writable", func() { eachSpool(func(path string) { _ = os.Chmod(path, 0o500) }) }},
		{"writable", func() { eachSpool(func(path string) { _ = os.Chmod(path, 0o700) }) }},
		{"exchanged for a file", func() {
			eachSpool(func(path string) {
				_ = os.RemoveAll(path)
				_ = os.WriteFile(path, nil, 0o600)
			})
		}},
		{"files exchanged for folders", func() {
			each(func(path string) {
				_ = os.Remove(path)
				_ = os.Mkdir(path, 0o700)
			})
		}},
		{"no place for claims", func() {
			eachSpool(func(path string) {
				_ = os.RemoveAll(filepath.Join(path, "claims"))
				_ = os.WriteFile(filepath.Join(path, "claims"), nil, 0o600)
			})
		}},
	}
	d := deeds[v.random.IntN(len(deeds))]
	d.do()
	v.deeds[d.name]++
}

// TestSpoolIsOnlyACache: while the server archives, all that can be done to a spool is done to it, at any moment. No push fails of it, and every
// file is in the store as it was in pg_wal.
func TestSpoolIsOnlyACache(t *testing.T) {
	t.Parallel()
	s := newStage(t, world.Options{Env: []string{foreverIdle}})
	roots, err := filepath.Glob(filepath.Join(s.Dir, "spool*"))
	if err != nil || len(roots) != 1 {
		t.Fatalf("%v, %v", roots, err)
	}
	s.resume(program(t))
	v := &vandal{random: rand.New(rand.NewPCG(3, 4)), root: roots[0], deeds: map[string]int{}}
	ended := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		for {
			select {
			case <-ended:
				return
			case <-time.After(time.Duration(v.random.IntN(40)) * time.Millisecond):
				v.act()
			}
		}
	})
	for range pg.Rounds(t, 6) {
		s.fill(6)
	}
	s.awaitEmpty()
	close(ended)
	done.Wait()
	s.wantAll()
	if len(v.deeds) < 3 {
		t.Errorf("done to the spool: %v", v.deeds)
	}
	if n := strings.Count(s.Server.Log(), "The failed archive command was: "+pg.Binary(t, "pgstow-wal")); n > 0 {
		t.Errorf("%d calls failed\n%s", n, s.Server.LogTail())
	}
}
