package e2e_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"pgstow/storage/object"
	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// ruin is a small repository with all kinds of objects, and what it gives while it is sound.
type ruin struct {
	*world.World
	tree map[string]string // hashes of a restored directory
	info string
	wal  map[string][]byte // plain bytes by WAL file name
}

// newRuin makes the repository: a backup, a second timeline with its history, and WAL.
func newRuin(t *testing.T, o world.Options) *ruin {
	t.Helper()
	o.WALSegmentSizeMiB = 1
	r := &ruin{World: world.New(t, o), wal: map[string][]byte{}}
	r.Server.Exec("CREATE TABLE t AS SELECT 0 AS i")
	r.Backup()
	insert(r.Server, "1", "one")
	r.Server.ArchiveAll()
	r.Server.Kill()
	r.Server = takeOver(t, r.World, nil)
	insert(r.Server, "2", "")
	r.Server.ArchiveAll()
	r.Server.Kill()

	sound := r.Restore()
	r.tree = tree(t, sound)
	if again := tree(t, r.Restore()); treeDiff(r.tree, again) != "" {
		t.Fatalf("two restores of one backup differ: %s", treeDiff(r.tree, again))
	}
	r.info = withoutTimes(r.Must("info", "--json"))
	for _, key := range r.KeysWith("/wal/") {
		name, dst := path.Base(key), r.NewDir("plain")
		if res := r.fetch(name, dst); res.Code != 0 {
			t.Fatalf("%s", res)
		}
		r.wal[name] = []byte(readFile(t, dst))
	}
	return r
}

func (r *ruin) in(t *testing.T) *ruin {
	sub := *r
	sub.World = r.In(t)
	return &sub
}

func (r *ruin) fetch(name, dst string) world.Result {
	return r.RunProgramWith(append(r.IdentityEnv(), "PGSTOW_SPOOL="), "pgstow-wal", "fetch", "--pgdata", r.Server.Dir, name, dst)
}

// tree hashes all files of a data directory but two, which say when it was restored.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	hashes := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil || rel == "postgresql.auto.conf" || rel == "backup_manifest" {
			return err
		}
		hashes[rel] = e.Type().String()
		if e.Type().IsRegular() {
			body, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			hashes[rel] = fmt.Sprintf("%x", sha256.Sum256(body))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return hashes
}

func treeDiff(want, got map[string]string) string {
	var b strings.Builder
	for name, h := range want {
		if got[name] != h {
			fmt.Fprintf(&b, "%s is %q, want %q; ", name, got[name], h)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			fmt.Fprintf(&b, "%s is too many; ", name)
		}
	}
	return b.String()
}

// withoutTimes leaves out when objects were written: the test writes them anew.
func withoutTimes(info string) string {
	return regexp.MustCompile(`"(newest|since)": "[^"]*"`).ReplaceAllString(info, "")
}

// positions are one place in the header, one in the body and one near the end, chosen anew for each key but alike in each run.
func positions(key string, size int) []int {
	seed := sha256.Sum256([]byte(path.Base(path.Dir(key)) + fmt.Sprint(size)))
	rng := rand.New(rand.NewChaCha8(seed))
	if size <= object.HeaderSize+64 {
		return []int{rng.IntN(size), rng.IntN(size), rng.IntN(size)}
	}
	return []int{rng.IntN(object.HeaderSize), object.HeaderSize + rng.IntN(size-object.HeaderSize-64), size - 1 - rng.IntN(64)}
}

// TestCorruption flips a byte in each object of a repository, one at a time. Whoever needs the object must fail and name it, or get what is right.
func TestCorruption(t *testing.T) {
	pg.Long(t, "restores once for each byte that is flipped")
	for _, encrypted := range []bool{false, true} {
		name := "plain"
		if encrypted {
			name = "encrypted"
		}
		t.Run(name, func(t *testing.T) {
			world.EachStore(t, func(t *testing.T, store string) {
				r := newRuin(t, world.Options{Store: store, Encrypted: encrypted})
				kinds := map[string]int{}
				for _, key := range r.Keys("") {
					body := r.Read(key)
					if len(body) == 0 {
						t.Errorf("%s is empty", key)
						continue
					}
					for i, at := range positions(key, len(body)) {
						if store == world.MinIO && i != 1 {
							continue
						}
						t.Run(fmt.Sprintf("%s at %d of %d", path.Base(path.Dir(key))+"/"+path.Base(key), at, len(body)), func(t *testing.T) {
							r := r.in(t)
							defer r.FlipByte(key, at)()
							kinds[r.damaged(t, key)]++
						})
					}
				}
				t.Logf("outcomes: %v", kinds)
				for _, kind := range []string{"wal", "manifest", "pack", "json"} {
					if kinds[kind+" refused"] == 0 {
						t.Errorf("no damage of a %s object was found out: %v", kind, kinds)
					}
				}
				// All bytes are back: the damage and nothing else was what failed.
				if d := treeDiff(r.tree, tree(t, r.Restore())); d != "" {
					t.Errorf("after all: %s", d)
				}
			})
		})
	}
}

// damaged looks at a damaged object with everything that reads it, and returns its kind and what came of it.
func (r *ruin) damaged(t *testing.T, key string) string {
	t.Helper()
	kind := kindOf(t, key)
	refused := false
	if kind != "json" {
		res := r.RunWith(r.IdentityEnv(), "inspect", key)
		r.Check(res, 1, key)
	}
	switch kind {
	case "wal":
		refused = true
		dst := r.NewDir("fetched")
		res := r.fetch(path.Base(key), dst)
		r.Check(res, 126, key)
		missing(t, dst)
	case "json":
		res := r.Run("info", "--json")
		if refused = res.Code != 0; refused {
			r.names(t, res, key)
		} else if withoutTimes(res.Stdout) != r.info {
			t.Errorf("info shows something else:\n%s", res.Stdout)
		}
	}
	dir := r.NewDir("restored")
	res := r.RunRestore(dir)
	if res.Code == 0 {
		if d := treeDiff(r.tree, tree(t, dir)); d != "" {
			t.Errorf("the restore succeeded with wrong bytes: %s", d)
		}
	} else {
		refused = true
		r.names(t, res, key)
		if _, err := os.Stat(filepath.Join(dir, "global", "pg_control")); err == nil {
			t.Error("a restore that failed has left pg_control: the server could start")
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
	if refused {
		return kind + " refused"
	}
	return kind + " right all the same"
}

// names fails the test unless a message names the object, by its key or, for a manifest, by the backup that it is of.
func (r *ruin) names(t *testing.T, res world.Result, key string) {
	t.Helper()
	said := res.Stdout + res.Stderr
	if !strings.Contains(said, key) && (path.Base(key) != "manifest" || !strings.Contains(said, path.Base(path.Dir(key)))) {
		t.Errorf("the message does not name %s: %s", key, res)
	}
}

func kindOf(t *testing.T, key string) string {
	t.Helper()
	switch {
	case strings.HasSuffix(key, ".json"):
		return "json"
	case strings.Contains(key, "/wal/"):
		return "wal"
	case strings.HasSuffix(key, "/manifest"):
		return "manifest"
	case strings.Contains(key, "/pack/"):
		return "pack"
	default:
		t.Errorf("%s is an object of no known kind", key)
		return "unknown"
	}
}

// TestCutObjects: what is left of an object after its end was lost is never taken for the whole, wherever the cut is.
func TestCutObjects(t *testing.T) {
	pg.Long(t, "takes half a minute")
	t.Parallel()
	r := newRuin(t, world.Options{})
	for _, key := range r.Keys("") {
		if strings.HasSuffix(key, ".json") {
			continue
		}
		body := r.Read(key)
		for _, n := range []int{0, object.HeaderSize, len(body) / 2, len(body) - 1} {
			r.Write(key, bytes.Clone(body[:n]))
			r.damagedCut(t, key)
		}
		r.Write(key, append(bytes.Clone(body), 0)) // and one byte too many
		r.damagedCut(t, key)
		r.Write(key, body)
	}
}

func (r *ruin) damagedCut(t *testing.T, key string) {
	t.Helper()
	if res := r.Run("inspect", key); res.Code == 0 || !strings.Contains(res.Stderr, key) {
		t.Errorf("inspect: %s", res)
	}
	if kindOf(t, key) == "wal" {
		dst := r.NewDir("fetched")
		r.Check(r.fetch(path.Base(key), dst), 126, key)
		missing(t, dst)
	}
}
