package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"filippo.io/age"

	"pgstow/catalog"
	"pgstow/cmd/internal/config"
	"pgstow/storage"
	"pgstow/storage/file"
	"pgstow/storage/limit"
	"pgstow/storage/object"
	"pgstow/storage/retry"
	"pgstow/storage/s3"
)

// defaultInFlight bounds the requests under way at once where the configuration does not.
const defaultInFlight = 32

// openStore opens the store behind a repository's URL, with the limits and the retries of this configuration around it.
func openStore(ctx context.Context, e *environment, conf *config.Config, total time.Duration) (storage.Store, error) {
	if conf.Repo == "" {
		return nil, usage("no repository was named: give --repo, PGSTOW_REPO, or repo in %s", config.DefaultFile)
	}
	url, err := storage.ParseURL(conf.Repo)
	if err != nil {
		return nil, usage("%s", err)
	}
	store, err := openScheme(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("open the repository: %w", err)
	}
	inFlight := conf.InFlight
	if inFlight == 0 {
		inFlight = defaultInFlight
	}
	store = limit.New(store, limit.Options{BytesPerSecond: conf.RateLimit, InFlight: inFlight})
	return retry.New(store, retry.Policy{Total: total}, func(event retry.Event) { e.message("%s", event) }), nil
}

func openScheme(ctx context.Context, url storage.URL) (storage.Store, error) {
	switch url.Scheme {
	case "file":
		return file.Open(file.Options{Root: url.Path})
	default:
		return s3.Open(ctx, s3Options(url))
	}
}

func s3Options(url storage.URL) s3.Options {
	return s3.Options{
		Bucket: url.Bucket, Prefix: url.Prefix, Endpoint: url.Query.Get("endpoint"), Region: url.Query.Get("region"), CAFile: url.Query.Get("ca_file"),
	}
}

// openRepository opens the repository for the commands that people call.
func openRepository(ctx context.Context, e *environment, conf *config.Config) (*catalog.Repository, error) {
	store, err := openStore(ctx, e, conf, conf.StoreDeadline)
	if err != nil {
		return nil, err
	}
	pins, err := pinsOf(conf)
	if err != nil {
		return nil, err
	}
	return catalog.Open(ctx, store, pins)
}

// pinsOf is what this host's configuration demands of a repository.
func pinsOf(conf *config.Config) (catalog.Pins, error) {
	identities, err := readIdentities(conf.IdentityFile)
	if err != nil {
		return catalog.Pins{}, err
	}
	return catalog.Pins{
		Recipients: conf.Recipients, EncryptionNone: conf.Encryption == "none", Identities: identities, AllowUnsafe: conf.AllowUnsafeStore,
	}, nil
}

func level(conf *config.Config) object.Level {
	if conf.Compression == "default" {
		return object.LevelDefault
	}
	return object.LevelFastest
}

func readIdentities(path string) ([]age.Identity, error) {
	if path == "" {
		return nil, nil
	}
	in, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the identity file: %w", err)
	}
	identities, err := object.ParseIdentities(in)
	if closeErr := in.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return nil, fmt.Errorf("read the identity file %s: %w", path, err)
	}
	return identities, nil
}
