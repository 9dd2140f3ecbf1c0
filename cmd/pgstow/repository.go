package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"filippo.io/age"
	"github.com/urfave/cli/v2"

	"pgstow/catalog"
	"pgstow/cmd/internal/config"
	"pgstow/storage"
	"pgstow/storage/file"
	"pgstow/storage/limit"
	"pgstow/storage/object"
	"pgstow/storage/retry"
	"pgstow/storage/s3"
)

// openStore opens the store behind a repository's URL, with the limits and the retries of this configuration around it.
func openStore(ctx context.Context, e *environment, conf *config.Config, total time.Duration) (storage.Store, error) {
	return openStoreLate(ctx, e, conf, total, false)
}

// openStoreLate is openStore for who, with late, can do with a folder that is not mounted now.
func openStoreLate(ctx context.Context, e *environment, conf *config.Config, total time.Duration, late bool) (storage.Store, error) {
	if conf.Repo == "" {
		return nil, usage("no repository was named: give --repo, PGSTOW_REPO, or repo in %s", config.DefaultFile)
	}
	url, err := storage.ParseURL(conf.Repo)
	if err != nil {
		return nil, usage("%s", err)
	}
	store, err := openScheme(ctx, url, late)
	if err != nil {
		return nil, fmt.Errorf("open the repository: %w", err)
	}
	store = limit.New(store, limit.Options{BytesPerSecond: conf.RateLimit, InFlight: conf.InFlight})
	return retry.New(store, retry.Policy{Total: total}, (&retryLog{e: e}).told), nil
}

// retryInterval is how often retries are told after the first: in an outage many requests fail at once, again and again.
const retryInterval = 10 * time.Second

// retryLog tells of retries, now and then.
type retryLog struct {
	e      *environment
	mu     sync.Mutex
	last   time.Time
	silent int // retries since the last line
}

func (r *retryLog) told(event retry.Event) {
	r.mu.Lock()
	now := time.Now()
	if now.Sub(r.last) < retryInterval {
		r.silent++
		r.mu.Unlock()
		return
	}
	text := retryText(event)
	if r.silent > 0 {
		text += fmt.Sprintf("; %d more retries since the last line", r.silent)
	}
	r.last, r.silent = now, 0
	r.mu.Unlock()
	r.e.message("%s", text)
}

// retryText says what did not work and when it is tried again.
func retryText(event retry.Event) string {
	what := event.Op
	if event.Key != "" {
		what += " " + event.Key
	}
	return fmt.Sprintf("%s: try %d failed: %s; the next in %s", what, event.Try, event.Err, event.Wait.Round(time.Millisecond))
}

func openScheme(ctx context.Context, url storage.URL, late bool) (storage.Store, error) {
	switch url.Scheme {
	case "file":
		return file.Open(file.Options{Root: url.Path, Late: late})
	default:
		options, err := s3.FromURL(url)
		if err != nil {
			return nil, usage("%s", err)
		}
		return s3.Open(ctx, options)
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
	repo, err := catalog.Open(ctx, store, pins)
	if err != nil {
		return nil, err
	}
	if repo.Unsafe {
		e.message("warning: %s", unsafeWarning)
	}
	return repo, nil
}

// onRepository makes the action of a command that people call on an open repository: settings, operands, pins and warnings come first.
func onRepository(e *environment, names []string, do func(*cli.Context, *catalog.Repository, *config.Config, []string) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		args, err := operands(c, names...)
		if err != nil {
			return err
		}
		conf, err := settings(c, e, false)
		if err != nil {
			return err
		}
		repo, err := openRepository(c.Context, e, conf)
		if err != nil {
			return err
		}
		return do(c, repo, conf, args)
	}
}

// unsafeWarning is said by every command on a store that was accepted by allow_unsafe_store.
const unsafeWarning = "the store has no conditional writes: nothing protects WAL from being replaced by another server's (allow_unsafe_store)"

// provenStore probes the store again where it is not the one that init probed: a bucket may have moved to another vendor.
func provenStore(ctx context.Context, repo *catalog.Repository) error {
	if !repo.ProbeStale() || repo.Unsafe {
		return nil
	}
	found, err := probeStore(ctx, repo.Store, "repo/probe")
	if err != nil {
		return fmt.Errorf("probe %s, which is another address than init probed (%s): %w", repo.Store, repo.Probe.Store, err)
	}
	if !found.ConditionalPut {
		return fmt.Errorf("%s is another address than init probed (%s): %w", repo.Store, repo.Probe.Store, catalog.ErrUnsafeStore)
	}
	return nil
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
