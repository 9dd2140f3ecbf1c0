package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/middleware"

	"pgstow/storage"
)

// Put stores an object with one PutObject. See storage.Store.
func (s *Store) Put(ctx context.Context, key string, body []byte, cond storage.Condition) (storage.Info, error) {
	if err := storage.CheckKey(key); err != nil {
		return storage.Info{}, fmt.Errorf("put: %w", err)
	}
	sum := sha256.Sum256(body)
	info, err := s.put(ctx, key, body, sum, cond)
	if err != nil {
		return storage.Info{}, s.wrap("put", key, err)
	}
	return info, nil
}

func (s *Store) put(ctx context.Context, key string, body []byte, sum [32]byte, cond storage.Condition) (storage.Info, error) {
	in := &awss3.PutObjectInput{
		Bucket:         &s.bucket,
		Key:            aws.String(s.prefix + key),
		ContentLength:  aws.Int64(int64(len(body))),
		ChecksumSHA256: aws.String(base64.StdEncoding.EncodeToString(sum[:])),
	}
	etag, swap := cond.Match()
	switch {
	case swap && etag == "":
		return storage.Info{}, fmt.Errorf("%w: it is to replace an object without an ETag", storage.ErrExist)
	case swap:
		in.IfMatch = &etag
	case cond.IsAbsent():
		in.IfNoneMatch = aws.String("*")
	}
	in.Body = &sender{ctx: ctx, body: bytes.NewReader(body)}
	out, err := s.client.PutObject(ctx, in)
	if err != nil {
		err = explain(err)
		if swap && errors.Is(err, storage.ErrNotExist) {
			err = fmt.Errorf("%w: the object does not exist", storage.ErrExist)
		}
		return storage.Info{}, err
	}
	if out.ETag == nil {
		return storage.Info{}, errors.New("the store's answer has no ETag")
	}
	return storage.Info{
		Key: key, Size: int64(len(body)), ETag: *out.ETag, SHA256: &sum, Now: serverTime(out.ResultMetadata),
	}, nil
}

// serverTime is the Date of the answer, or zero.
func serverTime(m middleware.Metadata) time.Time {
	t, _ := awsmiddleware.GetServerTime(m)
	return t
}

func (s *Store) wrap(op, key string, err error) error {
	return fmt.Errorf("%s %s in %s: %w", op, key, s, err)
}

// ProbeChecksum sends a body with the checksum of another one. See storage.ChecksumProber.
func (s *Store) ProbeChecksum(ctx context.Context, key string) (refused bool, err error) {
	if err := storage.CheckKey(key); err != nil {
		return false, fmt.Errorf("put: %w", err)
	}
	_, err = s.put(ctx, key, []byte("what arrives"), sha256.Sum256([]byte("what was sent")), storage.Any)
	if err == nil {
		return false, nil
	}
	var a *answer
	if errors.As(err, &a) && a.status == 400 {
		return true, nil
	}
	return false, s.wrap("put", key, err)
}

// sender is the body of a request: it reports progress, and so hides the WriteTo of bytes.Reader. The SDK lets nobody
// read from it once the request has ended, though the HTTP transport may still be sending then; so the caller of Put may
// use his memory for other bytes as soon as it returns.
type sender struct {
	ctx  context.Context
	body *bytes.Reader
}

func (s *sender) Read(p []byte) (int, error) {
	n, err := s.body.Read(p[:min(len(p), storage.ProgressStep)])
	if n > 0 {
		if perr := storage.Progress(s.ctx, n); perr != nil {
			return 0, perr
		}
	}
	return n, err
}

func (s *sender) Seek(offset int64, whence int) (int64, error) { return s.body.Seek(offset, whence) }
