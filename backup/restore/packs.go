package restore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/object"
)

const (
	// maxGap is how many unwanted bytes are read along rather than asking again: a request costs more than they do.
	maxGap = 128 << 10
	// maxSpan is the most that one ranged read asks for.
	maxSpan = 8 << 20
)

// packReader reads frames of packs. It keeps its buffers, so each worker has its own.
type packReader struct {
	store      storage.Store
	ref        catalog.ClusterRef
	identities []object.Identity
	encrypted  bool
	received   *atomic.Int64 // bytes of bodies

	stored []byte
	plain  []byte
}

// frames calls use with the plain bytes of each wanted frame (ascending, no duplicates) of a pack, each once. The slice
// is valid until use returns. When over half of the pack is wanted, or it is encrypted, it is read whole, else by ranges.
//
// A pack that does not hold what it should is read a second time, since the damage may have happened on the way; if it
// is damaged again the error is a *CorruptError that names the key.
func (r *packReader) frames(ctx context.Context, p catalog.PackEntry, wanted []uint32, use func(frame uint32, plain []byte) error) error {
	key := p.Key(r.ref)
	if len(wanted) == 0 {
		return nil
	}
	if last := wanted[len(wanted)-1]; int64(last) >= int64(p.Frames) {
		return &CorruptError{Key: r.ref.BackupManifestKey(p.Backup), Err: fmt.Errorf("frame %d of a pack of %d (%s)", last, p.Frames, key)}
	}
	left := wanted
	counted := func(frame uint32, plain []byte) error {
		left = left[1:]
		if err := use(frame, plain); err != nil {
			return &useError{err}
		}
		return nil
	}
	var err error
	for range 2 {
		if r.encrypted || 2*len(left) >= p.Frames {
			err = r.whole(ctx, key, p, left, counted)
		} else {
			err = r.ranged(ctx, key, p, left, counted)
		}
		var used *useError
		if errors.As(err, &used) {
			return used.err
		}
		if !errors.Is(err, object.ErrCorrupt) {
			break
		}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, object.ErrCorrupt):
		return &CorruptError{Key: key, Err: err}
	case errors.Is(err, storage.ErrNotExist):
		return fmt.Errorf("pack %s is missing: the backup cannot be restored completely: %w", key, err)
	default:
		return fmt.Errorf("read %s: %w", key, err)
	}
}

// useError carries an error of the caller's own function through.
type useError struct{ err error }

func (e *useError) Error() string { return e.err.Error() }

// errMismatch is a corruption that this package finds.
func errMismatch(format string, args ...any) error {
	return &object.CorruptError{What: fmt.Sprintf(format, args...)}
}

// whole reads the whole pack by one request.
func (r *packReader) whole(ctx context.Context, key string, p catalog.PackEntry, wanted []uint32, use func(uint32, []byte) error) error {
	stored, err := r.get(ctx, key, storage.Range{}, p.Size, p.Size)
	if err != nil {
		return err
	}
	if !p.SHA256.IsZero() && catalog.Digest(sha256.Sum256(stored)) != p.SHA256 {
		return errMismatch("its SHA-256 is not what the manifest says")
	}
	o, err := object.Open(stored, r.identities)
	if err != nil {
		return err
	}
	if err := r.checkPack(key, o.Header(), len(o.Frames()), p); err != nil {
		return err
	}
	for _, i := range wanted {
		if err := ctx.Err(); err != nil {
			return err
		}
		if r.plain, err = o.Frame(int(i), r.plain); err != nil {
			return err
		}
		if err := use(i, r.plain); err != nil {
			return err
		}
	}
	return nil
}

// ranged reads footer and wanted frames.
func (r *packReader) ranged(ctx context.Context, key string, p catalog.PackEntry, wanted []uint32, use func(uint32, []byte) error) error {
	readAt := func(ctx context.Context, off, n int64) ([]byte, error) {
		data, err := r.get(ctx, key, storage.Range{Offset: off, Length: n}, n, p.Size)
		if err != nil {
			return nil, err
		}
		return append([]byte(nil), data...), nil // the object keeps it
	}
	o, err := object.OpenAt(ctx, readAt, p.Size, r.identities)
	if err != nil {
		return err
	}
	if err := r.checkPack(key, o.Header(), len(o.Frames()), p); err != nil {
		return err
	}
	if o.InHand() {
		for _, i := range wanted {
			if r.plain, err = o.Frame(ctx, int(i), r.plain); err != nil {
				return err
			}
			if err := use(i, r.plain); err != nil {
				return err
			}
		}
		return nil
	}
	for len(wanted) > 0 {
		n, err := spanLength(o, wanted)
		if err != nil {
			return err
		}
		if err := r.span(ctx, key, p, o, wanted[:n], use); err != nil {
			return err
		}
		wanted = wanted[n:]
	}
	return nil
}

// spanLength returns how many of the wanted frames one read should fetch.
func spanLength(o *object.Remote, wanted []uint32) (int, error) {
	start, length, err := o.Extent(int(wanted[0]), int(wanted[0]))
	if err != nil {
		return 0, err
	}
	end := start + length
	n := 1
	for ; n < len(wanted); n++ {
		off, length, err := o.Extent(int(wanted[n]), int(wanted[n]))
		if err != nil {
			return 0, err
		}
		if off-end > maxGap || off+length-start > maxSpan {
			break
		}
		end = off + length
	}
	return n, nil
}

// span reads the frames from the first to the last of wanted by one request.
func (r *packReader) span(ctx context.Context, key string, p catalog.PackEntry, o *object.Remote, wanted []uint32, use func(uint32, []byte) error) error {
	start, length, err := o.Extent(int(wanted[0]), int(wanted[len(wanted)-1]))
	if err != nil {
		return err
	}
	stored, err := r.get(ctx, key, storage.Range{Offset: start, Length: length}, length, p.Size)
	if err != nil {
		return err
	}
	for _, i := range wanted {
		if err := ctx.Err(); err != nil {
			return err
		}
		off, n, err := o.Extent(int(i), int(i))
		if err != nil {
			return err
		}
		if r.plain, err = o.Decode(int(i), stored[off-start:off-start+n], r.plain); err != nil {
			return err
		}
		if err := use(i, r.plain); err != nil {
			return err
		}
	}
	return nil
}

// get reads a range into r.stored.
func (r *packReader) get(ctx context.Context, key string, part storage.Range, length, size int64) ([]byte, error) {
	body, info, err := r.store.Get(ctx, key, part)
	if err != nil {
		return nil, err
	}
	data, err := r.readBody(body, info, length, size)
	if cerr := body.Close(); err == nil && cerr != nil {
		err = cerr
	}
	return data, err
}

func (r *packReader) readBody(body io.Reader, info storage.Info, length, size int64) ([]byte, error) {
	if info.Size != size {
		return nil, errMismatch("it has %d bytes, the manifest says %d", info.Size, size)
	}
	if int64(cap(r.stored)) < length {
		r.stored = make([]byte, length)
	}
	data := r.stored[:length]
	n, err := io.ReadFull(body, data)
	r.received.Add(int64(n))
	if err != nil {
		return nil, err
	}
	return data, nil
}

// checkPack makes sure that the object is the pack that the manifest means.
func (r *packReader) checkPack(key string, h object.Header, frames int, p catalog.PackEntry) error {
	switch {
	case h.Kind != object.KindPack:
		return errMismatch("it is a %s, not a pack", h.Kind)
	case !strings.HasSuffix(key, "/"+h.Name):
		return errMismatch("it says its name is %s", h.Name)
	case h.SystemID != r.ref.SystemID:
		return errMismatch("it belongs to system %d", h.SystemID)
	case frames != p.Frames:
		return errMismatch("it has %d frames, the manifest says %d", frames, p.Frames)
	}
	return nil
}
