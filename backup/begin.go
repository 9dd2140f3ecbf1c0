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
	if k.ref, k.why, err = c.findReference(ctx, beginning{start: start, history: history, control: c.control}); err != nil {
		return err
	}
	if k.ref != nil {
		if k.ref.changed, k.why, err = c.summaries(ctx, s, k.ref.header, history, start); err != nil {
			return err
		}
	}
	c.tellMethod(k)
	return nil
}

// tellMethod says how the changed pages will be found.
func (c *creation) tellMethod(k *copier) {
	e := MethodEvent{Method: k.ref.method(), Why: k.why}
	if k.ref != nil {
		e.Reference = k.ref.header.ID
	}
	c.report.emit(e)
}
