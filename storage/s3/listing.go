package s3

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// page is one answer to ListObjectsV2.
type page struct {
	encoding   types.EncodingType
	truncated  bool
	next       string // continuation token
	objects    []listedObject
	serverTime time.Time
}

type listedObject struct {
	key, etag string
	size      int64
	modified  time.Time
}

// errNotListing: for an empty body and for a web page of something on the way that says 200 the SDK gives an empty result, and an empty list
// is the proof that there is no more WAL. Every S3 server says whether a page is the last one.
var errNotListing = errors.New("the answer is not a list of objects")

// listPage sends one request. The SDK spends seven microseconds on an entry of the answer, which is most of what listing a large archive
// costs, so an answer in the form that S3 servers give is read by [parsePage] before the SDK sees it; any other is left to the SDK.
func (s *Store) listPage(ctx context.Context, in *awss3.ListObjectsV2Input) (page, error) {
	var p page
	parsed := false
	out, err := s.client.ListObjectsV2(ctx, in, func(o *awss3.Options) {
		o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error {
			return stack.Deserialize.Add(middleware.DeserializeMiddlewareFunc("pgstow listing",
				func(ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler) (middleware.DeserializeOutput, middleware.Metadata, error) {
					out, meta, err := next.HandleDeserialize(ctx, in)
					if resp, ok := out.RawResponse.(*smithyhttp.Response); ok && err == nil && resp.StatusCode == 200 {
						p, parsed = readPage(resp)
					}
					return out, meta, err
				}), middleware.After)
		})
	})
	if err != nil {
		return page{}, explain(err)
	}
	if !parsed {
		if p, err = pageOf(out); err != nil {
			return page{}, err
		}
	}
	p.serverTime = serverTime(out.ResultMetadata)
	return p, nil
}

// pageOf is what the SDK made of an answer.
func pageOf(out *awss3.ListObjectsV2Output) (page, error) {
	if out.IsTruncated == nil {
		return page{}, errNotListing
	}
	p := page{encoding: out.EncodingType, truncated: *out.IsTruncated, next: aws.ToString(out.NextContinuationToken)}
	for _, o := range out.Contents {
		p.objects = append(p.objects, listedObject{
			key: aws.ToString(o.Key), etag: aws.ToString(o.ETag), size: aws.ToInt64(o.Size), modified: aws.ToTime(o.LastModified),
		})
	}
	return p, nil
}

// maxPage bounds what is read at once, in bytes: 1000 keys of 1024 bytes, each of them escaped, and what is told of them.
const maxPage = 8 << 20

// readPage takes the body of an answer if it is a page, and puts an empty list in its place; else the body is as it was.
func readPage(resp *smithyhttp.Response) (page, bool) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxPage))
	if err == nil && len(body) < maxPage {
		if p, ok := parsePage(body); ok {
			_ = resp.Body.Close()
			resp.Body = io.NopCloser(strings.NewReader("<ListBucketResult></ListBucketResult>"))
			return p, true
		}
	}
	rest := io.Reader(resp.Body)
	if err != nil {
		rest = brokenReader{err}
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(body), rest), resp.Body}
	return page{}, false
}

type brokenReader struct{ err error }

func (b brokenReader) Read([]byte) (int, error) { return 0, b.err }

// parsePage reads the XML that S3 servers send: elements without attributes but for the outermost, text of printable ASCII with the usual
// entities, and no name that it does not know. ok is false for everything else.
func parsePage(body []byte) (p page, ok bool) {
	x := &xmlText{rest: body}
	for _, declaration := range []string{`<?xml version="1.0" encoding="UTF-8"?>`, `<?xml version="1.0"?>`} {
		x.rest = bytes.TrimPrefix(x.rest, []byte(declaration))
	}
	x.space()
	if !x.root() {
		return p, false
	}
	told := false
	for !x.end("ListBucketResult") {
		name, empty := x.start()
		if x.bad {
			return p, false
		}
		if name == "Contents" && !empty {
			p.objects = append(p.objects, x.object())
			continue
		}
		text := x.text(name, empty)
		switch name {
		case "IsTruncated":
			p.truncated, told = string(text) == "true", true
			x.require(p.truncated || string(text) == "false")
		case "NextContinuationToken":
			p.next = string(text)
		case "EncodingType":
			p.encoding = types.EncodingType(text)
		case "Name", "Prefix", "Delimiter", "MaxKeys", "KeyCount", "StartAfter", "ContinuationToken":
		default:
			x.bad = true
		}
	}
	x.space()
	return p, told && !x.bad && len(x.rest) == 0
}

// object reads the inside of one Contents.
func (x *xmlText) object() (o listedObject) {
	var err error
	for !x.end("Contents") {
		name, empty := x.start()
		if x.bad {
			return o
		}
		if name == "Owner" && !empty {
			for !x.end("Owner") && !x.bad {
				inner, empty := x.start()
				x.require(inner == "ID" || inner == "DisplayName")
				x.text(inner, empty)
			}
			continue
		}
		text := x.text(name, empty)
		switch name {
		case "Key":
			o.key = string(text)
		case "ETag":
			o.etag = string(text)
		case "Size":
			o.size, err = strconv.ParseInt(string(text), 10, 64)
			x.require(err == nil)
		case "LastModified":
			o.modified, err = time.Parse(time.RFC3339Nano, string(text))
			x.require(err == nil)
		case "StorageClass", "ChecksumAlgorithm", "ChecksumType":
		default:
			x.bad = true
		}
	}
	return o
}

// xmlText reads forward; bad says that what it met is not of the plain form, and nothing that it returned is to be used.
type xmlText struct {
	rest []byte
	bad  bool
}

func (x *xmlText) require(ok bool) { x.bad = x.bad || !ok }

func (x *xmlText) space() { x.rest = bytes.TrimLeft(x.rest, " \t\r\n") }

// root reads the outermost start, which may have the namespace.
func (x *xmlText) root() bool {
	tag, rest, ok := bytes.Cut(x.rest, []byte(">"))
	x.rest = rest
	return ok && (string(tag) == "<ListBucketResult" || string(tag) == `<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"`)
}

// end takes the end of an element if that comes next. It is true too where nothing good can come any more.
func (x *xmlText) end(name string) bool {
	x.space()
	if x.bad {
		return true
	}
	tail, ok := bytes.CutPrefix(x.rest, []byte("</"))
	if !ok {
		return false
	}
	tail, ok = bytes.CutPrefix(tail, []byte(name))
	if ok {
		tail, ok = bytes.CutPrefix(tail, []byte(">"))
	}
	x.require(ok)
	x.rest = tail
	return true
}

// start reads <name> or <name/>.
func (x *xmlText) start() (name string, empty bool) {
	tail, ok := bytes.CutPrefix(x.rest, []byte("<"))
	i := bytes.IndexByte(tail, '>')
	if !ok || i < 1 {
		x.bad = true
		return "", false
	}
	tag, empty := bytes.CutSuffix(tail[:i], []byte("/"))
	x.rest = tail[i+1:]
	for _, c := range tag {
		x.require(c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z')
	}
	return string(tag), empty
}

// text reads the text of an element that has begun, and its end. It may be a part of the answer, not a copy.
func (x *xmlText) text(name string, empty bool) []byte {
	if x.bad || empty {
		return nil
	}
	i := bytes.IndexByte(x.rest, '<')
	if i < 0 {
		x.bad = true
		return nil
	}
	text := x.rest[:i]
	x.rest = x.rest[i:]
	entities := false
	for _, c := range text {
		x.require(c >= ' ' && c < 0x7f)
		entities = entities || c == '&'
	}
	x.require(bytes.HasPrefix(x.rest, []byte("</")) && x.end(name))
	if entities {
		return x.entities(text)
	}
	return text
}

// entities replaces those that servers use.
func (x *xmlText) entities(s []byte) []byte {
	out := make([]byte, 0, len(s))
	for {
		plain, rest, ok := bytes.Cut(s, []byte("&"))
		out = append(out, plain...)
		if !ok {
			return out
		}
		name, rest, ok := bytes.Cut(rest, []byte(";"))
		x.require(ok)
		switch string(name) {
		case "quot", "#34":
			out = append(out, '"')
		case "amp", "#38":
			out = append(out, '&')
		case "lt", "#60":
			out = append(out, '<')
		case "gt", "#62":
			out = append(out, '>')
		case "apos", "#39":
			out = append(out, '\'')
		default:
			x.bad = true
		}
		s = rest
	}
}
