// Package s3 keeps objects in a bucket of Amazon S3 or of anything that speaks its protocol. It is the only importer of
// the AWS SDK.
//
// Every call is one request, with these exceptions: Stat asks again with a GET when a HEAD says 404, which cannot tell a
// missing key from a missing bucket; List takes one request per page; Delete one per 1000 keys. Nothing is retried here
// (the SDK's own retries are off): storage/retry does that.
//
// A Put sends the SHA-256 of its body in a header, which the store compares with what arrives, and leaves the payload out
// of the signature, so the body is hashed once. Conditions are the headers If-None-Match and If-Match; whether a store
// heeds them storage/probe finds out.
package s3

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/logging"

	"pgstow/storage"
)

// defaultRegion is used when neither Options nor the SDK's own sources name one; stores other than Amazon's rarely care.
const defaultRegion = "us-east-1"

// Options says which bucket and how to reach it. Bucket alone is enough where the SDK finds credentials and region.
type Options struct {
	Bucket   string
	Prefix   string // keys lie below it; may be empty
	Endpoint string // "http://127.0.0.1:9000"; "" is Amazon, or what the SDK's own settings say
	Region   string // "" is what the SDK's own settings say, else us-east-1
	Profile  string // of the SDK's shared files
	CAFile   string // PEM certificates trusted beside the system's

	// PathStyle puts the bucket into the path instead of the host name. nil: with an endpoint that is not Amazon's.
	PathStyle *bool

	Anonymous   bool         // send requests unsigned
	Credentials *Credentials // nil: the SDK's own chain (environment, shared files, roles)
	Timeouts    Timeouts

	// PageSize is the number of keys per request of List and Delete. 0 is 1000, which is also the most.
	PageSize int
}

// Credentials are fixed keys.
type Credentials struct{ AccessKey, SecretKey, SessionToken string }

// Timeouts bound the parts of a request in which nothing happens. There is none for a request as a whole, because a slow
// one that makes progress is fine; the context says how long a call may take. Zero is the default of each.
type Timeouts struct {
	Dial           time.Duration // 10 s
	TLS            time.Duration // 10 s
	ResponseHeader time.Duration // 30 s, from the end of the request on
	Idle           time.Duration // 30 s without a byte in either direction
}

func (t Timeouts) withDefaults() Timeouts {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&t.Dial, 10 * time.Second}, {&t.TLS, 10 * time.Second},
		{&t.ResponseHeader, 30 * time.Second}, {&t.Idle, 30 * time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	return t
}

// FromURL takes the options out of an address. The caller adds the others.
func FromURL(u storage.URL) (Options, error) {
	if u.Scheme != "s3" {
		return Options{}, fmt.Errorf("%s is not an s3:// address", u)
	}
	o := Options{
		Bucket: u.Bucket, Prefix: u.Prefix, Endpoint: u.Query.Get("endpoint"), Region: u.Query.Get("region"),
		Profile: u.Query.Get("profile"), CAFile: u.Query.Get("ca_file"),
	}
	if v := u.Query.Get("path_style"); v != "" {
		b, err := strconv.ParseBool(v)
		if err != nil {
			return Options{}, fmt.Errorf("%s: path_style must be true or false", u)
		}
		o.PathStyle = &b
	}
	return o, nil
}

// Store keeps objects in a bucket. It implements storage.Store and storage.ChecksumProber.
type Store struct {
	client *awss3.Client
	bucket string
	prefix string // with a slash at its end, or empty
	page   int32
	name   string

	trusted bool // it is Amazon's own, see walk.rest
}

var (
	_ storage.Store          = (*Store)(nil)
	_ storage.ChecksumProber = (*Store)(nil)
)

// Open prepares a store. It sends no request: a wrong address or missing credentials show at the first call.
func Open(ctx context.Context, o Options) (*Store, error) {
	s, err := open(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("open store s3://%s: %w", strings.TrimSuffix(o.Bucket+"/"+o.Prefix, "/"), err)
	}
	return s, nil
}

func open(ctx context.Context, o Options) (*Store, error) {
	if o.Bucket == "" {
		return nil, errors.New("no bucket is named")
	}
	prefix := strings.Trim(o.Prefix, "/")
	if prefix != "" {
		if err := storage.CheckKey(prefix); err != nil {
			return nil, fmt.Errorf("prefix: %w", err)
		}
		prefix += "/"
	}
	if o.PageSize < 0 || o.PageSize > 1000 {
		return nil, fmt.Errorf("page size %d is not within 1 and 1000", o.PageSize)
	}
	client, err := newClient(ctx, o)
	if err != nil {
		return nil, err
	}
	s := &Store{client: client, bucket: o.Bucket, prefix: prefix, page: int32(o.PageSize)}
	if s.page == 0 {
		s.page = 1000
	}
	s.name = strings.TrimSuffix("s3://"+o.Bucket+"/"+prefix, "/")
	endpoint := aws.ToString(client.Options().BaseEndpoint)
	if s.trusted = amazon(endpoint); endpoint != "" {
		s.name += " at " + endpoint
	} else {
		s.name += " in " + client.Options().Region
	}
	return s, nil
}

func (s *Store) String() string { return s.name }

func newClient(ctx context.Context, o Options) (*awss3.Client, error) {
	if err := checkEndpoint(o.Endpoint); err != nil {
		return nil, err
	}
	httpClient, err := newHTTPClient(o)
	if err != nil {
		return nil, err
	}
	load := []func(*config.LoadOptions) error{
		config.WithHTTPClient(httpClient),
		config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }),
		config.WithLogger(logging.Nop{}),
	}
	if o.Region != "" {
		load = append(load, config.WithRegion(o.Region))
	}
	if o.Profile != "" {
		load = append(load, config.WithSharedConfigProfile(o.Profile))
	}
	if c := o.Credentials; c != nil {
		load = append(load, config.WithCredentialsProvider(
			credentials.NewStaticCredentialsProvider(c.AccessKey, c.SecretKey, c.SessionToken)))
	}
	if o.Anonymous {
		load = append(load, config.WithCredentialsProvider(aws.AnonymousCredentials{}))
	}
	if !amazon(o.Endpoint) {
		// Elsewhere there is no instance role, and asking an address that does not answer takes many seconds.
		load = append(load, config.WithEC2IMDSClientEnableState(imds.ClientDisabled))
	}
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, err
	}
	frozen, err := freeze(cfg.HTTPClient, o.Timeouts.withDefaults())
	if err != nil {
		return nil, err
	}
	return awss3.NewFromConfig(cfg, func(opts *awss3.Options) {
		opts.HTTPClient = frozen
		if o.Endpoint != "" {
			opts.BaseEndpoint = aws.String(strings.TrimSuffix(o.Endpoint, "/"))
		}
		if opts.Region == "" {
			opts.Region = defaultRegion
		}
		opts.UsePathStyle = opts.BaseEndpoint != nil && !amazon(*opts.BaseEndpoint)
		if o.PathStyle != nil {
			opts.UsePathStyle = *o.PathStyle
		}
		opts.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		opts.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		opts.AppID = "pgstow"
		// It would sign by the clock that the last answer claims to have, and something on the way may have set that. A host whose own clock
		// is wrong has its first request refused in any case, and is told so.
		opts.DisableClockSkewCorrection = true
		opts.APIOptions = append(opts.APIOptions, v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware)
	}), nil
}

func checkEndpoint(endpoint string) error {
	if endpoint == "" {
		return nil
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" {
		return errors.New("the endpoint must be like http://host:9000 or https://host")
	}
	return nil
}

// amazon reports whether the endpoint is one of Amazon's own; "" is.
func amazon(endpoint string) bool {
	if endpoint == "" {
		return true
	}
	u, err := url.Parse(endpoint)
	if err != nil {
		return false
	}
	host := u.Hostname()
	return strings.HasSuffix(host, ".amazonaws.com") || strings.HasSuffix(host, ".amazonaws.com.cn")
}
