package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"golang.org/x/sync/errgroup"

	"pgstow/catalog"
	"pgstow/wal"
)

// RepairOptions are those of a repair. The spool is not used: what it remembers as stored may have been lost since.
type RepairOptions struct {
	PushOptions
	// From is the folder with the WAL files; "": pg_wal of the data directory. Nothing in it is changed.
	From string
	// All stores also what is older than everything in the archive. Without it that is left alone: retention may have removed it.
	All bool
	// DryRun looks and compares, and stores nothing.
	DryRun bool
	// Report is told of each file when it is decided, one at a time; nil: nobody is.
	Report func(RepairedFile)
}

// RepairAction says what a repair did about a file.
type RepairAction string

// The actions.
const (
	RepairStored  RepairAction = "stored"
	RepairMissing RepairAction = "missing" // in a dry run: it would be stored
	RepairExisted RepairAction = "existed" // the archive has these bytes
	RepairSkipped RepairAction = "skipped" // it is of no use to the archive, see Reason
	RepairRefused RepairAction = "refused" // a person must decide, see Err
)

// RepairedFile is a WAL file that a repair looked at.
type RepairedFile struct {
	Name   string // in the folder
	Action RepairAction
	// Key of the object; of the last one if there are several pieces.
	Key string
	// From and To are the range of the WAL in it: all of a segment, or, of one that is not full, what there is of it. 0: no WAL.
	From, To wal.LSN
	// Piece: the file is the beginning of a segment, and that is what the archive gets.
	Piece bool
	// PlainSize and StoredSize in bytes; StoredSize is 0 unless this call stored it.
	PlainSize, StoredSize int64
	Reason                string
	Err                   error
}

// RepairResult is what a repair did and what it left to do.
type RepairResult struct {
	Ref         catalog.ClusterRef
	SegmentSize wal.SegmentSize
	From        string // the folder
	// Running: a server works in that folder, so its unfinished segment was left alone.
	Running bool
	// Files in the order in which they were taken: histories, then by name. Recycled files are only counted.
	Files    []RepairedFile
	Recycled int
	// Holes are what the archive still lacks between what it has; in a dry run, what it would lack.
	Holes []catalog.Hole
}

// Count is the number of files with an action.
func (r *RepairResult) Count(action RepairAction) int {
	n := 0
	for i := range r.Files {
		if r.Files[i].Action == action {
			n++
		}
	}
	return n
}

// Repair brings into the archive what it lacks of the WAL files in a folder: segments in holes and behind the end, history files and
// backup history files. Names decide about what is missing, contents about what may be stored, by the same inspection as Push.
//
// A segment that is not full, the last one of a timeline, is stored up to its last whole record as pieces, which plain archive recovery
// is served; but not while a server runs on the folder, which will finish it. Where a history shows that the timeline was left in it,
// it is stored as the .partial file that PostgreSQL would make of it.
//
// What is there already is compared. The error is a *RefusedError for files of another server, or that differ from what the archive has;
// all others are stored all the same. Any other error ends the repair; a second run goes on.
func Repair(ctx context.Context, o RepairOptions) (RepairResult, error) {
	o.setDefaults()
	o.Spool = nil
	if o.Report == nil {
		o.Report = func(RepairedFile) {}
	}
	r := &repair{RepairOptions: o}
	err := r.run(ctx)
	if err != nil {
		err = fmt.Errorf("repair: %w", err)
	}
	return r.result, err
}

// repairWorkers is how many files are read, compressed and stored at a time.
const repairWorkers = 4

// repair is one repair on its way.
type repair struct {
	RepairOptions
	server    server
	repo      *catalog.Repository
	info      catalog.ClusterInfo
	index     *catalog.WALIndex
	files     []localFile
	done      []RepairedFile // one for each of files; a goroutine writes its own
	histories map[wal.TimelineID]wal.History
	result    RepairResult
}

func (r *repair) run(ctx context.Context) error {
	var err error
	if r.server, err = findServer(ctx, &r.Options); err != nil {
		return err
	}
	if r.From == "" {
		r.From = filepath.Join(r.PGData, "pg_wal")
	}
	r.result.Ref, r.result.From, r.result.Running = r.server.ref, r.From, running(r.From, r.PGData)
	if r.files, err = scan(r.From, r.server.ref.SystemID); err != nil {
		return err
	}
	if err := r.open(ctx); err != nil {
		return err
	}
	if err := r.readHistories(ctx); err != nil {
		return err
	}
	if err := r.all(ctx); err != nil {
		return err
	}
	if r.result.Holes, err = r.holes(ctx); err != nil {
		return err
	}
	return r.refusals()
}

// all takes the files: first those that the archive has too. They prove that the others go on from the archive's own WAL: the files of a
// server that went another way from some point on must not get between those of the one that lives.
func (r *repair) all(ctx context.Context) error {
	var there, missing []int
	for i, f := range r.files {
		if r.present(f) {
			there = append(there, i)
		} else {
			missing = append(missing, i)
		}
	}
	r.done = make([]RepairedFile, len(r.files))
	err := r.some(ctx, there)
	if err == nil {
		// The oldest alone: what an interrupted run leaves out is then behind something, and not taken for older than the archive.
		err = r.some(ctx, missing[:min(1, len(missing))])
	}
	if err == nil {
		err = r.some(ctx, missing[min(1, len(missing)):])
	}
	for _, f := range r.done {
		switch f.Action {
		case "":
		case recycled:
			r.result.Recycled++
		default:
			r.result.Files = append(r.result.Files, f)
		}
	}
	return err
}

func (r *repair) some(ctx context.Context, part []int) error {
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(repairWorkers)
	report := make(chan struct{}, 1)
	for _, i := range part {
		if gctx.Err() != nil {
			break
		}
		group.Go(func() error {
			f, err := r.one(gctx, i)
			if err != nil {
				return fmt.Errorf("%s: %w", r.files[i].base, err)
			}
			r.done[i] = f
			report <- struct{}{}
			defer func() { <-report }()
			if f.Action != recycled {
				r.Report(f)
			}
			return nil
		})
	}
	return group.Wait()
}

// refusals makes one error of all.
func (r *repair) refusals() error {
	var first error
	n := 0
	for _, f := range r.result.Files {
		if f.Action == RepairRefused {
			n++
			if first == nil {
				first = fmt.Errorf("%s: %w", f.Name, f.Err)
			}
		}
	}
	if n > 1 {
		return fmt.Errorf("%d files were refused, the first is %w", n, first)
	}
	return first
}

// present tells whether the archive has an object of this name.
func (r *repair) present(f localFile) bool {
	t := r.index.Timeline(f.name.Timeline)
	switch f.name.Kind {
	case wal.Segment:
		return t.Has(f.name.Number(r.index.SegmentSize))
	case wal.HistoryFile:
		return t.HasHistory
	case wal.BackupHistory:
		return slices.Contains(t.Backups, f.name)
	case wal.Partial: // their keys depend on their bytes
	}
	return false
}

// old tells whether a file is older than everything in the archive, and was not asked for. What the server waits to archive is wanted.
func (r *repair) old(f localFile) bool {
	if r.All || f.ready || f.name.Kind == wal.HistoryFile {
		return false
	}
	size, begins := r.index.SegmentSize, false
	var first wal.SegmentNumber
	for _, t := range r.index.Timelines {
		for _, n := range firstOf(t) {
			if !begins || n < first {
				first, begins = n, true
			}
		}
	}
	return begins && f.name.Number(size) < first
}

// firstOf is the first segment of a timeline of which the archive has something; none if there is none.
func firstOf(t catalog.TimelineWAL) []wal.SegmentNumber {
	var n []wal.SegmentNumber
	if len(t.Ranges) > 0 {
		n = append(n, t.Ranges[0].First)
	}
	if len(t.Pieces) > 0 {
		n = append(n, t.Pieces[0].Segment)
	}
	return n
}

// holes lists what is missing in the end.
func (r *repair) holes(ctx context.Context) ([]catalog.Hole, error) {
	index := r.planned()
	if !r.DryRun {
		var err error
		if index, err = r.list(ctx); err != nil {
			return nil, err
		}
	}
	r.result.SegmentSize = index.SegmentSize
	var out []catalog.Hole
	for _, t := range index.Timelines {
		holes := t.Holes()
		if h, ok := r.beforeFork(index, &t); ok {
			holes = append(holes, h)
		}
		out = append(out, holes...)
	}
	return out, nil
}

// beforeFork is what a timeline lacks at its end up to where newer ones, of which the archive has WAL, left it. The segment of the fork itself
// is found on the newer one.
func (r *repair) beforeFork(index *catalog.WALIndex, t *catalog.TimelineWAL) (h catalog.Hole, ok bool) {
	last, any := lastStored(t)
	if !any {
		return h, false
	}
	for _, newer := range index.Timelines {
		end, is := r.histories[newer.Timeline].Ancestor(t.Timeline)
		if newer.Timeline <= t.Timeline || len(newer.Ranges) == 0 || !is || end == 0 {
			continue
		}
		if fork := index.SegmentSize.SegmentOf(end); fork > last+1 && fork-1 > h.Last {
			h, ok = catalog.Hole{Timeline: t.Timeline, First: last + 1, Last: fork - 1, Since: newer.Ranges[0].Oldest}, true
		}
	}
	return h, ok
}

// planned is the index as it would be after a dry run.
func (r *repair) planned() *catalog.WALIndex {
	add := map[wal.TimelineID][]catalog.SegmentRange{}
	for _, f := range r.result.Files {
		if name, err := wal.ParseFileName(f.Name); err == nil && f.Action == RepairMissing && !f.Piece && name.Kind == wal.Segment {
			n := name.Number(r.index.SegmentSize)
			add[name.Timeline] = append(add[name.Timeline], catalog.SegmentRange{First: n, Last: n})
		}
	}
	x := *r.index
	x.Timelines = nil
	for _, t := range r.index.Timelines {
		t.Ranges = joined(append(add[t.Timeline], t.Ranges...))
		delete(add, t.Timeline)
		x.Timelines = append(x.Timelines, t)
	}
	for tli, ranges := range add {
		x.Timelines = append(x.Timelines, catalog.TimelineWAL{Timeline: tli, Ranges: joined(ranges)})
	}
	slices.SortFunc(x.Timelines, func(a, b catalog.TimelineWAL) int { return cmp.Compare(a.Timeline, b.Timeline) })
	return &x
}

// joined puts ranges in order and makes one of those that touch.
func joined(ranges []catalog.SegmentRange) []catalog.SegmentRange {
	slices.SortFunc(ranges, func(a, b catalog.SegmentRange) int { return cmp.Compare(a.First, b.First) })
	var out []catalog.SegmentRange
	for _, r := range ranges {
		if n := len(out); n > 0 && out[n-1].Last+1 == r.First {
			out[n-1].Last = r.Last
		} else {
			out = append(out, r)
		}
	}
	return out
}

// open opens the archive, and lists it. A cluster that nobody has archived yet gets its place.
func (r *repair) open(ctx context.Context) error {
	var err error
	if r.repo, err = catalog.Open(ctx, r.Store, r.Pins); err != nil {
		return err
	}
	r.info, err = r.repo.Cluster(ctx, r.server.ref)
	if !errors.Is(err, catalog.ErrNoCluster) {
		if err == nil {
			r.index, err = r.list(ctx)
		}
		return err
	}
	info, ok := r.server.clusterInfo(firstHeader(r.files), r.Now(), r.Host)
	if !ok {
		return err
	}
	if r.info, err = info, nil; !r.DryRun {
		_, err = r.repo.EnsureCluster(ctx, info)
	}
	r.index = &catalog.WALIndex{Ref: r.server.ref, SegmentSize: info.SegmentSize}
	return err
}

func (r *repair) list(ctx context.Context) (*catalog.WALIndex, error) {
	return r.repo.ListWAL(ctx, r.server.ref, r.info.SegmentSize)
}
