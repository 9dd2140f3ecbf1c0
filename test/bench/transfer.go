package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sync/errgroup"

	"pgstow/storage"
	"pgstow/storage/s3"
)

// The baseline's transfer to and from S3: parts of 16 MiB, four at a time, by the same client as pgstow's. It is what a multipart
// upload of a pipe does.
const (
	partSize  = 16 << 20
	partsOnce = 4
)

func transfer(direction, address string) error {
	ctx := context.Background()
	store, err := openBaseline(ctx, address)
	if err != nil {
		return err
	}
	if direction == "sink" {
		return sink(ctx, store, os.Stdin)
	}
	return source(ctx, store, os.Stdout)
}

// openBaseline is the store of a baseline: bare, without what retries and checks.
func openBaseline(ctx context.Context, address string) (*s3.Store, error) {
	url, err := storage.ParseURL(address)
	if err != nil {
		return nil, err
	}
	return s3.Open(ctx, s3.Options{Bucket: url.Bucket, Prefix: url.Prefix, Endpoint: url.Query.Get("endpoint"), Region: url.Query.Get("region")})
}

func partKey(n int) string { return fmt.Sprintf("part/%06d", n) }

func sink(ctx context.Context, store storage.Store, in io.Reader) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(partsOnce)
	for n := 0; ; n++ {
		part := make([]byte, partSize)
		got, err := io.ReadFull(in, part)
		if got > 0 {
			g.Go(func() error {
				_, err := store.Put(ctx, partKey(n), part[:got], storage.Any)
				return err
			})
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return g.Wait()
		}
		if err != nil {
			return errors.Join(err, g.Wait())
		}
	}
}

// source reads ahead, so that the network and the decompressor work at the same time.
func source(ctx context.Context, store storage.Store, to io.Writer) error {
	g, ctx := errgroup.WithContext(ctx)
	results := make(chan chan []byte, partsOnce)
	g.Go(func() error {
		defer close(results)
		for info, err := range store.List(ctx, "part/", "") {
			if err != nil {
				return err
			}
			result := make(chan []byte, 1)
			select {
			case results <- result:
			case <-ctx.Done():
				return ctx.Err()
			}
			g.Go(func() error {
				part, _, err := storage.ReadAll(ctx, store, info.Key, 2*partSize)
				result <- part
				return err
			})
		}
		return nil
	})
	g.Go(func() error {
		out := bufio.NewWriterSize(to, 1<<20)
		for result := range results {
			if _, err := out.Write(<-result); err != nil {
				return err
			}
		}
		return out.Flush()
	})
	return g.Wait()
}
