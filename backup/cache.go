package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"pgstow/catalog"
	"pgstow/storage/object"
)

// refCache keeps, on a host that can write into an encrypted repository and not read
// from it, the manifest of its last backup and the page maps that it names, so that
// the next one need not be full. It is a cache: without it, or with any doubt, the next
// backup is full. What is in it is in plain: names and hashes of what lies in the data
// directory of this very host.
type refCache struct {
	dir  string
	id   string   // of the backup that is being made
	used *os.File // dir, with a shared lock: nobody removes files meanwhile

	w    *object.Writer // of the map pack that is being filled
	lost error          // why the backup that is being made cannot be remembered; it is made all the same
}

const (
	cachedManifest = "manifest"
	cachedMaps     = "maps."
)

// openCache gives the cache of a cluster below root. It is nil where none is needed
// or can be had; why says so if it is wanted and missing.
func openCache(root string, repo *catalog.Repository, ref catalog.ClusterRef, id string) (c *refCache, why string) {
	if !repo.Opaque() {
		return nil, ""
	}
	if root == "" {
		return nil, "the repository is encrypted and this host has no folder to remember its last backup"
	}
	dir := filepath.Join(root, fmt.Sprintf("%s-%s-%d", repo.ID, ref.Name, ref.SystemID))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Sprintf("the repository is encrypted and this host cannot remember its last backup: %v", err)
	}
	used, err := os.Open(dir)
	if err == nil {
		if err = flock(used, syscall.LOCK_SH); err != nil {
			err = errors.Join(err, used.Close())
		}
	}
	if err != nil {
		return nil, fmt.Sprintf("the repository is encrypted and this host cannot remember its last backup: %v", err)
	}
	return &refCache{dir: dir, id: id, used: used}, ""
}

func flock(f *os.File, how int) error {
	for {
		if err := syscall.Flock(int(f.Fd()), how); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// close lets others remove files.
func (c *refCache) close() {
	if c != nil {
		_ = c.used.Close() // it was only read
	}
}

// name is the file of a map pack.
func (c *refCache) name(backup string, n int) string {
	return filepath.Join(c.dir, cachedMaps+backup+"."+strconv.Itoa(n))
}

// idle says that nothing is to be remembered: there is no cache, or it has failed already.
func (c *refCache) idle() bool { return c == nil || c.lost != nil }

// frame adds a frame to the pack of maps that is being filled.
func (c *refCache) frame(plain []byte) (err error) {
	if c.idle() {
		return nil
	}
	if c.w == nil {
		if c.w, err = object.NewWriter(object.WriterOptions{}); err != nil {
			return err
		}
	}
	_, err = c.w.AddFrame(plain)
	return err
}

// end completes the pack of maps of that number. That it cannot be written is no error of the backup's: see keep.
func (c *refCache) end(n uint32, systemID uint64) error {
	if c.idle() || c.w == nil {
		return nil
	}
	b, err := c.w.Finish(object.Header{Kind: object.KindPack, Name: fmt.Sprintf("%s/%d", c.id, n), SystemID: systemID})
	if err != nil {
		return fmt.Errorf("remember the page maps: %w", err)
	}
	if err := writeFile(c.name(c.id, int(n)), b); err != nil {
		c.lost = fmt.Errorf("remember the page maps: %w", err)
	}
	c.w.Reset()
	return nil
}

// writeFile writes a file whole or not at all.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}

// keep remembers the manifest of a backup that exists now, and forgets all maps that
// it does not name, unless another backup is under way that may need them. One of which a
// map could not be written is not remembered. The cache is not used any more after it.
func (c *refCache) keep(manifest []byte, packs []catalog.PackEntry) error {
	if c.lost != nil {
		return c.lost
	}
	if err := writeFile(filepath.Join(c.dir, cachedManifest), manifest); err != nil {
		return err
	}
	if err := flock(c.used, syscall.LOCK_EX|syscall.LOCK_NB); errors.Is(err, syscall.EWOULDBLOCK) {
		return nil // the next backup forgets them
	} else if err != nil {
		return err
	}
	needed := map[string]bool{filepath.Join(c.dir, cachedManifest): true}
	for _, p := range packs {
		if p.Map {
			needed[c.name(p.Backup, p.N)] = true
		}
	}
	entries, err := os.ReadDir(c.dir)
	for _, e := range entries {
		if path := filepath.Join(c.dir, e.Name()); !needed[path] {
			err = errors.Join(err, os.Remove(path))
		}
	}
	return err
}

// manifest reads the remembered manifest; nil if there is none, or it is not whole.
func (c *refCache) manifest() *catalog.ManifestReader {
	b, err := os.ReadFile(filepath.Join(c.dir, cachedManifest))
	if err != nil {
		return nil
	}
	m, err := catalog.OpenManifest(b, nil)
	if err != nil {
		return nil
	}
	return m
}

// missing names a map pack of the table that is not remembered, or not whole; "" if there
// is none. All of them are read: to learn of damage in the middle of a backup is too
// late for a full one.
func (c *refCache) missing(ctx context.Context, packs []catalog.PackEntry) string {
	i := slices.IndexFunc(packs, func(p catalog.PackEntry) bool { return p.Map && !c.whole(ctx, p) })
	if i < 0 {
		return ""
	}
	return fmt.Sprintf("%s/%d", packs[i].Backup, packs[i].N)
}

// whole says whether all frames of a remembered map pack can be read.
func (c *refCache) whole(ctx context.Context, p catalog.PackEntry) bool {
	o, err := c.open(ctx, p)
	if err != nil {
		return false
	}
	var plain []byte
	for i := range o.Frames() {
		if plain, err = o.Frame(ctx, i, plain); err != nil {
			return false
		}
	}
	return true
}

// open opens a remembered map pack.
func (c *refCache) open(ctx context.Context, p catalog.PackEntry) (*object.Remote, error) {
	b, err := os.ReadFile(c.name(p.Backup, p.N))
	if err != nil {
		return nil, err
	}
	read := func(_ context.Context, off, n int64) ([]byte, error) {
		if off > int64(len(b)) {
			return nil, fs.ErrInvalid
		}
		return b[off:min(off+n, int64(len(b)))], nil
	}
	o, err := object.OpenAt(ctx, read, int64(len(b)), nil)
	if err == nil && (len(o.Frames()) != p.Frames || o.Header().Name != fmt.Sprintf("%s/%d", p.Backup, p.N)) {
		err = fmt.Errorf("remembered page maps of pack %s/%d are not those", p.Backup, p.N)
	}
	return o, err
}
