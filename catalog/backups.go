package catalog

import (
	"cmp"
	"slices"
	"time"
)

// BackupSummary is one backup as a list shows it.
type BackupSummary struct {
	BackupHeader
	// Opaque: the manifest is encrypted and the host has no identity for it. Of the header only ID, Cluster, SystemID,
	// Start, Stop, StopTimeline, Host, DataDirectory, Program and, by the writer's clock, StoppedAt are known.
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
			cmp.Compare(a.ID, b.ID),
		)
	})
}
