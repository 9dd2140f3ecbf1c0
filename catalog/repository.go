package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"pgstow/storage"
	"pgstow/storage/object"
)

// Repository is an opened repository. It is safe for concurrent use; its fields never change.
type Repository struct {
	Store       storage.Store
	ID          string
	Created     time.Time
	Encrypted   bool
	Generation  int          // of the recipients
	Recipients  []string     // age1…; empty if not encrypted
	Probe       Capabilities // what was measured when the generation was written
	Unsafe      bool         // opened although the store has no conditional writes: every command says so
	New         bool         // made by the call of Init that returned it
	recipients  []object.Recipient
	identities  []object.Identity
	repoDoc     repoDocument
	generations generationDocument
}

// Capabilities is what was measured about a store. The fields are those of the store's prober, in the same order, so
// that one converts to the other.
type Capabilities struct {
	ConditionalPut   bool          `json:"conditional_put"`   // a second IfAbsent Put fails
	CompareAndSwap   bool          `json:"compare_and_swap"`  // a Put with a stale ETag fails
	ReadAfterWrite   bool          `json:"read_after_write"`  // a Get sees the last Put
	ListAfterWrite   bool          `json:"list_after_write"`  // a List sees the last Put
	ChecksumVerified bool          `json:"checksum_verified"` // a wrong checksum is refused
	ClockDifference  time.Duration `json:"clock_difference"`  // store minus host, in nanoseconds
	Store            string        `json:"store"`             // what was measured, without secrets
	Date             time.Time     `json:"date"`
}

// repoDocument is repo.json.
type repoDocument struct {
	Format    int       `json:"format"`
	ID        string    `json:"id"`
	Created   time.Time `json:"created"`
	Encrypted bool      `json:"encrypted"`
}

// generationDocument is repo/<n>.json.
type generationDocument struct {
	Format     int          `json:"format"`
	Generation int          `json:"generation"`
	Created    time.Time    `json:"created"`
	Recipients []string     `json:"recipients"` // [] if not encrypted
	Probe      Capabilities `json:"probe"`
}

// Pins is what a host's own configuration says about a repository; it wins over what the bucket says, which anyone with
// the right to write could change (RULES-archive C2).
type Pins struct {
	Recipients     []string // age1… or their fingerprints; must be exactly the repository's set
	EncryptionNone bool     // encryption = "none": must not be encrypted
	Identities     []object.Identity
	AllowUnsafe    bool // allow_unsafe_store = true
}

// Open reads repo.json and the newest recipients and compares them with what the host pins. It costs two reads and a list.
// Errors: ErrNoRepository, ErrFormatTooNew, ErrRecipients, ErrUnsafeStore; the store's own for everything else.
func Open(ctx context.Context, s storage.Store, pins Pins) (*Repository, error) {
	var repo repoDocument
	if _, err := readControl(ctx, s, RepoKey, &repo); err != nil {
		return nil, noRepository(s, err)
	}
	gen, err := newestGeneration(ctx, s)
	if err != nil {
		return nil, err
	}
	return newRepository(s, repo, gen, pins)
}

func noRepository(s storage.Store, err error) error {
	if errors.Is(err, storage.ErrNotExist) || errors.Is(err, storage.ErrNoStore) {
		return hint(fmt.Errorf("%s: %w: %w", s, ErrNoRepository, err), "pgstow init makes one; check the address if there should be one")
	}
	return fmt.Errorf("open repository %s: %w", s, err)
}

// newestGeneration reads the recipients with the highest number; keys are not in numeric order.
func newestGeneration(ctx context.Context, s storage.Store) (generationDocument, error) {
	highest := 0
	for info, err := range s.List(ctx, generationPrefix, "") {
		if err != nil {
			return generationDocument{}, fmt.Errorf("open repository %s: %w", s, err)
		}
		if n, ok := parseGenerationKey(info.Key); ok {
			highest = max(highest, n)
		}
	}
	if highest == 0 {
		return generationDocument{}, hint(fmt.Errorf("%s: %s exists but no %s<n>.json: %w", s, RepoKey, generationPrefix, ErrNoRepository),
			"pgstow init was interrupted: run it again")
	}
	var doc generationDocument
	key := generationKey(highest)
	if _, err := readControl(ctx, s, key, &doc); err != nil {
		return doc, fmt.Errorf("open repository %s: %w", s, err)
	}
	if doc.Generation != highest {
		return doc, fmt.Errorf("%s says it is generation %d", key, doc.Generation)
	}
	return doc, nil
}

func generationKey(n int) string { return generationPrefix + strconv.Itoa(n) + ".json" }

func parseGenerationKey(key string) (int, bool) {
	n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(key, generationPrefix), ".json"))
	return n, err == nil && n > 0 && generationKey(n) == key
}

// newRepository applies the pins to what was read.
func newRepository(s storage.Store, repo repoDocument, gen generationDocument, pins Pins) (*Repository, error) {
	r := &Repository{
		Store: s, ID: repo.ID, Created: repo.Created, Encrypted: repo.Encrypted,
		Generation: gen.Generation, Recipients: gen.Recipients, Probe: gen.Probe,
		identities: pins.Identities, repoDoc: repo, generations: gen,
	}
	if repo.ID == "" {
		return nil, fmt.Errorf("%s: %s has no id: %w", s, RepoKey, ErrNoRepository)
	}
	if err := checkPins(r, pins); err != nil {
		return nil, fmt.Errorf("open repository %s: %w", s, err)
	}
	if repo.Encrypted {
		var err error
		if r.recipients, err = object.ParseRecipients(gen.Recipients); err != nil {
			return nil, fmt.Errorf("open repository %s: recipients of generation %d: %w", s, gen.Generation, err)
		}
	}
	if !gen.Probe.ConditionalPut {
		if !pins.AllowUnsafe {
			return nil, fmt.Errorf("open repository %s: %w", s, unsafeStore())
		}
		r.Unsafe = true
	}
	return r, nil
}

func unsafeStore() error {
	return hint(ErrUnsafeStore, "two servers could overwrite each other's WAL there; use another store, or set allow_unsafe_store = true")
}

// Descriptor is what Open read, for a cache that saves a short-lived process the reads. It is bound to pins again when it
// is used, so a stale one can only be refused, never widen who can read what is written.
func (r *Repository) Descriptor() ([]byte, error) {
	return encodeControl(descriptor{Format: formatVersion, Store: r.Store.String(), Repo: r.repoDoc, Recipients: r.generations})
}

type descriptor struct {
	Format     int                `json:"format"`
	Store      string             `json:"store"`
	Repo       repoDocument       `json:"repo"`
	Recipients generationDocument `json:"recipients"`
}

// OpenDescriptor is Open without asking the store. It proves nothing about the store: absence (RULES-archive A7) must
// not be concluded from a repository opened this way.
func OpenDescriptor(s storage.Store, pins Pins, data []byte) (*Repository, error) {
	var d descriptor
	if err := decodeControl("descriptor", data, &d); err != nil {
		return nil, err
	}
	if d.Store != s.String() {
		return nil, fmt.Errorf("descriptor is of %s, not of %s", d.Store, s)
	}
	return newRepository(s, d.Repo, d.Recipients, pins)
}

// WriterOptions are those with which every object of this repository is written: in an encrypted one they carry the
// recipients, so that there is no way to write plain bytes.
func (r *Repository) WriterOptions() object.WriterOptions {
	return object.WriterOptions{Recipients: slices.Clone(r.recipients), KeyGeneration: uint32(r.Generation)}
}

// Identities are those that the host has for reading; nil on a host with the public half only.
func (r *Repository) Identities() []object.Identity { return r.identities }

// Opaque says that this host cannot read what it writes: it has the public half of the keys alone.
func (r *Repository) Opaque() bool { return r.Encrypted && len(r.identities) == 0 }

// ageMagic begins every age file; it follows the clear header of an encrypted object.
const ageMagic = "age-encryption.org/v1\n"

// Put stores an encoded object. It looks at the object's clear header: in an encrypted repository plain bytes are
// ErrPlaintext, and in a plain one encrypted bytes, which no identity of it could read, are refused as well.
func (r *Repository) Put(ctx context.Context, key string, encoded []byte, cond storage.Condition) (storage.Info, error) {
	h, err := object.ParseHeader(encoded)
	if err != nil {
		return storage.Info{}, fmt.Errorf("put %s: %w", key, err)
	}
	isAge := bytes.HasPrefix(encoded[object.HeaderSize:], []byte(ageMagic))
	switch {
	case r.Encrypted && (!h.Encrypted || !isAge):
		return storage.Info{}, fmt.Errorf("put %s: %w", key, ErrPlaintext)
	case !r.Encrypted && (h.Encrypted || isAge):
		return storage.Info{}, fmt.Errorf("put %s: encrypted object in a repository without encryption: %w", key, ErrRecipients)
	case r.Encrypted && int(h.KeyGeneration) != r.Generation:
		return storage.Info{}, fmt.Errorf("put %s: encrypted to generation %d, the repository is at %d: %w", key, h.KeyGeneration, r.Generation, ErrRecipients)
	case strings.HasSuffix(key, ".json"):
		return storage.Info{}, fmt.Errorf("put %s: JSON objects have their own methods", key)
	}
	return r.Store.Put(ctx, key, encoded, cond)
}

// ProbeStale reports whether the store was measured under another address than it has now, so that its conditional
// writes must be tested again before they are relied on (RULES-archive D8).
func (r *Repository) ProbeStale() bool { return r.Probe.Store != r.Store.String() }
