package s3

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"pgstow/storage"
)

// Delete takes one DeleteObject for a single key, and one DeleteObjects for each 1000 of many; where a store has no
// DeleteObjects, one request for each. See storage.Store.
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	var errs []error
	for _, key := range keys {
		if err := storage.CheckKey(key); err != nil {
			errs = append(errs, s.wrap("delete", key, err))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	for batch := range slices.Chunk(keys, int(s.page)) {
		errs = append(errs, s.deleteBatch(ctx, batch)...)
		if context.Cause(ctx) != nil {
			break
		}
	}
	return errors.Join(errs...)
}

func (s *Store) deleteBatch(ctx context.Context, keys []string) []error {
	if len(keys) == 1 {
		return s.deleteEach(ctx, keys)
	}
	objects := make([]types.ObjectIdentifier, len(keys))
	for i, key := range keys {
		objects[i].Key = aws.String(s.prefix + key)
	}
	out, err := s.client.DeleteObjects(ctx, &awss3.DeleteObjectsInput{
		Bucket: &s.bucket, Delete: &types.Delete{Objects: objects, Quiet: aws.Bool(true)},
	})
	if err != nil {
		err = explain(err)
		if errors.Is(err, storage.ErrUnsupported) {
			return s.deleteEach(ctx, keys)
		}
		return []error{s.wrap("delete", keys[0]+" and others", err)}
	}
	var errs []error
	for _, e := range out.Errors {
		a := &answer{status: 200, code: aws.ToString(e.Code), message: aws.ToString(e.Message)}
		if a.code == "NoSuchKey" {
			continue
		}
		var err error = a
		sentinel := classify(a.status, a.code)
		if a.code == "AccessDenied" {
			sentinel = storage.ErrPermission
		}
		if sentinel != nil {
			err = fmt.Errorf("%w: %w", sentinel, a)
		}
		errs = append(errs, s.wrap("delete", strings.TrimPrefix(aws.ToString(e.Key), s.prefix), err))
	}
	return errs
}

func (s *Store) deleteEach(ctx context.Context, keys []string) []error {
	var errs []error
	for _, key := range keys {
		_, err := s.client.DeleteObject(ctx, &awss3.DeleteObjectInput{Bucket: &s.bucket, Key: aws.String(s.prefix + key)})
		if err == nil {
			continue
		}
		if err = explain(err); !errors.Is(err, storage.ErrNotExist) {
			errs = append(errs, s.wrap("delete", key, err))
		}
	}
	return errs
}
