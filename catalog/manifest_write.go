package catalog

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"pgstow/storage"
	"pgstow/storage/object"
)

// manifestFrame is how many plain bytes of lines go into a frame. Lines are not cut: a longer one has a frame of its own.
const manifestFrame = object.FrameSize

// ManifestWriter builds a manifest. Lines are compressed as they come, so that a million files cost little more memory
// than the stored object. The order of the object (header first, with its counts) is made by Commit. Not safe for
// concurrent use. After an error every call returns it.
type ManifestWriter struct {
	repo *Repository
	ref  ClusterRef
	id   string

	frames *object.Writer // file lines, never encrypted and never stored as it is
	lines  []byte         // not yet a frame
	enc    *lineEncoder
	order  pathOrder
	packs  []PackEntry
	need   []int // by pack: frames that are referred to
	index  map[packID]int

	files, relations, bytes int64
	body                    *object.Object // all frames, once no more can come
	err                     error
}

type packID struct {
	backup string
	n      int
}

// NewManifestWriter begins the manifest of the backup id, which ClaimBackup gave.
func (r *Repository) NewManifestWriter(ref ClusterRef, id string) (*ManifestWriter, error) {
	if err := errors.Join(ref.Check(), CheckBackupID(id)); err != nil {
		return nil, err
	}
	frames, err := object.NewWriter(object.WriterOptions{})
	if err != nil {
		return nil, err
	}
	return &ManifestWriter{repo: r, ref: ref, id: id, frames: frames, enc: newLineEncoder(), index: map[packID]int{}}, nil
}

// AddFile adds a file, folder or link. They come in the order of ComparePaths. The packs it refers to may be added later.
func (w *ManifestWriter) AddFile(f FileEntry) error {
	if w.err != nil {
		return w.err
	}
	w.err = w.addFile(f)
	return w.err
}

func (w *ManifestWriter) addFile(f FileEntry) error {
	if w.body != nil {
		return errors.New("manifest: a file after Commit")
	}
	if f.Type == "" {
		f.Type = TypeFile
	}
	if err := f.check(); err != nil {
		return fmt.Errorf("%w: %w", ErrManifest, err)
	}
	if err := w.order.add(f.Path, f.Type); err != nil {
		return fmt.Errorf("%w: %w", ErrManifest, err)
	}
	line, err := w.enc.encode(f.wire())
	if err != nil {
		return fmt.Errorf("manifest: %q: %w", f.Path, err)
	}
	if err := w.addLine(line); err != nil {
		return err
	}
	w.files++
	w.bytes += f.Size
	if f.Map != nil {
		w.relations++
		w.refer(f.Map.Pack, f.Map.Frame)
	}
	for _, s := range f.Blob {
		w.refer(s.Pack, s.Frame)
	}
	return nil
}

func (w *ManifestWriter) refer(pack, frame int) {
	for len(w.need) <= pack {
		w.need = append(w.need, 0)
	}
	w.need[pack] = max(w.need[pack], frame+1)
}

func (w *ManifestWriter) addLine(line []byte) error {
	if len(w.lines)+len(line) > manifestFrame {
		if err := w.flush(); err != nil {
			return err
		}
	}
	w.lines = append(w.lines, line...)
	return nil
}

func (w *ManifestWriter) flush() error {
	if len(w.lines) == 0 {
		return nil
	}
	_, err := w.frames.AddFrame(w.lines)
	if cap(w.lines) > 4*manifestFrame {
		w.lines = nil
	}
	w.lines = w.lines[:0]
	return err
}

// AddPack puts a pack into the table and returns its index there. A pack that is already in it keeps its index and gets
// the facts given last, so that an index can be had before the pack is stored; Commit wants all facts of each.
func (w *ManifestWriter) AddPack(p PackEntry) (index int, err error) {
	if w.err != nil {
		return 0, w.err
	}
	id := packID{p.Backup, p.N}
	if i, ok := w.index[id]; ok {
		w.packs[i] = p
		return i, nil
	}
	w.index[id] = len(w.packs)
	w.packs = append(w.packs, p)
	return len(w.packs) - 1, nil
}

// Packs is the table as it is now.
func (w *ManifestWriter) Packs() []PackEntry { return w.packs }

// Commit makes the backup exist: the manifest is created, if absent, at its key. Of h it fills in Format, ID, Cluster,
// SystemID, Files, Relations, Packs, PacksLent, BytesLent, Bytes and PackFrame, and returns the whole. The caller has renewed the lease.
//
// If packs of other backups are referred to, Commit then looks whether they are still safe (RULES-physical D3): that no
// sweep has condemned one, and that the reference, or else each pack it lent, is there. If not it removes the manifest
// again and returns ErrCondemned. ErrAborted says that a sweep has declared this backup dead.
func (w *ManifestWriter) Commit(ctx context.Context, h BackupHeader) (BackupHeader, error) {
	if w.err != nil {
		return h, w.err
	}
	encoded, h, err := w.encode(h, w.repo.WriterOptions())
	if err != nil {
		return h, fmt.Errorf("commit %s: %w", w.id, err)
	}
	key := w.ref.BackupManifestKey(w.id)
	if _, err := w.repo.Put(ctx, key, encoded, storage.IfAbsent); err != nil {
		if errors.Is(err, storage.ErrExist) {
			err = w.explainExisting(ctx, key, err)
		}
		return h, fmt.Errorf("commit %s: %w", w.id, err)
	}
	if err := w.checkLent(ctx, h.Reference); err != nil {
		if !errors.Is(err, ErrCondemned) {
			// Not known is not safe. Without a manifest the backup does not exist, which harms nobody.
			err = fmt.Errorf("check of the packs that were lent: %w", err)
		}
		return h, errors.Join(fmt.Errorf("commit %s: %w", w.id, err), w.repo.Store.Delete(context.WithoutCancel(ctx), key))
	}
	return h, nil
}

func (w *ManifestWriter) explainExisting(ctx context.Context, key string, exist error) error {
	head, _, err := storage.ReadRange(ctx, w.repo.Store, key, storage.Range{Length: object.HeaderSize}, object.HeaderSize)
	if err != nil {
		return errors.Join(exist, err)
	}
	if oh, err := object.ParseHeader(head); err == nil && oh.Flags&object.FlagAborted != 0 {
		return hint(fmt.Errorf("%w by %s: %w", ErrAborted, oh.Host, exist), "its lease was not renewed in time: run the backup again")
	}
	return exist
}

// lent are the packs that other backups wrote.
func (w *ManifestWriter) lent() (out []PackEntry) {
	for _, p := range w.packs {
		if p.Backup != w.id {
			out = append(out, p)
		}
	}
	return out
}

// checkLent is the part of Commit after the manifest was stored.
func (w *ManifestWriter) checkLent(ctx context.Context, reference string) error {
	lent := w.lent()
	if len(lent) == 0 {
		return nil
	}
	condemned, err := w.repo.Condemned(ctx, w.ref.Name)
	if err != nil {
		return err
	}
	for _, p := range lent {
		if condemned[p.Key(w.ref)] {
			return fmt.Errorf("pack %s: %w", p.Key(w.ref), ErrCondemned)
		}
	}
	if reference != "" {
		_, err := w.repo.Store.Stat(ctx, w.ref.BackupManifestKey(reference))
		if err == nil || !errors.Is(err, storage.ErrNotExist) {
			return err
		}
	}
	for _, p := range lent {
		if _, err := w.repo.Store.Stat(ctx, p.Key(w.ref)); errors.Is(err, storage.ErrNotExist) {
			return fmt.Errorf("pack %s: %w: %w", p.Key(w.ref), ErrCondemned, err)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// Encode returns the manifest with the given header as Commit stores it, but not encrypted: for a cache beside a server
// that holds the public half of the keys only. An encrypted repository does not take it.
func (w *ManifestWriter) Encode(h BackupHeader) ([]byte, error) {
	if w.err != nil {
		return nil, w.err
	}
	encoded, _, err := w.encode(h, object.WriterOptions{})
	return encoded, err
}

// encode puts the object together: header line, file frames as they were compressed, pack lines, footer line.
func (w *ManifestWriter) encode(h BackupHeader, o object.WriterOptions) ([]byte, BackupHeader, error) {
	if err := w.seal(); err != nil {
		w.err = err
		return nil, h, err
	}
	fileFrames := len(w.body.Frames())
	if w.files == 0 {
		fileFrames = 0
	}
	h.Format, h.ID, h.Cluster, h.SystemID = formatVersion, w.id, w.ref.Name, w.ref.SystemID
	h.StartedAt, h.StoppedAt = h.StartedAt.UTC(), h.StoppedAt.UTC()
	h.Files, h.Relations, h.Packs, h.Bytes = w.files, w.relations, int64(len(w.packs)), w.bytes
	h.PacksLent, h.BytesLent = 0, 0
	for _, p := range w.lent() {
		h.PacksLent++
		h.BytesLent += p.Size
	}
	h.PackFrame = 1 + fileFrames
	if err := w.checkRefs(); err != nil {
		return nil, h, err
	}
	o.Hash = true
	out, err := object.NewWriter(o)
	if err != nil {
		return nil, h, err
	}
	out.Grow(w.frames.StoredSize() + 1<<20)
	sum := sha256.New()
	add := func(plain []byte) error {
		sum.Write(plain)
		_, err := out.AddFrame(plain)
		return err
	}
	line, err := w.enc.encode(headerLine{lineHeader, h})
	if err != nil {
		return nil, h, err
	}
	if err := add(line); err != nil {
		return nil, h, err
	}
	var buf []byte
	for i := range fileFrames {
		if buf, err = out.CopyFrame(w.body, i, buf); err != nil {
			return nil, h, err
		}
		sum.Write(buf)
	}
	if err := w.encodePacks(add); err != nil {
		return nil, h, err
	}
	line, err = w.enc.encode(footerLine{Kind: lineFooter, Files: h.Files, Packs: h.Packs, Bytes: h.Bytes, SHA256: Digest(sum.Sum(nil))})
	if err != nil {
		return nil, h, err
	}
	if _, err := out.AddFrame(line); err != nil {
		return nil, h, err
	}
	encoded, err := out.Finish(manifestHeader(h))
	return encoded, h, err
}

// seal ends the file lines.
func (w *ManifestWriter) seal() error {
	if w.body != nil {
		return nil
	}
	if err := w.flush(); err != nil {
		return err
	}
	w.lines = nil
	stored, err := w.frames.Finish(object.Header{Kind: object.KindManifest})
	if err != nil {
		return err
	}
	w.body, err = object.Open(stored, nil)
	return err
}

func (w *ManifestWriter) checkRefs() error {
	if len(w.need) > len(w.packs) {
		return fmt.Errorf("%w: a file refers to pack %d of %d", ErrManifest, len(w.need)-1, len(w.packs))
	}
	for i := range w.packs {
		if err := w.packs[i].check(); err != nil {
			return fmt.Errorf("%w: %w", ErrManifest, err)
		}
		if i < len(w.need) && w.need[i] > w.packs[i].Frames {
			return fmt.Errorf("%w: a file refers to frame %d of %d in pack %d", ErrManifest, w.need[i]-1, w.packs[i].Frames, i)
		}
	}
	return nil
}

func (w *ManifestWriter) encodePacks(add func([]byte) error) error {
	var lines []byte
	for i, p := range w.packs {
		line, err := w.enc.encode(p.wire(i))
		if err != nil {
			return err
		}
		if len(lines)+len(line) > manifestFrame {
			if err := add(lines); err != nil {
				return err
			}
			lines = lines[:0]
		}
		lines = append(lines, line...)
	}
	if len(lines) == 0 {
		return nil
	}
	return add(lines)
}

// manifestHeader is the clear header: what a host without identity sees of a backup. The commit times are the server's
// own of start and stop, MaxXID the low half of the next transaction id at the stop.
func manifestHeader(h BackupHeader) object.Header {
	return object.Header{
		Kind: object.KindManifest, Name: h.ID, SystemID: h.SystemID, Timeline: uint32(h.StopTimeline),
		From: uint64(h.Start), To: uint64(h.Stop), FirstCommit: micros(h.StartedAt), LastCommit: micros(h.StoppedAt), MaxXID: uint32(h.NextXID),
		Time: h.StoppedAt, Host: h.Host, DataDirectory: h.DataDirectory, Program: h.Program,
	}
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// AbortBackup takes the manifest key of an unfinished backup with a body that says so: whoever creates the key first wins,
// so the backup can no longer be committed (RULES-archive A15). aborted is false if the backup is already there.
func (r *Repository) AbortBackup(ctx context.Context, ref ClusterRef, id, host, program string, now time.Time) (aborted bool, err error) {
	if err := errors.Join(ref.Check(), CheckBackupID(id)); err != nil {
		return false, err
	}
	h := object.Header{
		Kind: object.KindManifest, Name: id, SystemID: ref.SystemID, Flags: object.FlagAborted,
		Time: now, Host: host, Program: program,
	}
	o := r.WriterOptions()
	o.Hash = true
	body, err := object.EncodeAll(o, h, []byte(`{"kind":"aborted","format":1}`+"\n"))
	if err != nil {
		return false, err
	}
	_, err = r.Put(ctx, ref.BackupManifestKey(id), body, storage.IfAbsent)
	if errors.Is(err, storage.ErrExist) {
		return false, nil
	}
	return err == nil, err
}
