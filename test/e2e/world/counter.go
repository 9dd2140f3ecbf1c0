package world

import (
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"

	"pgstow/test/pg"
)

// Request is one request that a store was sent.
type Request struct {
	Method string
	Path   string // "/<bucket>/pg/<key>"
	Query  string
	Status int
	Sent   int64 // bytes of the answer's body
}

// counter is a proxy that records what passes it. The signature covers the Host header, which a reverse proxy hands on as it is.
type counter struct {
	proxy *httputil.ReverseProxy

	mu       sync.Mutex
	requests []Request
}

func newCounter(t pg.TB, endpoint string) *counter {
	t.Helper()
	to, err := url.Parse(endpoint)
	if err != nil {
		t.Fatalf("proxy: %v", err)
	}
	return &counter{proxy: &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host
		},
	}}
}

type recorder struct {
	http.ResponseWriter
	status int
	sent   int64
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	n, err := r.ResponseWriter.Write(b)
	r.sent += int64(n)
	return n, err
}

func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	seen := Request{Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery}
	rec := &recorder{ResponseWriter: w, status: http.StatusOK}
	c.proxy.ServeHTTP(rec, r)
	seen.Status, seen.Sent = rec.status, rec.sent
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests = append(c.requests, seen)
}

// Requests are those that the store was sent through the proxy since the last [World.ForgetRequests]; the world must have been made with Count.
func (w *World) Requests() []Request {
	w.t.Helper()
	if w.counter == nil {
		w.t.Fatalf("this world does not count requests")
	}
	w.counter.mu.Lock()
	defer w.counter.mu.Unlock()
	return append([]Request(nil), w.counter.requests...)
}

// RequestsFor are those of a method ("" for any) to keys that contain a word.
func (w *World) RequestsFor(method, word string) []Request {
	w.t.Helper()
	var found []Request
	for _, r := range w.Requests() {
		if (method == "" || r.Method == method) && strings.Contains(r.Path, word) {
			found = append(found, r)
		}
	}
	return found
}

// ForgetRequests begins a new count.
func (w *World) ForgetRequests() {
	w.t.Helper()
	w.counter.mu.Lock()
	defer w.counter.mu.Unlock()
	w.counter.requests = nil
}
