package backup

import (
	"iter"
	"time"

	"pgstow/backup/changes"
	"pgstow/backup/source"
	"pgstow/catalog"
	"pgstow/wal"
	"pgstow/wal/pgcontrol"
)

// PlannedPart is a part of a job as tests see it.
type PlannedPart struct {
	Path         string
	Entry        bool
	First, Pages uint32
	Last         bool
}

// PlanJobs is planJobs with the real limits.
func PlanJobs(entries iter.Seq2[source.Entry, error], pageSize int64, parts int) iter.Seq2[[]PlannedPart, error] {
	return func(yield func([]PlannedPart, error) bool) {
		l := planLimits{pageSize: pageSize, plain: jobPlain, least: frameSize, parts: parts}
		for j, err := range planJobs(readAll(entries), l, newJob) {
			if err != nil {
				yield(nil, err)
				return
			}
			var out []PlannedPart
			for _, p := range j.parts {
				out = append(out, PlannedPart{
					Path: p.entry.Path, Entry: p.kind == partEntry, First: p.first, Pages: p.pages, Last: p.last,
				})
			}
			if !yield(out, nil) {
				return
			}
		}
	}
}

// JobPlain is the size that jobs are filled to.
const JobPlain = jobPlain

// CheckDirectory is checkDirectory for a server that says this of itself.
func CheckDirectory(dir, dataDirectory string, port int, started time.Time) error {
	return checkDirectory(dir, facts{dataDirectory: dataDirectory, port: port, started: started})
}

// WithChanges makes Create ask for what changed since a reference, as if WAL
// summaries told it.
func WithChanges(o CreateOptions, since func(id string) *changes.Set) CreateOptions {
	o.changed = since
	return o
}

// ChooseReference is chooseReference.
func ChooseReference(list []catalog.BackupSummary, start wal.LSN, h wal.History, c pgcontrol.Control) (id, why string) {
	b, why := chooseReference(list, beginning{start: start, history: h, control: c})
	if b != nil {
		id = b.ID
	}
	return id, why
}
