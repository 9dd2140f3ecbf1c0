// Package backup takes physical backups of PostgreSQL clusters.
//
// Create reads the data directory of a server on this machine, between the
// server's own start and stop of a backup, or that of a cleanly stopped one. It
// cuts what it reads into frames and packs, keeps a map of each relation's pages,
// and commits by writing the manifest: before that the backup does not exist.
package backup

import (
	"fmt"
	"runtime"
	"time"

	"pgstow/backup/changes"
	"pgstow/backup/source"
	"pgstow/catalog"
	"pgstow/storage/object"
)

// WALMode says how the WAL that a backup needs is kept.
type WALMode uint8

// The modes.
const (
	// WALArchive: the WAL from start to stop must be in the archive, proven to be
	// this backup's, before the backup is committed.
	WALArchive WALMode = iota
	// WALInclude: that WAL is copied into the backup, which can then be restored
	// without any archive.
	WALInclude
)

// String is the form that flags use.
func (m WALMode) String() string {
	if m == WALInclude {
		return "include"
	}
	return "archive"
}

// Source says how the server's files are read.
type Source uint8

// The sources.
const (
	// SourceAuto: the data directory where it is proven that it is here, else the
	// replication protocol. A directory that is named must be the server's.
	SourceAuto Source = iota
	SourceLocal
	// SourceStream: the replication protocol, and nothing of the server's files.
	SourceStream
)

// ParseSource reads "auto", "local" or "stream".
func ParseSource(s string) (Source, error) {
	switch s {
	case "", "auto":
		return SourceAuto, nil
	case "local":
		return SourceLocal, nil
	case "stream":
		return SourceStream, nil
	}
	return 0, fmt.Errorf("source %q: want auto, local or stream", s)
}

// CreateOptions say what to back up and how.
type CreateOptions struct {
	// Cluster is the name in the repository.
	Cluster string
	// Conn is a libpq connection string or URL; what it leaves open comes from
	// libpq's environment and files. It must lead to the server itself, not to a
	// pooler. Not used with Offline.
	Conn string
	// Source says how files are read; not used with Offline.
	Source Source
	// PGData is the data directory; "" asks the server. With Offline it is required,
	// with SourceStream it is not used.
	PGData string
	// Offline backs up the directory of a server that was shut down cleanly.
	Offline bool
	// Label is the operator's own text; one line.
	Label string
	// WAL mode; Offline backups always include their WAL.
	WAL WALMode
	// SpreadCheckpoint lets the server take its time with the first checkpoint;
	// otherwise it is made at once.
	SpreadCheckpoint bool
	// Full stores everything, whatever earlier backups hold.
	Full bool
	// Scan reads every page to find the changed ones, also where WAL summaries
	// would tell them.
	Scan bool
	// RefreshAfter is the age from which on packs of earlier backups are not
	// referred to: what lives of them is stored again; 0: 30 days.
	RefreshAfter time.Duration
	// TempDir is for a nameless file with the lines of the manifest and the maps
	// that changed; "": the system's folder for temporary files.
	TempDir string
	// CacheDir is a folder in which a host that cannot read an encrypted repository
	// remembers its last backup, so that the next one need not be full; "": none.
	CacheDir string
	// Workers read and compress; 0: one per processor, at most 8. Memory grows
	// with them, by some 20 MiB each.
	Workers int
	// Level of compression.
	Level object.Level
	// StreamRate bounds what a server sends that streams, in bytes a second; 0: no
	// limit. Servers take 32 KiB to 1 GiB.
	StreamRate int64
	// RateLimit bounds reading, in bytes a second; 0: no limit.
	RateLimit int64
	// ArchiveTimeout is how long the archive may make no progress at the end
	// before the backup fails; 0: ten minutes.
	ArchiveTimeout time.Duration
	// Host and Program say who writes: host name, and program with its version.
	Host, Program string
	// PID of this process, for the lease; may be 0.
	PID int
	// Events is told what happens; may be nil.
	Events func(Event)
	// Prover proves that the archive holds the backup's WAL; nil: by the
	// repository's own objects.
	Prover WALProver
	// FS reads the data directory; nil: the machine's file system.
	FS source.FS
	// Lease holds the clock and time to live of the backup's lease; its zero
	// value is right but for tests.
	Lease LeaseOptions

	changed func(reference string) *changes.Set // instead of what the server says; for tests
}

// LeaseOptions are those of the backup's lease.
type LeaseOptions struct {
	TTL   time.Duration
	Clock catalog.Clock
}

// Defaults.
const (
	maxDefaultWorkers     = 8
	defaultArchiveTimeout = 10 * time.Minute
	defaultRefreshAfter   = 30 * 24 * time.Hour
)

func (o CreateOptions) withDefaults() (CreateOptions, error) {
	if o.Workers == 0 {
		o.Workers = min(runtime.GOMAXPROCS(0), maxDefaultWorkers)
	}
	if o.ArchiveTimeout == 0 {
		o.ArchiveTimeout = defaultArchiveTimeout
	}
	if o.RefreshAfter == 0 {
		o.RefreshAfter = defaultRefreshAfter
	}
	if o.FS == nil {
		o.FS = source.OS{}
	}
	if o.Events == nil {
		o.Events = func(Event) {}
	}
	if o.Offline {
		o.WAL = WALInclude
	}
	switch {
	case o.Workers < 0 || o.RateLimit < 0 || o.StreamRate < 0:
		return o, fmt.Errorf("backup: workers and rate limit cannot be negative")
	case o.Offline && o.Source == SourceStream:
		return o, fmt.Errorf("backup: a stopped server cannot stream")
	case o.Offline && o.PGData == "":
		return o, fmt.Errorf("backup: an offline backup needs the data directory")
	}
	return o, checkLabel(o.Label)
}

// checkLabel refuses what would not come back from a backup_label file as it was.
func checkLabel(label string) error {
	for _, r := range label {
		if r < ' ' || r == 0x7f {
			return fmt.Errorf("backup: the label has a control character")
		}
	}
	const longest = 900 // PostgreSQL takes MAXPGPATH, our id in it
	if len(label) > longest {
		return fmt.Errorf("backup: the label is longer than %d bytes", longest)
	}
	return nil
}

// serverLabel is the label given to the server: with our id in it, the archive's
// .backup file can be told to be this backup's.
func serverLabel(id, label string) string {
	if label == "" {
		return "pgstow " + id
	}
	return "pgstow " + id + " " + label
}

// PartialError says that the backup was committed, with damaged pages in it. It
// is the error of a Create that returns a header all the same.
type PartialError struct {
	ID string
	// Pages is the number of damaged pages.
	Pages int64
	// Sample names some of them.
	Sample []catalog.DamagedRef
}

func (e *PartialError) Error() string {
	return fmt.Sprintf("backup %s is complete, but %d pages in it are damaged in the data directory, the first in %s", e.ID, e.Pages, e.Sample[0].Path)
}
