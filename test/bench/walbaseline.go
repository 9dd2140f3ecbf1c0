package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"pgstow/storage"
	"pgstow/storage/s3"
	"pgstow/test/minio"
	"pgstow/test/pg"
)

// The baselines of the WAL benches: what one Go process can do that knows everything beforehand and owes nobody anything, neither a check of
// what it moves nor a name that is created only once.

// baseline runs this program as one of them on the set's segments.
func (b *bench) baseline(what string, m *minio.Server, prefix string, w *walSet) sample {
	into := filepath.Join(pg.TempDir(b), "into")
	command := b.self + " " + what + " " + quote(m.URL("baseline", prefix)) + " " + filepath.Join(w.server.Dir, "pg_wal") + " " + into
	for _, n := range w.names {
		command += " " + n
	}
	s := b.time(&side{name: what, command: "mkdir -p " + into + " && exec " + command, env: m.Env()})
	if err := os.RemoveAll(into); err != nil {
		b.Fatalf("%v", err)
	}
	return s
}

// parallel is how many segments a baseline has in work: some wait for the store while all processors compress.
func parallel() int { return 2 * runtime.GOMAXPROCS(0) }

// drain compresses and stores the named files of from.
func drain(ctx context.Context, store *s3.Store, from string, names []string) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel())
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)))
	if err != nil {
		return err
	}
	for _, name := range names {
		g.Go(func() error {
			plain, err := os.ReadFile(filepath.Join(from, name))
			if err != nil {
				return err
			}
			_, err = store.Put(ctx, name, encoder.EncodeAll(plain, nil), storage.Any)
			return err
		})
	}
	return g.Wait()
}

// gather brings the named objects back, into files of the folder into, or nowhere if that is "".
func gather(ctx context.Context, store *s3.Store, into string, names []string) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel())
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(runtime.GOMAXPROCS(0)))
	if err != nil {
		return err
	}
	defer decoder.Close()
	for _, name := range names {
		g.Go(func() error {
			body, info, err := store.Get(ctx, name, storage.Range{})
			if err != nil {
				return err
			}
			stored := make([]byte, info.Size)
			if _, err := io.ReadFull(body, stored); err != nil {
				return err
			}
			if err := body.Close(); err != nil {
				return err
			}
			plain, err := decoder.DecodeAll(stored, nil)
			if err != nil || into == "" {
				return err
			}
			return os.WriteFile(filepath.Join(into, name), plain, 0o600)
		})
	}
	return g.Wait()
}

// walBaseline is the process: the words are the direction, the address, the folder to read, the folder to write, and the names.
func walBaseline(words []string) error {
	if len(words) < 5 {
		return fmt.Errorf("%s: too few words", words[0])
	}
	store, err := openBaseline(context.Background(), words[1])
	if err != nil {
		return err
	}
	switch words[0] {
	case "drain":
		return drain(context.Background(), store, words[2], words[4:])
	case "gather":
		return gather(context.Background(), store, words[3], words[4:])
	}
	return gather(context.Background(), store, "", words[4:])
}
