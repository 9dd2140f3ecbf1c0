package catalog

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"pgstow/storage"
	"pgstow/wal"
)

// ClusterInfo is cluster.json: what was known of the cluster when its prefix was opened. What the writer did not know is
// zero: `wal push` sees segments only, so PageSize, RelSegSize and Checksums may be missing; a backup's manifest has them.
type ClusterInfo struct {
	Format        int             `json:"format"`
	Name          string          `json:"name"`
	SystemID      uint64          `json:"system_id,string"`
	PostgresMajor int             `json:"postgres_major,omitempty"` // 13 to 18
	SegmentSize   wal.SegmentSize `json:"wal_segment_size"`         // bytes
	PageSize      uint32          `json:"page_size,omitempty"`      // bytes
	RelSegSize    uint32          `json:"relseg_size,omitempty"`    // pages in one file of a relation
	Checksums     *bool           `json:"checksums,omitempty"`      // data checksums at that time
	Created       time.Time       `json:"created"`
	Host          string          `json:"host,omitempty"` // who opened the prefix
}

// Ref is the cluster's name and system identifier.
func (c ClusterInfo) Ref() ClusterRef { return ClusterRef{Name: c.Name, SystemID: c.SystemID} }

// EnsureCluster opens the cluster's prefix if nobody has: cluster.json is created once and never changed. If it is there
// already it must be of the same cluster with the same sizes (ErrClusterMismatch); created is false then.
func (r *Repository) EnsureCluster(ctx context.Context, info ClusterInfo) (created bool, err error) {
	ref := info.Ref()
	if err := ref.Check(); err != nil {
		return false, err
	}
	if err := info.SegmentSize.Check(); err != nil {
		return false, fmt.Errorf("cluster %s: %w", ref, err)
	}
	info.Format, info.Created = formatVersion, info.Created.UTC()
	if created, err = createOnce(ctx, r.Store, ref.InfoKey(), info); err != nil || created {
		return created, err
	}
	have, err := r.Cluster(ctx, ref)
	if err != nil {
		return false, err
	}
	return false, compareClusters(have, info)
}

func compareClusters(have, want ClusterInfo) error {
	differ := func(what string, a, b uint64) error {
		if a == b || a == 0 || b == 0 {
			return nil
		}
		return hint(fmt.Errorf("cluster %s: %s is %d here and %d in the repository: %w", want.Ref(), what, b, a, ErrClusterMismatch),
			"a cluster whose sizes were changed by pg_resetwal needs another cluster name")
	}
	return errors.Join(
		differ("WAL segment size", uint64(have.SegmentSize), uint64(want.SegmentSize)),
		differ("page size", uint64(have.PageSize), uint64(want.PageSize)),
		differ("relation segment size", uint64(have.RelSegSize), uint64(want.RelSegSize)),
		differ("PostgreSQL major version", uint64(have.PostgresMajor), uint64(want.PostgresMajor)),
	)
}

// Cluster reads cluster.json. ErrNoCluster if there is none under exactly this name and system identifier.
func (r *Repository) Cluster(ctx context.Context, ref ClusterRef) (ClusterInfo, error) {
	var info ClusterInfo
	if err := ref.Check(); err != nil {
		return info, err
	}
	key := ref.InfoKey()
	_, err := readControl(ctx, r.Store, key, &info)
	switch {
	case errors.Is(err, storage.ErrNotExist):
		return info, hint(fmt.Errorf("cluster %s in %s: %w: %w", ref, r.Store, ErrNoCluster, err), "pgstow info lists the clusters of a repository")
	case err != nil:
		return info, fmt.Errorf("cluster %s: %w", ref, err)
	case info.Ref() != ref:
		return info, fmt.Errorf("%s is of cluster %s: %w", key, info.Ref(), ErrClusterMismatch)
	}
	return info, info.SegmentSize.Check()
}

// Clusters lists all clusters of the repository by name and system identifier. It jumps from one to the next, so its
// cost is a few requests per cluster however many objects they have.
func (r *Repository) Clusters(ctx context.Context) ([]ClusterInfo, error) {
	return r.clustersBelow(ctx, "")
}

// SystemIDs lists the clusters that bear a name: more than one after pg_upgrade, or when a foreign server was given it.
func (r *Repository) SystemIDs(ctx context.Context, name string) ([]ClusterInfo, error) {
	if err := CheckClusterName(name); err != nil {
		return nil, err
	}
	return r.clustersBelow(ctx, name+"/")
}

func (r *Repository) clustersBelow(ctx context.Context, prefix string) ([]ClusterInfo, error) {
	var out []ClusterInfo
	after := ""
	for {
		key, ok, err := firstKey(ctx, r.Store, prefix, after)
		if err != nil || !ok {
			return out, err
		}
		name, rest, ok := strings.Cut(key, "/")
		if !ok || name+"/" == generationPrefix {
			after = key
			if ok {
				after = afterFolder(generationPrefix)
			}
			continue
		}
		second, _, ok := strings.Cut(rest, "/")
		if !ok {
			after = key
			continue
		}
		after = afterFolder(name + "/" + second + "/")
		id, err := strconv.ParseUint(second, 10, 64)
		if err != nil {
			continue // lease, sweep, hold
		}
		info, err := r.Cluster(ctx, ClusterRef{Name: name, SystemID: id})
		if errors.Is(err, ErrNoCluster) {
			continue // not one of ours
		}
		if err != nil {
			return out, err
		}
		out = append(out, info)
	}
}

// firstKey is the first key below prefix and behind after.
func firstKey(ctx context.Context, s storage.Store, prefix, after string) (key string, ok bool, err error) {
	for info, err := range s.List(storage.WithFew(ctx, 1), prefix, after) {
		if err != nil {
			return "", false, err
		}
		return info.Key, true, nil
	}
	return "", false, nil
}

// SystemActivity is what ChooseSystemID needs to know of one cluster of a name.
type SystemActivity struct {
	Ref     ClusterRef
	LastWAL time.Time // when its newest WAL object was stored; zero if there is none
}

// ChooseSystemID decides which system identifier is meant when the operator gave none (RULES-archive D9): the only one
// that has WAL stored at or after since, or the only one there is. With several it refuses: a restore of "latest" could
// bring back the wrong server.
func ChooseSystemID(name string, all []SystemActivity, since time.Time) (ClusterRef, error) {
	var live []SystemActivity
	for _, a := range all {
		if !a.LastWAL.IsZero() && !a.LastWAL.Before(since) {
			live = append(live, a)
		}
	}
	switch {
	case len(all) == 0:
		return ClusterRef{}, hint(fmt.Errorf("cluster %q: %w", name, ErrNoCluster), "pgstow info lists the clusters of a repository")
	case len(live) == 1:
		return live[0].Ref, nil
	case len(all) == 1:
		return all[0].Ref, nil
	}
	if len(live) == 0 {
		live = all
	}
	ids := make([]string, len(live))
	for i, a := range live {
		ids[i] = strconv.FormatUint(a.Ref.SystemID, 10)
	}
	return ClusterRef{}, hint(fmt.Errorf("cluster name %q is used by system identifiers %s: %w", name, strings.Join(ids, ", "), ErrClusterMismatch),
		"choose one with --system-id")
}
