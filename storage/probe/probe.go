// Package probe finds out by trying what a store really does. Some stores take the header of a condition, ignore it and
// answer that all went well; no documentation replaces asking.
package probe

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"pgstow/storage"
)

// Capabilities is what a store was found to do. It belongs to the address and the day on which it was found.
type Capabilities struct {
	// ConditionalPut: of two Puts under IfAbsent the second is refused. Without it nothing protects WAL from being
	// replaced.
	ConditionalPut bool `json:"conditional_put"`
	// CompareAndSwap: IfMatch lets the right ETag pass and refuses a stale one and a missing object.
	CompareAndSwap bool `json:"compare_and_swap"`
	// ReadAfterWrite: a Get right after a Put, a replacing Put or a Delete sees it.
	ReadAfterWrite bool `json:"read_after_write"`
	// ListAfterWrite: a List does, and in the order of keys.
	ListAfterWrite bool `json:"list_after_write"`
	// ChecksumVerified: a body that does not fit its checksum is refused. False as well for a store to which no
	// checksum can be sent, such as a folder.
	ChecksumVerified bool `json:"checksum_verified"`

	// ClockDifference is by how much the store's clock is ahead of this host's, in nanoseconds in JSON. S3 tells it in
	// whole seconds. Zero if the store does not tell its time.
	ClockDifference time.Duration `json:"clock_difference"`

	Store string    `json:"store"` // storage.Store.String
	Date  time.Time `json:"date"`  // of the probe, by this host's clock
}

// Missing lists, for messages, what of the things that pgstow relies on the store lacks; empty if nothing.
func (c Capabilities) Missing() []string {
	var out []string
	for _, m := range []struct {
		ok   bool
		what string
	}{
		{c.ConditionalPut, "create only if absent (If-None-Match)"},
		{c.CompareAndSwap, "compare-and-swap (If-Match)"},
		{c.ReadAfterWrite, "read after write"},
		{c.ListAfterWrite, "list after write"},
	} {
		if !m.ok {
			out = append(out, m.what)
		}
	}
	return out
}

// Run probes the store with small objects below prefix, a key without a slash at its end, and deletes them. What the
// store lacks is in the result; an error means that it could not be used at all: no permission, no bucket, no answer.
// s may be wrapped by storage/retry.
func Run(ctx context.Context, s storage.Store, prefix string) (Capabilities, error) {
	p := &probe{s: s, dir: prefix + "/" + strings.ToLower(rand.Text())}
	p.caps = Capabilities{Store: s.String(), Date: time.Now().UTC().Truncate(time.Second)}
	err := p.all(ctx)
	// Also after an error or the end of ctx: what was stored shall not stay.
	cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if derr := s.Delete(cleanup, p.keys...); err == nil && derr != nil {
		err = fmt.Errorf("deleting its objects: %w", derr)
	}
	if err != nil {
		return Capabilities{}, fmt.Errorf("probe of %s: %w", s, err)
	}
	return p.caps, nil
}

type probe struct {
	s    storage.Store
	dir  string
	keys []string // to delete
	caps Capabilities
}

func (p *probe) key(name string) string {
	key := p.dir + "/" + name
	p.keys = append(p.keys, key)
	return key
}

func (p *probe) all(ctx context.Context) error {
	for _, step := range []func(context.Context) error{p.clock, p.create, p.swap, p.read, p.list, p.checksum} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// clock is also the first Put: one that fails says that the store cannot be used.
func (p *probe) clock(ctx context.Context) error {
	before := time.Now()
	info, err := p.s.Put(ctx, p.key("clock"), []byte("pgstow probe"), storage.Any)
	if err != nil {
		return err
	}
	if info.Now.IsZero() {
		return nil
	}
	// The store looked at its clock somewhere between.
	after := time.Now()
	switch now := info.Now; {
	case now.Before(before.Truncate(time.Second)): // S3 cuts fractions off
		p.caps.ClockDifference = now.Sub(before)
	case now.After(after):
		p.caps.ClockDifference = now.Sub(after)
	}
	return nil
}

func (p *probe) create(ctx context.Context) error {
	key := p.key("create")
	first, second := []byte("first"), []byte("second")
	if _, err := p.s.Put(ctx, key, first, storage.IfAbsent); lacks(err) {
		return nil
	} else if err != nil {
		return err
	}
	_, err := p.s.Put(ctx, key, second, storage.IfAbsent)
	refused := errors.Is(err, storage.ErrExist)
	if err != nil && !refused && !lacks(err) {
		return err
	}
	body, err := p.get(ctx, key)
	p.caps.ConditionalPut = refused && bytes.Equal(body, first)
	return err
}

func (p *probe) swap(ctx context.Context) error {
	key := p.key("swap")
	first, err := p.s.Put(ctx, key, []byte("first"), storage.Any)
	if err != nil {
		return err
	}
	missing := p.key("swap-missing")
	ok := true
	for _, try := range []struct {
		key, body string
		pass      bool
	}{{key, "second", true}, {key, "third", false}, {missing, "fourth", false}} {
		switch _, err := p.s.Put(ctx, try.key, []byte(try.body), storage.IfMatch(first.ETag)); {
		case lacks(err):
			return nil
		case err != nil && !errors.Is(err, storage.ErrExist):
			return err
		default:
			ok = ok && (err == nil) == try.pass
		}
	}
	body, err := p.get(ctx, key)
	p.caps.CompareAndSwap = ok && string(body) == "second"
	return err
}

// lacks reports whether err is how a store answers to a condition that it does not know.
func lacks(err error) bool {
	return errors.Is(err, storage.ErrUnsupported) || errors.Is(err, storage.ErrRejected)
}

// rounds is how often reading and listing are tried: a store that is wrong only sometimes must not pass by luck.
const rounds = 3

func (p *probe) read(ctx context.Context) error {
	ok := true
	for i := range rounds {
		key := p.key(fmt.Sprintf("read-%d", i))
		if body, err := p.get(ctx, key); err != nil || body != nil { // also makes caches remember that it is not there
			ok = false
			if err != nil {
				return err
			}
		}
		for _, version := range []string{"first", "second"} {
			if _, err := p.s.Put(ctx, key, []byte(version), storage.Any); err != nil {
				return err
			}
			body, err := p.get(ctx, key)
			if err != nil {
				return err
			}
			ok = ok && string(body) == version
		}
		if err := p.s.Delete(ctx, key); err != nil {
			return err
		}
		body, err := p.get(ctx, key)
		if err != nil {
			return err
		}
		ok = ok && body == nil
	}
	p.caps.ReadAfterWrite = ok
	return nil
}

// get returns nil without an error for a missing object.
func (p *probe) get(ctx context.Context, key string) ([]byte, error) {
	body, _, err := storage.ReadAll(ctx, p.s, key, 1<<10)
	if errors.Is(err, storage.ErrNotExist) {
		return nil, nil
	}
	return body, err
}

func (p *probe) list(ctx context.Context) error {
	ok := true
	var want []string
	for _, name := range []string{"list/a-b", "list/a/b", "list/a0"} { // in the order of keys, which is not that of folders
		key := p.key(name)
		if _, err := p.s.Put(ctx, key, nil, storage.Any); err != nil {
			return err
		}
		want = append(want, key)
		if err := p.compareList(ctx, want, &ok); err != nil {
			return err
		}
	}
	if err := p.s.Delete(ctx, want[0]); err != nil {
		return err
	}
	if err := p.compareList(ctx, want[1:], &ok); err != nil {
		return err
	}
	p.caps.ListAfterWrite = ok
	return nil
}

func (p *probe) compareList(ctx context.Context, want []string, ok *bool) error {
	n := 0
	for info, err := range p.s.List(ctx, p.dir+"/list/", "") {
		if lacks(err) { // not in order
			*ok = false
			return nil
		}
		if err != nil {
			return err
		}
		*ok = *ok && n < len(want) && info.Key == want[n]
		n++
	}
	*ok = *ok && n == len(want)
	return nil
}

func (p *probe) checksum(ctx context.Context) error {
	c, ok := storage.Find[storage.ChecksumProber](p.s)
	if !ok {
		return nil
	}
	// This goes past the wrapper that retries.
	for try := 1; ; try++ {
		refused, err := c.ProbeChecksum(ctx, p.key("checksum"))
		if err == nil {
			p.caps.ChecksumVerified = refused
			return nil
		}
		if try == checksumTries || context.Cause(ctx) != nil {
			return err
		}
	}
}

// checksumTries is how often the store is asked; a store that does not answer was found out before.
const checksumTries = 5
