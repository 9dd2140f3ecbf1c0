package s3_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgstow/storage"
	"pgstow/storage/probe"
	"pgstow/storage/retry"
	"pgstow/storage/s3"
	"pgstow/test/minio"
)

// everyCall runs each method and returns the errors.
func everyCall(t *testing.T, s storage.Store) map[string]error {
	t.Helper()
	errs := make(map[string]error)
	_, errs["put"] = s.Put(t.Context(), "k", []byte("x"), storage.Any)
	_, errs["create"] = s.Put(t.Context(), "k", []byte("x"), storage.IfAbsent)
	_, errs["swap"] = s.Put(t.Context(), "k", []byte("x"), storage.IfMatch(`"0123456789abcdef0123456789abcdef"`))
	_, _, errs["get"] = s.Get(t.Context(), "k", storage.Range{})
	_, errs["stat"] = s.Stat(t.Context(), "k")
	_, errs["list"] = list(t, s, "", "")
	errs["delete"] = s.Delete(t.Context(), "k")
	errs["delete many"] = s.Delete(t.Context(), "k", "l")
	return errs
}

func TestMinIO(t *testing.T) {
	server := startMinIO(t, minio.Options{Buckets: []string{"bucket"}})

	t.Run("NoBucket", func(t *testing.T) {
		for op, err := range everyCall(t, open(t, options(t, server, "not-there", "p"))) {
			if !errors.Is(err, storage.ErrNoStore) || errors.Is(err, storage.ErrNotExist) {
				t.Errorf("%s: %v, want ErrNoStore", op, err)
			}
		}
	})
	t.Run("WrongKey", func(t *testing.T) {
		o := options(t, server, "bucket", "p")
		o.Credentials = &s3.Credentials{AccessKey: minio.AccessKey, SecretKey: "hunter2"}
		for op, err := range everyCall(t, open(t, o)) {
			if !errors.Is(err, storage.ErrPermission) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s: %v, want ErrPermission", op, err)
			}
		}
		o.Credentials, o.Anonymous = nil, true
		for op, err := range everyCall(t, open(t, o)) {
			if !errors.Is(err, storage.ErrPermission) {
				t.Errorf("anonymous %s: %v, want ErrPermission", op, err)
			}
		}
	})
	t.Run("CreateBucket", func(t *testing.T) {
		o := options(t, server, "made", "p")
		for range 2 { // the second time it is ours already
			if err := s3.CreateBucket(t.Context(), o); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := open(t, o).Put(t.Context(), "k", nil, storage.IfAbsent); err != nil {
			t.Error(err)
		}
	})
	t.Run("Probe", func(t *testing.T) {
		s := open(t, options(t, server, "bucket", "probed"))
		for _, s := range []storage.Store{s, retry.New(s, retry.Policy{}, nil)} {
			caps, err := probe.Run(t.Context(), s, "probe")
			if err != nil {
				t.Fatal(err)
			}
			if !caps.ConditionalPut || !caps.CompareAndSwap || !caps.ReadAfterWrite || !caps.ListAfterWrite || !caps.ChecksumVerified {
				t.Errorf("%+v", caps)
			}
			if caps.ClockDifference.Abs() > 2*time.Second {
				t.Errorf("clock difference %v to our own host", caps.ClockDifference)
			}
			if left, err := list(t, s, "", ""); err != nil || len(left) != 0 {
				t.Errorf("left behind %q, %v", left, err)
			}
		}
	})
	t.Run("Now", func(t *testing.T) {
		s := open(t, options(t, server, "bucket", "now"))
		put, err := s.Put(t.Context(), "k", []byte("x"), storage.Any)
		if err != nil {
			t.Fatal(err)
		}
		stat, err := s.Stat(t.Context(), "k")
		if err != nil || stat.SHA256 == nil || *stat.SHA256 != *put.SHA256 {
			t.Errorf("stat: %+v, %v", stat, err)
		}
		for _, now := range []time.Time{put.Now, stat.Now} {
			if time.Since(now).Abs() > 5*time.Second {
				t.Errorf("the store's clock says %v", now)
			}
		}
	})
	t.Run("ListFromInsideAFolder", func(t *testing.T) {
		// Many objects whose folder's name begins as that of the key to start after does, and sorts before it.
		o := options(t, server, "bucket", "inside")
		o.PageSize = 10
		s := open(t, o)
		want := []string{"x/b", "y"}
		for _, key := range append([]string{"x/a"}, want...) {
			if _, err := s.Put(t.Context(), key, nil, storage.Any); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 30 {
			if _, err := s.Put(t.Context(), fmt.Sprintf("x-%02d", i), nil, storage.Any); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := list(t, s, "", "x/a"); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("BodyIsNotKept", func(t *testing.T) {
		// The caller uses his buffer again at once, also after a refused put of which the transport may still send.
		s := open(t, options(t, server, "bucket", "reuse"))
		var wg sync.WaitGroup
		for worker := range 4 {
			wg.Go(func() {
				buf := make([]byte, 5<<20)
				for i := range 4 {
					for j := range buf {
						buf[j] = byte(i)
					}
					key := fmt.Sprintf("k%d", (worker+i)%3)
					if _, err := s.Put(t.Context(), key, buf, storage.IfAbsent); err != nil && !errors.Is(err, storage.ErrExist) &&
						!retry.Retryable(err) {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		for i := range 3 {
			body, _, err := storage.ReadAll(t.Context(), s, fmt.Sprintf("k%d", i), 5<<20)
			if err != nil || !bytes.Equal(body, bytes.Repeat(body[:1], 5<<20)) {
				t.Errorf("k%d is a mixture, %v", i, err)
			}
		}
	})
}

// The server dies while objects are created, and comes back: each is there once, whole, and no creator was told that it
// was another's.
func TestKilledServer(t *testing.T) {
	server := startMinIO(t, minio.Options{Buckets: []string{"bucket"}})
	retries := 0
	var mu sync.Mutex
	s := retry.New(open(t, options(t, server, "bucket", "")), retry.Policy{Total: 2 * time.Minute, MaxWait: 200 * time.Millisecond}, func(retry.Event) {
		mu.Lock()
		retries++
		mu.Unlock()
	})
	body := bytes.Repeat([]byte("segment "), 1<<17)
	started := make(chan struct{}, 200)
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := range 25 {
				started <- struct{}{}
				key := fmt.Sprintf("w%d/%02d", worker, i)
				if _, err := s.Put(t.Context(), key, append(body, key...), storage.IfAbsent); err != nil {
					t.Errorf("put %s: %v", key, err)
				}
			}
		})
	}
	for range 40 {
		<-started
	}
	server.Kill()
	server.Start()
	wg.Wait()
	if retries == 0 {
		t.Error("nothing was retried: the server was not missed")
	}
	for worker := range 4 {
		for i := range 25 {
			key := fmt.Sprintf("w%d/%02d", worker, i)
			if got, _, err := storage.ReadAll(t.Context(), s, key, 2<<20); err != nil || !bytes.Equal(got, append(body, key...)) {
				t.Errorf("%s: %d bytes, %v", key, len(got), err)
			}
		}
	}
}

func TestFrozenServer(t *testing.T) {
	server := startMinIO(t, minio.Options{Buckets: []string{"bucket"}})
	inner := open(t, options(t, server, "bucket", ""))
	if _, err := inner.Put(t.Context(), "k", nil, storage.Any); err != nil { // so that a connection is open
		t.Fatal(err)
	}
	server.Freeze()
	s := retry.New(inner, retry.Policy{Total: time.Minute, Stall: time.Second}, nil)
	start := time.Now()
	_, err := s.Put(t.Context(), "k", []byte("second"), storage.IfAbsent)
	var re *retry.Error
	if !errors.As(err, &re) || time.Since(start) > 30*time.Second || !strings.Contains(err.Error(), "no progress for 1s") {
		t.Errorf("%v after %v", err, time.Since(start))
	}
	server.Thaw()
	patient := retry.New(inner, retry.Policy{}, nil)
	if got, _, err := storage.ReadAll(t.Context(), patient, "k", 10); err != nil || len(got) != 0 {
		t.Errorf("%q, %v", got, err)
	}
}

func TestTLS(t *testing.T) {
	server := startMinIO(t, minio.Options{Buckets: []string{"bucket"}, TLS: true})
	o := options(t, server, "bucket", "")
	put := func(o s3.Options) error {
		_, err := open(t, o).Put(t.Context(), "k", kilobytes(100), storage.Any)
		return err
	}
	if err := put(o); err != nil {
		t.Errorf("with ca_file: %v", err)
	}
	trusted := o.CAFile
	o.CAFile = ""
	if err := put(o); !errors.Is(err, storage.ErrUntrusted) || retry.Retryable(err) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("unknown certificate: %v", err)
	}
	t.Setenv("AWS_CA_BUNDLE", trusted)
	if err := put(o); err != nil {
		t.Errorf("with AWS_CA_BUNDLE: %v", err)
	}
	o.CAFile = trusted
	if err := put(o); err != nil {
		t.Errorf("with both: %v", err)
	}
	o.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	if _, err := s3.Open(t.Context(), o); err == nil {
		t.Error("a missing CA file passed")
	}
	if err := os.WriteFile(o.CAFile, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s3.Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), "no certificate") {
		t.Errorf("a file without certificates: %v", err)
	}
}
