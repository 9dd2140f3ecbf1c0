package s3

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"pgstow/storage"
)

// Get opens an object or a part of it with one GetObject. See storage.Store.
func (s *Store) Get(ctx context.Context, key string, r storage.Range) (io.ReadCloser, storage.Info, error) {
	body, info, err := s.get(ctx, key, r)
	if err != nil {
		return nil, storage.Info{}, s.wrap("get", key, err)
	}
	return body, info, nil
}

func (s *Store) get(ctx context.Context, key string, r storage.Range) (io.ReadCloser, storage.Info, error) {
	var none storage.Info
	if err := storage.CheckKey(key); err != nil {
		return nil, none, err
	}
	if _, _, err := r.Resolve(math.MaxInt64); err != nil {
		return nil, none, err
	}
	out, err := s.client.GetObject(ctx, &awss3.GetObjectInput{
		Bucket: &s.bucket, Key: aws.String(s.prefix + key), Range: rangeHeader(r),
	})
	if err != nil {
		return nil, none, explain(err)
	}
	info, length, err := describe(key, r, out)
	if err != nil {
		_ = out.Body.Close()
		return nil, none, err
	}
	return storage.NewBody(out.Body, length), info, nil
}

// rangeHeader is nil for the whole object.
func rangeHeader(r storage.Range) *string {
	switch {
	case r == storage.Range{}:
		return nil
	case r.Offset < 0:
		return aws.String("bytes=" + strconv.FormatInt(r.Offset, 10))
	case r.Length == 0:
		return aws.String(fmt.Sprintf("bytes=%d-", r.Offset))
	default:
		return aws.String(fmt.Sprintf("bytes=%d-%d", r.Offset, r.Offset+r.Length-1))
	}
}

// describe checks that the answer is the part that was asked for and returns its length.
func describe(key string, r storage.Range, out *awss3.GetObjectOutput) (storage.Info, int64, error) {
	if out.ContentLength == nil {
		return storage.Info{}, 0, errors.New("the store's answer does not say how long it is")
	}
	info := storage.Info{
		Key: key, Size: *out.ContentLength, ETag: aws.ToString(out.ETag),
		Modified: aws.ToTime(out.LastModified), Now: serverTime(out.ResultMetadata),
	}
	from := int64(0)
	if (r != storage.Range{}) {
		var err error
		if from, info.Size, err = parseContentRange(aws.ToString(out.ContentRange)); err != nil {
			// RFC 9110 lets a server ignore a range and send everything.
			return storage.Info{}, 0, fmt.Errorf("the store did not heed the range: %w", err)
		}
	}
	offset, length, err := r.Resolve(info.Size)
	if err != nil {
		return storage.Info{}, 0, err
	}
	if offset != from || length != *out.ContentLength {
		return storage.Info{}, 0, fmt.Errorf("asked for %d bytes from %d on, the store sends %d from %d on",
			length, offset, *out.ContentLength, from)
	}
	return info, length, nil
}

// parseContentRange reads "bytes 5-9/100" as first byte 5 and total 100.
func parseContentRange(s string) (from, total int64, err error) {
	spec, ok := strings.CutPrefix(s, "bytes ")
	span, size, ok2 := strings.Cut(spec, "/")
	first, _, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, fmt.Errorf("no usable Content-Range (%q)", s)
	}
	if from, err = strconv.ParseInt(first, 10, 64); err != nil {
		return 0, 0, err
	}
	total, err = strconv.ParseInt(size, 10, 64)
	return from, total, err
}

// Stat describes an object with one HeadObject. If that says 404 a GET of one byte finds out what is missing, since the
// answer to a HEAD has no body to say so. See storage.Store.
func (s *Store) Stat(ctx context.Context, key string) (storage.Info, error) {
	info, err := s.stat(ctx, key)
	if err != nil {
		return storage.Info{}, s.wrap("stat", key, err)
	}
	return info, nil
}

func (s *Store) stat(ctx context.Context, key string) (storage.Info, error) {
	if err := storage.CheckKey(key); err != nil {
		return storage.Info{}, err
	}
	out, err := s.client.HeadObject(ctx, &awss3.HeadObjectInput{
		Bucket: &s.bucket, Key: aws.String(s.prefix + key), ChecksumMode: types.ChecksumModeEnabled,
	})
	var re *smithyhttp.ResponseError
	switch {
	case errors.As(err, &re) && re.HTTPStatusCode() == http.StatusNotFound:
		return s.resolve(ctx, key)
	case err != nil:
		return storage.Info{}, explain(err)
	case out.ContentLength == nil:
		return storage.Info{}, errors.New("the store's answer does not say how long the object is")
	}
	info := storage.Info{
		Key: key, Size: *out.ContentLength, ETag: aws.ToString(out.ETag),
		Modified: aws.ToTime(out.LastModified), Now: serverTime(out.ResultMetadata),
	}
	// A multipart object has the checksum of its parts' checksums instead, "…-3", which does not decode.
	sum, err := base64.StdEncoding.DecodeString(aws.ToString(out.ChecksumSHA256))
	if err == nil && len(sum) == 32 && out.ChecksumType != types.ChecksumTypeComposite {
		info.SHA256 = (*[32]byte)(sum)
	}
	return info, nil
}

// resolve finds out what a 404 to a HEAD means. The object may also have been created since.
func (s *Store) resolve(ctx context.Context, key string) (storage.Info, error) {
	body, info, err := s.get(ctx, key, storage.Range{Length: 1})
	if errors.Is(err, storage.ErrRange) { // it is there, and empty
		body, info, err = s.get(ctx, key, storage.Range{})
	}
	if err != nil {
		return storage.Info{}, err
	}
	return info, body.Close()
}
