package s3_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"pgstow/storage/s3"
)

// fake is a server that answers from a script, one step per request, and keeps what it was asked. A request behind the
// end of the script fails the test.
type fake struct {
	t      *testing.T
	server *httptest.Server

	mu       sync.Mutex
	script   []step
	requests []*http.Request
	bodies   [][]byte
}

// step is one answer.
type step struct {
	status int
	code   string            // of an XML error body; "" is no body
	header map[string]string // added
	body   string            // instead of an error
	length int               // Content-Length if it is to differ from the body's
	cut    bool              // read the request, then break the connection without an answer
}

func newFake(t *testing.T, script ...step) (*fake, *s3.Store) {
	t.Helper()
	f := &fake{t: t, script: script}
	f.server = httptest.NewServer(f)
	t.Cleanup(f.server.Close)
	return f, open(t, f.options())
}

func (f *fake) options() s3.Options {
	return s3.Options{
		Bucket: "bucket", Prefix: "pre", Endpoint: f.server.URL,
		Credentials: &s3.Credentials{AccessKey: "key", SecretKey: "secret"},
	}
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	f.mu.Lock()
	f.requests, f.bodies = append(f.requests, r), append(f.bodies, body)
	n := len(f.requests)
	if n > len(f.script) {
		f.mu.Unlock()
		f.t.Errorf("request %d is not in the script: %s %s", n, r.Method, r.URL)
		w.WriteHeader(http.StatusTeapot)
		return
	}
	s := f.script[n-1]
	f.mu.Unlock()
	if s.cut {
		hijack(w)
		return
	}
	for k, v := range s.header {
		w.Header().Set(k, v)
	}
	if s.code != "" {
		s.body = fmt.Sprintf("<Error><Code>%s</Code><Message>scripted</Message><RequestId>REQ%d</RequestId></Error>", s.code, n)
	}
	if s.length > 0 {
		w.Header().Set("Content-Length", fmt.Sprint(s.length))
	}
	w.WriteHeader(s.status)
	_, _ = io.WriteString(w, s.body)
	if s.length > len(s.body) {
		if fl, ok := w.(http.Flusher); ok {
			fl.Flush()
		}
		hijack(w)
	}
}

func hijack(w http.ResponseWriter) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // a reset, as from a server that died
	}
	_ = c.Close()
}

// done checks that the script was used up, and returns the requests.
func (f *fake) done() []*http.Request {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.requests) != len(f.script) {
		f.t.Errorf("%d requests, want %d", len(f.requests), len(f.script))
	}
	return f.requests
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

var stored = step{status: 200, header: map[string]string{"ETag": `"tag"`}}

func object(body string) step {
	return step{status: 200, body: body, header: map[string]string{"ETag": `"tag"`, "Last-Modified": "Tue, 24 Nov 2026 10:00:00 GMT"}}
}

func part(body, contentRange string) step {
	s := object(body)
	s.status, s.header["Content-Range"] = 206, contentRange
	return s
}

// kilobytes is a body that no buffer on the way hides.
func kilobytes(n int) []byte { return bytes.Repeat([]byte("0123456789abcdef"), n*64) }
