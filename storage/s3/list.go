package s3

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"path"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"pgstow/storage"
)

// List takes one ListObjectsV2 per page, and only as the caller goes on; for a few more see [walk.rest]. See storage.Store.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Info, error] {
	return func(yield func(storage.Info, error) bool) {
		w := walk{s: s, ctx: ctx, yield: yield, last: after}
		err := storage.CheckPrefix(prefix)
		if err == nil {
			err = w.run(prefix)
		}
		if err != nil && !errors.Is(err, errStopped) {
			yield(storage.Info{}, fmt.Errorf("list %q in %s: %w", prefix, s, err))
		}
	}
}

// errStopped ends a walk whose caller wants no more.
var errStopped = errors.New("stopped")

// walk is one List on its way.
type walk struct {
	s     *Store
	ctx   context.Context
	yield func(storage.Info, error) bool
	last  string // the key last yielded, or where the list begins; what comes next must be greater
}

func (w *walk) run(prefix string) error {
	after := w.last
	pages, err := w.pages(prefix)
	if err != nil || pages > 1 || w.s.trusted || !strings.HasPrefix(after, prefix) || !below(after, prefix) {
		return err
	}
	return w.rest(prefix)
}

// below reports whether key lies in a folder below the one that prefix names.
func below(key, prefix string) bool { return strings.Contains(key[len(prefix):], "/") }

// rest works around a fault of MinIO (seen in its release of February 2026, WalkDir with ForwardTo and Limit): the first
// page of a list that starts after "x/key" can lack its end, without being marked as truncated, if objects exist whose
// names begin with "x-" or "x.". The server passes over them, since they come before "x/", but counts them into the size
// of the page. It counts rightly if the key to start after lies in the very folder that the prefix names. So, after a
// first page that says it is all, the rest is asked for folder by folder, from that of the last key upwards.
// Amazon is trusted; elsewhere this costs one short request, and two more a level.
func (w *walk) rest(prefix string) error {
	for below(w.last, prefix) {
		dir := path.Dir(w.last)
		if _, err := w.pages(dir + "/"); err != nil {
			return err
		}
		// All keys in dir begin with dir+"/". The next greater string is dir+"0", and what follows must begin at that
		// one, not after it.
		if err := w.exactly(dir + "0"); err != nil {
			return err
		}
		w.last = dir + "0"
	}
	_, err := w.pages(prefix)
	return err
}

// exactly yields one object if it exists.
func (w *walk) exactly(key string) error {
	p, err := w.s.listPage(w.ctx, &awss3.ListObjectsV2Input{
		Bucket: &w.s.bucket, Prefix: aws.String(w.s.prefix + key), MaxKeys: aws.Int32(1), EncodingType: types.EncodingTypeUrl,
	})
	if err != nil {
		return err
	}
	for _, o := range p.objects {
		if full, err := decodeKey(p.encoding, o.key); err == nil && full == w.s.prefix+key {
			return w.object(p, o, key)
		}
	}
	return nil
}

// pages lists what is below prefix and behind w.last, and returns how many pages that took.
func (w *walk) pages(prefix string) (int, error) {
	in := &awss3.ListObjectsV2Input{
		Bucket: &w.s.bucket, Prefix: aws.String(w.s.prefix + prefix), MaxKeys: aws.Int32(int32(storage.Few(w.ctx, int(w.s.page)))),
		EncodingType: types.EncodingTypeUrl, // other people's keys may hold what XML cannot
	}
	after := w.last
	if after != "" {
		in.StartAfter = aws.String(w.s.prefix + after)
	}
	for n := 1; ; n++ {
		p, err := w.s.listPage(w.ctx, in)
		if err != nil {
			return n, err
		}
		for _, o := range p.objects {
			if err := w.listed(p, o, prefix, after); err != nil {
				return n, err
			}
		}
		if !p.truncated {
			return n, nil
		}
		if p.next == "" {
			return n, errors.New("the store says that there is more, but not where")
		}
		in.ContinuationToken, in.StartAfter, in.MaxKeys = aws.String(p.next), nil, &w.s.page
	}
}

// listed takes one entry of a page: ours to yield, somebody else's, or not in order.
func (w *walk) listed(p page, o listedObject, prefix, after string) error {
	full, err := decodeKey(p.encoding, o.key)
	if err != nil {
		return err
	}
	key, ok := strings.CutPrefix(full, w.s.prefix)
	ours := ok && storage.CheckKey(key) == nil && key > after && strings.HasPrefix(key, prefix)
	if !ours {
		return nil
	}
	if key <= w.last {
		return fmt.Errorf("%w: it lists %q after %q, not in the order of keys", storage.ErrUnsupported, key, w.last)
	}
	return w.object(p, o, key)
}

func (w *walk) object(p page, o listedObject, key string) error {
	w.last = key
	if !w.yield(storage.Info{Key: key, Size: o.size, ETag: o.etag, Modified: o.modified, Now: p.serverTime}, nil) {
		return errStopped
	}
	return nil
}

func decodeKey(encoding types.EncodingType, key string) (string, error) {
	if encoding != types.EncodingTypeUrl {
		return key, nil
	}
	return url.QueryUnescape(key)
}
