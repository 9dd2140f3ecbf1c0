package s3

import (
	"context"
	"errors"
	"fmt"

	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"pgstow/storage"
)

// CreateBucket makes the bucket that o names. One that exists and is ours is fine; o.Prefix plays no part.
func CreateBucket(ctx context.Context, o Options) error {
	o.Prefix = ""
	s, err := Open(ctx, o)
	if err != nil {
		return err
	}
	in := &awss3.CreateBucketInput{Bucket: &s.bucket}
	// Only Amazon wants to be told the region that it was asked in, and us-east-1 must not be named.
	if region := s.client.Options().Region; region != defaultRegion && amazon(o.Endpoint) {
		in.CreateBucketConfiguration = &types.CreateBucketConfiguration{
			LocationConstraint: types.BucketLocationConstraint(region),
		}
	}
	_, err = s.client.CreateBucket(ctx, in)
	var ours *types.BucketAlreadyOwnedByYou
	if err == nil || errors.As(err, &ours) {
		return nil
	}
	var taken *types.BucketAlreadyExists
	if errors.As(err, &taken) {
		return fmt.Errorf("create bucket %s: %w: it belongs to somebody else", s.bucket, storage.ErrPermission)
	}
	return fmt.Errorf("create bucket %s: %w", s.bucket, explain(err))
}
