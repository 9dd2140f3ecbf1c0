package minio_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"pgstow/test/minio"
)

func TestServer(t *testing.T) {
	s := minio.New(t, minio.Options{Buckets: []string{"first"}})
	wantList(t, s, "first", "<Name>first</Name>")
	wantList(t, s, "second", "NoSuchBucket")
	s.MakeBucket("second")
	wantList(t, s, "second", "<Name>second</Name>")

	s.Kill()
	if _, err := http.Get(s.Endpoint); err == nil {
		t.Error("answers after a kill")
	}
	s.MakeBucket("third")
	s.Start()
	wantList(t, s, "first", "<Name>first</Name>")
	wantList(t, s, "third", "<Name>third</Name>")
}

func TestURL(t *testing.T) {
	s := minio.New(t, minio.Options{TLS: true})
	if _, err := http.Get(s.Endpoint); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without its certificate: %v", err)
	}
	u, err := url.Parse(s.URL("bucket", "a/b"))
	if err != nil || u.Scheme != "s3" || u.Host != "bucket" || u.Path != "/a/b" ||
		u.Query().Get("endpoint") != s.Endpoint || u.Query().Get("ca_file") != s.CAFile {
		t.Errorf("URL = %s, %v", u, err)
	}
}

func wantList(t *testing.T, s *minio.Server, bucket, want string) {
	t.Helper()
	resp, err := http.Get(presign(s, bucket))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), want) {
		t.Errorf("list of %s: %s, want %s", bucket, b, want)
	}
}

// presign makes an address that lists a bucket, signed by AWS Signature Version 4 in the query.
func presign(s *minio.Server, bucket string) string {
	now := time.Now().UTC()
	scope := now.Format("20060102") + "/" + minio.Region + "/s3/aws4_request"
	host := strings.TrimPrefix(s.Endpoint, "http://")
	query := url.Values{
		"X-Amz-Algorithm":     {"AWS4-HMAC-SHA256"},
		"X-Amz-Credential":    {minio.AccessKey + "/" + scope},
		"X-Amz-Date":          {now.Format("20060102T150405Z")},
		"X-Amz-Expires":       {"60"},
		"X-Amz-SignedHeaders": {"host"},
		"list-type":           {"2"},
	}.Encode()
	request := fmt.Sprintf("GET\n/%s/\n%s\nhost:%s\n\nhost\nUNSIGNED-PAYLOAD", bucket, query, host)
	digest := sha256.Sum256([]byte(request))
	toSign := fmt.Sprintf("AWS4-HMAC-SHA256\n%s\n%s\n%x", now.Format("20060102T150405Z"), scope, digest)
	key := []byte("AWS4" + minio.SecretKey)
	for _, part := range append(strings.Split(scope, "/"), toSign) {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(part))
		key = h.Sum(nil)
	}
	return s.Endpoint + "/" + bucket + "/?" + query + "&X-Amz-Signature=" + hex.EncodeToString(key)
}
