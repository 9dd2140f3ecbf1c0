package archive_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/fault"
	"pgstow/storage/retry"
	"pgstow/storage/s3"
	"pgstow/test/minio"
	"pgstow/wal/archive"
)

const bucket = "archive"

// onMinIO is a world on a real S3 server.
func onMinIO(t *testing.T, server *minio.Server, prefix string) *world {
	t.Helper()
	return newWorldOn(t, openS3(t, server, bucket, prefix), catalog.InitOptions{EncryptionNone: true}, catalog.Pins{EncryptionNone: true})
}

func openS3(t *testing.T, server *minio.Server, bucket, prefix string) storage.Store {
	t.Helper()
	s, err := s3.Open(t.Context(), s3.Options{
		Bucket: bucket, Prefix: prefix, Endpoint: server.Endpoint, Region: minio.Region,
		Credentials: &s3.Credentials{AccessKey: minio.AccessKey, SecretKey: minio.SecretKey},
	})
	must(t, err)
	return s
}

func TestOnMinIO(t *testing.T) {
	server := minio.New(t, minio.Options{Buckets: []string{bucket}})
	t.Run("one request each", func(t *testing.T) {
		w := onMinIO(t, server, "requests")
		w.push(plainSegment)
		w.store.Reset()
		w.push(switchedSegment)
		if w.store.Calls() != 1 || w.store.Count(fault.Put) != 1 {
			t.Errorf("push: %d requests", w.store.Calls())
		}
		w.spool = nil
		r, err := archive.Push(t.Context(), w.pushOptions(), w.place(switchedSegment, fixture(t, switchedSegment)))
		if err != nil || r.Outcome != archive.Existed {
			t.Errorf("again: %+v, %v", r, err)
		}
		w.store.Reset()
		w.wantFetched(switchedSegment, fixture(t, switchedSegment))
		if w.store.Calls() != 1 {
			t.Errorf("fetch: %d requests", w.store.Calls())
		}
		w.mode("recovery.signal")
		w.wantFetchError(firstSegment, archive.ErrAbsent, 1)
		w.push(thirdSegment)
		w.wantHole(firstSegment, thirdSegment)
	})
	t.Run("another server's segment", func(t *testing.T) {
		w := onMinIO(t, server, "conflict")
		w.push(switchedSegment)
		w.spool = nil
		other := bytes.Clone(fixture(t, switchedSegment))
		other[len(other)-1] = 1
		_, err := archive.Push(t.Context(), w.pushOptions(), w.place(switchedSegment, other))
		if archive.PushExit(err) != 12 || refusedBy(err).Writer.Host != "db1" {
			t.Errorf("got %v", err)
		}
		w.wantFetched(switchedSegment, fixture(t, switchedSegment))
	})
	t.Run("many pushers of one segment", func(t *testing.T) {
		w := onMinIO(t, server, "race")
		w.push(plainSegment)
		w.spool = nil
		path := w.place(firstSegment, fixture(t, firstSegment))
		var done sync.WaitGroup
		for range 10 {
			o := w.pushOptions()
			o.Store = retry.New(w.store, retry.Policy{}, nil)
			done.Go(func() {
				if _, err := archive.Push(t.Context(), o, path); err != nil {
					t.Error(err)
				}
			})
		}
		done.Wait()
		w.wantFetched(firstSegment, fixture(t, firstSegment))
	})
	t.Run("wrong bucket", func(t *testing.T) {
		w := onMinIO(t, server, "bucket")
		w.push(plainSegment)
		w.mode("recovery.signal")
		wrong := func(o *archive.FetchOptions) { o.Store = openS3(t, server, "no-such-bucket", "bucket") }
		if err := w.fetchErrorCode(plainSegment, 126, wrong); !errors.Is(err, storage.ErrNoStore) {
			t.Errorf("got %v", err)
		}
		w.wantFetchErrorCode(firstSegment, 126, wrong)
		empty := func(o *archive.FetchOptions) { o.Store = openS3(t, server, bucket, "nothing-here") }
		w.wantFetchError(firstSegment, catalog.ErrNoRepository, 126, empty)
	})
	t.Run("outage", func(t *testing.T) { outage(t, server) })
}

// outage: nobody is told that something is absent while the server is away, and what was under way goes on afterwards.
func outage(t *testing.T, server *minio.Server) {
	w := onMinIO(t, server, "outage")
	w.push(plainSegment)
	patient := retry.New(w.store, retry.Policy{MaxWait: 100 * time.Millisecond}, nil)
	for name, away := range map[string][2]func(){"killed": {server.Kill, server.Start}, "frozen": {server.Freeze, server.Thaw}} {
		away[0]()
		for _, file := range []string{plainSegment, firstSegment, "00000002.history"} {
			w.mode("recovery.signal")
			if err := w.fetchErrorCode(file, 126, func(o *archive.FetchOptions) { o.Store = patient }); errors.Is(err, archive.ErrAbsent) {
				t.Errorf("%s: %v", name, err)
			}
			w.mode("standby.signal")
			w.wantFetchError(file, archive.ErrUnreachable, 1, func(o *archive.FetchOptions) { o.Store = patient })
		}
		o := w.pushOptions()
		o.Store, o.Stall = patient, 200*time.Millisecond
		path := w.place(thirdSegment, fixture(t, thirdSegment))
		if _, err := archive.Push(t.Context(), o, path); archive.PushExit(err) != 1 {
			t.Errorf("%s: push: %v", name, err)
		}
		w.mode("recovery.signal")
		dst := filepath.Join(t.TempDir(), "RECOVERYXLOG")
		f := w.fetchOptions()
		f.Store, f.Deadline, f.Stall, f.Warn = patient, 2*time.Minute, time.Second, nil
		result := make(chan error, 1)
		go func() { result <- archive.Fetch(t.Context(), f, plainSegment, dst) }()
		away[1]()
		if err := <-result; err != nil {
			t.Errorf("%s: a fetch that waited: %v", name, err)
		}
		if b, err := os.ReadFile(dst); err != nil || !bytes.Equal(b, fixture(t, plainSegment)) {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
		o.Stall = 0
		if _, err := archive.Push(t.Context(), o, path); err != nil {
			t.Errorf("%s: push afterwards: %v", name, err)
		}
	}
}
