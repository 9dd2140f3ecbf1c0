package archive

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/object"
	"pgstow/wal"
)

// absent is called when the store has said that key does not exist. It returns ErrAbsent only when that is the end of the archive:
// the address is proven to be right, and then a list shows neither the file nor parts of it nor anything behind it. nil: it was
// served from pieces.
func (f *fetch) absent(ctx context.Context, w *watch, key string) error {
	info, err := f.prove(ctx, w)
	if err != nil {
		return err
	}
	switch f.name.Kind {
	case wal.Segment:
		return f.absentSegment(ctx, w, key, info.SegmentSize)
	case wal.HistoryFile:
		return f.absentHistory(ctx, key)
	default:
		if _, err := f.Store.Stat(ctx, key); !errors.Is(err, storage.ErrNotExist) {
			return again(err)
		}
		return ErrAbsent
	}
}

// prove reads the repository and the cluster under the same prefix, in this very process: else a wrong address, an empty bucket or an
// unmounted folder would pass for an archive without the file.
func (f *fetch) prove(ctx context.Context, w *watch) (catalog.ClusterInfo, error) {
	repo, err := catalog.Open(ctx, f.Store, f.Pins)
	if err != nil {
		return catalog.ClusterInfo{}, err
	}
	w.moved()
	info, err := repo.Cluster(ctx, f.server.ref)
	w.moved()
	return info, err
}

// again is the error of something that exists now, unless it could not be asked.
func again(err error) error {
	if err == nil {
		return errAgain
	}
	return err
}

// absentHistory proves that a timeline does not exist: nothing lies below its prefix. WAL of a timeline whose history is missing means
// that the history has not arrived yet (or was lost): a server that took the timeline for free would choose its number again.
func (f *fetch) absentHistory(ctx context.Context, key string) error {
	for info, err := range f.Store.List(ctx, f.server.ref.TimelinePrefix(f.name.Timeline), "") {
		if err != nil {
			return err
		}
		o, ok := catalog.ParseWALKey(f.server.ref, info.Key)
		switch {
		case !ok:
		case info.Key == key:
			return errAgain
		case f.name.Timeline > 1 && !f.StopAtHole: // timeline 1 has no history
			return &HoleError{Name: f.want, Next: o.Name.String()}
		}
	}
	return ErrAbsent
}

// around is what a list shows from a segment's name on.
type around struct {
	self   bool // the segment itself: it has arrived meanwhile
	pieces []catalog.WALObject
	next   string // the first full segment, or piece of one, behind it; "" if there is none
}

// list looks from the name of the segment on, itself included, up to the first thing that decides.
func (f *fetch) list(ctx context.Context, w *watch, key string) (around, error) {
	var a around
	ref := f.server.ref
	// All keys that are at least key are greater than key without its last digit; at most fifteen segments are between the two.
	for info, err := range f.Store.List(ctx, ref.TimelinePrefix(f.name.Timeline), key[:len(key)-1]) {
		if err != nil {
			return a, err
		}
		w.moved()
		if info.Key < key {
			continue
		}
		o, ok := catalog.ParseWALKey(ref, info.Key)
		switch {
		case !ok:
		case info.Key == key:
			a.self = true
			return a, nil
		case o.Kind == catalog.WALPiece && o.Name == f.name:
			a.pieces = append(a.pieces, o)
		case o.Kind == catalog.WALSegment || o.Kind == catalog.WALPiece:
			a.next = o.Name.String()
			return a, nil
		}
	}
	return a, nil
}

func (f *fetch) absentSegment(ctx context.Context, w *watch, key string, size wal.SegmentSize) error {
	if err := f.name.CheckSize(size); err != nil {
		return fmt.Errorf("%w: %w", errMisplaced, err)
	}
	a, err := f.list(ctx, w, key)
	if err != nil {
		return err
	}
	if a.self {
		return errAgain
	}
	if len(a.pieces) > 0 {
		return f.fromPieces(ctx, w, a, size)
	}
	return f.end(ctx, w, a, f.name.Start(size))
}

// end says what the absence of a segment that begins at start means.
func (f *fetch) end(ctx context.Context, w *watch, a around, start wal.LSN) error {
	if a.next == "" || f.StopAtHole {
		return ErrAbsent
	}
	left, err := f.leftBefore(ctx, w, start)
	if err != nil {
		return err
	}
	if left {
		return ErrAbsent
	}
	return &HoleError{Name: f.want, Next: a.next}
}

// partialByName is for people: PostgreSQL never asks for a .partial file. Several of one name may exist; their keys tell them apart.
func (f *fetch) partialByName(ctx context.Context, w *watch) error {
	keys, err := f.partials(ctx, w)
	if err == nil && len(keys) == 0 {
		if _, err = f.prove(ctx, w); err == nil {
			keys, err = f.partials(ctx, w)
		}
	}
	switch {
	case err != nil:
		return err
	case len(keys) == 0:
		return ErrAbsent
	case len(keys) == 1:
		return f.get(ctx, w, keys[0])
	}
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = k[strings.LastIndexByte(k, '/')+1:]
	}
	return &localError{fmt.Errorf("there are several: ask for one of %s", strings.Join(names, ", "))}
}

// partials lists the keys of the .partial files that the name may mean.
func (f *fetch) partials(ctx context.Context, w *watch) ([]string, error) {
	ref := f.server.ref
	var keys []string
	for info, err := range f.Store.List(ctx, ref.WALKey(f.name, f.hash8), "") {
		if err != nil {
			return nil, err
		}
		if o, ok := catalog.ParseWALKey(ref, info.Key); ok && o.Kind == catalog.WALPartial && o.Name == f.name {
			keys = append(keys, info.Key)
		}
	}
	w.moved()
	return keys, nil
}

// DisagreeError says that two sources of the same WAL differ: a person has to decide which one is right.
type DisagreeError struct {
	What     string
	One, Two string // who has or stored it
	LSN      wal.LSN
}

func (e *DisagreeError) Error() string {
	return fmt.Sprintf("%s disagree at %s: %s and %s", e.What, e.LSN, e.One, e.Two)
}

func writtenBy(h object.Header) string { return h.Name + " of " + writerOf(h).String() }
