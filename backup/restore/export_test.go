package restore

import (
	"io/fs"

	"pgstow/backup/pagemap"
	"pgstow/backup/pgconf"
	"pgstow/catalog"
	"pgstow/wal"
)

// What the tests of this package may see of its inside.
var (
	CheckDirectory       = checkDirectory
	ChooseDatabases      = chooseDatabases
	DatabaseOf           = databaseOf
	PlanTablespaces      = planTablespaces
	ResolveTablespaces   = resolveTablespaces
	CleanLabel           = cleanLabel
	InvalidateCheckpoint = invalidateCheckpoint
	KernelAtLeast        = kernelAtLeast
	CheckSpace           = checkSpace
	ResolveOwner         = resolveOwner
	WALRanges            = walRanges
)

// CheckTablespaces is checkTablespaces, with or without an interrupted restore.
func CheckTablespaces(dir string, list []PlannedTablespace, resume bool) error {
	return checkTablespaces(dir, list, func(PlannedTablespace) bool { return resume })
}

// NeedT is a need of checkSpace.
type NeedT = need

// Need makes one.
func Need(path string, bytes int64) need { return need{path, bytes} }

// FileMode is the mode a file gets in a data directory of this mode.
func FileMode(directory, recorded fs.FileMode) fs.FileMode {
	return modesFor(directory).fileMode(recorded)
}

// Recovery describes recovery settings for EditAutoConf.
type Recovery struct {
	Target     catalog.Target
	Action     Action
	Timeline   wal.TimelineID
	Command    string
	Standby    bool
	ConnInfo   string
	ArchiveOff bool
}

// EditAutoConf is recovery.editAutoConf.
func EditAutoConf(r Recovery, old []byte, others []pgconf.Found, complete bool) ([]byte, error) {
	return recovery{
		target: r.Target, action: r.Action, timeline: r.Timeline, command: r.Command, standby: r.Standby, connInfo: r.ConnInfo, archiveOff: r.ArchiveOff,
	}.editAutoConf(old, others, complete, "test")
}

// Run is a run of the index.
type TestRun struct {
	Offset        int64
	Pack, Frame   uint32
	Start, Length uint32
}

// MapRuns is mapRuns, with packs looked up in order.
func MapRuns(m *pagemap.Map, pageSize uint32, kept []bool, packs []pagemap.PackRef) ([]TestRun, error) {
	runs, err := mapRuns(0, m, pageSize, kept, func(ref pagemap.PackRef) (uint32, bool) {
		for i, p := range packs {
			if p == ref {
				return uint32(i), true
			}
		}
		return 0, false
	}, nil)
	var out []TestRun
	for _, r := range runs {
		out = append(out, TestRun{r.offset, r.pack, r.frame, r.start, r.length})
	}
	return out, err
}
