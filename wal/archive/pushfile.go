package archive

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"pgstow/storage/object"
	"pgstow/wal"
	"pgstow/wal/spool"
)

// pushFile is a file on its way into the archive.
type pushFile struct {
	path    string
	base    string // its name in pg_wal
	name    wal.FileName
	f       *os.File
	id      spool.FileID
	plain   []byte
	mapped  bool // plain is a mapping of the file
	segment *wal.SegmentHeader
	header  object.Header
	partial bool // see PushResult.AsPartial
}

// maxSmall bounds history and backup history files. Real ones have a few hundred bytes.
const maxSmall = 16 << 20

// mapFrom is the size above which a segment is mapped instead of read, and its object built in a file, so that memory stays bounded. What is
// mapped are pages of files, which the kernel can take back.
const mapFrom = 16 << 20

func openFile(path string) (*pushFile, error) {
	p := &pushFile{path: path, base: filepath.Base(path)}
	var err error
	if p.name, err = wal.ParseFileName(p.base); err != nil {
		return nil, &RefusedError{Name: p.base, Reason: "it is no WAL file", Err: err}
	}
	if p.f, err = os.Open(path); err != nil {
		return nil, err
	}
	info, err := p.f.Stat()
	if err == nil {
		p.id, err = spool.IDOf(info)
	}
	if err != nil {
		_ = p.f.Close()
		return nil, err
	}
	return p, nil
}

func (p *pushFile) close() {
	if p.mapped {
		_ = syscall.Munmap(p.plain)
	}
	_ = p.f.Close()
}

// read takes the file's bytes, and makes sure that it did not change meanwhile.
func (p *pushFile) read(l *lane) error {
	limit := int64(maxSmall)
	if p.name.Kind == wal.Segment || p.name.Kind == wal.Partial {
		limit = int64(wal.MaxSegmentSize)
	}
	switch {
	case p.id.Size == 0:
		return p.refuse("it is empty", nil)
	case p.id.Size > limit:
		return p.refuse(fmt.Sprintf("it has %d bytes, more than any such file", p.id.Size), nil)
	case p.id.Size > mapFrom:
		b, err := syscall.Mmap(int(p.f.Fd()), 0, int(p.id.Size), syscall.PROT_READ, syscall.MAP_SHARED)
		if err != nil {
			return fmt.Errorf("map %s: %w", p.path, err)
		}
		p.plain, p.mapped = b, true
		return nil
	}
	p.plain = l.room(int(p.id.Size))
	if _, err := io.ReadFull(p.f, p.plain); err != nil {
		return fmt.Errorf("read %s: %w", p.path, err)
	}
	return p.unchanged()
}

// errFileChanged says that a server writes the file, or uses it again.
var errFileChanged = errors.New("changed while it was read")

// unchanged makes sure that the file is still what it was when it was opened.
func (p *pushFile) unchanged() error {
	info, err := p.f.Stat()
	if err != nil {
		return err
	}
	if id, err := spool.IDOf(info); err != nil || id != p.id {
		return fmt.Errorf("%s %w", p.path, errFileChanged)
	}
	return nil
}

func (p *pushFile) refuse(reason string, err error) error {
	return withHint(&RefusedError{Name: p.base, Reason: reason, Err: err})
}

// inspect refuses what is not whole, and fills the header in.
func (p *pushFile) inspect(s server) error {
	p.header = object.Header{Name: p.base, Kind: kindOf(p.name.Kind), SystemID: s.ref.SystemID, Timeline: uint32(p.name.Timeline)}
	switch p.name.Kind {
	case wal.Segment, wal.Partial:
		return p.inspectSegment(s)
	case wal.HistoryFile:
		return p.inspectHistory()
	case wal.BackupHistory:
		return p.inspectBackup(s)
	}
	return p.refuse("it is no WAL file", nil)
}

func (p *pushFile) inspectSegment(s server) error {
	info, err := wal.InspectSegment(p.plain, p.name)
	if id := info.Header.SystemID; id != 0 && id != s.ref.SystemID {
		return p.refuse(fmt.Sprintf("it is WAL of the server with system id %d, and this server has %d", id, s.ref.SystemID), nil)
	}
	if err == nil && s.control != nil && info.Header.SegmentSize != s.control.WALSegmentSize {
		return p.refuse(fmt.Sprintf("its segments have %d bytes, and this server's have %d", info.Header.SegmentSize, s.control.WALSegmentSize), nil)
	}
	if err != nil {
		if !p.endsAtFork(err, info) {
			return p.refuse("it is not a whole segment", err)
		}
		p.partial = true
		p.name.Kind = wal.Partial
		p.header.Name, p.header.Kind = p.name.String(), kindOf(wal.Partial)
	}
	p.segment = &info.Header
	size := info.Header.SegmentSize
	h := &p.header
	h.From = uint64(p.name.Start(size))
	h.To = h.From + uint64(size)
	if p.name.Kind == wal.Partial {
		h.To = uint64(info.CompleteTo)
	}
	h.LastRecord, h.MaxXID = uint64(info.LastRecord), info.MaxXID
	h.FirstCommit, h.LastCommit = micros(info.FirstCommit), micros(info.LastCommit)
	if info.Switch {
		h.Flags |= object.FlagSwitch
	}
	if len(info.RestorePoints) > 0 {
		h.Flags |= object.FlagRestorePoint
	}
	return nil
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// endsAtFork tells whether a segment that stops before its end stops where its timeline was left. A standby with archive_mode=always
// archives such a file under its full name when it follows its primary's promotion (WalReceiverMain in
// src/backend/replication/walreceiver.c); the primary calls the same file .partial. The proof is the history file in the same folder,
// which the standby had to fetch before: it names this timeline as an ancestor with a fork that the file reaches.
func (p *pushFile) endsAtFork(err error, info wal.SegmentInfo) bool {
	var seg *wal.SegmentError
	if p.name.Kind != wal.Segment || !errors.As(err, &seg) || seg.Reason != wal.ReasonIncomplete && seg.Reason != wal.ReasonDamaged {
		return false
	}
	start := p.name.Start(info.Header.SegmentSize)
	entries, rerr := os.ReadDir(filepath.Dir(p.path))
	if rerr != nil {
		return false
	}
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".history") {
			continue
		}
		name, nerr := wal.ParseFileName(entry.Name())
		if nerr != nil || name.Timeline <= p.name.Timeline {
			continue
		}
		b, berr := os.ReadFile(filepath.Join(filepath.Dir(p.path), entry.Name()))
		if berr != nil {
			continue
		}
		h, herr := wal.ParseHistory(name.Timeline, b)
		if herr != nil {
			continue
		}
		if end, ok := h.Ancestor(p.name.Timeline); ok && end > start && end <= info.CompleteTo {
			return true
		}
	}
	return false
}

func (p *pushFile) inspectHistory() error {
	h, err := wal.ParseHistory(p.name.Timeline, p.plain)
	switch {
	case err != nil:
		return p.refuse("it is not a history file", err)
	case len(h) < 2:
		return p.refuse("it names no timeline from which this one came", nil)
	case p.plain[len(p.plain)-1] != '\n':
		return p.refuse("it ends in the middle of a line", nil)
	}
	return nil
}

func (p *pushFile) inspectBackup(s server) error {
	b, err := wal.ParseBackupFile(p.plain)
	if err != nil {
		return p.refuse("it is not a backup history file", err)
	}
	if s.control == nil {
		return nil
	}
	size := s.control.WALSegmentSize
	// BackupHistoryFilePath in do_pg_backup_stop takes the stop timeline and the start LSN.
	if own := wal.BackupHistoryName(b.StopTimeline, b.StartLSN, size); own != p.name {
		return p.refuse("by what is in it its name is "+own.String(), nil)
	}
	return nil
}
