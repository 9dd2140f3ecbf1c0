package backup

import (
	"context"
	"fmt"
	"slices"

	"pgstow/backup/pagemap"
	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/object"
)

// mapReader reads page maps of the reference. They are asked for in the order of
// paths, in which each pack's frames come one after the other, so one frame of each
// pack is kept.
type mapReader struct {
	packs []catalog.PackEntry
	// open opens a pack for reading.
	open func(ctx context.Context, p catalog.PackEntry) (*object.Remote, error)

	opened []*openedPack // the one used last is last
	bytes  int64
}

type openedPack struct {
	index  int
	object *object.Remote
	whole  int64 // bytes, if all of it is in memory
	frame  int
	plain  []byte
}

// mapMemory bounds what is kept, in bytes.
const mapMemory = 48 << 20

// load reads a map. It is not for concurrent use.
func (r *mapReader) load(ctx context.Context, at catalog.MapRef) (*pagemap.Map, error) {
	b, err := r.encoded(ctx, at)
	if err != nil {
		return nil, err
	}
	m, err := pagemap.Decode(b)
	if err != nil {
		p := r.packs[at.Pack]
		return nil, fmt.Errorf("pack %s/%d frame %d: %w", p.Backup, p.N, at.Frame, err)
	}
	return m, nil
}

// encoded reads a map as it is stored; it stays valid until the next call.
func (r *mapReader) encoded(ctx context.Context, at catalog.MapRef) ([]byte, error) {
	if at.Pack >= len(r.packs) {
		return nil, fmt.Errorf("page map in pack %d of %d", at.Pack, len(r.packs))
	}
	p := r.packs[at.Pack]
	plain, err := r.frame(ctx, at.Pack, at.Frame)
	if err != nil {
		return nil, fmt.Errorf("read page maps of pack %s/%d: %w", p.Backup, p.N, err)
	}
	if at.Offset > len(plain) || at.Length > len(plain)-at.Offset {
		return nil, fmt.Errorf("pack %s/%d frame %d: %w: a map lies beyond it", p.Backup, p.N, at.Frame, pagemap.ErrCorrupt)
	}
	return plain[at.Offset : at.Offset+at.Length], nil
}

func (r *mapReader) frame(ctx context.Context, index, frame int) ([]byte, error) {
	o, err := r.pack(ctx, index)
	if err != nil {
		return nil, err
	}
	if o.frame == frame {
		return o.plain, nil
	}
	before := int64(cap(o.plain))
	o.frame = -1
	if o.plain, err = o.object.Frame(ctx, frame, o.plain); err != nil {
		return nil, err
	}
	o.frame = frame
	r.bytes += int64(cap(o.plain)) - before
	for r.bytes > mapMemory && len(r.opened) > 1 {
		old := r.opened[0]
		r.bytes -= int64(cap(old.plain)) + old.whole
		r.opened = slices.Delete(r.opened, 0, 1)
	}
	return o.plain, nil
}

// pack finds or opens a pack.
func (r *mapReader) pack(ctx context.Context, index int) (*openedPack, error) {
	for i, o := range slices.Backward(r.opened) {
		if o.index == index {
			r.opened = append(slices.Delete(r.opened, i, i+1), o)
			return o, nil
		}
	}
	remote, err := r.open(ctx, r.packs[index])
	if err != nil {
		return nil, err
	}
	o := &openedPack{index: index, object: remote, frame: -1}
	if remote.InHand() {
		o.whole = r.packs[index].Size
		r.bytes += o.whole
	}
	r.opened = append(r.opened, o)
	return o, nil
}

// storedPacks opens packs where the repository has them.
func storedPacks(repo *catalog.Repository, ref catalog.ClusterRef) func(context.Context, catalog.PackEntry) (*object.Remote, error) {
	return func(ctx context.Context, p catalog.PackEntry) (*object.Remote, error) {
		read := func(ctx context.Context, off, n int64) ([]byte, error) {
			b, _, err := storage.ReadRange(ctx, repo.Store, p.Key(ref), storage.Range{Offset: off, Length: n}, n)
			return b, err
		}
		o, err := object.OpenAt(ctx, read, p.Size, repo.Identities())
		if err != nil {
			return nil, err
		}
		if h := o.Header(); h.Kind != object.KindPack || h.SystemID != ref.SystemID || len(o.Frames()) != p.Frames {
			return nil, fmt.Errorf("%s is not the pack that the manifest means: a %s of system %d with %d frames", p.Key(ref), h.Kind, h.SystemID, len(o.Frames()))
		}
		return o, nil
	}
}
