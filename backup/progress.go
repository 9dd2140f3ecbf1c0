package backup

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"pgstow/backup/source"
)

// reporter delivers events one at a time and counts what was done.
type reporter struct {
	mu     sync.Mutex
	events func(Event)
	notes  []string

	bytes, files           atomic.Int64
	passed                 atomic.Int64 // bytes that need not be read
	totalBytes, totalFiles atomic.Int64
	stored                 func() int64
	last                   atomic.Int64 // of the last progress, in nanoseconds since begin
	begin                  time.Time
}

func newReporter(events func(Event)) *reporter {
	return &reporter{events: events, begin: time.Now(), stored: func() int64 { return 0 }}
}

func (r *reporter) emit(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n, ok := e.(NoteEvent); ok {
		r.notes = append(r.notes, n.Text)
	}
	r.events(e)
}

// progressEvery is the least time between two progress events.
const progressEvery = 200 * time.Millisecond

// pass counts a file that need not be read.
func (r *reporter) pass(bytes int64) {
	r.passed.Add(bytes)
	r.read(0, 1)
}

// read counts bytes and files, and reports now and then.
func (r *reporter) read(bytes, files int64) {
	r.bytes.Add(bytes)
	r.files.Add(files)
	now, last := int64(time.Since(r.begin)), r.last.Load()
	if now-last >= int64(progressEvery) && r.last.CompareAndSwap(last, now) {
		r.progress()
	}
}

func (r *reporter) progress() {
	r.emit(ProgressEvent{
		BytesDone: r.bytes.Load() + r.passed.Load(), BytesTotal: r.totalBytes.Load(), BytesStored: r.stored(),
		FilesDone: r.files.Load(), FilesTotal: r.totalFiles.Load(),
	})
}

// measure walks the directory once for the totals. Its errors are those that the
// real walk meets too.
func (r *reporter) measure(ctx context.Context, o source.Options) {
	var bytes, files int64
	o.Skipped = nil
	for e, err := range source.Walk(ctx, o) {
		if err != nil {
			return
		}
		if e.Class == source.Blob || e.Class == source.Relation {
			bytes += e.Size
			files++
		}
	}
	r.totalBytes.Store(bytes)
	r.totalFiles.Store(files)
}
