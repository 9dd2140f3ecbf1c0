package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"pgstow/storage"
	"pgstow/storage/object"
	"pgstow/wal"
)

// BackupSummary is one backup as a list shows it.
type BackupSummary struct {
	BackupHeader
	// Opaque: the manifest is encrypted and the host has no identity for it. Of the header only ID, Cluster, SystemID,
	// Start, Stop, StopTimeline, StartedAt, StoppedAt, Host, DataDirectory and Program are known; Timeline is taken to be
	// StopTimeline, and NextXID has no epoch.
	Opaque       bool
	ManifestSize int64     // stored bytes
	Committed    time.Time // when the manifest was stored, by the store's clock
}

// SortBackups orders backups by lineage and stop LSN, newest last. A timeline's number is greater than those of its
// ancestors, so an ancestor comes first. Ids and clocks only make the order of equals stable (RULES-archive A18).
func SortBackups(list []BackupSummary) {
	slices.SortStableFunc(list, func(a, b BackupSummary) int {
		return cmp.Or(
			cmp.Compare(a.StopTimeline, b.StopTimeline),
			cmp.Compare(a.Stop, b.Stop),
			cmp.Compare(a.Start, b.Start),
			a.StoppedAt.Compare(b.StoppedAt),
			a.Committed.Compare(b.Committed), // cold backups of a server that was not started in between
			cmp.Compare(a.ID, b.ID),
		)
	})
}

// readParallel is how many small reads of a list are under way at a time.
const readParallel = 16

// Backups lists the committed backups of a cluster in the order of SortBackups, with one list and one small read each.
// Backups that a sweep declared dead are left out. If single manifests cannot be read the others are returned together
// with an error that names those.
func (r *Repository) Backups(ctx context.Context, ref ClusterRef) ([]BackupSummary, error) {
	if err := ref.Check(); err != nil {
		return nil, err
	}
	var found []storage.Info
	for info, err := range r.Store.List(ctx, ref.BackupPrefix(), "") {
		if err != nil {
			return nil, fmt.Errorf("list backups of %s: %w", ref, err)
		}
		if _, ok := parseManifestKey(ref, info.Key); ok {
			found = append(found, info)
		}
	}
	list := make([]BackupSummary, len(found))
	errs := make([]error, len(found))
	var group errgroup.Group
	group.SetLimit(readParallel)
	for i, info := range found {
		group.Go(func() error {
			list[i], errs[i] = r.summary(ctx, ref, info)
			return nil
		})
	}
	_ = group.Wait() // the errors are in errs
	out := make([]BackupSummary, 0, len(list))
	for i, b := range list {
		switch {
		case errors.Is(errs[i], ErrAborted), errors.Is(errs[i], storage.ErrNotExist): // dead, or deleted meanwhile
			errs[i] = nil
		case errs[i] == nil:
			out = append(out, b)
		}
	}
	SortBackups(out)
	return out, errors.Join(errs...)
}

// Backup is one of Backups. ErrNoBackup if it is not there, or dead.
func (r *Repository) Backup(ctx context.Context, ref ClusterRef, id string) (BackupSummary, error) {
	if err := errors.Join(ref.Check(), CheckBackupID(id)); err != nil {
		return BackupSummary{}, err
	}
	info, err := r.Store.Stat(ctx, ref.BackupManifestKey(id))
	if err == nil {
		var b BackupSummary
		if b, err = r.summary(ctx, ref, info); err == nil {
			return b, nil
		}
	}
	if errors.Is(err, storage.ErrNotExist) || errors.Is(err, ErrAborted) {
		return BackupSummary{}, hint(fmt.Errorf("backup %s of %s: %w: %w", id, ref, ErrNoBackup, err), "pgstow backup list shows those that exist")
	}
	return BackupSummary{}, err
}

// summary reads the object's header and its first frame, which is the header line alone.
func (r *Repository) summary(ctx context.Context, ref ClusterRef, info storage.Info) (BackupSummary, error) {
	id, _ := parseManifestKey(ref, info.Key)
	prefix, got, err := storage.ReadRange(ctx, r.Store, info.Key, storage.Range{Length: object.PeekSize}, object.PeekSize)
	if err != nil {
		return BackupSummary{}, fmt.Errorf("backup %s: %w", id, err)
	}
	oh, line, err := object.Peek(prefix, r.identities)
	if errors.Is(err, object.ErrPrefix) {
		oh, line, err = r.firstLine(ctx, info.Key)
	}
	opaque := errors.Is(err, object.ErrNoIdentity) || errors.Is(err, object.ErrWrongIdentity)
	switch {
	case oh.Flags&object.FlagAborted != 0:
		return BackupSummary{}, fmt.Errorf("backup %s: %w", id, ErrAborted)
	case err != nil && !opaque:
		return BackupSummary{}, fmt.Errorf("backup %s: %w", id, err)
	}
	if oh.Kind != object.KindManifest || oh.Name != id || oh.SystemID != ref.SystemID {
		return BackupSummary{}, fmt.Errorf("backup %s: %w: the object says it is %s %q of system %d", id, ErrManifest, oh.Kind, oh.Name, oh.SystemID)
	}
	b := BackupSummary{ManifestSize: got.Size, Committed: got.Modified}
	if b.Committed.IsZero() {
		b.Committed = info.Modified
	}
	if opaque {
		b.Opaque, b.BackupHeader = true, opaqueHeader(ref, oh)
		return b, nil
	}
	if b.BackupHeader, err = decodeHeaderLine(line); err != nil {
		return BackupSummary{}, fmt.Errorf("backup %s: %w", id, err)
	}
	if b.ID != id || b.Ref() != ref {
		return BackupSummary{}, fmt.Errorf("backup %s: %w: it is that of %s of %s", id, ErrManifest, b.ID, b.Ref())
	}
	return b, nil
}

// firstLine is for a header line, or recipients, too long for the prefix.
func (r *Repository) firstLine(ctx context.Context, key string) (object.Header, []byte, error) {
	stored, _, err := storage.ReadAll(ctx, r.Store, key, maxManifest)
	if err != nil {
		return object.Header{}, nil, err
	}
	oh, err := object.ParseHeader(stored)
	if err != nil {
		return oh, nil, err
	}
	obj, err := object.Open(stored, r.identities)
	if err != nil {
		return oh, nil, err
	}
	line, err := obj.Frame(0, nil)
	return oh, line, err
}

// opaqueHeader is what the clear header of an encrypted manifest says.
func opaqueHeader(ref ClusterRef, oh object.Header) BackupHeader {
	h := BackupHeader{
		Format: formatVersion, ID: oh.Name, Cluster: ref.Name, SystemID: oh.SystemID,
		Start: wal.LSN(oh.From), Stop: wal.LSN(oh.To), Timeline: wal.TimelineID(oh.Timeline), StopTimeline: wal.TimelineID(oh.Timeline),
		NextXID: uint64(oh.MaxXID), Host: oh.Host, DataDirectory: oh.DataDirectory, Program: oh.Program,
	}
	if oh.FirstCommit != 0 {
		h.StartedAt = time.UnixMicro(oh.FirstCommit).UTC()
	}
	if oh.LastCommit != 0 {
		h.StoppedAt = time.UnixMicro(oh.LastCommit).UTC()
	}
	return h
}

// Histories reads the history files of the timelines of an index, several at a time. Those that the host has no identity
// for are listed in unread.
func (r *Repository) Histories(ctx context.Context, x *WALIndex) (read map[wal.TimelineID]wal.History, unread []wal.TimelineID, err error) {
	found := make([]wal.History, len(x.Timelines))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(readParallel)
	for i, t := range x.Timelines {
		if !t.HasHistory {
			continue
		}
		group.Go(func() error {
			h, err := r.History(gctx, x.Ref, t.Timeline)
			if errors.Is(err, object.ErrNoIdentity) || errors.Is(err, object.ErrWrongIdentity) {
				return nil
			}
			found[i] = h
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	read = map[wal.TimelineID]wal.History{}
	for i, t := range x.Timelines {
		switch {
		case !t.HasHistory:
		case found[i] == nil:
			unread = append(unread, t.Timeline)
		default:
			read[t.Timeline] = found[i]
		}
	}
	return read, unread, nil
}

// maxHistory bounds a stored history file, in bytes.
const maxHistory = 16 << 20

// History reads one history file of the archive.
func (r *Repository) History(ctx context.Context, ref ClusterRef, tli wal.TimelineID) (wal.History, error) {
	key := ref.HistoryKey(tli)
	stored, _, err := storage.ReadAll(ctx, r.Store, key, maxHistory)
	if err != nil {
		return nil, fmt.Errorf("history of timeline %d: %s: %w", tli, key, err)
	}
	obj, err := object.Open(stored, r.identities)
	if err != nil {
		return nil, fmt.Errorf("history of timeline %d: %s: %w", tli, key, identityHint(err))
	}
	if oh := obj.Header(); oh.Kind != object.KindHistory || oh.Name != wal.HistoryName(tli).String() {
		return nil, fmt.Errorf("history of timeline %d: %s is a %s named %q", tli, key, oh.Kind, oh.Name)
	}
	plain, err := obj.Plain()
	if err != nil {
		return nil, fmt.Errorf("history of timeline %d: %s: %w", tli, key, err)
	}
	return wal.ParseHistory(tli, plain)
}

// Facts gathers what PlanRestore and Windows need of a cluster. Manifests that cannot be read are an error: a plan must
// not silently pass over the newest backup.
func (r *Repository) Facts(ctx context.Context, ref ClusterRef) (Facts, error) {
	return r.FactsOf(ctx, ref, nil)
}

// FactsOf is Facts for a caller who has listed the archive already.
func (r *Repository) FactsOf(ctx context.Context, ref ClusterRef, x *WALIndex) (Facts, error) {
	info, err := r.Cluster(ctx, ref)
	if err != nil {
		return Facts{}, err
	}
	f := Facts{WAL: x}
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) { f.Backups, err = r.Backups(gctx, ref); return err })
	if x == nil {
		group.Go(func() (err error) { f.WAL, err = r.ListWAL(gctx, ref, info.SegmentSize); return err })
	}
	if err := group.Wait(); err != nil {
		return f, err
	}
	if f.Histories, f.Unread, err = r.Histories(ctx, f.WAL); err != nil {
		return f, err
	}
	f.Segments = NewStoredSegments(r, f.WAL)
	return f, nil
}
