package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// PlannedDelta says what a delta restore finds in its directory.
type PlannedDelta struct {
	Files       int64    `json:"files"` // there, and in the backup too: they are compared
	Bytes       int64    `json:"bytes"` // of these
	RemoveFiles int64    `json:"remove_files"`
	RemoveBytes int64    `json:"remove_bytes"`
	Removes     []string `json:"removes"` // the first of them; a folder with all in it ends in a slash

	// What Compare found.
	Compared   bool  `json:"compared"`
	BytesKept  int64 `json:"bytes_kept"`
	BytesFetch int64 `json:"bytes_fetch"`
	Packs      int   `json:"packs"` // objects of which parts are read
}

// removesShown is how many names PlannedDelta.Removes has at most.
const removesShown = 20

// area is a tree in which a delta restore removes what does not belong there.
type area struct {
	dir    string // its real path
	prefix string // of the manifest's paths: "", or pg_tblspc/<oid>/
	only   string // the one folder of dir that is the cluster's own; "": all of dir
}

// areas are the data directory and, of each tablespace, the folder of this very version: others may be an older or newer
// cluster's (TABLESPACE_VERSION_DIRECTORY).
func (p Planned) areas() []area {
	list := []area{{dir: p.Directory}}
	for _, t := range p.Tablespaces {
		if !t.InPlace {
			list = append(list, area{dir: t.Location, prefix: t.Path + "/", only: p.versionDir})
		}
	}
	return list
}

// belongings are all paths that a restored cluster has.
type belongings struct {
	table *table
	order []fileID // by path
	dirs  map[string]bool
	links map[string]string // path to target
}

func newBelongings(c *content, p Planned) *belongings {
	b := &belongings{table: c.table, dirs: make(map[string]bool), links: make(map[string]string)}
	b.order = make([]fileID, c.table.len())
	for i := range b.order {
		b.order[i] = fileID(i)
	}
	slices.SortFunc(b.order, func(x, y fileID) int { return cmp.Compare(c.table.path(x), c.table.path(y)) })
	for _, dir := range c.directories(p) {
		b.dirs[dir] = true
	}
	for _, l := range c.links {
		b.links[l.path] = l.target
	}
	for _, t := range p.Tablespaces {
		if !t.InPlace {
			b.links[t.Path] = t.Location
		}
	}
	return b
}

func (b *belongings) file(path string) (fileID, bool) {
	i, ok := slices.BinarySearchFunc(b.order, path, func(id fileID, want string) int { return cmp.Compare(b.table.path(id), want) })
	if !ok {
		return 0, false
	}
	return b.order[i], true
}

// survey looks at what a directory has beside what belongs there. It follows no link and changes nothing.
type survey struct {
	belongings *belongings
	files      int64 // that belong
	bytes      int64
	remove     []leftover
	gone       int64   // files that are to go
	goneBytes  int64   // their size
	allocated  []int64 // bytes on disk of all files, by area

	at     int // the area
	area   area
	root   *os.Root
	device uint64
}

// leftover is a file, or a folder with all that is in it, that does not belong.
type leftover struct {
	area int
	path string // below the area's folder
	dir  bool
}

// look surveys all areas.
func look(ctx context.Context, b *belongings, areas []area) (*survey, error) {
	s := &survey{belongings: b, allocated: make([]int64, len(areas))}
	for i, a := range areas {
		root, err := os.OpenRoot(a.dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		s.at, s.area, s.root = i, a, root
		info, err := root.Stat(".")
		if err == nil {
			s.device = deviceOf(info)
			err = s.visit(ctx, "")
		}
		if err = errors.Join(err, root.Close()); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func deviceOf(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Dev
	}
	return 0
}

// allocatedOf is what a file takes on disk, in bytes.
func allocatedOf(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return info.Size()
}

// children calls use for each entry of a folder.
func (s *survey) children(ctx context.Context, rel string, use func(rel string, info fs.FileInfo) error) (err error) {
	d, err := s.root.Open(cmp.Or(rel, "."))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	for {
		names, err := d.Readdirnames(1024)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if len(names) == 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, name := range names {
			child := path.Join(rel, name)
			info, err := s.root.Lstat(child)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			if err := use(child, info); err != nil {
				return err
			}
		}
	}
}

// visit sorts what is in a folder that belongs.
func (s *survey) visit(ctx context.Context, rel string) error {
	return s.children(ctx, rel, func(child string, info fs.FileInfo) error {
		if rel == "" && s.spared(child, info) {
			return nil
		}
		name := s.area.prefix + child
		switch mode := info.Mode(); {
		case mode.IsDir() && s.belongings.dirs[name]:
			return s.visit(ctx, child)
		case mode.IsDir():
			s.remove = append(s.remove, leftover{s.at, child, true})
			if err := s.sameDevice(child, info); err != nil {
				return err
			}
			return s.count(ctx, child)
		case mode.IsRegular():
			s.allocated[s.at] += allocatedOf(info)
			if _, ok := s.belongings.file(name); ok {
				s.files++
				s.bytes += info.Size()
				return nil
			}
			s.gone++
			s.goneBytes += info.Size()
		case mode&fs.ModeSymlink != 0:
			want, ok := s.belongings.links[name]
			if target, err := s.root.Readlink(child); ok && err == nil && target == want {
				return nil
			}
			s.gone++
		default:
			s.gone++
		}
		s.remove = append(s.remove, leftover{s.at, child, false})
		return nil
	})
}

// spared reports whether an entry of an area's top folder is none of the cluster's.
func (s *survey) spared(name string, info fs.FileInfo) bool {
	if s.area.only != "" {
		return name != s.area.only
	}
	return name == MarkerName || name == MarkerName+temporarySuffix || name == "lost+found" && info.IsDir()
}

// count adds up a folder that is to go.
func (s *survey) count(ctx context.Context, rel string) error {
	return s.children(ctx, rel, func(child string, info fs.FileInfo) error {
		if info.IsDir() {
			if err := s.sameDevice(child, info); err != nil {
				return err
			}
			return s.count(ctx, child)
		}
		s.gone++
		if info.Mode().IsRegular() {
			s.goneBytes += info.Size()
			s.allocated[s.at] += allocatedOf(info)
		}
		return nil
	})
}

// sameDevice refuses a folder that is a mount point: what is mounted there is not the cluster's to remove.
func (s *survey) sameDevice(rel string, info fs.FileInfo) error {
	if deviceOf(info) == s.device {
		return nil
	}
	return refuse(filepath.Join(s.area.dir, rel), "unmount it, or restore elsewhere", "a file system is mounted there, and the backup has no such folder")
}

// planned is what the plan says of it.
func (s *survey) planned() *PlannedDelta {
	d := &PlannedDelta{Files: s.files, Bytes: s.bytes, RemoveFiles: s.gone, RemoveBytes: s.goneBytes, Removes: []string{}}
	for _, l := range s.remove[:min(len(s.remove), removesShown)] {
		name := l.path
		if l.dir {
			name += "/"
		}
		d.Removes = append(d.Removes, name)
	}
	return d
}

// clear removes what makes the old directory startable, then all that does not belong (RULES-physical A15): from here on
// nothing is in it that the plan does not write.
func (r *runner) clear(ctx context.Context) error {
	root, err := os.OpenRoot(r.plan.Directory)
	if err != nil {
		return err
	}
	// Behind a link there is another directory's pg_control; the link itself is removed below.
	if info, err := root.Lstat("global"); err == nil && info.IsDir() {
		err = root.Remove(controlPath)
		if err == nil {
			err = syncDir(r.w.place("global"))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(fmt.Errorf("remove %s: %w", controlPath, err), root.Close())
		}
	}
	if err := root.Close(); err != nil {
		return err
	}
	areas := r.plan.areas()
	s, err := look(ctx, newBelongings(r.content, r.plan), areas)
	if err != nil {
		return err
	}
	r.emit(RemoveEvent{Files: s.gone, Bytes: s.goneBytes})
	for i, a := range areas {
		if err := removeFrom(ctx, a.dir, i, s.remove); err != nil {
			return err
		}
	}
	r.result.FilesRemoved, r.result.BytesRemoved = s.gone, s.goneBytes
	return nil
}

// removeFrom removes the leftovers of one area; an os.Root leads nowhere else.
func removeFrom(ctx context.Context, dir string, at int, list []leftover) error {
	if !slices.ContainsFunc(list, func(l leftover) bool { return l.area == at }) {
		return nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	for _, l := range list {
		if l.area != at {
			continue
		}
		err = ctx.Err()
		if err == nil && l.dir {
			err = root.RemoveAll(l.path)
		} else if err == nil {
			err = root.Remove(l.path)
		}
		if err != nil {
			break
		}
	}
	return errors.Join(err, root.Close())
}

// surveyOld looks at the old directory in detail.
func (p *Planned) surveyOld(ctx context.Context, c *content) (*survey, error) {
	s, err := look(ctx, newBelongings(c, *p), p.areas())
	if err != nil {
		return nil, err
	}
	p.Delta = s.planned()
	if info, err := os.Lstat(filepath.Join(p.Directory, "pg_wal")); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		p.Warnings = append(p.Warnings, "pg_wal is a link: it becomes a plain folder, and what lies behind the link stays there, unused; to have it on that file system again, move pg_wal there before the start and link it")
	}
	return s, nil
}

// keepMapping lets tablespaces of a delta restore stay where the old directory has them, unless they are mapped.
func keepMapping(dir string, list []PlannedTablespace, mapping map[string]string) {
	for i, t := range list {
		if t.InPlace || mapped(t, mapping) {
			continue
		}
		if target, err := os.Readlink(filepath.Join(dir, t.Path)); err == nil && filepath.IsAbs(target) {
			list[i].Location = target
		}
	}
}

// mapped reports whether the operator has said where the tablespace goes.
func mapped(t PlannedTablespace, mapping map[string]string) bool {
	for _, key := range []string{strings.TrimPrefix(t.Path, "pg_tblspc/"), t.Original, filepath.Clean(t.Original)} {
		if _, ok := mapping[key]; ok {
			return true
		}
	}
	return false
}

// checkOldTablespaces finds those whose place may hold an older copy: where the old directory's own link leads. A link can be
// that of a copied data directory and lead to the original's tablespaces, so these are refused unless the operator names them,
// and so is any place to which a running server's link leads.
func checkOldTablespaces(dir string, original string, list []PlannedTablespace, mapping map[string]string) (old map[uint32]bool, err error) {
	old = make(map[uint32]bool)
	for _, t := range list {
		if t.InPlace {
			continue
		}
		at, err := filepath.EvalSymlinks(filepath.Join(dir, t.Path))
		if err != nil || at != t.Location {
			continue
		}
		if filepath.Clean(t.Original) == t.Location && dir != original && !mapped(t, mapping) {
			return nil, refuse(t.Location, fmt.Sprintf("map it elsewhere, or, if this is the cluster's own place, say so: --tablespace %d=%s", t.OID, t.Location),
				"the link of tablespace %d leads to where the original has it, and %s is not the original's data directory %s", t.OID, dir, original)
		}
		if user := userOf(t.Location, dir); user != "" {
			return nil, refuse(t.Location, fmt.Sprintf("map it elsewhere: --tablespace %d=DIRECTORY", t.OID), "tablespace %d is in use by the server in %s", t.OID, user)
		}
		old[t.OID] = true
	}
	return old, nil
}

// userOf is the data directory of a running server, not that of dir, one of whose tablespaces lies at location; "" if this
// process can see none.
func userOf(location, dir string) (user string) {
	seen := map[string]bool{dir: true}
	eachServer(func(_ int, cwd string) bool {
		if seen[cwd] {
			return true
		}
		seen[cwd] = true
		names, err := readNames(filepath.Join(cwd, "pg_tblspc"))
		if err != nil {
			return true
		}
		for _, name := range names {
			if at, err := filepath.EvalSymlinks(filepath.Join(cwd, "pg_tblspc", name)); err == nil && at == location {
				user = cwd
				return false
			}
		}
		return true
	})
	return user
}
