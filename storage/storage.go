// Package storage is the contract between pgstow and the place where it keeps its objects: a bucket or a folder.
//
// A [Store] holds objects of bounded size, each written by one atomic Put from memory. The folders below implement it
// (storage/s3, storage/file) or wrap it (storage/retry, storage/limit, storage/fault); storage/storetest holds the tests
// that every one of them passes. This package imports nothing of ours.
package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"
)

// Store is one bucket or folder, seen below one prefix. All methods are safe for concurrent use by any number of
// goroutines, processes and hosts.
//
// Keys are those that [CheckKey] accepts; every method refuses another one with [ErrInvalidKey] before it asks the
// store. No key may be a folder of another one ("a" beside "a/b"): some stores cannot hold both. Errors name the
// operation and the key and wrap one of the sentinels of this package where it applies; an error that wraps none of them
// says nothing about whether the call took effect.
type Store interface {
	// Put stores body under key, all of it or nothing: no reader ever sees a part. When it returns nil the object is
	// durable and visible to every Get, Stat and List that starts afterwards, on any host. It keeps no reference to
	// body and does not change it. If cond does not hold Put changes nothing and returns [ErrExist]; of any number of
	// concurrent conditional Puts of a key at most one succeeds. An error other than ErrExist, ErrPermission,
	// ErrUnsupported, ErrNoStore, ErrInvalidKey and ErrRejected leaves open whether the object was stored.
	// The Info has Key, Size, SHA256 and ETag; a store that knows them adds Modified and Now.
	Put(ctx context.Context, key string, body []byte, cond Condition) (Info, error)

	// Get opens the object, or the part of it that r names, for reading. Info.Size is the size of the whole object. The
	// reader never ends early without saying so: a body shorter than announced ends with an error that wraps
	// [io.ErrUnexpectedEOF]. ErrNotExist is proof that the store itself said the key does not exist. The caller closes
	// the reader; ctx governs it until then.
	Get(ctx context.Context, key string, r Range) (io.ReadCloser, Info, error)

	// Stat returns what is known of an object without reading it. ErrNotExist is proof, as for Get. Stores may leave
	// the ETag of large objects, Now and SHA256 empty.
	Stat(ctx context.Context, key string) (Info, error)

	// List yields the objects whose key begins with prefix and is greater than after, in the order of the bytes of the
	// whole key ("a-b" < "a/b" < "a0"). It fetches as it goes, so leaving the loop early is cheap, and so is an after
	// near the end. Objects put before the call are seen; those put or deleted meanwhile may or may not be. The first
	// error is yielded with a zero Info and ends the sequence. Info has Key, Size and Modified; ETag may be empty.
	// Objects whose name CheckKey refuses are not ours and are left out.
	List(ctx context.Context, prefix, after string) iter.Seq2[Info, error]

	// Delete removes objects; a missing one is no error. It tries all keys and joins the errors of those that remain.
	Delete(ctx context.Context, keys ...string) error

	// String names the store in messages, for example "s3://bucket/prefix at http://127.0.0.1:9000". It holds no secret.
	String() string
}

// Info describes one object. What a method leaves empty is said at [Store].
type Info struct {
	Key  string
	Size int64 // of the whole object in bytes, also for a ranged Get

	// ETag identifies the content for [IfMatch]. Equal bytes may have equal tags, so an object whose every change must
	// be noticed carries a counter or nonce in its body. "" means not known.
	ETag string

	Modified time.Time // by the store's clock
	Now      time.Time // the store's own clock when it answered; zero if not known
	SHA256   *[32]byte // of the stored bytes; nil if not known
}

// Range names a part of an object. The zero value is the whole of it.
//
// With Offset >= 0 the part is Length bytes from Offset on, cut at the end of the object; Length 0 means all up to the
// end. With Offset < 0 it is the last -Offset bytes (the whole object if it is shorter) and Length must be 0. A part
// that would be empty because it begins at or behind the end is [ErrRange], except Range{} of an empty object.
type Range struct{ Offset, Length int64 }

// Resolve returns the first byte and the number of bytes that r names in an object of size bytes.
func (r Range) Resolve(size int64) (offset, length int64, err error) {
	switch {
	case r.Length < 0 || r.Offset < 0 && r.Length != 0:
		return 0, 0, fmt.Errorf("range offset %d length %d: %w", r.Offset, r.Length, ErrRange)
	case r == Range{}:
		return 0, size, nil
	case r.Offset < 0:
		if size == 0 {
			return 0, 0, fmt.Errorf("last %d bytes of an empty object: %w", -r.Offset, ErrRange)
		}
		offset = max(0, size+r.Offset)
		return offset, size - offset, nil
	case r.Offset >= size:
		return 0, 0, fmt.Errorf("range from %d in an object of %d bytes: %w", r.Offset, size, ErrRange)
	case r.Length == 0 || r.Length > size-r.Offset:
		return r.Offset, size - r.Offset, nil
	default:
		return r.Offset, r.Length, nil
	}
}

// Condition says when a Put may store. The zero value is [Any]. Conditions are comparable.
type Condition struct {
	kind conditionKind
	etag string
}

type conditionKind uint8

const (
	always conditionKind = iota
	ifAbsent
	ifMatch
)

// The conditions without a parameter.
var (
	Any      = Condition{}               // store, whatever is there
	IfAbsent = Condition{kind: ifAbsent} // store only if the key does not exist
)

// IfMatch allows a Put only while the object exists and has this ETag: a compare-and-swap. The empty tag matches nothing.
func IfMatch(etag string) Condition { return Condition{kind: ifMatch, etag: etag} }

// IsAny reports whether c always holds.
func (c Condition) IsAny() bool { return c.kind == always }

// IsAbsent reports whether c is IfAbsent.
func (c Condition) IsAbsent() bool { return c.kind == ifAbsent }

// Match returns the tag of an IfMatch condition; ok is false for the others.
func (c Condition) Match() (etag string, ok bool) { return c.etag, c.kind == ifMatch }

// String is for messages.
func (c Condition) String() string {
	switch c.kind {
	case ifAbsent:
		return "if absent"
	case ifMatch:
		return "if it is still " + c.etag
	default:
		return "always"
	}
}

// The errors that callers tell apart with errors.Is. storage/retry decides which are worth another try.
var (
	// ErrNotExist: the store itself said that there is no such key. A missing bucket or folder is ErrNoStore.
	ErrNotExist = errors.New("object does not exist")
	// ErrExist: the condition of a Put does not hold: IfAbsent of an existing key, IfMatch of another or a missing one.
	ErrExist = errors.New("condition not met")
	// ErrPermission: the store, or the file system, does not allow it to these credentials, or there are none.
	ErrPermission = errors.New("permission denied")
	// ErrUnsupported: the store does not offer this operation or condition.
	ErrUnsupported = errors.New("not supported by the store")
	// ErrNoStore: the bucket or root folder is missing, or not mounted. It is never the absence of a key.
	ErrNoStore = errors.New("store does not exist")
	// ErrFull: the store has no room left, or none for these credentials. A Put that returns it leaves open whether the object was stored.
	ErrFull = errors.New("the store is full")
	// ErrUntrusted: the store's certificate is not accepted, or it does not speak TLS where it should.
	ErrUntrusted = errors.New("no trusted connection to the store")
	// ErrInvalidKey: see CheckKey; also a key that is a folder of another one.
	ErrInvalidKey = errors.New("invalid key")
	// ErrConflict: another request on the same key was under way (409). Repeat the same call with the same bytes.
	ErrConflict = errors.New("conflicting request")
	// ErrRange: the range lies outside of the object.
	ErrRange = errors.New("range not satisfiable")
	// ErrRejected: the store understood the request and will answer another like it the same way (most of 4xx).
	ErrRejected = errors.New("request rejected")
	// ErrArchived: the object was moved to an archive tier and must be brought back there before it can be read.
	ErrArchived = errors.New("object is in an archive tier")
)
