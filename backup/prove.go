package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/object"
	"pgstow/wal"
)

// WALProof is what has to be proven: that the archive holds the WAL from Start to
// Stop, and that it is this backup's (RULES-physical D1, D2).
type WALProof struct {
	Ref         catalog.ClusterRef
	SegmentSize wal.SegmentSize
	// History of the timeline on which the backup stopped.
	History     wal.History
	Start, Stop wal.LSN
	// Label as it was given to the server.
	Label string
	// Standby: there is no .backup file, and the archived bytes must equal the
	// local ones.
	Standby bool
	// Received: the server's archiver is off, and a receiver stores its WAL: the
	// same as for a standby.
	Received bool
	// WALDir is the server's pg_wal.
	WALDir string
	// Server gives the files of the server's pg_wal where they cannot be read in
	// WALDir; nil: they can.
	Server ServerWAL
	// Compare asks for equal bytes also where there is a .backup file: this host
	// cannot read it.
	Compare bool
	// Host, DataDirectory and Program go into headers of what the proof stores.
	Host, DataDirectory, Program string
}

// ServerWAL is a server's own WAL.
type ServerWAL interface {
	// Open opens a segment, as far as it is written, or a history file. What is not
	// there is fs.ErrNotExist.
	Open(ctx context.Context, name wal.FileName) (io.ReadCloser, error)
}

func (p WALProof) open(ctx context.Context, name wal.FileName) (io.ReadCloser, error) {
	if p.Server != nil {
		return p.Server.Open(ctx, name)
	}
	return os.Open(filepath.Join(p.WALDir, name.String()))
}

// Segments names the segments from start to stop, each by the newest timeline
// that begins in or before it.
func (p WALProof) Segments() []wal.FileName {
	var out []wal.FileName
	for n := p.SegmentSize.SegmentOf(p.Start); n <= p.SegmentSize.PrevSegmentOf(p.Stop); n++ {
		out = append(out, wal.SegmentName(p.History.TimelineOfSegment(n, p.SegmentSize), n, p.SegmentSize))
	}
	return out
}

// compares says that the proof is equal bytes; otherwise it is the .backup file.
func (p WALProof) compares() bool { return p.Standby || p.Received || p.Compare }

// WALProver proves that WAL is in the archive.
type WALProver interface {
	// Prove looks at the archive once. It returns the names, at least the first
	// few, of files that are not proven yet, and how many are left in all: none
	// means proven. An error says that waiting cannot help.
	Prove(ctx context.Context, p WALProof) (missing []string, left int, err error)
}

// ForeignWALError says that the archive has another server's file under a name
// that the backup needs.
type ForeignWALError struct{ Name, Why string }

func (e *ForeignWALError) Error() string {
	return fmt.Sprintf("the archive's %s is not this server's: %s", e.Name, e.Why)
}

// archiveProver proves by the repository's own objects: 512 bytes of each. It
// remembers what it has proven. Not for concurrent use.
type archiveProver struct {
	repo   *catalog.Repository
	proven map[wal.FileName]bool
}

// NewWALProver returns the prover that Create uses by default.
func NewWALProver(repo *catalog.Repository) WALProver {
	return &archiveProver{repo: repo, proven: make(map[wal.FileName]bool)}
}

// missingShown bounds how many missing files one look asks for.
const missingShown = 8

func (a *archiveProver) Prove(ctx context.Context, p WALProof) (missing []string, left int, err error) {
	segments := p.Segments()
	needs := make([]wal.FileName, 0, len(segments)+2)
	if tli := p.History.Timeline(); tli > 1 {
		needs = append(needs, wal.HistoryName(tli))
	}
	needs = append(needs, segments...)
	if !p.compares() {
		needs = append(needs, wal.BackupHistoryName(p.History.Timeline(), p.Start, p.SegmentSize))
	}
	for _, name := range needs {
		if a.proven[name] {
			continue
		}
		left++
		if len(missing) == missingShown {
			continue
		}
		ok, err := a.prove(ctx, p, name)
		if err != nil {
			return nil, 0, fmt.Errorf("prove %s: %w", name, err)
		}
		if ok {
			a.proven[name] = true
			left--
		} else {
			missing = append(missing, name.String())
		}
	}
	return missing, left, nil
}

func (a *archiveProver) prove(ctx context.Context, p WALProof, name wal.FileName) (bool, error) {
	key := p.Ref.WALKey(name, "")
	b, _, err := storage.ReadRange(ctx, a.repo.Store, key, storage.Range{Length: object.HeaderSize}, object.HeaderSize)
	if errors.Is(err, storage.ErrNotExist) {
		if name.Kind == wal.HistoryFile {
			return false, a.pushHistory(ctx, p, name, key)
		}
		return false, nil
	}
	if err != nil {
		return false, err
	}
	h, err := object.ParseHeader(b)
	if err != nil {
		return false, fmt.Errorf("%s: %w", key, err)
	}
	if h.Name != name.String() || h.SystemID != p.Ref.SystemID {
		return false, &ForeignWALError{name.String(), fmt.Sprintf("it says it is %s of system %d", h.Name, h.SystemID)}
	}
	switch {
	case name.Kind == wal.BackupHistory:
		return a.backupFile(ctx, p, name, key, h)
	case name.Kind == wal.HistoryFile || p.compares():
		return a.sameAsLocal(ctx, p, name, key, h)
	}
	return true, nil
}

// backupFile reads the archived .backup file, or, on a host that cannot decrypt
// it, the local one that has the same bytes.
func (a *archiveProver) backupFile(ctx context.Context, p WALProof, name wal.FileName, key string, h object.Header) (bool, error) {
	plain, err := a.plain(ctx, key, h)
	if errors.Is(err, object.ErrNoIdentity) || errors.Is(err, object.ErrWrongIdentity) {
		plain, err = os.ReadFile(filepath.Join(p.WALDir, name.String()))
		if err == nil && sha256.Sum256(plain) != h.PlainSHA256 {
			return false, foreign(name, h, "it differs from the file in pg_wal")
		}
	}
	if err != nil {
		return false, err
	}
	f, err := wal.ParseBackupFile(plain)
	if err != nil {
		return false, fmt.Errorf("%s: %w", key, err)
	}
	if f.StartLSN != p.Start || f.StopLSN != p.Stop || f.Label != p.Label {
		return false, foreign(name, h, fmt.Sprintf("it is of backup %q from %s to %s", f.Label, f.StartLSN, f.StopLSN))
	}
	return true, nil
}

// read reads a small file of the server's pg_wal.
func (p WALProof) read(ctx context.Context, name wal.FileName) (b []byte, err error) {
	f, err := p.open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return io.ReadAll(io.LimitReader(f, maxWALObject))
}

func foreign(name wal.FileName, h object.Header, why string) error {
	return &ForeignWALError{name.String(), fmt.Sprintf("%s; %s wrote it from %s", why, h.Host, h.DataDirectory)}
}

// sameAsLocal compares an archived file with the one in pg_wal. The last segment
// of a standby may not be whole yet: its bytes up to the stop count. Segments are
// up to 1 GiB, so neither side is held in memory.
func (a *archiveProver) sameAsLocal(ctx context.Context, p WALProof, name wal.FileName, key string, h object.Header) (same bool, err error) {
	local, err := p.open(ctx, name)
	if errors.Is(err, fs.ErrNotExist) && name.Kind == wal.HistoryFile {
		return true, nil // the server does without it: what it was started from is in the archive
	}
	if err != nil {
		return false, fmt.Errorf("compare with the server's own WAL: %w", err)
	}
	defer func() { err = errors.Join(err, local.Close()) }()
	sum := sha256.New()
	if _, err := io.Copy(sum, local); err != nil {
		return false, fmt.Errorf("compare with the server's own WAL: %w", err)
	}
	if bytes.Equal(sum.Sum(nil), h.PlainSHA256[:]) {
		return true, nil
	}
	last := name.Kind == wal.Segment && name.Number(p.SegmentSize) == p.SegmentSize.PrevSegmentOf(p.Stop)
	if !last {
		return false, foreign(name, h, "it differs from the file in pg_wal")
	}
	n := int64(p.Stop - p.SegmentSize.Start(name.Number(p.SegmentSize)))
	again, err := p.open(ctx, name)
	if err != nil {
		return false, fmt.Errorf("compare with the server's own WAL: %w", err)
	}
	defer func() { err = errors.Join(err, again.Close()) }()
	equal, err := a.samePrefix(ctx, key, h, again, n)
	if errors.Is(err, object.ErrNoIdentity) || errors.Is(err, object.ErrWrongIdentity) {
		return false, nil // until the local one is whole
	}
	if err == nil && !equal {
		err = foreign(name, h, "it differs from the file in pg_wal before the backup's stop")
	}
	return equal, err
}

// samePrefix says whether the first n plain bytes of the object are those of local.
// The object is read, and so verified, to its end.
func (a *archiveProver) samePrefix(ctx context.Context, key string, h object.Header, local io.Reader, n int64) (equal bool, err error) {
	if h.Encrypted && len(a.repo.Identities()) == 0 {
		return false, object.ErrNoIdentity
	}
	body, _, err := a.repo.Store.Get(ctx, key, storage.Range{})
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	stream, err := object.DecodeStream(body, a.repo.Identities(), 0)
	if err != nil {
		return false, fmt.Errorf("%s: %w", key, err)
	}
	const portion = 64 << 10
	ours, theirs := make([]byte, portion), make([]byte, portion)
	equal = true
	for left := n; left > 0 && equal; {
		part := min(left, portion)
		if _, err := io.ReadFull(stream, theirs[:part]); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return false, fmt.Errorf("%s: %w", key, err)
		} else if err != nil {
			return false, nil // it is shorter
		}
		if _, err := io.ReadFull(local, ours[:part]); err != nil {
			return false, fmt.Errorf("compare with the server's own WAL: %w", err)
		}
		equal = bytes.Equal(ours[:part], theirs[:part])
		left -= part
	}
	if _, err := io.Copy(io.Discard, stream); err != nil {
		return false, fmt.Errorf("%s: %w", key, err)
	}
	return equal, nil
}

// maxWALObject bounds the stored size of a .backup file, which is read whole.
const maxWALObject = 1 << 20

func (a *archiveProver) plain(ctx context.Context, key string, h object.Header) ([]byte, error) {
	if h.Encrypted && len(a.repo.Identities()) == 0 {
		return nil, object.ErrNoIdentity
	}
	stored, _, err := storage.ReadAll(ctx, a.repo.Store, key, maxWALObject)
	if err != nil {
		return nil, err
	}
	o, err := object.Open(stored, a.repo.Identities())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	b, err := o.Plain()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return b, nil
}

// pushHistory stores a history file that archive_command has not stored: without
// it nobody finds the way to the backup's timeline.
func (a *archiveProver) pushHistory(ctx context.Context, p WALProof, name wal.FileName, key string) error {
	b, err := p.read(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it stays missing
	}
	if err != nil {
		return err
	}
	encoded, err := object.EncodeAll(a.repo.WriterOptions(), object.Header{
		Kind: object.KindHistory, Name: name.String(), SystemID: p.Ref.SystemID, Timeline: uint32(name.Timeline),
		Host: p.Host, DataDirectory: p.DataDirectory, Program: p.Program,
	}, b)
	if err != nil {
		return err
	}
	if _, err = a.repo.Put(ctx, key, encoded, storage.IfAbsent); errors.Is(err, storage.ErrExist) {
		return nil // somebody was faster; the next look compares
	}
	return err
}
