package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"pgstow/catalog"
	"pgstow/storage/fault"
	"pgstow/storage/file"
)

// A repository that was moved to a store which ignores conditions must not be relied on by what its first store could do.
func TestMovedRepositoryIsProbedAgain(t *testing.T) {
	ctx := context.Background()
	before, after := filepath.Join(t.TempDir(), "before"), filepath.Join(t.TempDir(), "after")
	store, err := file.Create(file.Options{Root: before})
	if err != nil {
		t.Fatal(err)
	}
	repo, err := catalog.Init(ctx, store, catalog.InitOptions{EncryptionNone: true, Probe: probeStore})
	if err != nil {
		t.Fatal(err)
	}
	if err := provenStore(ctx, repo); err != nil {
		t.Errorf("where it was made: %v", err)
	}
	if err := os.Rename(before, after); err != nil {
		t.Fatal(err)
	}
	moved, err := file.Open(file.Options{Root: after})
	if err != nil {
		t.Fatal(err)
	}
	lying := fault.New(moved)
	repo, err = catalog.Open(ctx, lying, catalog.Pins{EncryptionNone: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := provenStore(ctx, repo); err != nil {
		t.Errorf("at another address that keeps conditions: %v", err)
	}
	lying.Add(fault.Fault{Op: fault.Put, Kind: fault.IgnoreCondition, Times: -1})
	if err := provenStore(ctx, repo); !errors.Is(err, catalog.ErrUnsafeStore) {
		t.Errorf("at an address that ignores conditions: %v", err)
	}
}
