package archive

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"pgstow/storage"
	"pgstow/storage/object"
)

// Keep says which of two objects of one name stays under it.
type Keep int

// What to keep. The other one is set aside, never thrown away.
const (
	KeepStored Keep = iota + 1 // the archive's; the server's push of its own then succeeds, since it is kept too
	KeepLocal                  // the server's file
)

// ResolveResult tells where the two are.
type ResolveResult struct {
	Key   string // under which recovery finds the one that was kept
	Aside string // of the other; "" if both are the same and there was nothing to do
}

// AsideKey is the key of an object that was set aside from key. No part of pgstow reads it, but for Push of these very bytes.
func AsideKey(key string, sum [32]byte) string { return fmt.Sprintf("%s.aside.%x", key, sum[:4]) }

// errChanged says that the archive changed while a conflict was being settled.
var errChanged = errors.New("what is stored has changed meanwhile: look at it again")

// Resolve settles a refusal of Push by the decision of a person: the file at path and what the archive has under its name are both kept,
// one of them set aside. It is the only call that changes what lies under a WAL file's name; it does so by a compare-and-swap, and only
// after the old object is safe under its new key.
func Resolve(ctx context.Context, o PushOptions, path string, keep Keep) (ResolveResult, error) {
	o.setDefaults()
	p, err := openFile(path)
	if err != nil {
		return ResolveResult{}, fmt.Errorf("resolve %s: %w", path, err)
	}
	defer p.close()
	ctx, cancel := context.WithTimeoutCause(ctx, o.total(p.id.Size), errDeadline)
	defer cancel()
	r, err := o.resolve(ctx, p, keep)
	if err != nil {
		return r, fmt.Errorf("resolve %s: %w", p.base, explain(ctx, err))
	}
	return r, nil
}

func (o *PushOptions) resolve(ctx context.Context, p *pushFile, keep Keep) (ResolveResult, error) {
	local, err := o.prepare(ctx, p, attempt{})
	if err != nil {
		return ResolveResult{}, err
	}
	defer local.encoded.close()
	r := ResolveResult{Key: local.key}
	s := local.repo.Store
	err = compare(ctx, s, local.key, local.header)
	var refused *RefusedError
	if err == nil || !errors.As(err, &refused) {
		return r, err
	}
	if keep == KeepStored {
		r.Aside = AsideKey(local.key, local.header.PlainSHA256)
		_, err := local.repo.Put(ctx, r.Aside, local.encoded.bytes, storage.IfAbsent)
		if errors.Is(err, storage.ErrExist) {
			err = compare(ctx, s, r.Aside, local.header)
		}
		return r, err
	}
	stored, info, err := storage.ReadAll(ctx, s, local.key, maxResolve)
	if err != nil {
		return r, err
	}
	if info.ETag == "" {
		return r, fmt.Errorf("the store does not say which version %s has", local.key)
	}
	r.Aside = AsideKey(local.key, identityOf(stored))
	if err := setAside(ctx, s, r.Aside, stored); err != nil {
		return r, err
	}
	_, err = local.repo.Put(ctx, local.key, local.encoded.bytes, storage.IfMatch(info.ETag))
	if errors.Is(err, storage.ErrExist) {
		return r, errChanged
	}
	return r, err
}

// maxResolve bounds an object that is set aside: a segment of 1 GiB that does not compress.
const maxResolve = 1100 << 20

// identityOf is the hash of an object's plain bytes as it says itself, or of what is there if it is none.
func identityOf(stored []byte) [32]byte {
	if h, err := object.ParseHeader(stored); err == nil && h.PlainSHA256 != [32]byte{} {
		return h.PlainSHA256
	}
	return sha256.Sum256(stored)
}

// setAside copies an object as it is, sound or not.
func setAside(ctx context.Context, s storage.Store, key string, stored []byte) error {
	_, err := s.Put(ctx, key, stored, storage.IfAbsent)
	if !errors.Is(err, storage.ErrExist) {
		return err
	}
	have, _, err := storage.ReadAll(ctx, s, key, maxResolve)
	if err == nil && sha256.Sum256(have) != sha256.Sum256(stored) {
		err = fmt.Errorf("%s exists and is something else", key)
	}
	return err
}
