package storage_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"

	"pgstow/storage"
	"pgstow/storage/fault"
	"pgstow/storage/file"
)

func TestCheckKey(t *testing.T) {
	for _, key := range []string{
		"a", "repo.json", "repo/1.json", "main/7000000000000000001/wal/00000001/00000000/000000010000000000000001.1-2",
		"A-Z_0.9", "a..b", "-", "_", strings.Repeat("x", 255) + "/" + strings.Repeat("y", 255) + "/",
	} {
		key = strings.TrimSuffix(key, "/")
		if err := storage.CheckKey(key); err != nil {
			t.Errorf("%q: %v", key, err)
		}
	}
	for _, key := range []string{
		"", "/", "a/", "/a", "a//b", ".", "..", "a/.", "a/../b", ".hidden", "a/.hidden", "a b", "a%2Fb", "a:b", "a\n", "é", "a\\b",
		strings.Repeat("x", 256), strings.Repeat("x/", 256) + "x",
	} {
		if err := storage.CheckKey(key); !errors.Is(err, storage.ErrInvalidKey) {
			t.Errorf("%q: %v, want ErrInvalidKey", key, err)
		}
	}
}

func TestRangeResolve(t *testing.T) {
	for _, c := range []struct {
		r              storage.Range
		size           int64
		offset, length int64 // offset -1: ErrRange
	}{
		{storage.Range{}, 0, 0, 0},
		{storage.Range{}, 7, 0, 7},
		{storage.Range{Offset: 3}, 7, 3, 4},
		{storage.Range{Offset: 3, Length: 2}, 7, 3, 2},
		{storage.Range{Offset: 3, Length: 1 << 62}, 7, 3, 4},
		{storage.Range{Offset: -3}, 7, 4, 3},
		{storage.Range{Offset: -30}, 7, 0, 7},
		{storage.Range{Offset: -1 << 63}, 7, 0, 7},
		{storage.Range{Offset: 7}, 7, -1, 0},
		{storage.Range{Length: 1}, 0, -1, 0},
		{storage.Range{Offset: -1}, 0, -1, 0},
		{storage.Range{Offset: -1, Length: 1}, 7, -1, 0},
		{storage.Range{Length: -1}, 7, -1, 0},
	} {
		offset, length, err := c.r.Resolve(c.size)
		if c.offset < 0 {
			if !errors.Is(err, storage.ErrRange) {
				t.Errorf("%+v of %d: %v, want ErrRange", c.r, c.size, err)
			}
		} else if err != nil || offset != c.offset || length != c.length {
			t.Errorf("%+v of %d: %d, %d, %v, want %d, %d", c.r, c.size, offset, length, err, c.offset, c.length)
		}
	}
}

func TestCondition(t *testing.T) {
	if storage.Any != (storage.Condition{}) || storage.IfMatch("x") != storage.IfMatch(strings.ToLower("X")) || storage.IfMatch("x") == storage.IfMatch("y") {
		t.Error("conditions do not compare")
	}
	for _, c := range []struct {
		c           storage.Condition
		any, absent bool
		etag        string
		match       bool
		text        string
	}{
		{storage.Any, true, false, "", false, "always"},
		{storage.IfAbsent, false, true, "", false, "if absent"},
		{storage.IfMatch("x"), false, false, "x", true, "if it is still x"},
		{storage.IfMatch(""), false, false, "", true, "if it is still "},
	} {
		etag, match := c.c.Match()
		if c.c.IsAny() != c.any || c.c.IsAbsent() != c.absent || etag != c.etag || match != c.match || c.c.String() != c.text {
			t.Errorf("%v: %v %v %q %v", c.c, c.c.IsAny(), c.c.IsAbsent(), etag, match)
		}
	}
}

func TestNewBody(t *testing.T) {
	read := func(data string, length int64, wrap func(io.Reader) io.Reader) (string, error) {
		b := storage.NewBody(io.NopCloser(wrap(strings.NewReader(data))), length)
		got, err := io.ReadAll(b)
		return string(got), err
	}
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"plain":   func(r io.Reader) io.Reader { return r },
		"bytes":   iotest.OneByteReader,
		"dataerr": iotest.DataErrReader,
	} {
		if got, err := read("hello", 5, wrap); got != "hello" || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if got, err := read("hello", 6, wrap); got != "hello" || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s, short: %q, %v", name, got, err)
		}
		if got, err := read("", 1, wrap); got != "" || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s, empty: %q, %v", name, got, err)
		}
		if got, err := read("hello", 0, wrap); got != "" || err != nil {
			t.Errorf("%s, nothing asked: %q, %v", name, got, err)
		}
	}
}

func TestReadAll(t *testing.T) {
	inner, err := file.Open(file.Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s := fault.New(inner)
	body := bytes.Repeat([]byte("0123456789"), 1000)
	if _, err := s.Put(t.Context(), "key", body, storage.IfAbsent); err != nil {
		t.Fatal(err)
	}
	s.Add(fault.Fault{Op: fault.Get, Kind: fault.Short, At: 5000})
	if _, _, err := storage.ReadAll(t.Context(), s, "key", 1<<20); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("short body: %v", err)
	}
	if got, info, err := storage.ReadAll(t.Context(), s, "key", 10_000); err != nil || !bytes.Equal(got, body) || info.Size != 10_000 {
		t.Errorf("%d bytes, %+v, %v", len(got), info, err)
	}
	if _, _, err := storage.ReadAll(t.Context(), s, "key", 9_999); err == nil {
		t.Error("an object above the limit was read")
	}
	if got, _, err := storage.ReadRange(t.Context(), s, "key", storage.Range{Offset: -5}, 5); err != nil || string(got) != "56789" {
		t.Errorf("suffix: %q, %v", got, err)
	}
	s.VerifyAllHit(t)
}

func TestFind(t *testing.T) {
	inner, err := file.Open(file.Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s := fault.New(fault.New(inner))
	if got, ok := storage.Find[*file.Store](s); !ok || got != inner {
		t.Error("the wrapped store was not found")
	}
	if _, ok := storage.Find[json.Marshaler](s); ok {
		t.Error("found what is not there")
	}
}

func TestProgress(t *testing.T) {
	if err := storage.Progress(t.Context(), 5); err != nil {
		t.Errorf("without a function: %v", err)
	}
	sum, want := 0, errors.New("enough")
	ctx := storage.WithProgress(t.Context(), func(n int) error {
		if sum += n; sum > 100_000 {
			return want
		}
		return nil
	})
	s, err := file.Open(file.Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(ctx, "small", make([]byte, 70_000), storage.Any); err != nil || sum != 70_000 {
		t.Errorf("reported %d bytes, %v", sum, err)
	}
	if _, err := s.Put(ctx, "big", make([]byte, 70_000), storage.Any); !errors.Is(err, want) {
		t.Errorf("put: %v, want the function's error", err)
	}
	if _, err := s.Stat(context.Background(), "big"); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("a broken-off put left an object: %v", err)
	}
}

func TestParseURL(t *testing.T) {
	for in, want := range map[string]storage.URL{
		"s3://bucket":           {Scheme: "s3", Bucket: "bucket", Query: url.Values{}},
		"s3://bucket/":          {Scheme: "s3", Bucket: "bucket", Query: url.Values{}},
		"s3://my.bucket_1/a/b/": {Scheme: "s3", Bucket: "my.bucket_1", Prefix: "a/b", Query: url.Values{}},
		"s3://b/p?endpoint=http://127.0.0.1:9000&region=eu-central-1&ca_file=/etc/ca.pem&path_style=true&profile=x": {
			Scheme: "s3", Bucket: "b", Prefix: "p", Query: url.Values{
				"endpoint": {"http://127.0.0.1:9000"}, "region": {"eu-central-1"}, "ca_file": {"/etc/ca.pem"},
				"path_style": {"true"}, "profile": {"x"},
			},
		},
		"file:///var/lib/pgstow":    {Scheme: "file", Path: "/var/lib/pgstow", Query: url.Values{}},
		"file:///var//lib/../p%20q": {Scheme: "file", Path: "/var/p q", Query: url.Values{}},
	} {
		got, err := storage.ParseURL(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if got.Scheme != want.Scheme || got.Bucket != want.Bucket || got.Prefix != want.Prefix || got.Path != want.Path ||
			got.Query.Encode() != want.Query.Encode() {
			t.Errorf("%s: %+v, want %+v", in, got, want)
		}
		again, err := storage.ParseURL(got.String())
		if err != nil || again.String() != got.String() {
			t.Errorf("%s: its String %s parses to %v, %v", in, got, again, err)
		}
	}
	for _, in := range []string{
		"", "bucket", "/var/lib", "http://bucket", "s3://", "s3:///prefix", "s3:bucket", "s3://bucket:9000/x", "s3://bucket/a//b",
		"s3://bucket/.hidden", "s3://bucket/a b", "s3://bucket?endpont=x", "s3://bucket?region=a&region=b", "s3://bucket#x",
		"file://host/dir", "file://dir", "file:dir", "file:///dir?endpoint=x", "s3://bucket?endpoint=%zz", "s3://%zz",
	} {
		if got, err := storage.ParseURL(in); err == nil {
			t.Errorf("%q parsed as %+v", in, got)
		}
	}
	for _, in := range []string{"s3://AKIA:hunter2@bucket/x", "s3://AKIA:hunter2@bucket:port/x"} {
		if _, err := storage.ParseURL(in); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: error %v must exist and not repeat the secret", in, err)
		}
	}
}
