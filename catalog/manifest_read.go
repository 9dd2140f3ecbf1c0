package catalog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"

	"pgstow/storage"
	"pgstow/storage/object"
)

// maxManifest bounds a stored manifest, in bytes: some 20 million files.
const maxManifest = 1 << 30

// ManifestReader is a verified manifest: the object's checksums, the order of its lines and the footer's SHA-256 hold. It
// keeps the stored bytes and the pack table in memory; file lines are decoded as they are asked for.
// Safe for concurrent use.
type ManifestReader struct {
	header BackupHeader
	packs  []PackEntry
	footer footerLine
	obj    *object.Object
}

// ReadManifest reads and verifies the manifest of a backup. ErrNoBackup, ErrAborted, object.ErrNoIdentity and
// object.ErrWrongIdentity, ErrManifest, ErrFormatTooNew.
func (r *Repository) ReadManifest(ctx context.Context, ref ClusterRef, id string) (*ManifestReader, error) {
	if err := errors.Join(ref.Check(), CheckBackupID(id)); err != nil {
		return nil, err
	}
	stored, _, err := storage.ReadAll(ctx, r.Store, ref.BackupManifestKey(id), maxManifest)
	if errors.Is(err, storage.ErrNotExist) {
		return nil, hint(fmt.Errorf("backup %s of %s: %w: %w", id, ref, ErrNoBackup, err), "pgstow backup list shows those that exist")
	}
	if err != nil {
		return nil, err
	}
	m, err := OpenManifest(stored, r.identities)
	if err != nil {
		return nil, fmt.Errorf("manifest of backup %s: %w", id, err)
	}
	if m.header.ID != id || m.header.Ref() != ref {
		return nil, fmt.Errorf("manifest of backup %s: %w: it is that of %s of %s", id, ErrManifest, m.header.ID, m.header.Ref())
	}
	return m, nil
}

// OpenManifest verifies a stored manifest. stored must not change while the reader is in use.
func OpenManifest(stored []byte, ids []object.Identity) (*ManifestReader, error) {
	obj, err := object.Open(stored, ids)
	if err != nil {
		return nil, identityHint(err)
	}
	oh := obj.Header()
	switch {
	case oh.Kind != object.KindManifest:
		return nil, fmt.Errorf("%w: the object is a %s", ErrManifest, oh.Kind)
	case oh.Flags&object.FlagAborted != 0:
		return nil, fmt.Errorf("%w: %w", ErrNoBackup, ErrAborted)
	}
	m := &ManifestReader{obj: obj}
	if err := m.verify(); err != nil {
		return nil, err
	}
	h := m.header
	if oh.Name != h.ID || oh.SystemID != h.SystemID || oh.From != uint64(h.Start) || oh.To != uint64(h.Stop) || oh.Timeline != uint32(h.StopTimeline) {
		return nil, fmt.Errorf("%w: header line and object header differ", ErrManifest)
	}
	return m, nil
}

func identityHint(err error) error {
	switch {
	case errors.Is(err, object.ErrNoIdentity):
		return hint(err, "give the secret half of the repository's keys with --identity")
	case errors.Is(err, object.ErrWrongIdentity):
		return hint(err, "an older object may need an older identity: give all of them")
	default:
		return err
	}
}

// verify goes once through all frames. File lines are only hashed here: Files checks what is in them.
func (m *ManifestReader) verify() error {
	frames := m.obj.Frames()
	last := len(frames) - 1
	if last < 1 {
		return fmt.Errorf("%w: %d frames", ErrManifest, len(frames))
	}
	sum := sha256.New()
	var buf []byte
	var err error
	for i := range frames {
		if buf, err = m.obj.Frame(i, buf); err != nil {
			return err
		}
		if len(buf) == 0 || buf[len(buf)-1] != '\n' {
			return fmt.Errorf("%w: frame %d does not end with a line", ErrManifest, i)
		}
		switch {
		case i == 0:
			err = m.readHeader(buf)
		case i == last:
			err = m.readFooter(buf, Digest(sum.Sum(nil)))
		case i >= m.header.PackFrame:
			err = m.readPacks(buf)
		}
		if err != nil {
			return err
		}
		sum.Write(buf)
	}
	h, f := m.header, m.footer
	if h.PackFrame < 1 || h.PackFrame > last || f.Files != h.Files || f.Bytes != h.Bytes || f.Packs != h.Packs || int64(len(m.packs)) != h.Packs {
		return fmt.Errorf("%w: header and footer differ in what the manifest holds", ErrManifest)
	}
	return nil
}

func (m *ManifestReader) readHeader(frame []byte) error {
	h, err := decodeHeaderLine(frame)
	m.header = h
	return err
}

// decodeHeaderLine reads the first frame. The version is looked at before anything else.
func decodeHeaderLine(line []byte) (BackupHeader, error) {
	if n := bytes.IndexByte(line, '\n'); n < 0 || n != len(line)-1 {
		return BackupHeader{}, fmt.Errorf("%w: the first frame is not one line", ErrManifest)
	}
	var l headerLine
	if err := decodeControl("header line", line, &l); err != nil {
		if errors.Is(err, ErrFormatTooNew) {
			return BackupHeader{}, err
		}
		return BackupHeader{}, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	h := l.BackupHeader
	switch {
	case l.Kind != lineHeader:
		return h, fmt.Errorf("%w: first line of kind %q", ErrManifest, l.Kind)
	case CheckBackupID(h.ID) != nil || h.Ref().Check() != nil:
		return h, fmt.Errorf("%w: impossible id %q or cluster %q", ErrManifest, h.ID, h.Ref())
	case h.Start > h.Stop || h.Timeline > h.StopTimeline || h.StopTimeline == 0:
		return h, fmt.Errorf("%w: it starts at %s on timeline %d and stops at %s on timeline %d", ErrManifest, h.Start, h.Timeline, h.Stop, h.StopTimeline)
	}
	for _, t := range h.Tablespaces {
		if err := CheckPath(t.Path); err != nil {
			return h, fmt.Errorf("%w: tablespace: %w", ErrManifest, err)
		}
	}
	return h, nil
}

func (m *ManifestReader) readPacks(frame []byte) error {
	for line := range bytes.Lines(frame) {
		var l packLine
		if err := decodeLine(line, linePack, &l, &l.Kind); err != nil {
			return fmt.Errorf("%w: %w", ErrManifest, err)
		}
		p, err := l.entry(len(m.packs))
		if err != nil {
			return fmt.Errorf("%w: %w", ErrManifest, err)
		}
		m.packs = append(m.packs, p)
	}
	return nil
}

func (m *ManifestReader) readFooter(frame []byte, sum Digest) error {
	if err := decodeLine(frame, lineFooter, &m.footer, &m.footer.Kind); err != nil {
		return fmt.Errorf("%w: %w", ErrManifest, err)
	}
	if m.footer.SHA256 != sum {
		return fmt.Errorf("%w: the lines have another SHA-256 than the footer says", ErrManifest)
	}
	return nil
}

// Header is the first line.
func (m *ManifestReader) Header() BackupHeader { return m.header }

// Packs is the pack table; MapRef.Pack and Slice.Pack are indexes of it. It must not be changed.
func (m *ManifestReader) Packs() []PackEntry { return m.packs }

// Pack returns entry i of the table.
func (m *ManifestReader) Pack(i int) PackEntry { return m.packs[i] }

// Files yields the entries in the order of ComparePaths. Each is checked: its path, its place in the order, that what it
// refers to is in the pack table, and at the end the totals. The first error is the last thing it yields.
func (m *ManifestReader) Files() iter.Seq2[FileEntry, error] {
	return func(yield func(FileEntry, error) bool) {
		var order pathOrder
		var buf []byte
		var files, size int64
		for i := 1; i < m.header.PackFrame; i++ {
			var err error
			if buf, err = m.obj.Frame(i, buf); err != nil {
				yield(FileEntry{}, err)
				return
			}
			for line := range bytes.Lines(buf) {
				f, err := m.file(line, &order)
				if err != nil {
					yield(FileEntry{}, fmt.Errorf("%w: %w", ErrManifest, err))
					return
				}
				files++
				size += f.Size
				if !yield(f, nil) {
					return
				}
			}
		}
		if files != m.footer.Files || size != m.footer.Bytes {
			yield(FileEntry{}, fmt.Errorf("%w: %d files of %d bytes, the footer says %d of %d", ErrManifest, files, size, m.footer.Files, m.footer.Bytes))
		}
	}
}

func (m *ManifestReader) file(line []byte, order *pathOrder) (FileEntry, error) {
	var l fileLine
	if err := decodeLine(line, lineFile, &l, &l.Kind); err != nil {
		return FileEntry{}, err
	}
	f, err := l.entry()
	if err != nil {
		return f, err
	}
	if err := order.add(f.Path, f.Type); err != nil {
		return f, err
	}
	if f.Map != nil {
		return f, m.inRange(f.Path, f.Map.Pack, f.Map.Frame)
	}
	for _, s := range f.Blob {
		if err := m.inRange(f.Path, s.Pack, s.Frame); err != nil {
			return f, err
		}
	}
	return f, nil
}

func (m *ManifestReader) inRange(path string, pack, frame int) error {
	if pack >= len(m.packs) || frame >= m.packs[pack].Frames {
		return fmt.Errorf("%q refers to frame %d of pack %d, which does not exist", path, frame, pack)
	}
	return nil
}
