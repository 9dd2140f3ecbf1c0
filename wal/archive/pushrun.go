package archive

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/object"
)

const (
	// archiveRecord is the spool's record of an archive that was opened and whose cluster was found or made.
	archiveRecord = "archive"
	recordAge     = time.Hour
	// pushConcurrency is how many frames are compressed at a time: the server needs the other processors.
	pushConcurrency = 2
)

func push(ctx context.Context, o PushOptions, path string) (PushResult, error) {
	o.setDefaults()
	p, err := openFile(path)
	if err != nil {
		return PushResult{}, fmt.Errorf("push %s: %w", path, err)
	}
	defer p.close()
	if o.Spool.Stored(p.base, p.id) {
		return PushResult{Name: p.base, Outcome: Marked}, nil
	}
	outer := ctx
	ctx, cancel := context.WithTimeoutCause(ctx, o.total(p.id.Size), errDeadline)
	defer cancel()
	pulse, marked, err := o.claimOwn(ctx, p)
	if err != nil {
		return PushResult{Name: p.base}, fmt.Errorf("push %s: %w", p.base, err)
	}
	defer pulse.end()
	if marked {
		return PushResult{Name: p.base, Outcome: Marked}, nil
	}
	began := time.Now()
	beside := &beside{o: &o, p: p}
	result, err := o.run(ctx, p, attempt{pulse: pulse, opened: func() { beside.start(outer) }})
	beside.finish(time.Since(began), err)
	if err != nil {
		o.forget(err)
		o.keepRefused(p.base, err)
		return result, fmt.Errorf("push %s: %w", p.base, explain(ctx, err))
	}
	o.mark(p)
	return result, nil
}

// forget drops what the spool remembers of the archive after an error: whatever is wrong, the next call looks at it anew.
func (o *PushOptions) forget(err error) {
	var refused *RefusedError
	if !errors.As(err, &refused) {
		o.Spool.Forget(archiveRecord)
	}
}

// mark notes that the archive has confirmed the file.
func (o *PushOptions) mark(p *pushFile) {
	if err := o.Spool.MarkStored(p.base, p.id); err != nil {
		o.warn("the spool could not be written: %v", err)
	}
	o.clearTrouble(p.base)
}

// attempt is what one way of storing a file brings along: the zero value for a call that is alone.
type attempt struct {
	pulse  *pulse       // tells those who wait that this one gets on
	lane   *lane        // memory to use again; nil: new memory
	opened func()       // called when the archive is open, before the long work; nil: nobody is
	repo   *openArchive // an archive that is open already, or will be for the next one
}

func (o *PushOptions) setDefaults() {
	o.Options.setDefaults()
	if o.Deadline <= 0 {
		o.Deadline = DefaultPushDeadline
	}
	if o.Stall <= 0 {
		o.Stall = DefaultPushStall
	}
	if o.PGData != "" && stopping(o.PGData) {
		o.Stall = min(o.Stall, stoppingStall)
	}
}

// total is the most time for a file of size bytes.
func (o *PushOptions) total(size int64) time.Duration {
	const mib, free = 1 << 20, 16
	return o.Deadline + time.Duration(max(0, (size+mib-1)/mib-free))*time.Second
}

func (o *PushOptions) run(ctx context.Context, p *pushFile, a attempt) (PushResult, error) {
	ready, err := o.prepare(ctx, p, a)
	if err != nil {
		return PushResult{Name: p.base}, err
	}
	defer ready.encoded.close()
	return o.send(ctx, p, ready, a)
}

// send stores what was prepared.
func (o *PushOptions) send(ctx context.Context, p *pushFile, ready *prepared, a attempt) (PushResult, error) {
	result, own := PushResult{Name: p.base}, ready.header
	result.Key, result.PlainSize, result.StoredSize, result.AsPartial = ready.key, own.PlainSize, own.StoredSize, p.partial
	ctx = a.pulse.sending(ctx)
	var err error
	result.Outcome, err = o.store(ctx, ready.repo, ready.key, own, ready.encoded.bytes)
	return result, err
}

// prepared is a file that was found good, and encoded.
type prepared struct {
	repo    *catalog.Repository
	key     string
	header  object.Header
	encoded *encoded
}

func (o *PushOptions) prepare(ctx context.Context, p *pushFile, a attempt) (*prepared, error) {
	s, err := findServer(ctx, &o.Options)
	if err != nil {
		return nil, err
	}
	if err := p.read(a.lane); err != nil {
		return nil, err
	}
	if err := p.inspect(s); err != nil {
		return nil, err
	}
	repo, err := a.repo.open(ctx, o, s, p)
	if err != nil {
		return nil, err
	}
	if a.opened != nil {
		a.opened()
	}
	h := p.header
	h.Time, h.Host, h.DataDirectory, h.Program = o.Now(), o.Host, absolute(o.PGData), o.Program
	encoded, err := o.encode(repo, h, p, a.lane)
	if err != nil {
		return nil, err
	}
	h, err = object.ParseHeader(encoded.bytes)
	if p.mapped && err == nil {
		err = p.unchanged()
	}
	if !p.mapped {
		p.plain = nil // while the store is waited for, only the object is held
	}
	if err != nil {
		encoded.close()
		return nil, err
	}
	return &prepared{repo: repo, key: s.ref.WALKey(p.name, fmt.Sprintf("%x", h.PlainSHA256[:4])), header: h, encoded: encoded}, nil
}

// absolute is the whole path of the data directory: PostgreSQL runs archive_command in it, and "." would tell nobody which server wrote.
func absolute(dir string) string {
	if dir == "" {
		return ""
	}
	path, err := filepath.Abs(dir)
	if err != nil {
		return dir
	}
	return path
}

// store creates the object. The bytes are the same in every try of this call, so that a lost reply cannot be mistaken for somebody
// else's object.
func (o *PushOptions) store(ctx context.Context, repo *catalog.Repository, key string, own object.Header, encoded []byte) (Outcome, error) {
	ctx, w, stop := watched(ctx, o.Stall)
	defer stop()
	_, err := repo.Put(ctx, key, encoded, storage.IfAbsent)
	switch {
	case err == nil:
		return Stored, nil
	case errors.Is(err, storage.ErrExist):
		w.moved()
		if err := compareOrAside(ctx, repo.Store, key, own); err != nil {
			return 0, explain(ctx, err)
		}
		return Existed, nil
	default:
		return 0, explain(ctx, err)
	}
}

// open opens the repository and makes sure that the cluster has its place in it. In the steady state the spool remembers both for an
// hour, so that a push is one request; what it remembers is bound to the host's pins again, and does not count where a folder may have
// been unmounted since.
func (o *PushOptions) open(ctx context.Context, s server, p *pushFile) (*catalog.Repository, error) {
	if b, ok := o.Spool.Record(archiveRecord, recordAge, o.Now()); ok && present(ctx, o.Store) {
		if repo, err := catalog.OpenDescriptor(o.Store, o.Pins, b); err == nil {
			o.warnOf(repo)
			return repo, nil
		}
	}
	ctx, w, stop := watched(ctx, o.Stall)
	defer stop()
	repo, err := catalog.Open(ctx, o.Store, o.Pins)
	if err != nil {
		return nil, explain(ctx, err)
	}
	w.moved()
	o.warnOf(repo)
	if repo.ProbeStale() {
		o.warn("relying on the probe of %s on %s, which is another address than %s: run pgstow check", repo.Probe.Store, repo.Probe.Date.Format(time.DateOnly), o.Store)
	}
	if info, ok := s.clusterInfo(p.segment, o.Now(), o.Host); ok {
		_, err = repo.EnsureCluster(ctx, info)
	} else {
		_, err = repo.Cluster(ctx, s.ref)
	}
	if err != nil {
		return nil, explain(ctx, err)
	}
	b, err := repo.Descriptor()
	if err == nil {
		err = o.Spool.PutRecord(archiveRecord, b, o.Now())
	}
	if err != nil {
		o.warn("the spool could not be written: %v", err)
	}
	return repo, nil
}

// warnOf says, at each push, what was accepted by allow_unsafe_store.
func (o *Options) warnOf(repo *catalog.Repository) {
	if repo.Unsafe {
		o.warn("the store has no conditional writes: nothing protects WAL from being replaced by another server's (allow_unsafe_store)")
	}
}

// present tells whether the store is known to be the one that was in use before. A bucket is, by its name.
func present(ctx context.Context, s storage.Store) bool {
	p, ok := storage.Find[storage.Presence](s)
	return !ok || p.CheckPresent(ctx) == nil
}
