package restore

import (
	"slices"
	"time"

	"pgstow/catalog"
	"pgstow/wal"
)

// Planned is what a restore will do: made by Plan, carried out by Run, printed by --dry-run. A caller may change
// RestoreCommand between the two, since what it says can depend on the plan.
type Planned struct {
	Repository string         `json:"repository"` // its id
	Cluster    string         `json:"cluster"`
	SystemID   uint64         `json:"system_id,string"`
	Backup     string         `json:"backup"`
	Method     catalog.Method `json:"method"`
	Major      int            `json:"postgres_major"`
	StartLSN   wal.LSN        `json:"start_lsn"`
	StopLSN    wal.LSN        `json:"stop_lsn"` // consistent from here on
	StoppedAt  time.Time      `json:"stopped_at,omitzero"`

	Target   TargetInfo     `json:"target"`
	Timeline wal.TimelineID `json:"timeline"`
	Action   Action         `json:"action,omitempty"`
	// EndLSN and EndTime are where recovery will end, if that is known in advance.
	EndLSN  wal.LSN   `json:"end_lsn,omitzero"`
	EndTime time.Time `json:"end_time,omitzero"`

	WAL          []catalog.WALPart `json:"wal"`                     // that recovery may read, in order
	WALEnd       wal.LSN           `json:"wal_end,omitzero"`        // where the archive ends without a hole
	WALIncluded  bool              `json:"wal_included,omitempty"`  // the backup brings its own WAL from start to stop
	NeedsArchive bool              `json:"needs_archive,omitempty"` // false: the backup's own WAL is enough
	Offline      bool              `json:"offline,omitempty"`       // taken from a stopped server: no backup_label

	Directory   string              `json:"directory"`
	Mode        catalog.FileMode    `json:"mode"` // of the data directory
	Owner       Owner               `json:"owner"`
	Delta       *PlannedDelta       `json:"delta,omitempty"`  // what --delta finds there
	Resume      bool                `json:"resume,omitempty"` // an interrupted restore of this plan goes on
	Tablespaces []PlannedTablespace `json:"tablespaces"`
	WithConfig  bool                `json:"with_config,omitempty"`
	Force       bool                `json:"force,omitempty"`
	ArchiveMode string              `json:"archive_mode"` // "off", or "kept": as in the backup

	Standby         bool   `json:"standby,omitempty"`
	TakeOver        bool   `json:"take_over,omitempty"` // goes on archiving in the original's place
	RestoreCommand  string `json:"restore_command,omitempty"`
	PrimaryConnInfo string `json:"-"` // may hold a password
	PrimarySlotName string `json:"primary_slot_name,omitempty"`

	OnlyDatabases []PlannedDatabase `json:"only_databases,omitempty"` // those that are restored, if not all are
	LeftOut       []PlannedDatabase `json:"left_out,omitempty"`       // the others

	Files      int64    `json:"files"`
	Bytes      int64    `json:"bytes"`      // of all files, holes included
	Objects    int      `json:"objects"`    // packs
	BytesRead  int64    `json:"bytes_read"` // stored size of the packs: the most that is downloaded
	Damaged    int64    `json:"damaged"`    // pages that were damaged when they were backed up
	Candidates int      `json:"candidates"` // backups that were looked at
	Warnings   []string `json:"warnings"`   // what the operator should know

	target     catalog.Target
	versionDir string          // name of the folder in tablespaces
	mayBeOld   map[uint32]bool // OIDs of tablespaces whose place may hold an older copy
	old        oldDirectory    // what --delta found
}

// PlannedTablespace is one tablespace and where it goes.
type PlannedTablespace struct {
	OID      uint32 `json:"oid"`
	Path     string `json:"path"`               // pg_tblspc/<oid>
	Original string `json:"original,omitempty"` // its location when the backup was taken
	Location string `json:"location,omitempty"` // where it is restored; empty if in place
	InPlace  bool   `json:"in_place,omitempty"` // a directory of the data directory, no link
	Bytes    int64  `json:"bytes"`
}

// TargetInfo is the target in words.
type TargetInfo struct {
	Kind      string `json:"kind"`            // latest, immediate, time, lsn, xid, name
	Value     string `json:"value,omitempty"` // as recovery_target_* takes it
	Exclusive bool   `json:"exclusive,omitempty"`
}

func targetInfo(t catalog.Target) TargetInfo {
	info := TargetInfo{Kind: t.Kind.String(), Exclusive: t.Exclusive}
	if t.Kind != catalog.TargetLatest && t.Kind != catalog.TargetImmediate {
		info.Value = targetValue(t)
	}
	return info
}

// Ref is the cluster that is restored.
func (p Planned) Ref() catalog.ClusterRef {
	return catalog.ClusterRef{Name: p.Cluster, SystemID: p.SystemID}
}

// marker is what identifies the plan. Where the archive ends is not part of it: it grows.
func (p Planned) marker() Marker {
	m := Marker{
		Format: 1, Repository: p.Repository, Cluster: p.Cluster, SystemID: p.SystemID, Backup: p.Backup,
		Target: p.Target.Kind, Timeline: uint32(p.Timeline), Standby: p.Standby, Delta: p.Delta != nil,
	}
	for _, d := range p.LeftOut {
		m.LeftOut = append(m.LeftOut, d.OID)
	}
	if p.Target.Value != "" {
		m.Target += " " + p.Target.Value
	}
	if p.Target.Exclusive {
		m.Target += " exclusive"
	}
	for _, t := range p.Tablespaces {
		if m.Tablespaces == nil {
			m.Tablespaces = make(map[string]string)
		}
		m.Tablespaces[t.Path] = t.Location
	}
	return m
}

// recovery is what has to be written into the settings.
func (p Planned) recovery() recovery {
	return recovery{
		target: p.target, action: p.Action, timeline: p.Timeline, command: p.RestoreCommand, standby: p.Standby,
		connInfo: p.PrimaryConnInfo, slot: p.PrimarySlotName, archiveOff: !p.TakeOver && !p.Standby,
		hollow:  len(p.LeftOut) > 0,
		inPlace: slices.ContainsFunc(p.Tablespaces, func(t PlannedTablespace) bool { return t.InPlace }),
	}
}
