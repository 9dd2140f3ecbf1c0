package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"pgstow/backup/backupmanifest"
	"pgstow/backup/pgconf"
	"pgstow/catalog"
	"pgstow/wal"
)

// maxConf bounds what is read of a configuration file.
const maxConf = 16 << 20

// settings writes what recovery needs, each file durably by itself, and then backup_manifest.
func (r *runner) settings(ctx context.Context) error {
	r.phase(PhaseFinish)
	for _, note := range r.content.notes {
		r.warn(note)
	}
	label := cleanLabel(r.content.header.BackupLabel)
	if !r.plan.Offline && len(label) == 0 {
		return fmt.Errorf("manifest of backup %s: it was taken from a running server and has no backup_label", r.plan.Backup)
	}
	if !r.plan.Offline {
		if err := r.w.writeFile("backup_label", label, r.w.modes.file); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.content.wal)) {
		// The archive has it, or never will: either way the server must not archive it (RULES-physical B5).
		if err := r.w.writeFile("pg_wal/archive_status/"+name+".done", nil, r.w.modes.file); err != nil {
			return err
		}
	}
	if len(r.plan.LeftOut) > 0 {
		if err := r.w.writeFile(endScriptName, r.content.endScript(), r.w.modes.file); err != nil {
			return err
		}
	}
	if err := r.editConfigs(); err != nil {
		return err
	}
	if err := r.recoverySettings(); err != nil {
		return err
	}
	final, err := r.finalControl()
	if err != nil {
		return err
	}
	err = r.w.create(backupmanifest.FileName, r.w.modes.file, func(out io.Writer) error {
		return r.backupManifest(out, label, final)
	})
	if err != nil {
		return err
	}
	return r.sync.sync(ctx)
}

// editConfigs takes out of configuration files that lay outside of the data directory what points out of it, and lets them
// include one another where they are now.
func (r *runner) editConfigs() error {
	if !r.plan.WithConfig {
		return nil
	}
	in := includesOf(r.content.header)
	for i := range r.content.table.len() {
		id := fileID(i)
		path := r.content.table.path(id)
		outside := slices.Contains(r.content.config, id)
		if path != mainConf && (!outside || !slices.Contains(slices.Collect(maps.Values(in.from)), path)) {
			continue // not a file of settings
		}
		if err := r.editConfig(id, in, outside); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

func (r *runner) editConfig(id fileID, in includes, outside bool) error {
	path := r.content.table.path(id)
	old, err := readLimited(r.w.place(path), maxConf)
	if err != nil {
		return err
	}
	f := pgconf.Parse(old)
	changed, warnings, err := in.edit(f, outside)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		r.warn("configuration: " + path + ": " + w)
	}
	if removed := outside && len(f.Remove(outsideSettings)) > 0; !removed && !changed {
		return nil
	}
	edited := f.Bytes()
	if err := r.w.writeFile(path, edited, fs.FileMode(r.content.table.state(id).mode)); err != nil {
		return err
	}
	if r.edited == nil {
		r.edited = make(map[fileID][]byte)
	}
	r.edited[id] = edited
	return nil
}

func (r *runner) recoverySettings() error {
	others, complete, problems := otherSettings(r.plan.Directory)
	for _, p := range problems {
		r.warn(fmt.Sprintf("configuration: %v", p))
	}
	for _, text := range strayPaths(r.plan.Directory, others) {
		r.warn(text)
	}
	old, err := readLimited(r.w.place(autoConf), maxConf)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	rec := r.plan.recovery()
	note := fmt.Sprintf("backup %s to %s on timeline %d", r.plan.Backup, r.plan.marker().Target, r.plan.Timeline)
	edited, err := rec.editAutoConf(old, others, complete, note)
	if err != nil {
		return fmt.Errorf("%s: %w", autoConf, err)
	}
	if err := r.w.writeFile(autoConf, edited, r.w.modes.file); err != nil {
		return err
	}
	return r.w.writeFile(rec.signal(), nil, r.w.modes.file)
}

// finalControl is pg_control as it will be written.
func (r *runner) finalControl() ([]byte, error) {
	if r.plan.Offline {
		return r.w.control, nil
	}
	final, err := invalidateCheckpoint(r.w.control)
	if err != nil {
		return nil, fmt.Errorf("backup %s: %w", r.plan.Backup, err)
	}
	return final, nil
}

// finished looks at a directory in which the same restore was interrupted: with a pg_control all that was missing was to
// take the marker away, unless a server has been started there since, which shows in pg_control: then nothing may be
// written.
func (r *runner) finished(ctx context.Context) (bool, error) {
	have, err := readLimited(r.w.place(controlPath), 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := r.readControl(ctx); err != nil {
		return false, err
	}
	want, err := r.finalControl()
	if err != nil {
		return false, err
	}
	if !bytes.Equal(have, want) && r.plan.Delta != nil {
		return false, nil // it is what the delta restore is to overwrite
	}
	if !bytes.Equal(have, want) {
		return false, refuse(r.plan.Directory, "if you want to keep what it has done, remove only "+MarkerName+"; to restore anew, empty the directory and its tablespaces",
			"a server was started here after the restore")
	}
	return true, nil
}

// readControl reads pg_control alone.
func (r *runner) readControl(ctx context.Context) error {
	reader := r.packReader(new(atomic.Int64))
	for _, part := range r.content.blobs {
		if part.file != r.content.control {
			continue
		}
		err := reader.frames(ctx, r.content.packs[part.pack], []uint32{part.frame}, func(_ uint32, plain []byte) error {
			if uint64(part.start)+uint64(part.length) > uint64(len(plain)) {
				return &CorruptError{Key: r.content.packs[part.pack].Key(r.plan.Ref()), Err: errors.New(controlPath + " lies beyond its frame")}
			}
			copy(r.w.control[part.offset:], plain[part.start:part.start+part.length])
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// backupManifest lists what pg_verifybackup will find (RULES-physical E5).
func (r *runner) backupManifest(out io.Writer, label, control []byte) error {
	m := backupmanifest.NewWriter(out, backupmanifest.Version(r.plan.Major), r.plan.SystemID)
	if !r.plan.Offline {
		err := m.AddFile(backupmanifest.File{Path: "backup_label", Size: int64(len(label)), Modified: r.started, CRC32C: backupmanifest.Checksum(label)})
		if err != nil {
			return err
		}
	}
	if len(r.plan.LeftOut) > 0 {
		script := r.content.endScript()
		err := m.AddFile(backupmanifest.File{Path: endScriptName, Size: int64(len(script)), Modified: r.started, CRC32C: backupmanifest.Checksum(script)})
		if err != nil {
			return err
		}
	}
	for i := range r.content.table.len() {
		id := fileID(i)
		path, state := r.content.table.path(id), r.content.table.state(id)
		f := backupmanifest.File{Path: path, Size: state.size, Modified: time.Unix(state.modified, 0), CRC32C: state.sum.Checksum(state.size)}
		if edited, ok := r.edited[id]; ok {
			f.Size, f.CRC32C = int64(len(edited)), backupmanifest.Checksum(edited)
		}
		if id == r.content.control {
			f.CRC32C = backupmanifest.Checksum(control)
		}
		if isWAL(path) || path == autoConf {
			continue
		}
		if err := m.AddFile(f); err != nil {
			return err
		}
	}
	for _, part := range walRanges(r.content.header) {
		if err := m.AddWALRange(part); err != nil {
			return err
		}
	}
	return m.Close()
}

// walRanges are the WAL from start to stop of the backup, one range a timeline.
func walRanges(h catalog.BackupHeader) []backupmanifest.WALRange {
	var out []backupmanifest.WALRange
	begin := wal.LSN(0)
	for _, e := range h.TimelineHistory() {
		from, to := max(begin, h.Start), min(e.End, h.Stop)
		if e.Timeline >= h.Timeline && (from < to || e.Timeline == h.StopTimeline) {
			out = append(out, backupmanifest.WALRange{Timeline: uint32(e.Timeline), Start: uint64(from), End: uint64(to)})
		}
		begin = e.End
	}
	return out
}

// control writes pg_control: from here on the directory can be started.
func (r *runner) control(ctx context.Context) error {
	final, err := r.finalControl()
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return r.w.writeFile(controlPath, final, fs.FileMode(r.content.table.state(r.content.control).mode))
}

// unmark removes the marker.
func (r *runner) unmark(context.Context) error {
	if err := os.Remove(r.w.place(MarkerName)); err != nil {
		return err
	}
	return syncDir(r.plan.Directory)
}
