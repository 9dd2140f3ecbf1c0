package s3_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgstow/storage"
	"pgstow/storage/retry"
	"pgstow/storage/s3"
)

// sentinels are all errors that an answer may wrap.
var sentinels = []error{
	storage.ErrNotExist, storage.ErrExist, storage.ErrPermission, storage.ErrUnsupported, storage.ErrNoStore,
	storage.ErrInvalidKey, storage.ErrConflict, storage.ErrRange, storage.ErrRejected, storage.ErrArchived,
	storage.ErrFull, storage.ErrUntrusted,
}

func TestAnswers(t *testing.T) {
	const get, put, swap = "get", "put", "swap"
	for _, c := range []struct {
		op     string
		status int
		code   string
		want   error // nil: none of the sentinels
	}{
		{get, 404, "NoSuchKey", storage.ErrNotExist},
		{get, 404, "NoSuchBucket", storage.ErrNoStore},
		{get, 404, "", nil}, // of a proxy, say: no proof
		{get, 404, "SomethingElse", nil},
		{get, 403, "AccessDenied", storage.ErrPermission},
		{get, 403, "", storage.ErrPermission},
		{get, 403, "InvalidObjectState", storage.ErrArchived},
		{get, 401, "Unauthorized", storage.ErrPermission},
		{get, 416, "InvalidRange", storage.ErrRange},
		{get, 400, "AuthorizationHeaderMalformed", storage.ErrRejected},
		{get, 400, "ExpiredToken", storage.ErrPermission},
		{get, 301, "PermanentRedirect", storage.ErrRejected},
		{get, 429, "TooManyRequests", nil},
		{get, 500, "InternalError", nil},
		{get, 503, "SlowDown", nil},
		{get, 503, "", nil},
		{get, 501, "NotImplemented", storage.ErrUnsupported},
		{put, 412, "PreconditionFailed", storage.ErrExist},
		{put, 412, "", storage.ErrExist},
		{put, 409, "ConditionalRequestConflict", storage.ErrConflict},
		{put, 409, "ExistingObjectIsDirectory", storage.ErrInvalidKey},
		{put, 404, "NoSuchBucket", storage.ErrNoStore},
		{put, 404, "", nil},
		{put, 400, "BadDigest", nil},
		{put, 400, "XAmzContentChecksumMismatch", nil},
		{put, 400, "RequestTimeout", nil},
		{put, 413, "EntityTooLarge", storage.ErrRejected},
		{put, 501, "NotImplemented", storage.ErrUnsupported},
		{put, 403, "AccessDenied", storage.ErrPermission},
		{put, 507, "XMinioStorageFull", storage.ErrFull},
		{put, 507, "", storage.ErrFull},
		{put, 400, "XMinioAdminBucketQuotaExceeded", storage.ErrFull},
		{put, 500, "", nil},
		{swap, 404, "NoSuchKey", storage.ErrExist},
		{swap, 404, "NoSuchBucket", storage.ErrNoStore},
		{swap, 404, "", nil},
		{swap, 412, "PreconditionFailed", storage.ErrExist},
		{swap, 409, "ConditionalRequestConflict", storage.ErrConflict},
	} {
		name := fmt.Sprint(c.op, c.status, c.code)
		f, s := newFake(t, step{status: c.status, code: c.code})
		var err error
		switch c.op {
		case get:
			_, _, err = s.Get(t.Context(), "k", storage.Range{})
		case put:
			_, err = s.Put(t.Context(), "k", []byte("body"), storage.IfAbsent)
		case swap:
			_, err = s.Put(t.Context(), "k", []byte("body"), storage.IfMatch(`"tag"`))
		}
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		for _, e := range sentinels {
			if errors.Is(err, e) != errors.Is(c.want, e) {
				t.Errorf("%s: %v, wants %v", name, err, c.want)
			}
		}
		if retry.Retryable(err) != (c.want == nil || errors.Is(c.want, storage.ErrConflict)) {
			t.Errorf("%s: retryable is %v", name, retry.Retryable(err))
		}
		if text := err.Error(); c.code != "" && !errors.Is(c.want, storage.ErrExist) && (!strings.Contains(text, c.code) ||
			!strings.Contains(text, "REQ1")) || strings.Contains(text, "operation error") {
			t.Errorf("%s: text %q", name, text)
		}
		f.done()
	}
}

// TestUntrusted: a certificate that nobody vouches for, one for another name, and a server without TLS end a call at once.
func TestUntrusted(t *testing.T) {
	for name, start := range map[string]func(http.Handler) *httptest.Server{"certificate": httptest.NewTLSServer, "HTTP": httptest.NewServer} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			server := start(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
			server.Config.ErrorLog = log.New(io.Discard, "", 0)
			defer server.Close()
			address := strings.TrimPrefix(strings.TrimPrefix(server.URL, "https://"), "http://")
			var events int
			s := retry.New(open(t, s3.Options{
				Bucket: "bucket", Endpoint: "https://" + address, Credentials: &s3.Credentials{AccessKey: "key", SecretKey: "secret"},
			}), retry.Policy{}, func(retry.Event) { events++ })
			_, err := s.Put(t.Context(), "k", []byte("body"), storage.IfAbsent)
			if !errors.Is(err, storage.ErrUntrusted) || events > 0 || asked > 0 || !strings.Contains(err.Error(), name) {
				t.Errorf("%v, %d retries, %d requests", err, events, asked)
			}
		})
	}
}

func TestAnswerThatIsNotS3s(t *testing.T) {
	for _, status := range []int{200, 203, 404, 502} {
		for _, kind := range []string{"text/html", "text/html; charset=utf-8", "TEXT/HTML"} {
			page := step{status: status, body: "<html>hotel wifi", header: map[string]string{"Content-Type": kind, "ETag": `"page"`}}
			_, s := newFake(t, page, page, page, page, page, page)
			for name, call := range map[string]func() error{
				"put":    func() error { _, err := s.Put(t.Context(), "k", nil, storage.IfAbsent); return err },
				"get":    func() error { _, _, err := s.Get(t.Context(), "k", storage.Range{}); return err },
				"stat":   func() error { _, err := s.Stat(t.Context(), "k"); return err },
				"list":   func() error { _, err := list(t, s, "", ""); return err },
				"delete": func() error { return s.Delete(t.Context(), "k") },
			} {
				err := call()
				if err == nil || !retry.Retryable(err) {
					t.Errorf("%s, %d %s: %v", name, status, kind, err)
				}
			}
		}
	}
	// There are stores that call an empty answer so.
	empty := step{status: 200, header: map[string]string{"Content-Type": "text/html; charset=UTF-8", "ETag": `"tag"`}}
	_, s := newFake(t, empty)
	if _, err := s.Put(t.Context(), "k", nil, storage.IfAbsent); err != nil {
		t.Error(err)
	}
}

func TestPutRequest(t *testing.T) {
	body := kilobytes(100)
	sum := sha256.Sum256(body)
	date := "Tue, 24 Nov 2026 12:34:56 GMT"
	answer := stored
	answer.header = map[string]string{"ETag": `"tag"`, "Date": date}
	f, s := newFake(t, answer, stored, stored)
	moved := 0
	ctx := storage.WithProgress(t.Context(), func(n int) error { moved += n; return nil })
	info, err := s.Put(ctx, "dir/k", body, storage.IfAbsent)
	if err != nil {
		t.Fatal(err)
	}
	if info.ETag != `"tag"` || info.Size != int64(len(body)) || *info.SHA256 != sum || info.Now.Format(http.TimeFormat) != date {
		t.Errorf("%+v", info)
	}
	if moved != len(body) {
		t.Errorf("%d bytes reported, want each once", moved)
	}
	if _, err := s.Put(t.Context(), "dir/k", body, storage.IfMatch(`"old"`)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), "dir/k", nil, storage.Any); err != nil {
		t.Fatal(err)
	}
	reqs := f.done()
	for i, want := range []map[string]string{
		{"If-None-Match": "*", "If-Match": "", "X-Amz-Checksum-Sha256": base64.StdEncoding.EncodeToString(sum[:])},
		{"If-None-Match": "", "If-Match": `"old"`},
		{"If-None-Match": "", "If-Match": "", "X-Amz-Checksum-Sha256": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="},
	} {
		h := reqs[i].Header
		want["X-Amz-Content-Sha256"], want["X-Amz-Checksum-Crc32"], want["X-Amz-Trailer"] = "UNSIGNED-PAYLOAD", "", ""
		for k, v := range want {
			if h.Get(k) != v {
				t.Errorf("request %d: %s is %q, want %q", i, k, h.Get(k), v)
			}
		}
		if reqs[i].URL.Path != "/bucket/pre/dir/k" || reqs[i].ContentLength != int64(len(f.bodies[i])) {
			t.Errorf("request %d: %s, %d bytes", i, reqs[i].URL.Path, reqs[i].ContentLength)
		}
	}
	if !bytes.Equal(f.bodies[0], body) {
		t.Error("another body arrived")
	}
	if _, err := s.Put(t.Context(), "k", nil, storage.IfMatch("")); !errors.Is(err, storage.ErrExist) {
		t.Errorf("swap without a tag: %v", err) // and no request
	}
	f.done()
}

func TestPutWithoutETag(t *testing.T) {
	_, s := newFake(t, step{status: 200})
	if _, err := s.Put(t.Context(), "k", nil, storage.Any); err == nil {
		t.Error("an answer without an ETag passed")
	}
}

func TestShortBody(t *testing.T) {
	whole := string(kilobytes(300))
	short := object(whole[:200_000])
	short.length = len(whole)
	f, s := newFake(t, short)
	_, _, err := storage.ReadAll(t.Context(), s, "k", 1<<20)
	if err == nil || !retry.Retryable(err) {
		t.Errorf("short body: %v", err)
	}
	f.done()

	// And retry goes on with a range from where it broke off.
	f, s = newFake(t, short)
	rc, info, err := retry.New(s, retry.Policy{FirstWait: 1}, nil).Get(t.Context(), "k", storage.Range{})
	if err != nil || info.Size != int64(len(whole)) {
		t.Fatal(info, err)
	}
	var got bytes.Buffer
	for got.Len() < 1000 {
		if _, err := io.CopyN(&got, rc, 1000); err != nil {
			t.Fatal(err)
		}
	}
	f.answerRanges(whole)
	if _, err := io.Copy(&got, rc); err != nil || got.String() != whole {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
	if reqs := f.done(); !strings.HasPrefix(reqs[1].Header.Get("Range"), "bytes=") {
		t.Errorf("range %q", reqs[1].Header.Get("Range"))
	}
}

// answerRanges appends to the script one step that serves the range that is asked for.
func (f *fake) answerRanges(whole string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.script = append(f.script, step{})
	f.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.requests = append(f.requests, r)
		f.mu.Unlock()
		w.Header().Set("ETag", `"tag"`)
		http.ServeContent(w, r, "", time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC), strings.NewReader(whole))
	})
}

func TestRangeThatIsNotHeeded(t *testing.T) {
	for name, answer := range map[string]step{
		"whole object":     object("0123456789"),
		"another part":     part("234", "bytes 2-4/10"),
		"too much":         part("3456", "bytes 3-6/10"),
		"no total":         part("345", "bytes 3-5/*"),
		"another unit":     part("345", "lines 3-5/10"),
		"nonsense":         part("345", "bytes three"),
		"behind the total": part("345", "bytes 3-5/3"),
	} {
		_, s := newFake(t, answer)
		if _, _, err := s.Get(t.Context(), "k", storage.Range{Offset: 3, Length: 3}); err == nil {
			t.Errorf("%s: passed", name)
		}
	}
	f, s := newFake(t, part("345", "bytes 3-5/10"), part("789", "bytes 7-9/10"), part("56789", "bytes 5-9/10"))
	for i, r := range []storage.Range{{Offset: 3, Length: 3}, {Offset: -3}, {Offset: 5}} {
		got, info, err := storage.ReadRange(t.Context(), s, "k", r, 10)
		if err != nil || info.Size != 10 || string(got) != []string{"345", "789", "56789"}[i] {
			t.Errorf("%+v: %q, %+v, %v", r, got, info, err)
		}
	}
	for i, r := range f.done() {
		if got, want := r.Header.Get("Range"), []string{"bytes=3-5", "bytes=-3", "bytes=5-"}[i]; got != want {
			t.Errorf("range %q, want %q", got, want)
		}
	}
}

// A HEAD has no body that could say what is missing, so a 404 is resolved by a GET.
func TestStatResolves404(t *testing.T) {
	head := step{status: 404}
	for _, c := range []struct {
		then []step
		want error
		size int64
	}{
		{[]step{{status: 404, code: "NoSuchKey"}}, storage.ErrNotExist, 0},
		{[]step{{status: 404, code: "NoSuchBucket"}}, storage.ErrNoStore, 0},
		{[]step{{status: 403, code: "AccessDenied"}}, storage.ErrPermission, 0},
		{[]step{part("x", "bytes 0-0/55")}, nil, 55}, // created meanwhile
		{[]step{{status: 416, code: "InvalidRange"}, object("")}, nil, 0},
	} {
		f, s := newFake(t, append([]step{head}, c.then...)...)
		info, err := s.Stat(t.Context(), "k")
		if !errors.Is(err, c.want) || err == nil && info.Size != c.size {
			t.Errorf("%+v: %+v, %v", c.then, info, err)
		}
		f.done()
	}
	// A GET that says 404 without S3's word for it proves nothing either.
	_, s := newFake(t, head, step{status: 404})
	if _, err := s.Stat(t.Context(), "k"); err == nil || errors.Is(err, storage.ErrNotExist) || !retry.Retryable(err) {
		t.Errorf("404 twice: %v", err)
	}
}

func TestStatChecksum(t *testing.T) {
	sum := sha256.Sum256([]byte("body"))
	text := base64.StdEncoding.EncodeToString(sum[:])
	for value, known := range map[string]bool{text: true, text + "-3": false, "": false, "bm9wZQ==": false} {
		answer := object("")
		answer.header["Content-Length"] = "4"
		answer.header["X-Amz-Checksum-Sha256"] = value
		f, s := newFake(t, answer)
		info, err := s.Stat(t.Context(), "k")
		if err != nil || (info.SHA256 != nil) != known || known && *info.SHA256 != sum || info.Size != 4 || info.ETag != `"tag"` {
			t.Errorf("checksum %q: %+v, %v", value, info, err)
		}
		if f.done()[0].Header.Get("X-Amz-Checksum-Mode") != "ENABLED" {
			t.Error("the checksum was not asked for")
		}
	}
}

func TestTimeouts(t *testing.T) {
	f, _ := newFake(t)
	block := make(chan struct{})
	defer close(block)
	f.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.Method == http.MethodGet {
			w.Header().Set("Content-Length", "100")
			w.Header().Set("ETag", `"tag"`)
			_, _ = io.WriteString(w, "first")
			w.(http.Flusher).Flush()
		}
		<-block
	})
	o := f.options()
	o.Timeouts.ResponseHeader, o.Timeouts.Idle = 300*time.Millisecond, 300*time.Millisecond
	s := open(t, o)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := s.Put(ctx, "k", kilobytes(1), storage.Any); err == nil || ctx.Err() != nil || !retry.Retryable(err) {
		t.Errorf("no answer: %v", err)
	}
	if _, _, err := storage.ReadAll(ctx, s, "k", 1000); err == nil || ctx.Err() != nil || !retry.Retryable(err) {
		t.Errorf("a body that stops: %v", err)
	}
	// The context ends a request at once, with its own error.
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := open(t, f.options()).Put(ctx, "k", nil, storage.Any); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// An upload that takes longer than all timeouts, but moves, goes on.
func TestSlowUpload(t *testing.T) {
	f, _ := newFake(t)
	f.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("ETag", `"tag"`)
	})
	o := f.options()
	o.Timeouts.ResponseHeader, o.Timeouts.Idle = 1500*time.Millisecond, 1500*time.Millisecond
	ctx := storage.WithProgress(t.Context(), func(int) error {
		<-time.After(40 * time.Millisecond) // the link is slow: that is what is tested
		return nil
	})
	if _, err := open(t, o).Put(ctx, "k", kilobytes(2000), storage.Any); err != nil {
		t.Error(err)
	}
}

// The store may answer before it has read the body, while the transport is still sending. From then on the caller may
// use his buffer for other bytes, so nothing more of it may be read.
func TestAnswerBeforeTheEnd(t *testing.T) {
	f, s := newFake(t)
	f.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusPreconditionFailed)
	})
	var pieces atomic.Int64
	ctx := storage.WithProgress(t.Context(), func(int) error {
		pieces.Add(1)
		<-time.After(5 * time.Millisecond) // so that the answer comes first
		return nil
	})
	body := kilobytes(1900)
	if _, err := s.Put(ctx, "k", body, storage.IfAbsent); !errors.Is(err, storage.ErrExist) {
		t.Fatal(err)
	}
	before := pieces.Load()
	clear(body)      // the race detector watches this
	f.server.Close() // waits until the connection is done with
	if after := pieces.Load(); after != before || before >= int64(len(body))/(32<<10) {
		t.Errorf("%d pieces of the body were read before the end of the call and %d after it", before, after-before)
	}
}

// A wrong clock of something on the way does not get into the signatures, which the store itself checks by the right time.
func TestWrongClockOnTheWay(t *testing.T) {
	answer := stored
	answer.header = map[string]string{"ETag": `"tag"`, "Date": time.Now().Add(5 * time.Hour).UTC().Format(http.TimeFormat)}
	f, s := newFake(t, answer, answer)
	for range 2 {
		if _, err := s.Put(t.Context(), "k", nil, storage.Any); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range f.done() {
		signed, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
		if err != nil || time.Since(signed).Abs() > time.Hour {
			t.Errorf("signed at %v: %v", signed, err)
		}
	}
}
