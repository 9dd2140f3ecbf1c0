package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"pgstow/backup/changes"
	"pgstow/backup/pagemap"
	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/object"
	"pgstow/wal"
	"pgstow/wal/pgcontrol"
)

// reference is the backup that an incremental one begins with.
type reference struct {
	header   catalog.BackupHeader
	manifest *catalog.ManifestReader
	packs    []catalog.PackEntry
	maps     *mapReader
	// changed is what the WAL summaries say; nil: all files are read and compared.
	changed *changes.Set
	// expired says of packs that they are too old to be kept.
	expired func(catalog.PackEntry) bool

	// sent: the server sends what changed since.
	sent bool

	// dropped are the map packs of which the maps are written again, by index.
	dropped map[int]bool
}

// worn says whether a pack of which so much lives, out of a total, is not worth being
// referred to: it is too old, or less than half of it is in use, so that a restore would
// read more than twice of what it needs.
func (r *reference) worn(p catalog.PackEntry, live, total int64) bool {
	return 2*live < total || r.expired(p)
}

// dropsMap says whether maps in that pack of the reference are to be written again.
func (r *reference) dropsMap(pack int) bool { return r.dropped[pack] }

// beginning is the point from which a new backup can build on an earlier one.
type beginning struct {
	start   wal.LSN
	history wal.History
	control pgcontrol.Control
}

// findReference chooses the backup to begin with and opens it. Without one the
// backup is full, and why says why. Only errors of the store are errors.
func (c *creation) findReference(ctx context.Context, b beginning) (r *reference, why string, err error) {
	if c.o.Full {
		return nil, "a full backup was asked for", nil
	}
	if c.noCache != "" {
		return nil, c.noCache, nil
	}
	list, err := c.repo.Backups(ctx, c.ref)
	if err != nil {
		if list == nil || ctx.Err() != nil {
			return nil, "", fmt.Errorf("look for a backup to begin with: %w", err)
		}
		c.report.emit(NoteEvent{Text: fmt.Sprintf("not all backups can be read: %v", err)})
	}
	var remembered *catalog.ManifestReader
	if c.cache != nil && len(list) > 0 {
		if remembered = c.cache.manifest(); remembered == nil {
			return nil, "the repository is encrypted, and this host does not remember its last backup", nil
		}
		list = known(list, remembered.Header())
		if len(list) == 0 {
			return nil, fmt.Sprintf("backup %s, which this host remembers, does not exist any more", remembered.Header().ID), nil
		}
		if pack := c.cache.missing(ctx, remembered.Packs()); pack != "" {
			return nil, fmt.Sprintf("the repository is encrypted, and this host does not remember the page maps of pack %s", pack), nil
		}
	}
	chosen, why := chooseReference(list, b)
	if chosen == nil {
		return nil, why, nil
	}
	// Named first and looked at afterwards: whoever deletes it sees the name, or we
	// see what he condemned (RULES-archive A15).
	if err := c.lease.SetReference(ctx, chosen.ID); err != nil {
		return nil, "", err
	}
	r, why, err = c.openReference(ctx, *chosen, remembered)
	if r != nil && remembered != nil {
		r.maps.open = c.cache.open
	}
	if r == nil && err == nil {
		err = c.lease.SetReference(ctx, "")
	}
	return r, why, err
}

// known is the one backup of the list that h is the header of, or nothing.
func known(list []catalog.BackupSummary, h catalog.BackupHeader) []catalog.BackupSummary {
	for _, b := range list {
		if b.ID == h.ID && b.Ref() == h.Ref() && b.Start == h.Start && b.Stop == h.Stop {
			b.BackupHeader, b.Opaque = h, false
			return []catalog.BackupSummary{b}
		}
	}
	return nil
}

// chooseReference picks the backup with the greatest stop among those that our
// timeline descends from and that ended before we start (RULES-physical A3).
func chooseReference(list []catalog.BackupSummary, b beginning) (*catalog.BackupSummary, string) {
	if len(list) == 0 {
		return nil, "there is no earlier backup"
	}
	var best *catalog.BackupSummary
	why := ""
	for i := range list {
		x := &list[i]
		if reason := notBefore(x, b); reason != "" {
			why = fmt.Sprintf("backup %s %s", x.ID, reason)
			continue
		}
		if best == nil || x.Stop > best.Stop || x.Stop == best.Stop && x.Start >= best.Start { // in the order of the list
			best = x
		}
	}
	if best == nil {
		return nil, why
	}
	if reason := unlike(best.BackupHeader, b); reason != "" && !best.Opaque {
		return nil, fmt.Sprintf("backup %s %s", best.ID, reason)
	}
	return best, ""
}

// notBefore says why a backup is not of our past; "" if it is.
func notBefore(x *catalog.BackupSummary, b beginning) string {
	h := x.TimelineHistory()
	switch {
	case !x.Opaque && !b.history.Descends(h), !b.history.Contains(x.StopTimeline, x.Stop):
		return fmt.Sprintf("ended at %s on timeline %d, which this server's timeline %d did not come from", x.Stop, x.StopTimeline, b.history.Timeline())
	case x.Stop > b.start:
		return fmt.Sprintf("ended at %s, after the start of this one at %s", x.Stop, b.start)
	}
	return ""
}

// unlike says in what the cluster differs from the backed up one so that pages of
// the one are not pages of the other (RULES-physical A4, A6); "" if in nothing.
func unlike(h catalog.BackupHeader, b beginning) string {
	k := b.control
	differs := func(what string, then, now any) string {
		return fmt.Sprintf("has %s %v, the server %v", what, then, now)
	}
	switch {
	case h.ChecksumVersion != k.DataChecksumVersion:
		return differs("data checksum version", h.ChecksumVersion, k.DataChecksumVersion)
	case h.BlockSize != k.BlockSize:
		return differs("block size", h.BlockSize, k.BlockSize)
	case h.RelSegSize != k.RelSegSize:
		return differs("relation segment size", h.RelSegSize, k.RelSegSize)
	case h.WALSegmentSize != k.WALSegmentSize:
		return differs("WAL segment size", h.WALSegmentSize, k.WALSegmentSize)
	case k.Version == 0: // pg_control was not seen yet
	case h.CatalogVersion != k.CatalogVersion:
		return differs("catalog version", h.CatalogVersion, k.CatalogVersion)
	case h.ControlVersion != k.Version:
		return differs("pg_control version", h.ControlVersion, k.Version)
	case k.Redo < h.ControlRedo:
		return fmt.Sprintf("has a checkpoint at %s, and the server's last one is before that, at %s", h.ControlRedo, k.Redo)
	}
	return ""
}

// openReference reads the manifest of the chosen backup, unless it is remembered; then
// it only looks whether the backup is still there.
func (c *creation) openReference(ctx context.Context, b catalog.BackupSummary, m *catalog.ManifestReader) (r *reference, why string, err error) {
	if m == nil {
		m, err = c.repo.ReadManifest(ctx, c.ref, b.ID)
	} else {
		_, err = c.repo.Store.Stat(ctx, c.ref.BackupManifestKey(b.ID))
	}
	switch {
	case errors.Is(err, object.ErrNoIdentity), errors.Is(err, object.ErrWrongIdentity):
		return nil, "the repository is encrypted and this host cannot read its earlier backups", nil
	case errors.Is(err, storage.ErrNotExist):
		return nil, fmt.Sprintf("backup %s was deleted meanwhile", b.ID), nil
	case errors.Is(err, catalog.ErrManifest), errors.Is(err, object.ErrCorrupt), errors.Is(err, catalog.ErrFormatTooNew):
		return nil, fmt.Sprintf("backup %s cannot be used: %v", b.ID, err), nil
	case err != nil:
		return nil, "", fmt.Errorf("read the backup to begin with: %w", err)
	}
	condemned, err := c.repo.Condemned(ctx, c.ref.Name)
	if err != nil {
		return nil, "", err
	}
	packs := m.Packs()
	if i := slices.IndexFunc(packs, func(p catalog.PackEntry) bool { return condemned[p.Key(c.ref)] }); i >= 0 {
		return nil, fmt.Sprintf("objects of backup %s are being deleted", b.ID), nil
	}
	now := time.Now()
	return &reference{
		header: m.Header(), manifest: m, packs: packs,
		maps:    &mapReader{packs: packs, open: storedPacks(c.repo, c.ref)},
		expired: func(p catalog.PackEntry) bool { return now.Sub(p.Created) > c.o.RefreshAfter },
		dropped: make(map[int]bool),
	}, "", nil
}

// method is how the changed pages are found.
func (r *reference) method() catalog.Method {
	switch {
	case r == nil:
		return catalog.MethodFull
	case r.changed != nil:
		return catalog.MethodSummaries
	case r.sent:
		return catalog.MethodStream
	}
	return catalog.MethodScan
}

// load reads the map of a line of the reference.
func (r *reference) load(ctx context.Context, line catalog.FileEntry) (*pagemap.Map, error) {
	m, err := r.maps.load(ctx, *line.Map)
	if err == nil && int64(m.Pages())*int64(r.header.BlockSize) != line.Size {
		err = fmt.Errorf("%w: %d pages for %d bytes", pagemap.ErrCorrupt, m.Pages(), line.Size)
	}
	if err != nil {
		return nil, mapError(line, r, err)
	}
	return m, nil
}

func mapError(line catalog.FileEntry, r *reference, err error) error {
	return hint(fmt.Errorf("page map of %s in backup %s: %w", line.Path, r.header.ID, err),
		"a full backup does not need it: pgstow backup create --full")
}
