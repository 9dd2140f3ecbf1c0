package backup

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/object"
)

// Bounds of packs, in bytes.
const (
	// jobPlain is what a job is filled to, in bytes to read.
	jobPlain = 32 << 20
	// packPlain is what a pack is filled to, by one worker's jobs.
	packPlain = 32 << 20
	// packStored closes a pack of data that does not compress, since writers hold
	// packs in memory.
	packStored = 14 << 20
	// frameSize is the plain size of a frame.
	frameSize = object.FrameSize
)

// packStore writes packs: it numbers them, lends out writers, and uploads what is
// finished while workers go on. The number of writers bounds memory.
type packStore struct {
	repo   *catalog.Repository
	header object.Header // what all packs have in common
	ref    catalog.ClusterRef
	id     string

	free chan *object.Writer
	// finish stores a completed pack in the background.
	finish func(*pack)
	next   atomic.Uint32
	stored atomic.Int64

	mu    sync.Mutex
	packs []catalog.PackEntry
}

// newPackStore makes the writers. Uploads run in the group, with its context.
func newPackStore(ctx context.Context, repo *catalog.Repository, ref catalog.ClusterRef, id string, h object.Header, level object.Level, writers int, group *errgroup.Group) (*packStore, error) {
	h.Kind = object.KindPack
	h.SystemID = ref.SystemID
	s := &packStore{
		repo: repo, header: h, ref: ref, id: id, free: make(chan *object.Writer, writers),
	}
	s.finish = func(p *pack) {
		group.Go(func() error {
			defer func() { s.free <- p.w }()
			return s.upload(ctx, p)
		})
	}
	o := repo.WriterOptions()
	o.Level, o.Verify = level, true
	for range writers {
		w, err := object.NewWriter(o)
		if err != nil {
			return nil, err
		}
		s.free <- w
	}
	return s, nil
}

// pack is one that is being filled.
type pack struct {
	w      *object.Writer
	number uint32
	next   uint32 // the frame that is begun next; earlier ones may still be filled
	pages  int64
	isMap  bool
}

// reserve gives a number. Every number must become a pack: the backup fails
// otherwise.
func (s *packStore) reserve() uint32 { return s.next.Add(1) - 1 }

// begin takes a writer, waiting until an upload has freed one, and a number.
func (s *packStore) begin(ctx context.Context, isMap bool) (*pack, error) {
	p, err := s.beginAs(ctx, 0)
	if err != nil {
		return nil, err
	}
	p.number, p.isMap = s.reserve(), isMap
	return p, nil
}

// beginAs takes a writer for a pack whose number was reserved.
func (s *packStore) beginAs(ctx context.Context, number uint32) (*pack, error) {
	select {
	case w := <-s.free:
		w.Reset()
		return &pack{w: w, number: number}, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// upload completes a pack and stores it.
func (s *packStore) upload(ctx context.Context, p *pack) error {
	h := s.header
	h.Name = fmt.Sprintf("%s/%d", s.id, p.number)
	h.Time = time.Now().UTC()
	key := s.ref.PackKey(s.id, int(p.number))
	frames, plain := p.w.Frames(), p.w.PlainSize()
	b, err := p.w.Finish(h)
	if err != nil {
		return fmt.Errorf("pack %s: %w", key, err)
	}
	if err := context.Cause(ctx); err != nil {
		return err // cancelled: nothing more is written
	}
	info, err := s.repo.Put(ctx, key, b, storage.IfAbsent)
	if err != nil {
		return fmt.Errorf("store pack: %w", err)
	}
	e := catalog.PackEntry{
		Backup: s.id, N: int(p.number), Size: int64(len(b)), Frames: frames, PlainSize: plain,
		Created: h.Time, Map: p.isMap, Pages: p.pages,
	}
	if info.SHA256 != nil {
		e.SHA256 = catalog.Digest(*info.SHA256)
	} else {
		e.SHA256 = sha256.Sum256(b)
	}
	s.mu.Lock()
	s.packs = append(s.packs, e)
	s.mu.Unlock()
	s.stored.Add(e.Size)
	return nil
}

// entries returns the stored packs by number, once all uploads have ended.
func (s *packStore) entries() []catalog.PackEntry {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.SortFunc(s.packs, func(a, b catalog.PackEntry) int { return a.N - b.N })
	return s.packs
}
