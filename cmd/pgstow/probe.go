package main

import (
	"context"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/probe"
)

// probeStore measures a store for the catalog, which keeps the result but does not know how it is measured.
func probeStore(ctx context.Context, s storage.Store, prefix string) (catalog.Capabilities, error) {
	found, err := probe.Run(ctx, s, prefix)
	return catalog.Capabilities(found), err
}
