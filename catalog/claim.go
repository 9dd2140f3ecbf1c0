package catalog

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"pgstow/storage"
)

// idTime is the first part of a backup's id.
const idTime = "20060102T150405Z"

// idAlphabet has 32 letters and digits that are not taken for one another (no i, l, o, u: Crockford's).
const idAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"

// CheckBackupID returns an error unless id looks like "20261124T154500Z-k3f9". The time in it decides nothing.
func CheckBackupID(id string) error {
	const want = len(idTime) + 1 + 4
	if len(id) == want && id[len(idTime)] == '-' {
		if _, err := time.Parse(idTime, id[:len(idTime)]); err == nil && isIDTail(id[len(idTime)+1:]) {
			return nil
		}
	}
	return fmt.Errorf("%q is not the id of a backup: want one like 20261124T154500Z-k3f9", id)
}

func isIDTail(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// newBackupID makes an id of a time and 20 random bits.
func newBackupID(now time.Time, random io.Reader) (string, error) {
	var b [4]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", fmt.Errorf("backup id: %w", err)
	}
	for i := range b {
		b[i] = idAlphabet[b[i]%32]
	}
	return now.UTC().Format(idTime) + "-" + string(b[:]), nil
}

// claimTries bounds how often ClaimBackup meets an id that is taken.
const claimTries = 20

// ClaimBackup makes the id of a new backup (or dump) and takes its lease, whose IfAbsent is what makes the id ours: the
// time is the host's and has one second's resolution, and two hosts may start at once (RULES-archive A18). o.Purpose
// is "backup" if empty. random is nil for crypto/rand.
func (r *Repository) ClaimBackup(ctx context.Context, ref ClusterRef, o LeaseOptions, random io.Reader) (*Lease, error) {
	if err := ref.Check(); err != nil {
		return nil, err
	}
	if random == nil {
		random = rand.Reader
	}
	if o.Purpose == "" {
		o.Purpose = "backup"
	}
	o.Clock = o.Clock.withDefaults()
	o.Wait, o.Ephemeral, o.SystemID = false, true, ref.SystemID
	for range claimTries {
		id, err := newBackupID(o.Clock.Wall(), random)
		if err != nil {
			return nil, err
		}
		o.Backup = id
		lease, err := r.claimID(ctx, ref, id, o)
		if err == nil || !errors.Is(err, ErrLeaseHeld) {
			return lease, err
		}
	}
	return nil, fmt.Errorf("claim a backup id: %d were taken: %w", claimTries, ErrLeaseHeld)
}

// claimID takes the lease only by creating it: a free one of this name belongs to another backup, finished or given up.
func (r *Repository) claimID(ctx context.Context, ref ClusterRef, id string, o LeaseOptions) (*Lease, error) {
	l := r.newLease(ref.Name, id, o)
	if err := l.write(ctx, l.info, storage.IfAbsent); err != nil {
		if errors.Is(err, storage.ErrExist) {
			return nil, fmt.Errorf("claim %s: %w", id, ErrLeaseHeld)
		}
		return nil, fmt.Errorf("claim %s: %w", id, err)
	}
	// An id whose lease is long gone may still name a backup.
	if _, err := r.Store.Stat(ctx, ref.BackupManifestKey(id)); !errors.Is(err, storage.ErrNotExist) {
		if rerr := l.Release(ctx); rerr != nil || err != nil {
			return nil, errors.Join(err, rerr)
		}
		return nil, fmt.Errorf("claim %s: a backup of this id exists: %w", id, ErrLeaseHeld)
	}
	return l, nil
}
