package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"pgstow/backup/pgconf"
	"pgstow/backup/source"
	"pgstow/catalog"
	"pgstow/wal"
	"pgstow/wal/pgcontrol"
)

// Create takes a backup and returns the manifest's header. When ctx ends, or
// anything fails before the commit, nothing more is written but the release of the
// lease, and the server ends its part of the backup with the session.
//
// A *PartialError comes with a valid header: the backup exists, but pages in it
// are damaged in the data directory too.
func Create(ctx context.Context, repo *catalog.Repository, o CreateOptions) (catalog.BackupHeader, error) {
	o, err := o.withDefaults()
	if err != nil {
		return catalog.BackupHeader{}, err
	}
	c := &creation{repo: repo, o: o, report: newReporter(o.Events)}
	var header catalog.BackupHeader
	switch {
	case o.Offline:
		header, err = c.offline(ctx)
	case o.Source == SourceStream:
		header, err = c.streamed(ctx)
	default:
		header, err = c.online(ctx)
	}
	if err != nil {
		return catalog.BackupHeader{}, err
	}
	if header.Damaged > 0 {
		return header, &PartialError{ID: header.ID, Pages: header.Damaged, Sample: header.DamagedPages}
	}
	return header, nil
}

// creation is one run of Create.
type creation struct {
	repo   *catalog.Repository
	o      CreateOptions
	report *reporter

	dir     string
	mode    fs.FileMode // of dir; 0: not known yet
	major   int
	control pgcontrol.Control // at the beginning
	ref     catalog.ClusterRef
	id      string
	lease   *catalog.Lease

	cache   *refCache // what this host remembers, where it cannot read the repository; else nil
	noCache string    // why there is none where one is needed

	databases []catalog.Database // at the end; none if no server runs
}

func (c *creation) phase(p Phase) { c.report.emit(PhaseEvent{p}) }

// cluster opens the cluster's prefix in the repository.
func (c *creation) cluster(ctx context.Context) error {
	c.ref = catalog.ClusterRef{Name: c.o.Cluster, SystemID: c.control.SystemID}
	checksums := c.control.DataChecksumVersion != 0
	_, err := c.repo.EnsureCluster(ctx, catalog.ClusterInfo{
		Name: c.o.Cluster, SystemID: c.control.SystemID, PostgresMajor: c.major, SegmentSize: c.control.WALSegmentSize,
		PageSize: c.control.BlockSize, RelSegSize: c.control.RelSegSize, Checksums: &checksums,
		Created: time.Now(), Host: c.o.Host,
	})
	return err
}

// releaseWithin bounds the release of the lease after the work was cancelled.
const releaseWithin = 10 * time.Second

// leased claims the backup's id and does the work while the lease lasts.
func (c *creation) leased(ctx context.Context, work func(ctx context.Context) error) (err error) {
	lease, err := c.repo.ClaimBackup(ctx, c.ref, catalog.LeaseOptions{
		TTL: c.o.Lease.TTL, Clock: c.o.Lease.Clock, Host: c.o.Host, Program: c.o.Program, PID: c.o.PID,
	}, nil)
	if err != nil {
		return err
	}
	c.id, c.lease = lease.Backup(), lease
	leasedCtx, stop := lease.Keep(ctx)
	defer func() {
		lost := stop()
		if err != nil && lost != nil && !errors.Is(err, lost) {
			err = errors.Join(err, lost)
		}
		// A lease lost after the commit harms nobody: the backup exists.
		if errors.Is(lost, catalog.ErrLeaseLost) {
			return // it is not ours to release
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseWithin)
		defer cancel()
		if rerr := lease.Release(ctx); rerr != nil && err == nil {
			c.report.emit(NoteEvent{Text: rerr.Error()}) // it dies by itself
		}
	}()
	c.cache, c.noCache = openCache(c.o.CacheDir, c.repo, c.ref, c.id)
	defer c.cache.close()
	return work(leasedCtx)
}

// newSource describes what of the data directory is read.
func (c *creation) newSource(tablespaces []source.Tablespace) source.Options {
	return source.Options{
		Root: c.dir, FS: c.o.FS, VersionDir: versionDir(c.major, c.control), Tablespaces: tablespaces,
		Skipped: func(s source.Skip) { c.report.emit(SkippedEvent(s)) },
	}
}

// describe adds to the header what all kinds of backup say alike. control is the stored
// pg_control.
func (c *creation) describe(h *catalog.BackupHeader, k *copier, control pgcontrol.Control) error {
	if c.mode == 0 {
		info, err := os.Stat(c.dir)
		if err != nil {
			return err
		}
		c.mode = info.Mode().Perm()
	}
	t := &k.collect.totals
	h.Label, h.Method, h.Why, h.PostgresMajor = c.o.Label, k.ref.method(), k.why, c.major
	if k.ref != nil {
		h.Reference, h.ReferenceLSN = k.ref.header.ID, k.ref.header.Start
	}
	h.CatalogVersion, h.ControlVersion = control.CatalogVersion, control.Version
	h.BlockSize, h.RelSegSize, h.WALSegmentSize = control.BlockSize, control.RelSegSize, control.WALSegmentSize
	h.ChecksumVersion, h.WALLevel, h.WALLogHints = control.DataChecksumVersion, control.WALLevel.String(), control.LogHints
	h.ControlRedo, h.ControlTimeline = control.Redo, control.Timeline
	h.Tablespaces, h.Databases = tablespacesOf(k.source.Tablespaces), c.databases
	h.Damaged, h.DamagedPages, h.PagesChanged, h.PagesRefreshed = t.damaged, t.sample, t.pages, t.refreshed
	h.BytesRead, h.BytesStored = c.report.bytes.Load(), k.packs.stored.Load()
	h.Program, h.Host, h.DataDirectory, h.DataDirectoryMode = c.o.Program, c.o.Host, c.dir, catalog.FileMode(c.mode)
	h.Options = map[string]string{"wal": c.o.WAL.String(), "level": c.o.Level.String()}
	if t.torn > 0 {
		c.report.emit(NoteEvent{Text: fmt.Sprintf("%d pages were caught while the server wrote them; the WAL repairs them", t.torn)})
	}
	return nil
}

// commit writes the manifest: from here on the backup exists.
func (c *creation) commit(ctx context.Context, k *copier, h catalog.BackupHeader) (catalog.BackupHeader, error) {
	c.phase(PhaseCommit)
	h.Notes = c.report.notes
	if h.Source != catalog.SourceStream {
		if err := c.witness(&h); err != nil {
			return h, err
		}
	}
	if err := context.Cause(ctx); err != nil {
		return h, err
	}
	h, err := k.manifest.Commit(ctx, h)
	if err != nil {
		return h, err
	}
	c.report.progress()
	if c.cache != nil {
		if err := c.remember(k, h); err != nil { // the backup exists all the same
			c.report.emit(NoteEvent{Text: fmt.Sprintf("this backup cannot be remembered, so the next one will be full: %v", err)})
		}
	}
	return h, nil
}

// remember keeps what the next backup needs of this one.
func (c *creation) remember(k *copier, h catalog.BackupHeader) error {
	manifest, err := k.manifest.Encode(h)
	if err != nil {
		return err
	}
	return c.cache.keep(manifest, k.manifest.Packs())
}

// checkStop compares what the server said at the stop with what was begun.
func (c *creation) checkStop(start wal.LSN, label wal.BackupLabel, s stopped) error {
	want := serverLabel(c.id, c.o.Label)
	switch {
	case label.Label != want:
		return fmt.Errorf("the server's backup_label has label %q and not %q: another backup's", label.Label, want)
	case label.StartLSN != start:
		return fmt.Errorf("the server's backup_label starts at %s and not at %s", label.StartLSN, start)
	case s.lsn < start:
		return fmt.Errorf("the server stopped the backup at %s, before its start at %s", s.lsn, start)
	case label.CheckpointLSN < start:
		return fmt.Errorf("the backup's checkpoint at %s lies before its start at %s", label.CheckpointLSN, start)
	}
	return nil
}

// realDirectory is the data directory with links resolved, so that the walk sees
// a folder.
func realDirectory(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	resolved, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return "", fmt.Errorf("data directory: %w", err)
	}
	return resolved, nil
}

// configFiles names the configuration files from outside, and the map of settings
// that the manifest's header has.
func configFiles(dir string, f facts) (externals []source.External, settings map[string]string) {
	var files []string
	for _, name := range []string{"config_file", "hba_file", "ident_file"} {
		files = append(files, f.configFiles[name])
	}
	files = append(files, pgconf.Files(f.configFiles["config_file"])...)
	externals = source.ExternalsOf(dir, files)
	for _, x := range externals {
		key := x.File
		for name, path := range f.configFiles {
			if path == x.File {
				key = name
			}
		}
		if settings == nil {
			settings = make(map[string]string)
		}
		settings[key] = source.ConfigPrefix + "/" + x.Name
	}
	return externals, settings
}
