package archive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/object"
	"pgstow/wal"
)

// Describe inspects the bytes of a whole WAL file as a push does and returns the header that its object has, but for the time and the
// writer. So whoever else stores WAL, such as a receiver, makes the same objects and refuses the same files. A *RefusedError says why
// the file must not be stored.
func Describe(plain []byte, name wal.FileName, ref catalog.ClusterRef) (object.Header, error) {
	// The path is one in no folder: there is no history file beside these bytes that could prove a cut segment to be one.
	p := &pushFile{path: filepath.Join(os.DevNull, name.String()), base: name.String(), name: name, plain: plain}
	if err := p.inspect(server{ref: ref}); err != nil {
		return object.Header{}, err
	}
	return p.header, nil
}

// Confirm decides about an object whose key exists already: nil says that the archive has the very bytes that own describes, or that a
// person has set them aside. It is one read of the stored header, and needs no identity. A *RefusedError names who stored the other one.
func Confirm(ctx context.Context, s storage.Store, key string, own object.Header) error {
	if own.Kind != object.KindPiece {
		return compareOrAside(ctx, s, key, own)
	}
	err := compare(ctx, s, key, own)
	var refused *RefusedError
	if errors.As(err, &refused) {
		return Disagreement(refused)
	}
	return err
}

// Disagreement adds to the refusal of streamed WAL what can have happened and what to do about it.
func Disagreement(e *RefusedError) error {
	return &catalog.HintError{Err: e, Hint: strings.Join([]string{
		"two servers went on from the same point of one timeline (split brain, a clone, a disk brought back from a snapshot); nothing was overwritten",
		"decide which one lives: stop the other, or promote it to a new timeline, or give it an archive of its own (cluster)",
		fmt.Sprintf("pgstow inspect %s shows what is stored; once the segment is stored in full, it is what counts", e.Key),
	}, "\n")}
}

// WrittenBy is who stored an object, as its header says.
func WrittenBy(h object.Header) *Writer { return writerOf(h) }
