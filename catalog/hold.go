package catalog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"pgstow/storage"
	"pgstow/wal"
)

// Hold keeps a backup, and the WAL from FromLSN on, from being deleted until a time: <cluster>/hold/<name>.json. A restore
// leaves one, since replay goes on for hours after it ended (RULES-archive A16).
type Hold struct {
	Format   int            `json:"format"`
	Name     string         `json:"name"`
	Nonce    string         `json:"nonce"`
	SystemID uint64         `json:"system_id,string"`
	Backup   string         `json:"backup,omitempty"`
	Timeline wal.TimelineID `json:"timeline,omitempty"`
	FromLSN  wal.LSN        `json:"from_lsn,omitzero"`
	Until    time.Time      `json:"until"` // compared with the store's clock
	Host     string         `json:"host,omitempty"`
	Reason   string         `json:"reason,omitempty"`
	Created  time.Time      `json:"created"`
}

// PlaceHold stores a hold, in place of one of the same name.
func (r *Repository) PlaceHold(ctx context.Context, cluster string, h Hold) error {
	if err := CheckClusterName(cluster); err != nil {
		return err
	}
	h.Format, h.Nonce, h.Until, h.Created = formatVersion, newNonce(), h.Until.UTC(), h.Created.UTC()
	if _, err := writeControl(ctx, r.Store, HoldKey(cluster, h.Name), h, storage.Any); err != nil {
		return fmt.Errorf("hold: %w", err)
	}
	return nil
}

// RemoveHold ends a hold; one that is not there is no error.
func (r *Repository) RemoveHold(ctx context.Context, cluster, name string) error {
	return r.Store.Delete(ctx, HoldKey(cluster, name))
}

// Holds reads the holds of a cluster name that are in force at now; those that have ended too if now is zero.
func (r *Repository) Holds(ctx context.Context, cluster string, now time.Time) ([]Hold, error) {
	var out []Hold
	for info, err := range r.Store.List(ctx, HoldPrefix(cluster), "") {
		if err != nil {
			return nil, fmt.Errorf("list holds: %w", err)
		}
		if !strings.HasSuffix(info.Key, ".json") {
			continue
		}
		var h Hold
		if _, err := readControl(ctx, r.Store, info.Key, &h); errors.Is(err, storage.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("list holds: %w", err)
		}
		if now.IsZero() || h.Until.After(now) {
			out = append(out, h)
		}
	}
	return out, nil
}
