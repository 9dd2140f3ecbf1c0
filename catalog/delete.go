package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"pgstow/storage"
)

// DeleteOptions say how careful DeleteBackup is.
type DeleteOptions struct {
	Host, Program string
	Clock         Clock

	// Wait is how long leases that are in the way are watched: until they are released, or seen to be dead. 0: not at all,
	// so that also the lease of a backup that died long ago is in the way.
	Wait time.Duration
	// IgnoreHolds deletes a backup although a restore holds it.
	IgnoreHolds bool
	// DryRun says what would be deleted.
	DryRun bool
}

// DeleteResult says what was deleted.
type DeleteResult struct {
	Manifest string   // key
	Packs    []string // keys
	Bytes    int64    // stored, of manifest and packs
	Kept     int      // packs of the backup that other backups need
}

// DeleteBackup removes a backup: first its manifest, so that it does not exist any more, then the packs that no remaining
// manifest refers to. Other backups are not harmed, since each has a whole map of its own.
//
// It is ErrInUse if a running backup names it as its reference, or is it, or a hold names it. It is safe against a backup
// that starts meanwhile: the packs are condemned first, then all manifests are read once more; a backup that commits
// before that is seen there, and one that commits later sees the condemned list and undoes its commit (ManifestWriter).
// The manifests of all backups must be readable: without the identities nobody knows which packs they need.
func (r *Repository) DeleteBackup(ctx context.Context, ref ClusterRef, id string, o DeleteOptions) (DeleteResult, error) {
	o.Clock = o.Clock.withDefaults()
	m, err := r.ReadManifest(ctx, ref, id)
	if err != nil {
		return DeleteResult{}, err
	}
	if err := r.checkFree(ctx, ref, id, o); err != nil {
		return DeleteResult{}, err
	}
	res := DeleteResult{Manifest: ref.BackupManifestKey(id)}
	if o.DryRun {
		needed, err := r.neededPacks(ctx, ref, m)
		if err != nil {
			return res, err
		}
		res.take(ref, m, needed)
		return res, nil
	}
	// The others are read before anything is gone, so that one that cannot be read stops us while all is well.
	if _, err := r.neededPacks(ctx, ref, m); err != nil {
		return res, fmt.Errorf("delete backup %s: %w", id, err)
	}
	if err := r.Store.Delete(ctx, res.Manifest); err != nil {
		return res, fmt.Errorf("delete backup %s: %w", id, err)
	}
	if err := r.deletePacks(ctx, ref, m, o, &res); err != nil {
		return res, hint(fmt.Errorf("backup %s is deleted, some of its packs are left: %w", id, err), "expire removes them later")
	}
	return res, nil
}

// take sorts the packs of a manifest into those to delete and those to keep.
func (d *DeleteResult) take(ref ClusterRef, m *ManifestReader, needed map[string]bool) {
	d.Packs, d.Kept = nil, 0
	d.Bytes = m.obj.Header().StoredSize
	for _, p := range m.packs {
		if needed[p.Key(ref)] {
			d.Kept++
			continue
		}
		d.Packs = append(d.Packs, p.Key(ref))
		d.Bytes += p.Size
	}
}

func (r *Repository) deletePacks(ctx context.Context, ref ClusterRef, m *ManifestReader, o DeleteOptions, res *DeleteResult) error {
	id := m.header.ID
	needed, err := r.neededPacks(ctx, ref, m)
	if err != nil {
		return err
	}
	res.take(ref, m, needed)
	if len(res.Packs) == 0 {
		return nil
	}
	name := "delete-" + id + "-" + newNonce()[:8]
	list := SweepList{
		Name: name, SystemID: ref.SystemID, Created: o.Clock.Wall(), Host: o.Host, Program: o.Program, Reason: "backup delete", Condemned: res.Packs,
	}
	if err := r.Condemn(ctx, ref.Name, list); err != nil {
		return err
	}
	// From here on a backup that looks for packs to build on, or commits, sees the list. What committed before is seen
	// now; what builds on packs already is in the way, since it may die between its commit and its own last look.
	if needed, err = r.neededAfter(ctx, ref, m, o); err != nil {
		return errors.Join(err, r.EndSweep(context.WithoutCancel(ctx), ref.Name, name))
	}
	res.take(ref, m, needed)
	if err := r.Store.Delete(ctx, res.Packs...); err != nil {
		return err
	}
	return r.EndSweep(ctx, ref.Name, name)
}

// neededAfter is neededPacks after packs were condemned (RULES-archive A15). A backup under way is in nobody's manifests:
// if the one that it builds on is gone, it is waited for, and if it is dead it can no longer be committed. Without that
// nothing is safe to delete, which is ErrInUse.
func (r *Repository) neededAfter(ctx context.Context, ref ClusterRef, m *ManifestReader, o DeleteOptions) (map[string]bool, error) {
	for {
		leases, err := r.Leases(ctx, ref.Name)
		if err != nil {
			return nil, err
		}
		needed, read, err := r.readNeeded(ctx, ref, m)
		if err != nil {
			return nil, err
		}
		lost := map[string]bool{} // backups under way that build on what was not read
		for _, l := range leases {
			if l.Reference != "" && l.Backup != "" && l.SystemID == ref.SystemID && !read[l.Reference] && !read[l.Backup] {
				lost[l.Backup] = true
			}
		}
		if len(lost) == 0 {
			return needed, nil
		}
		alive, err := r.WatchLeases(ctx, ref.Name, o.Clock, o.Wait, func(l LeaseInfo) bool { return lost[l.Backup] && l.Reference != "" })
		if err != nil {
			return nil, err
		}
		if len(alive) > 0 {
			l := alive[0]
			return nil, fmt.Errorf("%w by backup %s on %s, process %d, which began to build on it", ErrInUse, l.Backup, l.Host, l.PID)
		}
		for backup := range lost {
			if _, err := r.AbortBackup(ctx, ref, backup, o.Host, o.Program, o.Clock.Wall()); err != nil {
				return nil, fmt.Errorf("give up the dead backup %s: %w", backup, err)
			}
		}
	}
}

// checkFree looks for leases and holds that name the backup.
func (r *Repository) checkFree(ctx context.Context, ref ClusterRef, id string, o DeleteOptions) error {
	alive, err := r.WatchLeases(ctx, ref.Name, o.Clock, o.Wait, func(l LeaseInfo) bool { return l.Backup == id || l.Reference == id })
	if err != nil {
		return fmt.Errorf("delete backup %s: %w", id, err)
	}
	if len(alive) > 0 {
		l := alive[0]
		return hint(fmt.Errorf("delete backup %s: %w by %s %q on %s, process %d", id, ErrInUse, l.Purpose, l.Name, l.Host, l.PID),
			"wait until it has ended; if it died, its lease is seen to be dead after %s of watching", time.Duration(l.TTL))
	}
	if o.IgnoreHolds {
		return nil
	}
	stat, err := r.Store.Stat(ctx, RepoKey)
	if err != nil {
		return fmt.Errorf("delete backup %s: %w", id, err)
	}
	now := stat.Now
	if now.IsZero() {
		now = o.Clock.Wall()
	}
	holds, err := r.Holds(ctx, ref.Name, now)
	if err != nil {
		return fmt.Errorf("delete backup %s: %w", id, err)
	}
	if i := slices.IndexFunc(holds, func(h Hold) bool { return h.Backup == id }); i >= 0 {
		h := holds[i]
		return hint(fmt.Errorf("delete backup %s: %w: held by %q on %s until %s", id, ErrInUse, h.Reason, h.Host, h.Until.Format(time.RFC3339)),
			"a restored server may still be replaying; remove the hold %q if not", h.Name)
	}
	return nil
}

// neededPacks reads the pack tables of all manifests but m, and tells which of m's packs they name. It keeps no more than that, however many
// backups there are.
func (r *Repository) neededPacks(ctx context.Context, ref ClusterRef, m *ManifestReader) (map[string]bool, error) {
	needed, _, err := r.readNeeded(ctx, ref, m)
	return needed, err
}

// readNeeded is neededPacks, and tells whose manifests were read, those of backups that were given up among them.
func (r *Repository) readNeeded(ctx context.Context, ref ClusterRef, m *ManifestReader) (needed, read map[string]bool, err error) {
	var ids []string
	for info, err := range r.Store.List(ctx, ref.BackupPrefix(), "") {
		if err != nil {
			return nil, nil, err
		}
		if id, ok := parseManifestKey(ref, info.Key); ok && id != m.header.ID {
			ids = append(ids, id)
		}
	}
	mine := make(map[string]bool, len(m.packs))
	for _, p := range m.packs {
		mine[p.Key(ref)] = true
	}
	needed, read = map[string]bool{}, map[string]bool{}
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4) // each holds a whole manifest
	for _, id := range ids {
		group.Go(func() error {
			other, err := r.ReadManifest(ctx, ref, id)
			if errors.Is(err, storage.ErrNotExist) {
				return nil
			}
			if err != nil && !errors.Is(err, ErrAborted) {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if read[id] = true; err != nil {
				return nil
			}
			for _, p := range other.packs {
				if key := p.Key(ref); mine[key] {
					needed[key] = true
				}
			}
			return nil
		})
	}
	return needed, read, group.Wait()
}
