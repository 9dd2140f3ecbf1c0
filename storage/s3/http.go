package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"mime"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
)

// maxIdleConns is how many connections are kept open between requests: more than the workers that a command starts.
const maxIdleConns = 64

// newHTTPClient makes the SDK's own kind of client, because LoadDefaultConfig adds AWS_CA_BUNDLE to no other.
func newHTTPClient(o Options) (*awshttp.BuildableClient, error) {
	var roots *x509.CertPool
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("CA file: %w", err)
		}
		if roots, err = x509.SystemCertPool(); err != nil {
			return nil, fmt.Errorf("system certificates: %w", err)
		}
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("CA file %s holds no certificate in PEM form", o.CAFile)
		}
	}
	return awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		if roots == nil {
			return
		}
		if t.TLSClientConfig == nil {
			t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		t.TLSClientConfig.RootCAs = roots
	}), nil
}

// freeze sets the timeouts and hides the SDK's kind of client from the SDK, which would put its own timeouts into it.
func freeze(c aws.HTTPClient, t Timeouts) (aws.HTTPClient, error) {
	b, ok := c.(*awshttp.BuildableClient)
	if !ok {
		return nil, fmt.Errorf("internal error: the SDK replaced the HTTP client by a %T", c)
	}
	dialer := &net.Dialer{Timeout: t.Dial, KeepAlive: 15 * time.Second}
	return noPages{b.WithTransportOptions(func(tr *http.Transport) {
		tr.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &liveConn{Conn: c, idle: t.Idle}, nil
		}
		tr.TLSHandshakeTimeout = t.TLS
		tr.ResponseHeaderTimeout = t.ResponseHeader
		tr.MaxIdleConns, tr.MaxIdleConnsPerHost, tr.MaxConnsPerHost = maxIdleConns, maxIdleConns, 0
		tr.IdleConnTimeout = t.Idle * 3 / 4 // before liveConn finds it dead
	}).Freeze()}, nil
}

// noPages turns a web page that says it is a success into an error. Something on the way sends it, a load balancer or the login of a network,
// and the SDK would take it for a stored object, if it happens to have an ETag, or for an empty list. No answer of S3 is HTML, and neither
// is any object of ours. Some stores call an empty answer so: that one is left alone.
type noPages struct{ client aws.HTTPClient }

var errPage = errors.New("the answer is a web page, so it is not the store's")

// Do is aws.HTTPClient's.
func (c noPages) Do(r *http.Request) (*http.Response, error) {
	resp, err := c.client.Do(r)
	if err != nil || resp.StatusCode >= 300 || resp.ContentLength == 0 {
		return resp, err
	}
	if kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || kind != "text/html" {
		return resp, nil //nolint:nilerr // what cannot be read is no page
	}
	_ = resp.Body.Close()
	return nil, errPage
}

// liveConn is a connection that fails when nothing moves on it, in either direction, for idle. Without it a peer that
// vanished is noticed only by TCP, after a quarter of an hour. A long upload keeps the pending read of the response
// alive: that is why this is not a plain read timeout.
type liveConn struct {
	net.Conn
	idle time.Duration
}

func (c *liveConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.idle)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *liveConn) Write(p []byte) (int, error) {
	now := time.Now()
	if err := c.SetWriteDeadline(now.Add(c.idle)); err != nil {
		return 0, err
	}
	if err := c.SetReadDeadline(now.Add(c.idle)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(p)
	if err == nil {
		err = c.SetReadDeadline(time.Now().Add(c.idle))
	}
	return n, err
}
