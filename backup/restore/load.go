package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"pgstow/backup/pagemap"
	"pgstow/catalog"
)

// link is a symbolic link of the data directory that is not a tablespace's.
type link struct{ path, target string }

// mapOf says where the page map of a file is.
type mapOf struct {
	file fileID
	ref  catalog.MapRef
}

// content is the manifest in the form in which Run works on it.
type content struct {
	header  catalog.BackupHeader
	table   *table
	dirs    []string
	links   []link
	maps    []mapOf
	blobs   []run
	packs   []catalog.PackEntry
	byRef   map[pagemap.PackRef]uint32
	wal     map[string]fileID         // by name in pg_wal
	digests map[fileID]catalog.Digest // of files without page map, where it is known
	config  []fileID                  // restored copies of configuration files from outside of the data directory
	notes   []string

	control    fileID
	hasControl bool
}

const controlPath = "global/pg_control"

// notRestored are files of the data directory that this package writes by itself, or that must not come back.
var notRestored = map[string]bool{
	"backup_label": true, "backup_label.old": true, "tablespace_map": true, "tablespace_map.old": true,
	"backup_manifest": true, "recovery.signal": true, "standby.signal": true, "postmaster.pid": true, "postmaster.opts": true,
	MarkerName: true, endScriptName: true,
}

// load reads the manifest.
func load(ctx context.Context, m *catalog.ManifestReader, p Planned) (*content, error) {
	h := m.Header()
	c := &content{
		header: h, table: newTable(int(min(max(h.Files, 0), 1<<22))),
		byRef: make(map[pagemap.PackRef]uint32), wal: make(map[string]fileID), digests: make(map[fileID]catalog.Digest),
	}
	l := loader{content: c, modes: modesFor(fs.FileMode(p.Mode)), plan: p, tablespaces: make(map[string]PlannedTablespace), replaced: make(map[string]bool)}
	for _, d := range p.LeftOut {
		if l.leftOut == nil {
			l.leftOut = make(map[uint32]bool)
		}
		l.leftOut[d.OID] = true
	}
	if p.WithConfig {
		for _, at := range h.ConfigFiles {
			l.replaced[path.Base(at)] = true
		}
	}
	for _, t := range p.Tablespaces {
		l.tablespaces[t.Path] = t
	}
	for e, err := range m.Files() {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, err
		}
		if err := l.entry(e); err != nil {
			return nil, fmt.Errorf("manifest of backup %s: %w", h.ID, err)
		}
	}
	c.packs = m.Packs()
	for i, e := range c.packs {
		c.byRef[pagemap.PackRef{Backup: e.Backup, Pack: uint32(e.N)}] = uint32(i)
	}
	if !c.hasControl {
		return nil, fmt.Errorf("manifest of backup %s: it has no %s", h.ID, controlPath)
	}
	if err := c.checkPacks(); err != nil {
		return nil, err
	}
	return c, nil
}

// checkPacks makes sure that all references stay inside the pack table.
func (c *content) checkPacks() error {
	for _, r := range c.blobs {
		if int(r.pack) >= len(c.packs) {
			return fmt.Errorf("manifest of backup %s: %s refers to pack %d of %d", c.header.ID, c.table.path(r.file), r.pack, len(c.packs))
		}
	}
	for _, m := range c.maps {
		if m.ref.Pack < 0 || m.ref.Pack >= len(c.packs) || m.ref.Frame < 0 || m.ref.Offset < 0 || m.ref.Length <= 0 {
			return fmt.Errorf("manifest of backup %s: %s has its page map at an impossible place", c.header.ID, c.table.path(m.file))
		}
	}
	return nil
}

type loader struct {
	*content
	modes       modes
	plan        Planned
	tablespaces map[string]PlannedTablespace
	leftOut     map[uint32]bool // OIDs of databases
	replaced    map[string]bool // files whose place a configuration file from outside takes
}

func (l *loader) entry(e catalog.FileEntry) error {
	if t, ok := l.tablespaces[e.Path]; ok && !t.InPlace {
		return nil // the link is made from the plan
	}
	if inConfig(l.header, e.Path) {
		return l.outsideConfig(e)
	}
	if l.replaced[e.Path] {
		return nil
	}
	switch e.Type {
	case catalog.TypeDir:
		l.dirs = append(l.dirs, e.Path)
		return nil
	case catalog.TypeLink:
		l.link(e)
		return nil
	case catalog.TypeFile, "":
		if notRestored[e.Path] {
			return nil
		}
		return l.file(e, e.Path)
	default:
		return fmt.Errorf("%s is of an unknown type %q", e.Path, e.Type)
	}
}

// link decides about a symbolic link (RULES-physical C7): pg_wal becomes a directory, tablespaces are linked by the plan,
// all others are made again at the end.
func (l *loader) link(e catalog.FileEntry) {
	switch {
	case e.Path == "pg_wal":
		l.notes = append(l.notes, fmt.Sprintf("pg_wal was a link to %s: it is restored as a plain directory", e.Target))
	case path.Dir(e.Path) == "pg_tblspc":
		l.notes = append(l.notes, fmt.Sprintf("tablespace %s at %s came after the start of the backup: WAL makes it again, at that very place", path.Base(e.Path), e.Target))
	default:
		l.links = append(l.links, link{path: e.Path, target: e.Target})
		l.notes = append(l.notes, fmt.Sprintf("%s is restored as a link to %s; what lies there is not part of the backup", e.Path, e.Target))
	}
}

func (l *loader) file(e catalog.FileEntry, to string) error {
	if e.Size < 0 {
		return fmt.Errorf("%s has a size of %d", e.Path, e.Size)
	}
	mode := l.modes.fileMode(fs.FileMode(e.Mode))
	if e.Map != nil {
		mode = l.modes.file
	}
	id, err := l.table.add(to, e.Size, mode, e.ModTime.Unix())
	if err != nil {
		return err
	}
	if to == controlPath {
		l.control, l.hasControl = id, true
	}
	if name, ok := strings.CutPrefix(to, "pg_wal/"); ok && !strings.Contains(name, "/") {
		l.wal[name] = id
	}
	switch {
	case l.isHollow(to):
		l.table.state(id).hollow = true
	case e.Map != nil:
		l.maps = append(l.maps, mapOf{file: id, ref: *e.Map})
	case e.Size == 0 && len(e.Blob) > 0:
		return fmt.Errorf("%s is empty and has parts", e.Path)
	default:
		if l.blobs, err = blobRuns(id, e, l.blobs); err != nil {
			return err
		}
		l.table.state(id).pending.Store(e.Size)
		if !e.SHA256.IsZero() && len(e.Blob) > 0 {
			l.digests[id] = e.SHA256
		}
	}
	return nil
}

// inConfig reports whether p is, or lies beside, a configuration file from outside of the data directory.
func inConfig(h catalog.BackupHeader, p string) bool {
	for _, at := range h.ConfigFiles {
		if dir := path.Dir(at); dir != "." && (p == dir || strings.HasPrefix(p, dir+"/")) {
			return true
		}
	}
	return false
}

// outsideConfig puts such a file into the data directory, if that is wanted.
func (l *loader) outsideConfig(e catalog.FileEntry) error {
	if !l.plan.WithConfig || e.Type == catalog.TypeDir || e.Type == catalog.TypeLink {
		return nil
	}
	to := path.Base(e.Path)
	if notRestored[to] || to == autoConf {
		return errors.New(e.Path + " cannot be restored into the data directory")
	}
	id := fileID(l.table.len())
	if err := l.file(e, to); err != nil {
		return err
	}
	l.config = append(l.config, id)
	return nil
}
