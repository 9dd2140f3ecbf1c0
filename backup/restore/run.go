package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"pgstow/catalog"
)

// RunOptions are what does not change the result.
type RunOptions struct {
	Workers int         // packs at a time; 0: twice the number of processors, if the memory allows
	Memory  int64       // bytes of buffers; 0: 96 MiB
	Events  func(Event) // may be nil
	// Hold is how long what recovery will still read must not be expired (RULES-archive A16); 0: 72 hours; negative: no hold.
	Hold time.Duration
	// Pieces is how many places of pages are in memory at a time, 32 bytes each; 0: a million. A backup that has more, since
	// its pages are strewn over many frames, is restored in rounds, in which a pack may be read again.
	Pieces int
	// FailAfter is called with the name of each step that is done; an error ends the restore there. For tests.
	FailAfter func(step string) error
}

// Result is what Run did.
type Result struct {
	Files        int           `json:"files"`
	Bytes        int64         `json:"bytes"`         // of all files, holes included
	BytesWritten int64         `json:"bytes_written"` // without holes and what was already there
	BytesRead    int64         `json:"bytes_read"`    // received from the store
	BytesKept    int64         `json:"bytes_kept"`    // already right
	FilesRemoved int64         `json:"files_removed"` // by a delta restore: what did not belong
	BytesRemoved int64         `json:"bytes_removed"` // of these
	Duration     time.Duration `json:"duration"`      // nanoseconds
	Warnings     []string      `json:"warnings"`
}

// Steps of a restore, in order; see RunOptions.FailAfter.
const (
	StepMarker   = "marker"   // the directory exists and is marked as half restored
	StepData     = "data"     // all files are written
	StepSync     = "sync"     // and on stable storage
	StepSettings = "settings" // so are backup_label, settings, signal file and backup_manifest
	StepControl  = "control"  // and pg_control: the directory can be started
	StepDone     = "done"     // the marker is gone
)

// Run carries out a plan. It may be called again after an error, with the same plan or one made anew for the same
// request: it goes on where it stopped. Errors: *DirectoryError, *SpaceError, *CorruptError (it names the object), those
// of the store, of the operating system and of ctx.
func Run(ctx context.Context, repo *catalog.Repository, p Planned, o RunOptions) (Result, error) {
	r := &runner{repo: repo, plan: p, options: o, started: time.Now()}
	err := r.run(ctx)
	if r.sync != nil {
		err = errors.Join(err, r.sync.close())
	}
	if err != nil {
		return r.result, err
	}
	r.result.Duration = time.Since(r.started)
	return r.result, nil
}

type runner struct {
	repo    *catalog.Repository
	plan    Planned
	options RunOptions
	started time.Time

	tell    sync.Mutex
	w       *writer
	content *content
	sync    *syncer
	result  Result
	resume  bool              // the marker of this very plan is there
	compare bool              // the directory may hold some of it already
	edited  map[fileID][]byte // files that were changed after they were restored
}

func (r *runner) run(ctx context.Context) error {
	if r.plan.RestoreCommand == "" && !r.plan.Standby {
		if r.plan.NeedsArchive {
			return fmt.Errorf("%w: recovery needs the archive, and no restore_command is given", ErrOptions)
		}
		// PostgreSQL insists on a command. Exit code 1 means "not in the archive", which is what there is.
		r.plan.RestoreCommand = "false"
	}
	if err := r.open(ctx); err != nil {
		return err
	}
	if r.resume {
		done, err := r.finished(ctx)
		if err != nil {
			return err
		}
		if done {
			return r.unmark(ctx)
		}
	}
	if err := r.hold(ctx); err != nil {
		return err
	}
	return r.steps(ctx)
}

// steps writes. Each step is on stable storage, or need not be, before the next one begins.
func (r *runner) steps(ctx context.Context) error {
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{StepMarker, r.prepare},
		{StepData, r.data},
		{StepSync, r.syncAll},
		{StepSettings, r.settings},
		{StepControl, r.control},
		{StepDone, r.unmark},
	} {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := step.do(ctx); err != nil {
			return err
		}
		if r.options.FailAfter != nil {
			if err := r.options.FailAfter(step.name); err != nil {
				return err
			}
		}
	}
	return nil
}

// open looks at the directories again, since time has passed since Plan, and reads the manifest.
func (r *runner) open(ctx context.Context) error {
	old, err := r.plan.checkDirectories()
	if err != nil {
		return err
	}
	r.resume, r.compare = old.resume, old.resume || r.plan.Delta != nil && !old.empty
	r.phase(PhaseManifest)
	m, err := r.repo.ReadManifest(ctx, r.plan.Ref(), r.plan.Backup)
	if err != nil {
		return err
	}
	if r.content, err = load(ctx, m, r.plan); err != nil {
		return err
	}
	return r.newWriter()
}

// prepare makes the directory, its marker, and all folders.
func (r *runner) prepare(ctx context.Context) error {
	p := r.plan
	if err := r.w.makeDir(p.Directory); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(p.Directory)); err != nil {
		return err
	}
	roots := []string{p.Directory}
	if !r.resume {
		marker, err := json.MarshalIndent(p.marker(), "", "  ")
		if err != nil {
			return err
		}
		if err := r.w.writeFile(MarkerName, append(marker, '\n'), r.w.modes.file); err != nil {
			return err
		}
	}
	if r.plan.Delta != nil && r.compare {
		if err := r.clear(ctx); err != nil {
			return err
		}
	}
	if err := r.w.makeDir(r.w.place("pg_tblspc")); err != nil {
		return err
	}
	for _, t := range p.Tablespaces {
		if t.InPlace {
			continue
		}
		if err := r.tablespace(t); err != nil {
			return err
		}
		roots = append(roots, t.Location)
	}
	var err error
	if r.sync, err = newSyncer(roots); err != nil {
		return err
	}
	for _, dir := range r.content.directories(p) {
		if err := r.w.makeDir(r.w.place(dir)); err != nil {
			return fmt.Errorf("restore %s: %w", dir, err)
		}
	}
	return nil
}

// newWriter makes the writer of all files.
func (r *runner) newWriter() error {
	size := r.content.table.state(r.content.control).size
	if size <= controlMinSize || size > 1<<20 {
		return fmt.Errorf("manifest of backup %s: %s has %d bytes", r.plan.Backup, controlPath, size)
	}
	r.w = &writer{
		dir: r.plan.Directory, table: r.content.table, modes: modesFor(fs.FileMode(r.plan.Mode)), owner: r.plan.Owner,
		controlID: r.content.control, control: make([]byte, size),
	}
	return nil
}

// tablespace makes the place of a tablespace and the link to it (RULES-physical A10).
func (r *runner) tablespace(t PlannedTablespace) error {
	if err := r.w.makeDir(t.Location); err != nil {
		return err
	}
	if err := r.symlink(t.Location, t.Path); err != nil {
		return fmt.Errorf("link tablespace: %w", err)
	}
	return nil
}

// symlink makes a symbolic link at a path of the manifest; the same one may be there.
func (r *runner) symlink(target, path string) error {
	at := r.w.place(path)
	err := os.Symlink(target, at)
	if errors.Is(err, fs.ErrExist) {
		if have, rerr := os.Readlink(at); rerr == nil && have == target {
			err = nil
		}
	}
	if err != nil || !r.plan.Owner.Set {
		return err
	}
	return os.Lchown(at, r.plan.Owner.UID, r.plan.Owner.GID)
}

// standardDirs are made whether or not the manifest has them: the server needs them all (initdb.c), and the contents of
// some are never part of a backup.
var standardDirs = []string{
	"base", "global", "pg_commit_ts", "pg_dynshmem", "pg_logical", "pg_logical/mappings", "pg_logical/snapshots",
	"pg_multixact", "pg_multixact/members", "pg_multixact/offsets", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots",
	"pg_stat", "pg_stat_tmp", "pg_subtrans", "pg_tblspc", "pg_twophase", "pg_wal", "pg_wal/archive_status", "pg_xact",
}

// directories lists all folders, parents first.
func (c *content) directories(p Planned) []string {
	dirs := slices.Clone(standardDirs)
	if p.Major >= 17 {
		dirs = append(dirs, "pg_wal/summaries")
	}
	dirs = append(dirs, c.dirs...)
	// A manifest lists folders; should one be missing, its files say that it was there.
	last := ""
	for i := range c.table.len() {
		dir := filepath.Dir(c.table.path(fileID(i)))
		if dir != last && dir != "." {
			dirs = append(dirs, dir)
			last = dir
		}
	}
	for _, dir := range slices.Clone(dirs) {
		for up := filepath.Dir(dir); up != "."; up = filepath.Dir(up) {
			dirs = append(dirs, up)
		}
	}
	slices.Sort(dirs) // "a" < "a/b": parents first
	return slices.DeleteFunc(slices.Compact(dirs), func(dir string) bool {
		return slices.ContainsFunc(p.Tablespaces, func(t PlannedTablespace) bool { return !t.InPlace && t.Path == dir })
	})
}

// data writes all files but pg_control.
func (r *runner) data(ctx context.Context) error {
	r.phase(PhaseData)
	e, err := r.engine()
	if err != nil {
		return err
	}
	err = e.run(ctx)
	r.result.Files, r.result.BytesWritten, r.result.BytesRead, r.result.BytesKept = r.content.table.len(), e.written.Load(), e.received.Load(), e.kept
	if err != nil {
		return err
	}
	for i := range r.content.table.len() {
		r.result.Bytes += r.content.table.state(fileID(i)).size
	}
	return r.links()
}

func (r *runner) engine() (*engine, error) {
	e := &engine{
		content: r.content, w: r.w, pageSize: int(r.content.header.BlockSize), compare: r.compare,
		workers: r.options.Workers, memory: r.options.Memory, pieces: r.options.Pieces, emit: r.emit,
	}
	e.reader = func() *packReader { return r.packReader(&e.received) }
	if e.pageSize <= 0 {
		return nil, fmt.Errorf("manifest of backup %s: block size %d", r.plan.Backup, e.pageSize)
	}
	return e, nil
}

func (r *runner) packReader(received *atomic.Int64) *packReader {
	return &packReader{store: r.repo.Store, ref: r.plan.Ref(), identities: r.repo.Identities(), encrypted: r.repo.Encrypted, received: received}
}

// links makes the symbolic links, after all files, so that nothing can have been written through one.
func (r *runner) links() error {
	for _, l := range r.content.links {
		if err := r.symlink(l.target, l.path); err != nil {
			return fmt.Errorf("restore %s: %w", l.path, err)
		}
	}
	return nil
}

func (r *runner) syncAll(ctx context.Context) error {
	r.phase(PhaseSync)
	return r.sync.sync(ctx)
}

func (r *runner) phase(name string) { r.emit(PhaseEvent{Name: name}) }

func (r *runner) warn(text string) {
	if slices.Contains(r.result.Warnings, text) {
		return
	}
	r.result.Warnings = append(r.result.Warnings, text)
	r.emit(WarningEvent{Text: text})
}

func (r *runner) emit(e Event) {
	if r.options.Events == nil {
		return
	}
	r.tell.Lock()
	defer r.tell.Unlock()
	r.options.Events(e)
}

// isWAL reports whether path is a file of pg_wal.
func isWAL(path string) bool { return strings.HasPrefix(path, "pg_wal/") }
