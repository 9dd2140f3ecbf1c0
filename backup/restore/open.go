package restore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"time"

	"pgstow/catalog"
	"pgstow/storage"
)

// defaultHold is how long expire must leave alone what recovery will read.
const defaultHold = 72 * time.Hour

// hold asks expire on other hosts to leave the backup and the WAL behind it alone, since replay goes on for hours after
// Run has ended. A restore in need must not fail because the host may only read: that is a warning.
func (r *runner) hold(ctx context.Context) error {
	length := r.options.Hold
	if length < 0 {
		return nil
	}
	if length == 0 {
		length = defaultHold
	}
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	// One hold for each place: a rerun replaces it.
	id := sha256.Sum256([]byte(host + "\x00" + r.plan.Directory))
	now := time.Now()
	err = r.repo.PlaceHold(ctx, r.plan.Cluster, catalog.Hold{
		Name: "restore-" + r.plan.Backup + "-" + hex.EncodeToString(id[:4]), SystemID: r.plan.SystemID, Backup: r.plan.Backup,
		Timeline: r.plan.Timeline, FromLSN: r.plan.StartLSN, Until: now.Add(length), Host: host, Reason: "restore into " + r.plan.Directory, Created: now,
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, storage.ErrPermission), errors.Is(err, storage.ErrUnsupported), errors.Is(err, storage.ErrRejected), errors.Is(err, storage.ErrFull):
		r.warn(fmt.Sprintf("no hold could be left in the repository, so an expire elsewhere could remove WAL that recovery still needs: %v", err))
		return nil
	default:
		return fmt.Errorf("leave a hold in the repository: %w", err)
	}
}
