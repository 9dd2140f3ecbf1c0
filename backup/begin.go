package backup

import (
	"context"

	"pgstow/wal"
)

// begin finds the backup to begin with and how to find what changed since, and says
// so. s is the server's session; nil if none runs.
func (c *creation) begin(ctx context.Context, k *copier, s *session, start wal.LSN, tli wal.TimelineID) error {
	history, err := readHistory(walDir(c.dir), tli)
	if err != nil {
		return err
	}
	cache, noCache := openCache(c.o.CacheDir, c.repo, c.ref, c.id)
	k.cache = cache
	if k.ref, k.why, err = c.findReference(ctx, beginning{start: start, history: history, control: k.control}, cache); err != nil {
		return err
	}
	if k.ref == nil && noCache != "" && !c.o.Full {
		k.why = noCache
	}
	if k.ref != nil {
		if k.ref.changed, k.why = c.summaries(ctx, s, k.ref.header, history, start); k.ref.changed != nil && s != nil {
			if k.why, err = c.otherPast(k.ref.header, history); err != nil {
				return err
			}
			if k.why != "" {
				k.ref.changed = nil
			}
		}
	}
	e := MethodEvent{Method: k.ref.method(), Why: k.why}
	if k.ref != nil {
		e.Reference = k.ref.header.ID
	}
	c.report.emit(e)
	return nil
}
