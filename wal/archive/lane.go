package archive

import (
	"context"
	"errors"
	"sync"
	"time"

	"pgstow/catalog"
	"pgstow/storage/object"
)

// lane is the memory for encoding one file, used again for the next. One that was not made in a lane works like the zero value of a *lane:
// with new memory.
type lane struct {
	plain  []byte
	writer *object.Writer
	repo   *catalog.Repository // the writer's
	width  int                 // frames at a time
}

// room returns n bytes.
func (l *lane) room(n int) []byte {
	if l == nil {
		return make([]byte, n)
	}
	if cap(l.plain) < n {
		l.plain = make([]byte, n)
	}
	return l.plain[:n]
}

// encode makes an object that stays valid until the next one.
func (l *lane) encode(repo *catalog.Repository, w object.WriterOptions, h object.Header, plain []byte) ([]byte, error) {
	if l.writer == nil || l.repo != repo {
		writer, err := object.NewWriter(w)
		if err != nil {
			return nil, err
		}
		l.writer, l.repo = writer, repo
	}
	return l.writer.Encode(h, plain)
}

// buffers are those that hold objects on their way to the store.
type buffers struct {
	mu   sync.Mutex
	free [][]byte
	keep int
}

// bufferUnit is the granularity of their sizes, so that one fits the next object too.
const bufferUnit = 1 << 20

// clone copies b into a buffer, which is to be given back.
func (p *buffers) clone(b []byte) []byte {
	p.mu.Lock()
	var buf []byte
	for i, f := range p.free {
		if cap(f) >= len(b) {
			buf = f
			p.free = append(p.free[:i], p.free[i+1:]...)
			break
		}
	}
	if buf == nil && len(p.free) > 0 { // too small: it makes room for a larger one
		p.free = p.free[1:]
	}
	p.mu.Unlock()
	if buf == nil {
		buf = make([]byte, 0, (len(b)+bufferUnit-1)/bufferUnit*bufferUnit)
	}
	return append(buf[:0], b...)
}

func (p *buffers) give(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.free) < p.keep {
		p.free = append(p.free, b)
	}
}

// openArchive is an archive that is opened once for many files. A nil one opens it for each.
type openArchive struct {
	mu    sync.Mutex
	repo  *catalog.Repository
	since time.Time
}

func (a *openArchive) open(ctx context.Context, o *PushOptions, s server, p *pushFile) (*catalog.Repository, error) {
	if a == nil {
		return o.open(ctx, s, p)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.repo != nil && o.Now().Sub(a.since).Abs() < openAge && present(ctx, o.Store) {
		return a.repo, nil
	}
	repo, err := o.open(ctx, s, p)
	if err != nil {
		return nil, err
	}
	a.repo, a.since = repo, o.Now()
	return repo, nil
}

// openAge is how long an archive stays open. It may have been opened by the spool's record, which is up to recordAge old itself.
const openAge = recordAge / 2

// drop makes the next file look at the archive anew, unless the error was the file's own.
func (a *openArchive) drop(err error) {
	var refused *RefusedError
	if errors.As(err, &refused) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.repo = nil
}
