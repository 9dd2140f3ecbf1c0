package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"pgstow/storage"
	"pgstow/storage/object"
	"pgstow/wal"
)

// maxStoredSegment bounds a stored segment, in bytes: 1 GiB that does not compress, and a little.
const maxStoredSegment = 1<<30 + 16<<20

// StoredSegments is a SegmentFacts that asks the store and remembers the answers. Safe for concurrent use.
type StoredSegments struct {
	repo *Repository
	wal  *WALIndex

	mu      sync.Mutex
	headers map[SegmentID]SegmentFact
	decoded map[decodeID]SegmentFact
}

type decodeID struct {
	SegmentID
	until wal.LSN
}

// NewStoredSegments answers for the segments of an index.
func NewStoredSegments(r *Repository, x *WALIndex) *StoredSegments {
	return &StoredSegments{repo: r, wal: x, headers: map[SegmentID]SegmentFact{}, decoded: map[decodeID]SegmentFact{}}
}

// Header reads the object's clear header, which also a host without identity can.
func (s *StoredSegments) Header(ctx context.Context, tli wal.TimelineID, n wal.SegmentNumber) (SegmentFact, error) {
	id := SegmentID{tli, n}
	s.mu.Lock()
	f, ok := s.headers[id]
	s.mu.Unlock()
	if ok {
		return f, nil
	}
	name := wal.SegmentName(tli, n, s.wal.SegmentSize)
	key := s.wal.Ref.WALKey(name, "")
	head, _, err := storage.ReadRange(ctx, s.repo.Store, key, storage.Range{Length: object.HeaderSize}, object.HeaderSize)
	if err != nil {
		return f, fmt.Errorf("header of %s: %w", key, err)
	}
	h, err := object.ParseHeader(head)
	if err == nil {
		err = s.checkHeader(h, object.KindWAL, name)
	}
	if err != nil {
		return f, fmt.Errorf("header of %s: %w", key, err)
	}
	f = factOfHeader(h)
	s.mu.Lock()
	s.headers[id] = f
	s.mu.Unlock()
	return f, nil
}

func factOfHeader(h object.Header) SegmentFact {
	f := SegmentFact{
		LastRecord: wal.LSN(h.LastRecord), MaxXID: h.MaxXID,
		Switch: h.Flags&object.FlagSwitch != 0, HasRestorePoints: h.Flags&object.FlagRestorePoint != 0,
	}
	if h.FirstCommit != 0 {
		f.FirstCommit = time.UnixMicro(h.FirstCommit).UTC()
	}
	if h.LastCommit != 0 {
		f.LastCommit = time.UnixMicro(h.LastCommit).UTC()
	}
	return f
}

func (s *StoredSegments) checkHeader(h object.Header, kind object.Kind, name wal.FileName) error {
	if h.Kind != kind || h.Name != name.String() || h.SystemID != s.wal.Ref.SystemID {
		return fmt.Errorf("the object says it is %s %q of system %d", h.Kind, h.Name, h.SystemID)
	}
	return nil
}

// Prefetch reads many headers at a time.
func (s *StoredSegments) Prefetch(ctx context.Context, segments []SegmentID) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(readParallel)
	for _, id := range segments {
		group.Go(func() error {
			_, err := s.Header(ctx, id.Timeline, id.Number)
			return err
		})
	}
	return group.Wait()
}

// Decode reads the segment or its pieces.
func (s *StoredSegments) Decode(ctx context.Context, tli wal.TimelineID, n wal.SegmentNumber, until wal.LSN) (SegmentFact, error) {
	id := decodeID{SegmentID{tli, n}, until}
	s.mu.Lock()
	f, ok := s.decoded[id]
	s.mu.Unlock()
	if ok {
		return f, nil
	}
	name := wal.SegmentName(tli, n, s.wal.SegmentSize)
	var seg []byte
	var err error
	whole := s.wal.Timeline(tli).Has(n)
	if whole {
		seg, err = s.plain(ctx, s.wal.Ref.WALKey(name, ""), object.KindWAL, name)
	} else {
		var end wal.LSN
		seg, end, whole, err = s.unfinished(ctx, tli, name, n)
		until = min(until, end)
	}
	if err == nil {
		f, err = factOfRecords(seg, until, whole)
	}
	if err != nil {
		return f, fmt.Errorf("records of %s: %w", name, err)
	}
	s.mu.Lock()
	s.decoded[id] = f
	s.mu.Unlock()
	return f, nil
}

func (s *StoredSegments) plain(ctx context.Context, key string, kind object.Kind, name wal.FileName) ([]byte, error) {
	stored, _, err := storage.ReadAll(ctx, s.repo.Store, key, maxStoredSegment)
	if err != nil {
		return nil, err
	}
	obj, err := object.Open(stored, s.repo.identities)
	if err != nil {
		return nil, identityHint(err)
	}
	if err := s.checkHeader(obj.Header(), kind, name); err != nil {
		return nil, err
	}
	return obj.Plain()
}

// replacedTries is how often pieces are looked for again that a receiver has replaced: it goes on while we read.
const replacedTries = 5

// unfinished reads a segment of which the index knows pieces only. Since it was listed a receiver may have stored the full segment, or a larger
// piece, and have removed what was listed.
func (s *StoredSegments) unfinished(ctx context.Context, tli wal.TimelineID, name wal.FileName, n wal.SegmentNumber) (seg []byte, end wal.LSN, whole bool, err error) {
	listed := s.wal.Timeline(tli).PiecesEnd(n, s.wal.SegmentSize)
	for range replacedTries {
		seg, end, err = s.assemble(ctx, name, n)
		if err != nil && !errors.Is(err, storage.ErrNotExist) || err == nil && end >= listed {
			return seg, end, false, err
		}
		full, ferr := s.plain(ctx, s.wal.Ref.WALKey(name, ""), object.KindWAL, name)
		if !errors.Is(ferr, storage.ErrNotExist) {
			return full, s.wal.SegmentSize.End(n), true, ferr
		}
	}
	return seg, end, false, err
}

// assemble lays the pieces of a segment over zeros, as far as they reach without a gap. Bytes that two pieces have must be
// equal (RULES-archive A14).
func (s *StoredSegments) assemble(ctx context.Context, name wal.FileName, n wal.SegmentNumber) ([]byte, wal.LSN, error) {
	size := s.wal.SegmentSize
	start := size.Start(n)
	seg := make([]byte, size)
	end := start
	for info, err := range s.repo.Store.List(ctx, s.wal.Ref.WALKey(name, "")+".", "") {
		if err != nil {
			return nil, 0, err
		}
		p, ok := ParseWALKey(s.wal.Ref, info.Key)
		if !ok || p.Kind != WALPiece || p.From < start || p.To > size.End(n) {
			continue
		}
		if p.From > end {
			break
		}
		data, err := s.plainPiece(ctx, info.Key, p)
		if err != nil {
			return nil, 0, err
		}
		have := data[:min(end, p.To)-p.From]
		if at := p.From - start; !bytes.Equal(seg[at:][:len(have)], have) {
			return nil, 0, fmt.Errorf("%s disagrees with the pieces before it", info.Key)
		}
		copy(seg[p.From-start:], data)
		end = max(end, p.To)
	}
	return seg, end, nil
}

func (s *StoredSegments) plainPiece(ctx context.Context, key string, p WALObject) ([]byte, error) {
	stored, _, err := storage.ReadAll(ctx, s.repo.Store, key, maxStoredSegment)
	if err != nil {
		return nil, err
	}
	obj, err := object.Open(stored, s.repo.identities)
	if err != nil {
		return nil, identityHint(err)
	}
	h := obj.Header()
	if h.Kind != object.KindPiece || h.Name != path.Base(key) || h.From != uint64(p.From) || h.To != uint64(p.To) || h.SystemID != s.wal.Ref.SystemID || h.PlainSize != int64(p.To-p.From) {
		return nil, fmt.Errorf("%s: the object says it is %s %q from %s to %s", key, h.Kind, h.Name, wal.LSN(h.From), wal.LSN(h.To))
	}
	return obj.Plain()
}

// factOfRecords looks at the records of a segment that end at or before until. Of a whole segment every record must be
// sound; what comes behind pieces is zeros, where the chain of records must end.
func factOfRecords(seg []byte, until wal.LSN, whole bool) (SegmentFact, error) {
	f := SegmentFact{Exact: true}
	head, err := wal.ParseSegmentHeader(seg)
	if err != nil {
		var bad *wal.SegmentError
		if !whole && errors.As(err, &bad) {
			return f, nil // not even a header is there yet
		}
		return f, err
	}
	for r, err := range wal.Records(seg) {
		if err != nil {
			var bad *wal.SegmentError
			if errors.As(err, &bad) && (!whole || bad.LSN >= until) {
				return f, nil
			}
			return f, err
		}
		if r.LSN >= until {
			return f, nil
		}
		f.Begins = r.LSN
		if !r.Complete || r.End > until {
			return f, nil
		}
		f.take(&r, head.Major)
	}
	return f, nil
}

func (f *SegmentFact) take(r *wal.Record, major int) {
	f.LastRecord = r.LSN
	f.sawXID(r.XID)
	if r.IsSwitch() {
		f.Switch = true
	}
	if rp, ok := r.RestorePoint(); ok {
		f.HasRestorePoints = true
		f.RestorePoints = append(f.RestorePoints, rp)
	}
	t, ok := r.Transaction(major, nil)
	if !ok {
		return
	}
	f.sawXID(t.XID)
	if f.FirstCommit.IsZero() || t.Time.Before(f.FirstCommit) {
		f.FirstCommit = t.Time
	}
	if t.Time.After(f.LastCommit) {
		f.LastCommit = t.Time
	}
}

// firstNormalXID is the first id that an ordinary transaction gets (include/access/transam.h).
const firstNormalXID = 3

func (f *SegmentFact) sawXID(xid uint32) {
	if xid >= firstNormalXID && (f.MaxXID == 0 || xidPrecedes(f.MaxXID, xid)) {
		f.MaxXID = xid
	}
}
