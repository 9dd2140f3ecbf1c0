// Package source reads a PostgreSQL data directory: it walks it in the order of
// the manifest, knows which files a backup holds and which of them are pages,
// and checks pages as they are read. It knows nothing of stores and packs.
package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Class says how the engine treats an entry.
type Class uint8

// The classes.
const (
	Dir      Class = iota + 1
	Link           // symbolic link: recorded, not followed
	Relation       // a file of pages
	Blob           // any other file
)

// ConfigPrefix is the folder of the manifest for configuration files from
// outside of the data directory.
const ConfigPrefix = "@config"

// ControlPath is pg_control's path. Walk yields it in its place, but its
// contents must be read after everything else (RULES-physical A12).
const ControlPath = "global/pg_control"

// Entry is a file, folder or link that belongs to the backup.
type Entry struct {
	// Path below the data directory, with '/' between its parts.
	Path string
	// File is where it lies on this machine.
	File  string
	Class Class
	// Mode holds the permission bits.
	Mode    fs.FileMode
	Size    int64
	ModTime time.Time
	// Target of a link.
	Target string
	// Relation is set for Class Relation.
	Relation RelationFile
}

// Tablespace is one that the backup follows.
type Tablespace struct {
	OID uint32
	// Location is where the link points.
	Location string
	// InPlace: not a link but a folder in pg_tblspc (allow_in_place_tablespaces).
	InPlace bool
}

// External is a file from outside of the data directory, stored as
// ConfigPrefix/Name.
type External struct {
	Name string
	File string
}

// Skip is something that was found and left out, and that an operator may miss.
type Skip struct {
	Path   string
	Reason string
}

// Options say what Walk visits.
type Options struct {
	// Root is the data directory.
	Root string
	// FS defaults to OS.
	FS FS
	// VersionDir is the name PG_<major>_<catalog version> inside tablespaces.
	VersionDir string
	// Tablespaces to follow. Other links in pg_tblspc are younger than the backup.
	Tablespaces []Tablespace
	// StatsTempDirectory is the setting of that name, which PostgreSQL 14 and
	// older have; "" otherwise.
	StatsTempDirectory string
	// Externals, with names in any order.
	Externals []External
	// Skipped is told what is left out unexpectedly; may be nil. What every
	// backup leaves out is not told.
	Skipped func(Skip)
}

// Walk yields the entries of the data directory, without the directory itself,
// in the manifest's order: parts of paths compared bytewise, so a folder comes
// right before what is in it. Directories are listed one at a time; what
// vanishes meanwhile is not in the backup. The first error ends the sequence.
func Walk(ctx context.Context, o Options) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		w := &walker{Options: o, ctx: ctx, yield: yield}
		if w.FS == nil {
			w.FS = OS{}
		}
		if err := w.run(); err != nil && !errors.Is(err, errStop) {
			yield(Entry{}, err)
		}
	}
}

// errStop says that the consumer left the loop.
var errStop = errors.New("stopped")

type walker struct {
	Options
	ctx   context.Context
	yield func(Entry, error) bool
	// inside holds the paths of tablespaces that lie in the data directory.
	inside map[string]bool
	// statsTemp is the path of the directory with temporary statistics.
	statsTemp string
}

func (w *walker) run() error {
	w.inside = make(map[string]bool)
	for _, t := range w.Tablespaces {
		if rel, ok := below(w.Root, t.Location); ok && !t.InPlace {
			w.inside[rel] = true
		}
	}
	if w.StatsTempDirectory != "" {
		dir := w.StatsTempDirectory
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(w.Root, dir)
		}
		w.statsTemp, _ = below(w.Root, dir)
	}
	names, err := list(w.FS, w.Root)
	if err != nil {
		return err
	}
	if len(w.Externals) > 0 {
		if names.has(ConfigPrefix) {
			return fmt.Errorf("%s: this name is reserved for configuration files from outside", filepath.Join(w.Root, ConfigPrefix))
		}
		if err := names.add(ConfigPrefix); err != nil {
			return err
		}
		names.sort()
	}
	return w.entries("", w.Root, names)
}

// below returns the path of dir inside root, after links are resolved.
func below(root, dir string) (string, bool) {
	if r, err := filepath.EvalSymlinks(root); err == nil {
		root = r
	}
	if d, err := filepath.EvalSymlinks(dir); err == nil {
		dir = d
	}
	rel, err := filepath.Rel(root, dir)
	if err != nil || rel == "." || rel == ".." || strings.HasPrefix(rel, "../") {
		return "", false
	}
	return rel, true
}

func (w *walker) emit(e Entry) error {
	if !w.yield(e, nil) {
		return errStop
	}
	return w.ctx.Err()
}

func (w *walker) skip(path, reason string) {
	if w.Skipped != nil {
		w.Skipped(Skip{Path: path, Reason: reason})
	}
}

// directory yields what is in a directory.
func (w *walker) directory(path, file string) error {
	names, err := list(w.FS, file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // dropped meanwhile
	}
	if err != nil {
		return err
	}
	return w.entries(path, file, names)
}

func (w *walker) entries(path, file string, names *listing) error {
	kind := kindOf(path, w.VersionDir)
	for i := range names.names {
		name := names.name(i)
		if nameExcluded(name) || (kind == databaseDir && w.notLogged(name, names)) {
			continue
		}
		child := name
		if path != "" {
			child = path + "/" + name
		}
		if child == ConfigPrefix && len(w.Externals) > 0 {
			if err := w.externals(); err != nil {
				return err
			}
			continue
		}
		if err := w.entry(child, filepath.Join(file, name), name, kind); err != nil {
			return err
		}
	}
	return nil
}

// notLogged says whether a file of a database directory belongs to a temporary
// or unlogged relation. Of an unlogged one only the init fork is kept; recovery
// makes the main fork from it.
func (w *walker) notLogged(name string, names *listing) bool {
	if isTempRelation(name) {
		return true
	}
	rel, ok := ParseRelationFile(name)
	return ok && rel.Fork != ForkInit && names.has(rel.Node+"_"+string(ForkInit))
}

func (w *walker) entry(path, file, name string, kind dirKind) error {
	info, err := w.FS.Lstat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	e := Entry{Path: path, File: file, Mode: info.Mode().Perm(), ModTime: info.ModTime()}
	switch {
	case info.Mode().IsRegular():
		e.Class, e.Size = Blob, info.Size()
		if rel, ok := ParseRelationFile(name); ok && kind != plainDir {
			e.Class, e.Relation = Relation, rel
		}
		return w.emit(e)
	case info.Mode()&fs.ModeSymlink != 0:
		return w.link(e)
	case info.IsDir():
		return w.folder(e)
	}
	w.skip(path, "not a file, folder or link: "+info.Mode().Type().String())
	return nil
}

func (w *walker) folder(e Entry) error {
	e.Class = Dir
	if e.Path == "lost+found" {
		w.skip(e.Path, "belongs to the file system")
		return nil
	}
	if err := w.emit(e); err != nil {
		return err
	}
	switch {
	case contentExcluded(e.Path) || e.Path == w.statsTemp:
		return nil
	case w.inside[e.Path]:
		return nil // read once, as a tablespace
	case strings.HasPrefix(e.Path, "pg_tblspc/") && strings.Count(e.Path, "/") == 1:
		return w.versionDir(e)
	}
	return w.directory(e.Path, e.File)
}

func (w *walker) link(e Entry) error {
	target, err := w.FS.Readlink(e.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read link %s: %w", e.Path, err)
	}
	e.Class, e.Target = Link, target
	if oid, ok := strings.CutPrefix(e.Path, "pg_tblspc/"); ok && isNumber(oid) {
		return w.tablespace(e, oid)
	}
	if linkForbidden(e.Path) {
		return fmt.Errorf("%s is a symbolic link to %s: PostgreSQL supports links for tablespaces and pg_wal only, and a backup that did not follow it could not be restored", e.Path, target)
	}
	if !contentExcluded(e.Path) {
		w.skip(e.Path, "symbolic link to "+target+": the link is in the backup, what it points to is not")
	}
	return w.emit(e)
}

func (w *walker) tablespace(e Entry, oid string) error {
	for _, t := range w.Tablespaces {
		if strconv.FormatUint(uint64(t.OID), 10) == oid && !t.InPlace {
			if err := w.emit(e); err != nil {
				return err
			}
			return w.versionDir(e)
		}
	}
	w.skip(e.Path, "tablespace is younger than the backup: recovery makes it")
	return nil
}

// versionDir visits the one folder of a tablespace that is this server's; a
// location can hold those of other major versions beside it.
func (w *walker) versionDir(e Entry) error {
	return w.entry(e.Path+"/"+w.VersionDir, filepath.Join(e.File, w.VersionDir), w.VersionDir, plainDir)
}
