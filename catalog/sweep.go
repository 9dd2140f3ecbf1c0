package catalog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"pgstow/storage"
)

// SweepList names objects that are about to be deleted: <cluster>/sweep/<name>.json. A running backup does not refer to
// any of them, and looks again after its commit (RULES-archive A15).
type SweepList struct {
	Format    int       `json:"format"`
	Name      string    `json:"name"`
	Nonce     string    `json:"nonce"`
	SystemID  uint64    `json:"system_id,string"`
	Created   time.Time `json:"created"` // by the writer's clock; the grace counts from when the store says it was created
	Host      string    `json:"host,omitempty"`
	Program   string    `json:"program,omitempty"`
	Reason    string    `json:"reason,omitempty"` // "backup delete", "expire"
	Condemned []string  `json:"condemned"`        // keys
	// Stored is when the list was stored, by the store's clock. Not in the object.
	Stored time.Time `json:"-"`
}

// maxSweep bounds a sweep list, in bytes: a hundred thousand keys and more.
const maxSweep = 32 << 20

// Condemn stores a sweep list; the name must be new.
func (r *Repository) Condemn(ctx context.Context, cluster string, l SweepList) error {
	if err := CheckClusterName(cluster); err != nil {
		return err
	}
	l.Format, l.Nonce, l.Created = formatVersion, newNonce(), l.Created.UTC()
	if _, err := writeControl(ctx, r.Store, SweepKey(cluster, l.Name), l, storage.IfAbsent); err != nil {
		return fmt.Errorf("condemn: %w", err)
	}
	return nil
}

// SweepLists reads all sweep lists of a cluster name.
func (r *Repository) SweepLists(ctx context.Context, cluster string) ([]SweepList, error) {
	var out []SweepList
	for info, err := range r.Store.List(ctx, SweepPrefix(cluster), "") {
		if err != nil {
			return nil, fmt.Errorf("list condemned objects: %w", err)
		}
		if !strings.HasSuffix(info.Key, ".json") {
			continue
		}
		data, _, err := storage.ReadAll(ctx, r.Store, info.Key, maxSweep)
		if errors.Is(err, storage.ErrNotExist) {
			continue // done meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("list condemned objects: %w", err)
		}
		var l SweepList
		if err := decodeControl(info.Key, data, &l); err != nil {
			return nil, err
		}
		l.Stored = info.Modified
		out = append(out, l)
	}
	return out, nil
}

// Condemned is the set of all keys on sweep lists of a cluster name. A backup reads it after it has its lease, and never
// refers to a pack in it.
func (r *Repository) Condemned(ctx context.Context, cluster string) (map[string]bool, error) {
	lists, err := r.SweepLists(ctx, cluster)
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for _, l := range lists {
		for _, key := range l.Condemned {
			out[key] = true
		}
	}
	return out, nil
}

// EndSweep removes a sweep list after what it names was deleted.
func (r *Repository) EndSweep(ctx context.Context, cluster, name string) error {
	return r.Store.Delete(ctx, SweepKey(cluster, name))
}
