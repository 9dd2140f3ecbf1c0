package catalog_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/file"
	"pgstow/storage/object"
	"pgstow/wal"
)

const segmentSize = wal.MinSegmentSize

var (
	mainRef = catalog.ClusterRef{Name: "main", SystemID: 7300123456789012345}
	day     = time.Date(2026, 11, 24, 15, 45, 0, 0, time.UTC)
)

func newStore(t testing.TB) *file.Store {
	t.Helper()
	s, err := file.Open(file.Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// keys are made once: hybrid ones take a moment.
type keyPair struct {
	identity  object.Identity
	recipient string
}

func newKey(t testing.TB) keyPair {
	t.Helper()
	secret, public, err := object.GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	ids, err := object.ParseIdentities(strings.NewReader(secret))
	if err != nil {
		t.Fatal(err)
	}
	return keyPair{ids[0], public}
}

func initPlain(t testing.TB, s storage.Store) *catalog.Repository {
	t.Helper()
	r, err := catalog.Init(t.Context(), s, catalog.InitOptions{EncryptionNone: true})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func initEncrypted(t testing.TB, s storage.Store, k keyPair) *catalog.Repository {
	t.Helper()
	r, err := catalog.Init(t.Context(), s, catalog.InitOptions{Recipients: []string{k.recipient}, Identities: []object.Identity{k.identity}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
}

func wantHint(t testing.TB, err error) {
	t.Helper()
	if catalog.Hint(err) == "" {
		t.Errorf("no hint in %v", err)
	}
}

// putSegment stores a WAL object with a header and a body that no test decodes.
func putObject(t testing.TB, r *catalog.Repository, key string, h object.Header, plain string) {
	t.Helper()
	h.SystemID = mainRef.SystemID
	b, err := object.EncodeAll(r.WriterOptions(), h, []byte(plain))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Put(context.Background(), key, b, storage.IfAbsent); err != nil {
		t.Fatal(err)
	}
}
