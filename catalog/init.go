package catalog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"pgstow/storage"
	"pgstow/storage/object"
)

// InitOptions say how a repository is made.
type InitOptions struct {
	Recipients     []string // age1…: the repository is encrypted to them, for ever
	EncryptionNone bool     // the other choice; one of the two must be made
	Identities     []object.Identity
	AllowUnsafe    bool // make it although the store has no conditional writes

	// Probe measures the store. If nil only conditional writes are tested, with two writes of a small object.
	Probe func(ctx context.Context, s storage.Store, prefix string) (Capabilities, error)
	Now   func() time.Time // nil: time.Now
}

// Init makes a repository and opens it. It may be run again: a repository that is already there with the same recipients
// is opened (New is false), one that was half made is completed, another one is refused with ErrRecipients.
func Init(ctx context.Context, s storage.Store, o InitOptions) (*Repository, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if (len(o.Recipients) > 0) == o.EncryptionNone {
		return nil, hint(fmt.Errorf("init %s: %w: neither recipients nor encryption = \"none\" (or both)", s, ErrRecipients),
			"pgstow keygen makes a key pair; set recipients to its public half")
	}
	if !o.EncryptionNone {
		if _, err := object.ParseRecipients(o.Recipients); err != nil {
			return nil, fmt.Errorf("init %s: %w", s, err)
		}
	}
	caps, err := measure(ctx, s, o)
	if err != nil {
		return nil, fmt.Errorf("init %s: probe: %w", s, err)
	}
	if !caps.ConditionalPut && !o.AllowUnsafe {
		return nil, fmt.Errorf("init %s: %w", s, unsafeStore())
	}
	now := o.Now().UTC()
	repo := repoDocument{Format: formatVersion, ID: newNonce(), Created: now, Encrypted: len(o.Recipients) > 0}
	created, err := createOnce(ctx, s, RepoKey, repo)
	if err != nil {
		return nil, fmt.Errorf("init %s: %w", s, err)
	}
	gen := generationDocument{Format: formatVersion, Generation: 1, Created: now, Recipients: o.Recipients, Probe: caps}
	if gen.Recipients == nil {
		gen.Recipients = []string{}
	}
	// If somebody else was first, Open below compares what he wrote with what we want.
	if _, err := createOnce(ctx, s, generationKey(1), gen); err != nil {
		return nil, fmt.Errorf("init %s: %w", s, err)
	}
	r, err := Open(ctx, s, Pins{Recipients: o.Recipients, EncryptionNone: o.EncryptionNone, Identities: o.Identities, AllowUnsafe: o.AllowUnsafe})
	if err != nil {
		return nil, err
	}
	r.New = created
	return r, nil
}

// createOnce reports false if the key was already there, whatever it holds.
func createOnce(ctx context.Context, s storage.Store, key string, v any) (bool, error) {
	_, err := writeControl(ctx, s, key, v, storage.IfAbsent)
	if errors.Is(err, storage.ErrExist) {
		return false, nil
	}
	return err == nil, err
}

// probePrefix is where a probe may write; what it leaves behind is harmless.
const probePrefix = "repo/probe-"

func measure(ctx context.Context, s storage.Store, o InitOptions) (Capabilities, error) {
	prefix := probePrefix + newNonce()
	if o.Probe != nil {
		return o.Probe(ctx, s, prefix)
	}
	caps := Capabilities{Store: s.String(), Date: o.Now().UTC()}
	if _, err := s.Put(ctx, prefix, []byte("first"), storage.IfAbsent); err != nil {
		return caps, err
	}
	info, err := s.Put(ctx, prefix, []byte("second"), storage.IfAbsent)
	if err != nil && !errors.Is(err, storage.ErrExist) && !errors.Is(err, storage.ErrUnsupported) {
		return caps, err
	}
	caps.ConditionalPut = errors.Is(err, storage.ErrExist)
	if !info.Now.IsZero() {
		caps.ClockDifference = info.Now.Sub(o.Now())
	}
	return caps, s.Delete(ctx, prefix)
}

// ChangeRecipients writes a new generation: objects from now on are encrypted to these recipients. Old identities stay
// needed until the last object of their generation is gone. Hosts that pin the old set refuse to work from now on.
func (r *Repository) ChangeRecipients(ctx context.Context, recipients []string, now time.Time) (*Repository, error) {
	if !r.Encrypted || len(recipients) == 0 {
		return nil, hint(fmt.Errorf("change recipients: %w: encryption is decided when a repository is made", ErrRecipients), "make a new repository")
	}
	if _, err := object.ParseRecipients(recipients); err != nil {
		return nil, fmt.Errorf("change recipients: %w", err)
	}
	gen := generationDocument{Format: formatVersion, Generation: r.Generation + 1, Created: now.UTC(), Recipients: recipients, Probe: r.Probe}
	created, err := createOnce(ctx, r.Store, generationKey(gen.Generation), gen)
	if err != nil {
		return nil, fmt.Errorf("change recipients: %w", err)
	}
	if !created {
		return nil, fmt.Errorf("change recipients: generation %d was written meanwhile: %w", gen.Generation, ErrRecipients)
	}
	return newRepository(r.Store, r.repoDoc, gen, Pins{Recipients: recipients, Identities: r.identities, AllowUnsafe: r.Unsafe})
}
