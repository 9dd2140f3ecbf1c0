package receive

import (
	"context"
	"errors"
	"fmt"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/object"
	"pgstow/wal"
	"pgstow/wal/archive"
)

// joint is where a stream begins behind a segment that the archive has. A server whose disk was brought back from a snapshot goes on under the
// same names with other WAL: recovery would end where the two meet, and all that is stored behind would be of no use.
type joint struct {
	key  string
	last wal.LSN // where the last record in that segment begins; 0: that is not known, or was seen to fit
	by   *archive.Writer
}

// joint reads where the last record before a stream begins, from the clear header of its segment.
func (p plan) joint(ctx context.Context, repo *catalog.Repository, ref catalog.ClusterRef) (joint, error) {
	if !p.joins {
		return joint{}, nil
	}
	j := joint{key: ref.WALKey(p.before, "")}
	b, _, err := storage.ReadRange(ctx, repo.Store, j.key, storage.Range{Length: object.HeaderSize}, object.HeaderSize)
	if errors.Is(err, storage.ErrNotExist) {
		return joint{}, nil
	}
	if err != nil && !errors.Is(err, storage.ErrRange) {
		return joint{}, fmt.Errorf("look at the segment before: %w", err)
	}
	h, err := object.ParseHeader(b)
	if err != nil || h.Name != p.before.String() {
		return joint{}, nil //nolint:nilerr // a damaged segment says nothing of what follows it; verify finds it
	}
	j.last, j.by = wal.LSN(h.LastRecord), archive.WrittenBy(h)
	return j, nil
}

// check compares the first record of a segment, of which begin has arrived, with the last one before.
func (j *joint) check(name wal.FileName, begin []byte) error {
	if j.last == 0 {
		return nil
	}
	prev, known := wal.PrevOfFirst(begin)
	if !known {
		return nil // more is to come; a record may go through whole segments
	}
	last := j.last
	j.last = 0
	if prev == 0 || prev == last {
		return nil
	}
	return archive.Disagreement(&archive.RefusedError{
		Name: name.String(), Key: j.key, Writer: j.by,
		Reason: fmt.Sprintf("the server sends WAL that goes on from a record at %s, and in the archive the last one before is at %s", prev, last),
	})
}

// behind is the error for a server whose WAL ends before the archive does, though it should have written it.
func (p plan) behind(ref catalog.ClusterRef, start, end wal.LSN, standby bool) error {
	text := fmt.Sprintf("the archive goes up to %s, the server only to %s", start, end)
	if standby || !p.joins {
		return errors.New(text + ": waiting for it")
	}
	return archive.Disagreement(&archive.RefusedError{Name: p.before.String(), Key: ref.WALKey(p.before, ""), Reason: text + ", and it is no standby"})
}
