package s3_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"pgstow/storage"
	"pgstow/storage/s3"
	"pgstow/storage/storetest"
	"pgstow/test/minio"
)

// startMinIO starts a server. Without the program the test fails: `make` builds it.
func startMinIO(t *testing.T, o minio.Options) *minio.Server {
	t.Helper()
	t.Setenv("PGSTOW_TEST_REQUIRE", "1")
	return minio.New(t, o)
}

func options(t *testing.T, server *minio.Server, bucket, prefix string) s3.Options {
	t.Helper()
	u, err := storage.ParseURL(server.URL(bucket, prefix))
	if err != nil {
		t.Fatal(err)
	}
	o, err := s3.FromURL(u)
	if err != nil {
		t.Fatal(err)
	}
	o.Credentials = &s3.Credentials{AccessKey: minio.AccessKey, SecretKey: minio.SecretKey}
	return o
}

func open(t *testing.T, o s3.Options) *s3.Store {
	t.Helper()
	s, err := s3.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	server := startMinIO(t, minio.Options{Buckets: []string{"prefixed"}})
	var n atomic.Int64
	// Many stores of one bucket, each below its own prefix; small pages, so that every list has several.
	storetest.Run(t, func(t *testing.T) storage.Store {
		o := options(t, server, "prefixed", fmt.Sprintf("prefix-%d/x", n.Add(1)))
		o.PageSize = 7
		return open(t, o)
	})
	t.Run("NoPrefix", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) storage.Store {
			bucket := fmt.Sprintf("bucket-%d", n.Add(1))
			server.MakeBucket(bucket)
			return open(t, options(t, server, bucket, ""))
		})
	})
}
