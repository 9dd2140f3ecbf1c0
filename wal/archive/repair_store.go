package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"syscall"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/object"
	"pgstow/wal"
)

// recycled is the action for a file that only waits to be used again.
const recycled RepairAction = "recycled"

// one decides about one file, and does it. A refusal is a result; an error ends the repair.
func (r *repair) one(ctx context.Context, i int) (RepairedFile, error) {
	f := r.files[i]
	out := RepairedFile{Name: f.base}
	there := r.present(f)
	switch {
	case f.state == recycledFile:
		out.Action = recycled
		return out, nil
	case f.state == packedFile:
		return skipped(out, f.reason), nil
	case f.state == foreignFile:
		err := &RefusedError{Name: f.base, Reason: f.reason}
		return refused(out, &catalog.HintError{Err: err, Hint: "is it the right folder, and the right cluster? pgstow inspect shows whose WAL a file holds"}), nil
	case !there && r.old(f):
		return skipped(out, "it is older than all that the archive has"), nil
	}
	if !there {
		if other := r.otherWay(i); other != "" {
			err := &RefusedError{Name: f.base, Reason: other + " is not the archive's: this is WAL of a server that went another way"}
			return refused(out, err), nil
		}
	}
	out, err := r.file(ctx, f)
	if errors.Is(err, errFileChanged) {
		out, err = r.file(ctx, f)
	}
	var no *RefusedError
	switch {
	case errors.As(err, &no):
		return refused(out, err), nil
	case errors.Is(err, errFileChanged):
		return skipped(out, "the server is writing it"), nil
	case errors.Is(err, os.ErrNotExist) && !exists(filepath.Join(r.From, f.base)):
		out.Action = recycled
		return out, nil
	}
	return out, err
}

// otherWay names a segment that differs from the archive's and tells that the ith file is of the same other history: one before it, however
// far, since the WAL of two servers can be equal again for a while; or the nearest one behind it that was compared. "" if there is none.
func (r *repair) otherWay(i int) string {
	f := r.files[i]
	if f.name.Kind != wal.Segment && f.name.Kind != wal.Partial {
		return ""
	}
	for j := i - 1; j >= 0 && r.files[j].name.Timeline == f.name.Timeline; j-- {
		if r.differs(j) {
			return r.files[j].base
		}
	}
	for j := i + 1; j < len(r.files) && r.files[j].name.Timeline == f.name.Timeline; j++ {
		switch {
		case r.differs(j):
			return r.files[j].base
		case r.files[j].name.Kind == wal.Segment && r.present(r.files[j]) && r.done[j].Action == RepairExisted:
			return ""
		}
	}
	return ""
}

// differs tells whether a segment was compared with what the archive has under its name, and is something else.
func (r *repair) differs(j int) bool {
	var no *RefusedError
	return r.files[j].name.Kind == wal.Segment && r.present(r.files[j]) && errors.As(r.done[j].Err, &no) && no.Key != ""
}

func skipped(f RepairedFile, reason string) RepairedFile {
	f.Action, f.Reason = RepairSkipped, reason
	return f
}

func refused(f RepairedFile, err error) RepairedFile {
	f.Action, f.Reason, f.Err = RepairRefused, err.Error(), err
	return f
}

func (r *repair) file(ctx context.Context, f localFile) (RepairedFile, error) {
	out := RepairedFile{Name: f.base}
	p, err := openFile(filepath.Join(r.From, f.base))
	if err != nil {
		return out, err
	}
	defer p.close()
	ctx, cancel := context.WithTimeoutCause(ctx, r.total(p.id.Size), errDeadline)
	defer cancel()
	if err = p.read(nil); err == nil && p.mapped {
		err = p.unchanged()
	}
	if err != nil {
		return out, err
	}
	out.PlainSize = p.id.Size
	err = p.inspect(r.server)
	var seg *wal.SegmentError
	broken := errors.As(err, &seg) && (seg.Reason == wal.ReasonIncomplete || seg.Reason == wal.ReasonDamaged)
	switch {
	case seg != nil && seg.Reason == wal.ReasonSize:
		return skipped(out, "it is no whole file: "+seg.Error()), nil
	case err != nil && !broken:
		return out, err
	case p.segment != nil && p.segment.SegmentSize != r.info.SegmentSize:
		return out, p.refuse(fmt.Sprintf("its segments have %d bytes, and those of the archive's server have %d", p.segment.SegmentSize, r.info.SegmentSize), nil)
	case broken || p.partial || p.name.Kind == wal.Partial:
		out, err = r.unfinished(ctx, f, p, out, seg)
	default:
		out.From, out.To = wal.LSN(p.header.From), wal.LSN(p.header.To)
		out, err = r.put(ctx, p, out)
	}
	return out, explain(ctx, err)
}

// put stores a file under its own name, or compares it with what is there.
func (r *repair) put(ctx context.Context, p *pushFile, out RepairedFile) (RepairedFile, error) {
	own := p.header
	own.PlainSHA256, own.PlainSize = sha256.Sum256(p.plain), int64(len(p.plain))
	hash8 := fmt.Sprintf("%x", own.PlainSHA256[:4])
	out.Key = r.server.ref.WALKey(p.name, hash8)
	t := r.index.Timeline(p.name.Timeline)
	there := r.present(localFile{name: p.name}) || p.name.Kind == wal.Partial &&
		slices.ContainsFunc(t.Partials, func(o catalog.WALObject) bool { return o.Name == p.name && o.Hash8 == hash8 })
	if there {
		out.Action = RepairExisted
		return out, r.compare(ctx, out.Key, own)
	}
	if r.DryRun {
		out.Action = RepairMissing
		return out, nil
	}
	var err error
	out.Action, out.StoredSize, err = r.store(ctx, p, out.Key, p.header, p.plain)
	return out, err
}

func (r *repair) compare(ctx context.Context, key string, own object.Header) error {
	ctx, _, stop := watched(ctx, r.Stall)
	defer stop()
	return explain(ctx, compareOrAside(ctx, r.Store, key, own))
}

// store makes the bytes durable here, then creates the object: WAL that the archive has must not be able to vanish from the server, which
// would write something else in its place.
func (r *repair) store(ctx context.Context, p *pushFile, key string, h object.Header, plain []byte) (RepairAction, int64, error) {
	if err := p.f.Sync(); err != nil && !errors.Is(err, syscall.EROFS) && !errors.Is(err, syscall.EINVAL) {
		return "", 0, fmt.Errorf("sync %s: %w", p.path, err)
	}
	h.Time, h.Host, h.DataDirectory, h.Program = r.Now(), r.Host, r.source(), r.Program
	e, err := r.encodePlain(h, plain)
	if err != nil {
		return "", 0, err
	}
	defer e.close()
	if err := p.unchanged(); err != nil {
		return "", 0, err
	}
	if h, err = object.ParseHeader(e.bytes); err != nil {
		return "", 0, err
	}
	outcome, err := r.PushOptions.store(ctx, r.repo, key, h, e.bytes)
	switch {
	case err != nil:
		return "", 0, err
	case outcome == Existed:
		return RepairExisted, 0, nil
	}
	return RepairStored, int64(len(e.bytes)), nil
}

// source tells others where the file lay.
func (r *repair) source() string {
	if r.PGData != "" && filepath.Clean(r.From) == filepath.Join(r.PGData, "pg_wal") {
		return absolute(r.PGData)
	}
	return absolute(r.From)
}

func (r *repair) encodePlain(h object.Header, plain []byte) (*encoded, error) {
	w := r.repo.WriterOptions()
	w.Level, w.Concurrency, w.Hash, w.Verify = r.Level, 1, true, !r.SkipVerify
	if len(plain) > mapFrom {
		return encodeLarge(w, h, plain, "")
	}
	b, err := object.EncodeAll(w, h, plain)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return &encoded{bytes: b}, nil
}

// unfinished decides about a segment of which the folder has the beginning only.
func (r *repair) unfinished(ctx context.Context, f localFile, p *pushFile, out RepairedFile, why *wal.SegmentError) (RepairedFile, error) {
	asPartial := p.name
	asPartial.Kind = wal.Partial
	info, err := wal.InspectSegment(p.plain, asPartial)
	if err != nil {
		return out, p.refuse("it is not a segment", err)
	}
	size := info.Header.SegmentSize
	name := p.name.Segment()
	out.From, out.To = name.Start(size), info.CompleteTo
	t := r.index.Timeline(name.Timeline)
	n := name.Number(size)
	fork, left := r.forkIn(name, size)
	stored, any := lastStored(t)
	switch {
	case left && (p.name.Kind == wal.Partial || info.CompleteTo <= fork):
		// What a newer timeline has too: the file that its server made of the old one's last segment.
		p.name, p.segment = asPartial, &info.Header
		p.header.Name, p.header.Kind = asPartial.String(), kindOf(wal.Partial)
		p.header.From, p.header.To = uint64(out.From), uint64(out.To)
		return r.put(ctx, p, out)
	case !f.last:
		return skipped(out, "it is damaged: "+text(why)), nil
	case info.CompleteTo < out.From+wal.LongHeaderSize+1:
		out.Action = recycled
		return out, nil
	case t.Has(n):
		return r.known(ctx, p, out, []span{{r.server.ref.WALKey(name, ""), out.From, size.End(n)}}, "the archive has the whole segment")
	case r.result.Running:
		return skipped(out, "the server runs and has not finished it: it will be archived when it is full, or after SELECT pg_switch_wal()"), nil
	case any && stored > n:
		return skipped(out, fmt.Sprintf("only its beginning is here, up to %s, and the archive goes on behind it: find the whole file", out.To)), nil
	}
	return r.piecewise(ctx, p, out, t)
}

func text(e *wal.SegmentError) string {
	if e == nil {
		return "its WAL ends before the segment does"
	}
	return e.Error()
}

// pieceSize bounds the plain bytes of a piece: its reader holds one in memory.
const pieceSize = 16 << 20

// piecewise stores the beginning of a segment, up to the end of its last whole record. Pieces that a receiver left are compared first:
// WAL that contradicts them would make all of them useless to recovery.
func (r *repair) piecewise(ctx context.Context, p *pushFile, out RepairedFile, t *catalog.TimelineWAL) (RepairedFile, error) {
	name := p.name.Segment()
	out.Piece, out.PlainSize = true, int64(out.To-out.From)
	n := name.Number(r.info.SegmentSize)
	there, err := r.pieces(ctx, name)
	if err != nil {
		return out, err
	}
	if len(there) > 0 {
		known, err := r.known(ctx, p, out, there, "the archive's pieces reach "+t.PiecesEnd(n, r.info.SegmentSize).String())
		if err != nil || t.PiecesEnd(n, r.info.SegmentSize) >= out.To {
			return known, err
		}
	}
	if r.DryRun {
		out.Action = RepairMissing
		return out, nil
	}
	for from := out.From; from < out.To; {
		to := min(from+pieceSize, out.To)
		out.Key = r.server.ref.PieceKey(name, from, to)
		h := object.Header{
			Kind: object.KindPiece, Name: path.Base(out.Key), SystemID: r.server.ref.SystemID, Timeline: uint32(name.Timeline), From: uint64(from), To: uint64(to),
		}
		action, size, err := r.store(ctx, p, out.Key, h, p.plain[from-out.From:to-out.From])
		if err != nil {
			return out, err
		}
		if out.Action != RepairStored {
			out.Action = action
		}
		out.StoredSize += size
		from = to
	}
	return out, nil
}

// pieces lists those that the archive has of a segment.
func (r *repair) pieces(ctx context.Context, name wal.FileName) ([]span, error) {
	var out []span
	for info, err := range r.Store.List(ctx, r.server.ref.WALKey(name, "")+".", "") {
		if err != nil {
			return nil, err
		}
		if o, ok := catalog.ParseWALKey(r.server.ref, info.Key); ok && o.Kind == catalog.WALPiece {
			out = append(out, span{info.Key, o.From, o.To})
		}
	}
	return out, nil
}

// span is an object of the archive that holds a range of WAL.
type span struct {
	key      string
	from, to wal.LSN
}

// known compares the beginning of a segment with objects that hold the same range. A host that cannot open them takes their word.
func (r *repair) known(ctx context.Context, p *pushFile, out RepairedFile, there []span, has string) (RepairedFile, error) {
	out.Action, out.Reason = RepairExisted, has
	for _, s := range there {
		out.Key = s.key
		same, writer, err := r.sameBytes(ctx, p, out, s)
		switch {
		case errors.Is(err, object.ErrNoIdentity), errors.Is(err, object.ErrWrongIdentity):
			out.Reason = has + "; this host cannot open it to compare"
		case err != nil:
			return out, fmt.Errorf("%s: %w", s.key, err)
		case !same:
			return out, withHint(&RefusedError{Name: p.base, Reason: "the archive has other bytes for the same WAL", Key: s.key, Writer: writer})
		}
	}
	return out, nil
}

// sameBytes compares what the file and the object both have.
func (r *repair) sameBytes(ctx context.Context, p *pushFile, out RepairedFile, s span) (bool, *Writer, error) {
	ctx, w, stop := watched(ctx, r.Stall)
	defer stop()
	body, _, err := r.Store.Get(ctx, s.key, storage.Range{})
	if err != nil {
		return false, nil, explain(ctx, err)
	}
	defer func() { _ = body.Close() }()
	stream, err := object.DecodeStream(w.reader(body), r.Pins.Identities, 0)
	if err != nil {
		return false, nil, explain(ctx, err)
	}
	from, to := max(s.from, out.From), min(s.to, out.To)
	if from >= to {
		return true, nil, nil
	}
	c := &comparer{want: p.plain[from-out.From : to-out.From], skip: int64(from - s.from)}
	if _, err := stream.WriteTo(c); err != nil {
		return false, nil, explain(ctx, err)
	}
	return !c.differs && len(c.want) == 0, writerOf(stream.Header()), nil
}

// comparer compares what is written to it, after the first skip bytes, with want.
type comparer struct {
	want    []byte
	skip    int64
	differs bool
}

func (c *comparer) Write(b []byte) (int, error) {
	n := len(b)
	drop := min(c.skip, int64(n))
	c.skip -= drop
	b = b[drop:]
	b = b[:min(len(b), len(c.want))]
	c.differs = c.differs || !bytes.Equal(b, c.want[:len(b)])
	c.want = c.want[len(b):]
	return n, nil
}
