package s3_test

import (
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgstow/storage"
	"pgstow/storage/s3"
)

// cleanEnvironment hides from the SDK what the host may have.
func cleanEnvironment(t *testing.T) {
	t.Helper()
	nothing := filepath.Join(t.TempDir(), "none")
	for k, v := range map[string]string{
		"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "", "AWS_REGION": "",
		"AWS_DEFAULT_REGION": "", "AWS_CONFIG_FILE": nothing, "AWS_SHARED_CREDENTIALS_FILE": nothing, "AWS_CA_BUNDLE": "",
		"AWS_WEB_IDENTITY_TOKEN_FILE": "", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "", "AWS_CONTAINER_CREDENTIALS_FULL_URI": "",
		"AWS_ENDPOINT_URL": "", "AWS_ENDPOINT_URL_S3": "",
	} {
		t.Setenv(k, v)
	}
}

func TestFromURL(t *testing.T) {
	u, err := storage.ParseURL("s3://bucket/a/b?endpoint=https://host:9000&region=eu-west-1&profile=p&ca_file=/ca.pem&path_style=false")
	if err != nil {
		t.Fatal(err)
	}
	o, err := s3.FromURL(u)
	if err != nil || o.Bucket != "bucket" || o.Prefix != "a/b" || o.Endpoint != "https://host:9000" || o.Region != "eu-west-1" ||
		o.Profile != "p" || o.CAFile != "/ca.pem" || o.PathStyle == nil || *o.PathStyle {
		t.Errorf("%+v, %v", o, err)
	}
	for _, in := range []string{"file:///dir", "s3://bucket?path_style=maybe"} {
		u, err := storage.ParseURL(in)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s3.FromURL(u); err == nil {
			t.Errorf("%s passed", in)
		}
	}
}

func TestOpen(t *testing.T) {
	cleanEnvironment(t)
	for want, o := range map[string]s3.Options{
		"s3://bucket in us-east-1":                      {Bucket: "bucket"},
		"s3://bucket/a/b in eu-west-1":                  {Bucket: "bucket", Prefix: "/a/b/", Region: "eu-west-1"},
		"s3://bucket/p at http://127.0.0.1:9000":        {Bucket: "bucket", Prefix: "p", Endpoint: "http://127.0.0.1:9000/"},
		"s3://bucket at https://s3.eu.amazonaws.com":    {Bucket: "bucket", Endpoint: "https://s3.eu.amazonaws.com"},
		"s3://my.bucket.example at https://example.org": {Bucket: "my.bucket.example", Endpoint: "https://example.org"},
	} {
		if got := open(t, o).String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for name, o := range map[string]s3.Options{
		"no bucket":             {},
		"bad prefix":            {Bucket: "b", Prefix: "a//b"},
		"endpoint, no scheme":   {Bucket: "b", Endpoint: "127.0.0.1:9000"},
		"endpoint, credentials": {Bucket: "b", Endpoint: "http://key:hunter2@host"},
		"endpoint, scheme":      {Bucket: "b", Endpoint: "ftp://host"},
		"page size":             {Bucket: "b", PageSize: 1001},
		"no such profile":       {Bucket: "b", Profile: "not-there"},
	} {
		if _, err := s3.Open(t.Context(), o); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A call without credentials fails at once and says so; it does not wait for a cloud that is not there.
func TestNoCredentials(t *testing.T) {
	cleanEnvironment(t)
	start := time.Now()
	_, err := open(t, s3.Options{Bucket: "b", Endpoint: "http://127.0.0.1:1"}).Stat(t.Context(), "k")
	if !errors.Is(err, storage.ErrPermission) || !strings.Contains(err.Error(), "no credentials") || time.Since(start) > 5*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}

// A server that is not there is an error that may go away, and says no more than that.
func TestNobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	o := s3.Options{Bucket: "bucket", Endpoint: "http://" + address, Credentials: &s3.Credentials{AccessKey: "key", SecretKey: "hunter2"}}
	for op, err := range everyCall(t, open(t, o)) {
		for _, sentinel := range sentinels {
			if errors.Is(err, sentinel) {
				t.Errorf("%s: %v", op, err)
			}
		}
		if err == nil || !strings.Contains(err.Error(), "connection refused") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", op, err)
		}
	}
}
