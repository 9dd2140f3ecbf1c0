package archive

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/object"
)

// compare decides about a file whose key exists already: the header of what is stored, which is never encrypted, tells the hash of
// its plain bytes. nil: it is the same. This is the only request after a refused PUT, and it works where nothing can be decrypted.
func compare(ctx context.Context, s storage.Store, key string, own object.Header) error {
	first, info, err := storage.ReadRange(ctx, s, key, storage.Range{Length: object.HeaderSize}, object.HeaderSize)
	if errors.Is(err, storage.ErrNotExist) {
		return fmt.Errorf("%s existed a moment ago and is gone now", key)
	}
	if err != nil && !errors.Is(err, storage.ErrRange) {
		return fmt.Errorf("look at what is stored: %w", err)
	}
	refused := &RefusedError{Name: own.Name, Key: key}
	stored, err := object.ParseHeader(first)
	if err != nil {
		refused.Reason, refused.Err = "the archive has something else under this name, which is no sound object", err
		return withHint(refused)
	}
	refused.Writer = writerOf(stored)
	switch {
	case stored.PlainSHA256 != own.PlainSHA256 || stored.PlainSize != own.PlainSize:
		refused.Reason = "the archive has other bytes under this name"
	case stored.Name != own.Name || stored.Kind != own.Kind || stored.SystemID != own.SystemID || stored.Timeline != own.Timeline:
		refused.Reason = fmt.Sprintf("the object under this name says that it is %s %s of system id %d", stored.Kind, stored.Name, stored.SystemID)
	case stored.StoredSize != info.Size:
		refused.Reason = fmt.Sprintf("the object under this name is damaged: it has %d bytes and says that it has %d", info.Size, stored.StoredSize)
	default:
		return nil
	}
	return withHint(refused)
}

// compareOrAside is compare, and takes it for a success too if a person has settled the matter by setting these very bytes aside.
func compareOrAside(ctx context.Context, s storage.Store, key string, own object.Header) error {
	err := compare(ctx, s, key, own)
	var refused *RefusedError
	if !errors.As(err, &refused) {
		return err
	}
	aside := AsideKey(key, own.PlainSHA256)
	first, _, aerr := storage.ReadRange(ctx, s, aside, storage.Range{Length: object.HeaderSize}, object.HeaderSize)
	switch {
	case errors.Is(aerr, storage.ErrNotExist):
		return err
	case aerr != nil:
		return fmt.Errorf("look for what was set aside: %w", aerr)
	}
	if h, herr := object.ParseHeader(first); herr != nil || h.PlainSHA256 != own.PlainSHA256 || h.Name != own.Name {
		return err
	}
	return nil
}

// withHint tells what a person can do about a refusal: PostgreSQL asks again for ever, pg_wal fills up, and nothing is dropped.
func withHint(e *RefusedError) error {
	lines := []string{
		"if the file does not belong into this server's pg_wal: move it away, and archive_status/" + e.Name + ".ready with it",
		"if it does, it is damaged: look for a whole one (a standby's pg_wal, a file system snapshot); without one recovery cannot pass it, so take a new backup as soon as archiving goes on",
	}
	if e.Key != "" {
		lines = []string{
			"one of three things has happened; nothing was overwritten, and PostgreSQL keeps the file until this is settled:",
			"this server is a copy (clone, restored drill) of the one that wrote it: give it an archive of its own, PGSTOW_CLUSTER=NEW-NAME or cluster = \"NEW-NAME\" in its configuration",
			"both servers went on from the same point (split brain): decide which one lives; stop the other, or let this one go on as a standby and promote it to a new timeline: pg_ctl promote -D PGDATA",
			"what is stored is padded or damaged: look at it with: pgstow inspect " + e.Key + "; then keep both, one under this name and one set aside, with: pgstow wal resolve --keep local|stored pg_wal/" + e.Name,
		}
	}
	return &catalog.HintError{Err: e, Hint: strings.Join(lines, "\n")}
}
