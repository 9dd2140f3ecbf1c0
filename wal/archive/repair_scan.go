package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/wal"
)

// localFile is a WAL file in the folder of a repair.
type localFile struct {
	base   string
	name   wal.FileName
	state  fileState
	header *wal.SegmentHeader // of a segment that says to be what its name says
	last   bool               // the last such segment of its timeline in the folder
	ready  bool               // archive_status says that the server wants it archived
	reason string             // of foreignFile and packedFile
}

// fileState is what the first bytes of a file say.
type fileState uint8

const (
	usualFile    fileState = iota // to be looked at
	recycledFile                  // a segment under a future name: it holds nothing yet, or old WAL
	foreignFile                   // another server's
	packedFile                    // compressed by a program of its own: not read
)

// packedSuffixes are those of pg_receivewal and of other archivers.
var packedSuffixes = []string{".gz", ".lz4", ".zst", ".bz2", ".xz"}

// scan reads the names in a folder and the head of each segment. Histories come first, then names in their order, as the server's own
// archiver takes them.
func scan(dir string, systemID uint64) ([]localFile, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []localFile
	for _, e := range entries {
		f := localFile{base: e.Name()}
		for _, suffix := range packedSuffixes {
			if base, ok := strings.CutSuffix(f.base, suffix); ok {
				if f.name, err = wal.ParseFileName(base); err == nil {
					f.state, f.reason = packedFile, "it is compressed: unpack it first"
					files = append(files, f)
				}
			}
		}
		if f.name, err = wal.ParseFileName(f.base); err != nil || f.state != usualFile {
			continue
		}
		if f.name.Kind == wal.Segment || f.name.Kind == wal.Partial {
			if err := f.look(filepath.Join(dir, f.base), systemID); errors.Is(err, os.ErrNotExist) {
				continue // recycled or removed since
			} else if err != nil {
				return nil, err
			}
		}
		f.ready = isReady(filepath.Join(dir, "archive_status"), f.base)
		files = append(files, f)
	}
	slices.SortStableFunc(files, func(a, b localFile) int {
		return boolOrder(a.name.Kind != wal.HistoryFile, b.name.Kind != wal.HistoryFile)
	})
	markLast(files)
	return files, nil
}

func boolOrder(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// look judges a segment by its first page. The server keeps segments that it needs no more for later under future names: such a file holds
// what it held before, or zeros (InstallXLogFileSegment in src/backend/access/transam/xlog.c).
func (f *localFile) look(path string, systemID uint64) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	head := make([]byte, wal.LongHeaderSize)
	n, err := io.ReadFull(in, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if zero(head) { // an empty file too: it was being made
		f.state = recycledFile
		return nil
	}
	h, err := wal.ParseSegmentHeader(head[:n])
	if err != nil {
		return nil // the inspection says what is wrong
	}
	switch start := f.name.Start(h.SegmentSize); {
	case f.name.CheckSize(h.SegmentSize) != nil:
	case h.Addr < start:
		f.state = recycledFile
	case h.SystemID != systemID:
		f.state, f.reason = foreignFile, fmt.Sprintf("it is WAL of the server with system id %d, and the archive is of %d", h.SystemID, systemID)
	case h.Addr == start:
		f.header = &h
	}
	return nil
}

func zero(b []byte) bool { return len(strings.Trim(string(b), "\x00")) == 0 }

// markLast finds the last segment of each timeline that holds what its name says.
func markLast(files []localFile) {
	last := map[wal.TimelineID]int{}
	for i, f := range files {
		if f.header == nil {
			continue
		}
		n := f.name.Number(f.header.SegmentSize)
		if j, ok := last[f.name.Timeline]; !ok || files[j].name.Number(files[j].header.SegmentSize) <= n {
			last[f.name.Timeline] = i
		}
	}
	for _, i := range last {
		files[i].last = true
	}
}

// firstHeader is that of any segment in the folder; nil if there is none.
func firstHeader(files []localFile) *wal.SegmentHeader {
	for _, f := range files {
		if f.header != nil {
			return f.header
		}
	}
	return nil
}

// running tells whether a server works on the WAL in dir: its data directory is the one that was named, if dir is its pg_wal, or the folder
// around dir. A wrong answer does no harm: what a repair stores is on this host's disk before, and the beginning of a segment does not change.
func running(dir, pgdata string) bool {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false
	}
	if pgdata != "" {
		if own, err := filepath.EvalSymlinks(filepath.Join(pgdata, "pg_wal")); err == nil && own == real && alive(pgdata) {
			return true
		}
	}
	return exists(filepath.Join(filepath.Dir(real), "global", "pg_control")) && alive(filepath.Dir(real))
}

// alive tells whether the process named in postmaster.pid is there and is a server; one that crashed leaves the file behind.
func alive(pgdata string) bool {
	b, err := os.ReadFile(filepath.Join(pgdata, "postmaster.pid"))
	if err != nil {
		return false
	}
	line, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || pid <= 0 {
		return false
	}
	if err := syscall.Kill(pid, 0); err != nil && !errors.Is(err, syscall.EPERM) {
		return false
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return err != nil || strings.HasPrefix(string(name), "postgres") || strings.HasPrefix(string(name), "postmaster")
}

// readHistories reads the history files of the folder, and of the archive those that the folder lacks and this host can open.
func (r *repair) readHistories(ctx context.Context) error {
	r.histories = map[wal.TimelineID]wal.History{}
	for _, f := range r.files {
		if f.name.Kind != wal.HistoryFile {
			continue
		}
		b, err := os.ReadFile(filepath.Join(r.From, f.base))
		if err != nil {
			return err
		}
		if h, err := wal.ParseHistory(f.name.Timeline, b); err == nil { // else it is refused when its turn comes
			r.histories[f.name.Timeline] = h
		}
	}
	for _, t := range r.index.Timelines {
		if _, ok := r.histories[t.Timeline]; ok || !t.HasHistory {
			continue
		}
		if err := r.storedHistory(ctx, t.Timeline); err != nil {
			return err
		}
	}
	return nil
}

func (r *repair) storedHistory(ctx context.Context, tli wal.TimelineID) error {
	ctx, _, stop := watched(ctx, r.Stall)
	defer stop()
	b, _, err := storage.ReadAll(ctx, r.Store, r.server.ref.HistoryKey(tli), maxSmall)
	if err != nil {
		return explain(ctx, err)
	}
	if plain, err := (&fetch{FetchOptions: FetchOptions{Options: r.Options}, server: r.server}).openSmall(b, wal.HistoryName(tli)); err == nil {
		if h, err := wal.ParseHistory(tli, plain); err == nil {
			r.histories[tli] = h
		}
	}
	return nil
}

// forkIn is where a known newer timeline left the one of a segment inside it.
func (r *repair) forkIn(name wal.FileName, size wal.SegmentSize) (fork wal.LSN, ok bool) {
	start := name.Start(size)
	for tli, h := range r.histories {
		if tli <= name.Timeline {
			continue
		}
		if end, is := h.Ancestor(name.Timeline); is && end > start && end <= start+wal.LSN(size) {
			fork, ok = max(fork, end), true
		}
	}
	return fork, ok
}

// lastStored is the last full segment of a timeline in the archive.
func lastStored(t *catalog.TimelineWAL) (n wal.SegmentNumber, ok bool) {
	if len(t.Ranges) == 0 {
		return 0, false
	}
	return t.Ranges[len(t.Ranges)-1].Last, true
}
