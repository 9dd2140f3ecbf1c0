package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/object"
	"pgstow/wal"
)

// fromPieces serves a segment that is not stored as a whole from what was streamed of it. A piece is an object of kind KindPiece; its
// header has the last part of its key as the name, and the range of its bytes in From and To.
//
// Pieces that give the whole segment are as good as the segment. Else the rest is zeros, which a server must not take for a whole one:
// it goes only to plain archive recovery, where recovery ends in it, or to whoever asks for incomplete segments; never before a hole,
// unless that is to be the end; never beyond a fork; and never in place of a local file that has more.
func (f *fetch) fromPieces(ctx context.Context, w *watch, a around, size wal.SegmentSize) error {
	t, err := openTemporary(f.dst)
	if err != nil {
		return &localError{err}
	}
	defer t.close()
	start := f.name.Start(size)
	p := &assembly{f: f, t: t, start: start, end: start, limit: start + wal.LSN(size)}
	for _, piece := range a.pieces {
		if piece.From < start || piece.To > p.limit || piece.From > p.end {
			break // a gap: what is behind it cannot be served
		}
		if err := p.add(ctx, w, piece); err != nil {
			if errors.Is(err, storage.ErrNotExist) {
				return errAgain // the whole segment has arrived, and its pieces are going
			}
			return err
		}
	}
	fork, err := f.forkOf(ctx, w)
	if err != nil {
		return err
	}
	target := min(p.limit, fork)
	p.end = min(p.end, target)
	whole := p.end == p.limit
	switch {
	case whole:
	case !f.recovery && !f.Incomplete, p.end < target && a.next != "" && !f.StopAtHole, p.end < start+wal.LongHeaderSize:
		return f.end(ctx, w, a, start)
	}
	return p.finish(whole, size)
}

// assembly is a segment being put together in the temporary file.
type assembly struct {
	f                 *fetch
	t                 *temporary
	start, end, limit wal.LSN // end: of the gapless bytes so far; limit: of the segment
	headers           []object.Header
}

// add reads one piece that begins at or before the end. Bytes that are there already must be the same.
func (p *assembly) add(ctx context.Context, w *watch, piece catalog.WALObject) error {
	key := p.f.server.ref.PieceKey(piece.Name, piece.From, piece.To)
	body, _, err := p.f.Store.Get(ctx, key, storage.Range{})
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	w.moved()
	s, err := object.DecodeStream(w.reader(body), p.f.Pins.Identities, 0)
	if err == nil {
		err = p.checkPiece(s.Header(), piece, key)
	}
	var plain []byte
	if err == nil {
		plain, err = io.ReadAll(s)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return p.place(s.Header(), piece, plain)
}

func (p *assembly) checkPiece(h object.Header, piece catalog.WALObject, key string) error {
	if err := p.f.checkHeader(h, filepath.Base(key)); err != nil {
		return err
	}
	if h.Kind != object.KindPiece || h.From != uint64(piece.From) || h.To != uint64(piece.To) || h.PlainSize != int64(piece.To-piece.From) {
		return fmt.Errorf("%w: it is a %s of %d bytes from %s to %s", errMisplaced, h.Kind, h.PlainSize, wal.LSN(h.From), wal.LSN(h.To))
	}
	return nil
}

func (p *assembly) place(h object.Header, piece catalog.WALObject, plain []byte) error {
	overlap := int(min(p.end, piece.To) - piece.From)
	have := make([]byte, overlap)
	if _, err := p.t.f.ReadAt(have, int64(piece.From-p.start)); err != nil {
		return &localError{err}
	}
	if i := firstDifference(have, plain[:overlap]); i >= 0 {
		at := piece.From + wal.LSN(i)
		return &DisagreeError{What: "streamed pieces of " + p.f.want, LSN: at, One: p.writerAt(at), Two: writtenBy(h)}
	}
	if _, err := p.t.f.WriteAt(plain[overlap:], int64(p.end-p.start)); err != nil {
		return &localError{err}
	}
	p.end = max(p.end, piece.To)
	p.headers = append(p.headers, h)
	return nil
}

// writerAt names a piece that gave the byte at lsn.
func (p *assembly) writerAt(lsn wal.LSN) string {
	for _, h := range p.headers {
		if uint64(lsn) >= h.From && uint64(lsn) < h.To {
			return writtenBy(h)
		}
	}
	return "an unknown writer"
}

// firstDifference is -1 if a and b, which have one length, are equal.
func firstDifference(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

// finish pads, checks and installs the segment.
func (p *assembly) finish(whole bool, size wal.SegmentSize) error {
	n := int64(p.end - p.start)
	if err := p.t.f.Truncate(n); err != nil {
		return &localError{err}
	}
	if err := p.t.f.Truncate(int64(size)); err != nil {
		return &localError{err}
	}
	head := make([]byte, wal.LongHeaderSize)
	if _, err := p.t.f.ReadAt(head, 0); err != nil {
		return &localError{err}
	}
	seg, err := wal.ParseSegmentHeader(head)
	if err == nil {
		err = p.f.checkSegment(seg, int64(size))
	}
	if err != nil {
		return fmt.Errorf("pieces of %s: %w", p.f.want, err)
	}
	if !whole {
		if err := p.compareLocal(n); err != nil {
			return err
		}
		p.f.warn("fetch %s: only its first %d of %d bytes are in the archive (up to %s); the rest is zero", p.f.want, n, size, p.end)
	}
	return p.t.install(p.f.dst)
}

// compareLocal looks for a file of the segment's name beside the destination: somebody may have saved the dead server's pg_wal, and
// PostgreSQL would prefer what it is given here. Such a file that begins with all that we have is at least as new. One that is sound but
// shorter is older. One that does not begin with a page of this segment at all is a recycled file without meaning.
func (p *assembly) compareLocal(n int64) error {
	path := filepath.Join(filepath.Dir(p.f.dst), p.f.name.String())
	if path == filepath.Clean(p.f.dst) {
		return nil // it is to be replaced
	}
	local, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return &localError{err}
	}
	ours := make([]byte, n)
	if _, err := p.t.f.ReadAt(ours, 0); err != nil {
		return &localError{err}
	}
	if int64(len(local)) >= n && bytes.Equal(local[:n], ours) {
		p.f.warn("fetch %s: %s has all that the archive has, and is left to the server", p.f.want, path)
		return ErrAbsent
	}
	asPartial := p.f.name
	asPartial.Kind = wal.Partial
	info, err := wal.InspectSegment(local, asPartial)
	var foreign *wal.SegmentError
	switch {
	case errors.As(err, &foreign), err == nil && info.Header.SystemID != p.f.server.ref.SystemID:
		return nil
	case err != nil:
		return err
	}
	sound := min(int64(info.CompleteTo-p.start), n)
	if i := firstDifference(local[:sound], ours[:sound]); i >= 0 {
		at := p.start + wal.LSN(i)
		return &DisagreeError{What: "the local file and the archive", LSN: at, One: path, Two: p.writerAt(at)}
	}
	return nil
}
