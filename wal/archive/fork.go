package archive

import (
	"context"
	"errors"
	"fmt"

	"pgstow/storage"
	"pgstow/storage/object"
	"pgstow/wal"
)

// forkOf returns how far the WAL of the wanted timeline belongs to where recovery is heading; wal.MaxLSN if it was never left there. A
// receiver may have stored more of an old timeline than the promoted standby had: those bytes never happened on the new one.
//
// Recovery heads for the timeline that the operator chose, else for the latest: the one that PostgreSQL finds by asking for the history
// of the next timeline until there is none (findNewestTimeLine in src/backend/access/transam/timeline.c). If that one does not come
// from ours, the earliest fork on the way counts.
func (f *fetch) forkOf(ctx context.Context, w *watch) (wal.LSN, error) {
	own := f.name.Timeline
	if f.Timeline == own {
		return wal.MaxLSN, nil
	}
	if f.Timeline > own {
		h, err := f.history(ctx, w, f.Timeline)
		if err != nil {
			return 0, err
		}
		if end, ok := h.Ancestor(own); ok {
			return end, nil
		}
	}
	earliest, last := wal.MaxLSN, wal.MaxLSN
	from := own + 1
	for tli := from; ; tli++ {
		h, err := f.history(ctx, w, tli)
		if errors.Is(err, storage.ErrNotExist) {
			if c := f.server.control; c != nil && tli <= c.Timeline {
				continue // PostgreSQL begins to ask behind its own timeline
			}
			break
		}
		if err != nil {
			return 0, err
		}
		last = wal.MaxLSN
		if end, ok := h.Ancestor(own); ok {
			earliest, last = min(earliest, end), end
		}
	}
	if last != wal.MaxLSN {
		return last, nil
	}
	return earliest, nil
}

// leftBefore tells whether recovery is known to be on a timeline that left the wanted one before at. PostgreSQL asks the ancestors too
// when the newest timeline has no such segment; what they have behind the fork is of no use to it, and a hole there is none.
func (f *fetch) leftBefore(ctx context.Context, w *watch, at wal.LSN) (bool, error) {
	heading := f.Timeline
	if c := f.server.control; c != nil && heading == 0 {
		heading = max(c.Timeline, c.MinRecoveryTimeline)
	}
	if heading <= f.name.Timeline {
		return false, nil
	}
	h, err := f.history(ctx, w, heading)
	if errors.Is(err, storage.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	end, ok := h.Ancestor(f.name.Timeline)
	return ok && end <= at, nil
}

// history reads the history of a timeline from the archive.
func (f *fetch) history(ctx context.Context, w *watch, tli wal.TimelineID) (wal.History, error) {
	key := f.server.ref.HistoryKey(tli)
	b, _, err := storage.ReadAll(ctx, f.Store, key, maxSmall)
	if err != nil {
		return nil, err
	}
	w.moved()
	plain, err := f.openSmall(b, wal.HistoryName(tli))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return wal.ParseHistory(tli, plain)
}

func (f *fetch) openSmall(stored []byte, name wal.FileName) ([]byte, error) {
	o, err := object.Open(stored, f.Pins.Identities)
	if err != nil {
		return nil, err
	}
	if !o.Header().Encrypted && !f.Pins.EncryptionNone {
		return nil, errPlain
	}
	if h := o.Header(); h.Name != name.String() || h.SystemID != f.server.ref.SystemID || h.Kind != kindOf(name.Kind) {
		return nil, fmt.Errorf("%w: it is %s %q of system id %d", errMisplaced, h.Kind, h.Name, h.SystemID)
	}
	return o.Plain()
}
