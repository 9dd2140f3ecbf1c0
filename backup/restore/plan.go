package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"pgstow/catalog"
	"pgstow/storage/object"
)

// Options say what to restore, and where to.
type Options struct {
	Cluster  string // name in the repository
	SystemID uint64 // 0: the only one that writes under this name
	Backup   string // id; "" or "latest": the newest that reaches the target
	Target   catalog.Target
	Action   Action // at the target; "" is pause, as in PostgreSQL

	Directory string // the data directory
	// Tablespaces says where tablespaces go: by OID in decimal, or by their location when the backup was taken. Those that
	// are not named go where they were.
	Tablespaces map[string]string
	Owner       string // user[:group], names or numbers; only root may name another one
	WithConfig  bool   // bring configuration files from outside of the data directory into it
	Force       bool   // go on in spite of a postmaster.pid, or of too little free space
	// Delta restores over an older or damaged copy of the cluster: what is right already stays, what does not belong goes.
	Delta bool
	// DiscardWAL gives up WAL in the old directory that the archive lacks; with Delta only.
	DiscardWAL bool
	// OnlyDatabases are names or OIDs of those that are restored, beside initdb's own; the others are left out. Empty: all.
	OnlyDatabases []string

	Standby         bool   // follow a primary instead of recovering to a target
	PrimaryConnInfo string // of a standby; may be empty
	PrimarySlotName string // of a standby; may be empty
	TakeOver        bool   // replaces the original: archiving stays as it was
	RestoreCommand  string // as PostgreSQL calls it, with %f and %p
}

// recently is how far behind the newest WAL of a cluster name that of another system identifier may be for both to count
// as alive (RULES-archive D9).
const recently = 14 * 24 * time.Hour

func (o Options) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrOptions, fmt.Sprintf(format, args...))
	}
	switch {
	case o.Directory == "":
		return bad("no directory to restore into")
	case o.Standby && o.Target.Kind != catalog.TargetLatest:
		return bad("a standby follows its primary for ever: it has no target")
	case !o.Standby && (o.PrimaryConnInfo != "" || o.PrimarySlotName != ""):
		return bad("only a standby connects to a primary")
	case o.Standby && len(o.OnlyDatabases) > 0:
		return bad("a standby has all databases of its primary")
	case o.Standby && (o.Target.StopAtHole || o.Target.Timeline.ID != 0 || o.Target.Timeline.Current):
		return bad("a standby follows its primary on the latest timeline, over every hole")
	case o.DiscardWAL && !o.Delta:
		return bad("only a restore over an older copy can discard its WAL")
	case o.Action != "" && o.Action != ActionPause && o.Action != ActionPromote && o.Action != ActionShutdown:
		return bad("action %q: it is pause, promote or shutdown", o.Action)
	}
	return catalog.CheckClusterName(o.Cluster)
}

// Plan finds out what a restore would do. It reads no page and writes nothing. Errors: *catalog.UnreachableError and
// *catalog.GapError when the target cannot be reached, *DirectoryError, *SpaceError, ErrOptions, those of package
// catalog and of the store.
func Plan(ctx context.Context, repo *catalog.Repository, o Options) (Planned, error) {
	if err := o.check(); err != nil {
		return Planned{}, err
	}
	if repo.Opaque() {
		return Planned{}, &catalog.HintError{Err: fmt.Errorf("restore: the repository is encrypted: %w", object.ErrNoIdentity), Hint: "give the secret half of its keys with --identity-file"}
	}
	dir, err := realPath(o.Directory)
	if err != nil {
		return Planned{}, err
	}
	ref, listed, err := chooseCluster(ctx, repo, o)
	if err != nil {
		return Planned{}, err
	}
	chosen, err := choosePlan(ctx, repo, ref, listed, o, dir)
	if err != nil {
		return Planned{}, err
	}
	m, err := repo.ReadManifest(ctx, ref, chosen.Backup.ID)
	if err != nil {
		return Planned{}, err
	}
	p := newPlanned(repo, o, dir, chosen, m.Header())
	if p.Tablespaces, err = planTablespaces(m.Header().Tablespaces, o.Tablespaces); err != nil {
		return Planned{}, err
	}
	if o.Delta {
		keepMapping(dir, p.Tablespaces, o.Tablespaces)
	}
	if err := resolveTablespaces(p.Tablespaces); err != nil {
		return Planned{}, err
	}
	if err := p.measure(ctx, m, o.OnlyDatabases); err != nil {
		return Planned{}, err
	}
	if err := p.checkPlace(ctx, repo, o, m); err != nil {
		return Planned{}, err
	}
	return p, nil
}

// chooseCluster finds the system identifier that is meant. To choose among several it has to list their archives; that of the chosen one
// is returned too.
func chooseCluster(ctx context.Context, repo *catalog.Repository, o Options) (catalog.ClusterRef, *catalog.WALIndex, error) {
	if o.SystemID != 0 {
		ref := catalog.ClusterRef{Name: o.Cluster, SystemID: o.SystemID}
		_, err := repo.Cluster(ctx, ref)
		return ref, nil, err
	}
	infos, err := repo.SystemIDs(ctx, o.Cluster)
	if err != nil {
		return catalog.ClusterRef{}, nil, err
	}
	var all []catalog.SystemActivity
	var newest time.Time
	listed := map[catalog.ClusterRef]*catalog.WALIndex{}
	for _, info := range infos {
		a := catalog.SystemActivity{Ref: info.Ref()}
		if len(infos) > 1 {
			if o.Backup != "" && o.Backup != "latest" {
				if _, err := repo.Backup(ctx, a.Ref, o.Backup); err == nil {
					return a.Ref, nil, nil // an id is unique
				} else if !errors.Is(err, catalog.ErrNoBackup) {
					return catalog.ClusterRef{}, nil, err
				}
			}
			index, err := repo.ListWAL(ctx, a.Ref, info.SegmentSize)
			if err != nil {
				return catalog.ClusterRef{}, nil, err
			}
			a.LastWAL = index.Newest()
			listed[a.Ref] = index
		}
		if a.LastWAL.After(newest) {
			newest = a.LastWAL
		}
		all = append(all, a)
	}
	ref, err := catalog.ChooseSystemID(o.Cluster, all, newest.Add(-recently))
	return ref, listed[ref], err
}

// choosePlan asks the planner. If the directory holds an interrupted restore and no backup was named, that restore's
// backup comes first: a newer one, made meanwhile, must not get in the way of going on.
func choosePlan(ctx context.Context, repo *catalog.Repository, ref catalog.ClusterRef, listed *catalog.WALIndex, o Options, dir string) (catalog.Plan, error) {
	facts, err := repo.FactsOf(ctx, ref, listed)
	if err != nil {
		return catalog.Plan{}, err
	}
	if o.Backup == "" {
		if m, err := readMarker(dir); err == nil && m.Repository == repo.ID && m.Cluster == ref.Name && m.SystemID == ref.SystemID {
			if plan, err := catalog.PlanRestore(ctx, facts, o.Target, catalog.BackupSelector{ID: m.Backup}); err == nil {
				return plan, nil
			}
		}
	}
	return catalog.PlanRestore(ctx, facts, o.Target, catalog.BackupSelector{ID: o.Backup})
}

func readMarker(dir string) (Marker, error) {
	var m Marker
	raw, err := readLimited(filepath.Join(dir, MarkerName), maxMarker)
	if err != nil {
		return m, err
	}
	err = json.Unmarshal(raw, &m)
	return m, err
}

func newPlanned(repo *catalog.Repository, o Options, dir string, chosen catalog.Plan, h catalog.BackupHeader) Planned {
	p := Planned{
		Repository: repo.ID, Cluster: h.Cluster, SystemID: h.SystemID, Backup: h.ID, Method: h.Method, Major: h.PostgresMajor,
		StartLSN: h.Start, StopLSN: h.Stop, StoppedAt: h.StoppedAt,
		Target: targetInfo(o.Target), Timeline: chosen.Timeline, EndLSN: chosen.StopLSN, EndTime: chosen.StopTime,
		WAL: chosen.Path, WALEnd: chosen.WALEnd, WALIncluded: h.WALIncluded, NeedsArchive: chosen.NeedsArchive, Offline: h.Source == catalog.SourceOffline,
		Directory: dir, Mode: h.DataDirectoryMode, WithConfig: o.WithConfig, Force: o.Force, ArchiveMode: "off",
		Standby: o.Standby, TakeOver: o.TakeOver, RestoreCommand: o.RestoreCommand, PrimaryConnInfo: o.PrimaryConnInfo, PrimarySlotName: o.PrimarySlotName,
		Damaged: h.Damaged, Candidates: chosen.Candidates, Warnings: append([]string{}, chosen.Notes...), target: o.Target,
	}
	if p.Mode == 0 {
		p.Mode = 0o700
	}
	p.versionDir = fmt.Sprintf("PG_%d_%d", h.PostgresMajor, h.CatalogVersion)
	if o.Delta {
		p.Delta = &PlannedDelta{Removes: []string{}}
	}
	if o.Target.Kind != catalog.TargetLatest {
		if p.Action = o.Action; p.Action == "" {
			p.Action = ActionPause
		}
	}
	if chosen.AtEnd {
		if p.Action != ActionPromote {
			p.Warnings = append(p.Warnings, fmt.Sprintf("the backup is of a stopped server and no WAL follows it: recovery ends at once, and the server opens for writing instead of action %s", p.Action))
		}
		p.Action, p.target = ActionPromote, catalog.Target{}
	}
	if o.Standby || o.TakeOver {
		p.ArchiveMode = "kept"
	}
	if h.Damaged > 0 {
		p.Warnings = append(p.Warnings, fmt.Sprintf("%d pages were damaged when the backup was taken and are restored as they were; backup show names them", h.Damaged))
	}
	if len(o.Tablespaces) > 0 && o.Target.Kind != catalog.TargetImmediate {
		p.Warnings = append(p.Warnings, "a tablespace created after the backup began is made again by WAL at its own old location, which cannot be mapped: that directory must exist, empty and not the original's")
	}
	if len(h.ConfigFiles) > 0 && !o.WithConfig {
		p.Warnings = append(p.Warnings, "the configuration files lay outside of the data directory and are not restored; --with-config brings them into it")
	}
	if o.Standby && o.PrimaryConnInfo == "" {
		p.Warnings = append(p.Warnings, "the standby follows the archive alone: without --primary-conninfo it does not stream")
	}
	return p
}

// measure adds up what would be written where, and parts the databases into those that are wanted and the others.
func (p *Planned) measure(ctx context.Context, m *catalog.ManifestReader, databases []string) error {
	sizes := make(map[uint32]int64)
	for e, err := range m.Files() {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("manifest of backup %s: %w", p.Backup, err)
		}
		if e.Type != catalog.TypeFile && e.Type != "" {
			continue
		}
		p.Files++
		p.Bytes += e.Size
		if oid, ok := databaseOf(e.Path, p.versionDir); ok {
			sizes[oid] += e.Size
		}
		for i := range p.Tablespaces {
			if strings.HasPrefix(e.Path, p.Tablespaces[i].Path+"/") {
				p.Tablespaces[i].Bytes += e.Size
			}
		}
	}
	for _, pack := range m.Packs() {
		p.Objects++
		p.BytesRead += pack.Size
	}
	if len(databases) == 0 {
		return nil
	}
	var err error
	if p.OnlyDatabases, p.LeftOut, err = chooseDatabases(m.Header().Databases, sizes, databases); err == nil && len(p.LeftOut) > 0 {
		p.Warnings = append(p.Warnings, "databases are left out: until they are dropped nobody can connect to them and the server complains of them, and while recovery goes on damaged pages of the others are not noticed either")
	}
	return err
}

// checkPlace looks at the directories, the owner and the free space.
func (p *Planned) checkPlace(ctx context.Context, repo *catalog.Repository, o Options, m *catalog.ManifestReader) error {
	if p.Delta != nil {
		there := m.Header().DataDirectory
		original, err := realPath(there)
		if err != nil {
			original = filepath.Clean(there)
		}
		if p.mayBeOld, err = checkOldTablespaces(p.Directory, original, p.Tablespaces, o.Tablespaces); err != nil {
			return err
		}
	}
	var err error
	if p.old, err = p.checkDirectories(); err != nil {
		return err
	}
	p.Resume = p.old.resume
	if p.Owner, err = resolveOwner(o.Owner, p.Directory); err != nil {
		return err
	}
	if modesFor(fs.FileMode(p.Mode)).dir != fs.FileMode(p.Mode) {
		p.Warnings = append(p.Warnings, fmt.Sprintf("the data directory had mode %04o; it gets %04o, as PostgreSQL wants it", uint32(p.Mode), uint32(modesFor(fs.FileMode(p.Mode)).dir)))
	}
	needs := p.needs()
	switch {
	case p.Delta != nil && !p.old.empty:
		if err := p.checkOld(ctx, repo, o, m, needs); err != nil {
			return err
		}
	case p.Resume:
		return nil // what is there already is part of what is needed
	}
	var full *SpaceError
	if err := checkSpace(needs); errors.As(err, &full) && o.Force {
		p.Warnings = append(p.Warnings, err.Error())
	} else if err != nil {
		return err
	}
	return nil
}

// checkDirectories decides whether the plan may be carried out in its directories, as they are now.
func (p *Planned) checkDirectories() (old oldDirectory, err error) {
	if p.Delta != nil {
		old, err = checkOld(p.Directory, p.marker(), p.Force)
	} else {
		old.resume, err = checkDirectory(p.Directory, p.marker(), p.Force)
	}
	if err != nil {
		return old, err
	}
	return old, checkTablespaces(p.Directory, p.Tablespaces, func(t PlannedTablespace) bool { return old.resume || p.mayBeOld[t.OID] })
}

// needs is the space that a restore into an empty directory takes, in the order of areas.
func (p *Planned) needs() []need {
	needs := []need{{p.Directory, p.Bytes}}
	for _, t := range p.Tablespaces {
		if !t.InPlace {
			needs[0].bytes -= t.Bytes
			needs = append(needs, need{t.Location, t.Bytes})
		}
	}
	for _, d := range p.LeftOut {
		// Wherever it lies: the data directory has most of it, or is asked for less than it will take, which is harmless.
		needs[0].bytes = max(0, needs[0].bytes-d.Bytes)
	}
	return needs
}

// checkOld looks at the WAL, the files and the size of an older copy.
func (p *Planned) checkOld(ctx context.Context, repo *catalog.Repository, o Options, m *catalog.ManifestReader, needs []need) error {
	c, err := load(ctx, m, *p)
	if err != nil {
		return err
	}
	s, err := p.surveyOld(ctx, c)
	if err != nil {
		return err
	}
	for i, there := range s.allocated {
		needs[i].bytes = max(0, needs[i].bytes-there)
	}
	if p.old.marked && !p.old.startable || o.DiscardWAL {
		return nil // what an interrupted restore has left is the backup's own
	}
	return checkOldWAL(ctx, repo, p.Directory, c)
}
