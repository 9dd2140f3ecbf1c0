// Package proxy is an HTTP server in front of a real S3 server that makes requests go wrong in chosen ways, and records all of them.
//
// Faults are queued with [Proxy.Add], each for the requests it names; the first one that fits a request and is due acts on it. What happens
// depends on the requests alone, and, for faults with a Chance, on the seed: a test that fails does so again.
package proxy

import (
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"

	"pgstow/test/pg"
)

// Kinds of requests.
const (
	Put    = "PUT"
	Get    = "GET"
	Head   = "HEAD"
	List   = "LIST"
	Delete = "DELETE"
)

// Request is one request that came.
type Request struct {
	Kind   string
	Key    string // in the bucket, of List the prefix
	Status int    // what the client was told; 0 if it was told nothing, or not yet
	Fault  string // name of the fault that acted; "" if none did
}

func (r Request) String() string {
	return fmt.Sprintf("%s %s %d %s", r.Kind, r.Key, r.Status, r.Fault)
}

// Fault is one thing that shall go wrong.
type Fault struct {
	Name  string // for the record
	Kind  string // of the requests it is for; "" is all
	Key   string // a part of their key; "" is all
	Skip  int    // let so many of them pass first
	Times int    // act on so many then; 0 is 1, Always without end
	// Chance, if not 0, is the share of the requests within Times on which it acts, chosen by the seed, the request and how often the same
	// request came before.
	Chance float64
	Do     Action
}

// Always is a number of times that does not end.
const Always = -1

// Action is what a fault does with a request, and must answer it or break its connection.
type Action func(x *Exchange)

// Proxy is one server.
type Proxy struct {
	Endpoint string // "http://127.0.0.1:12345"

	to     *url.URL
	client *http.Client
	server *httptest.Server
	closed chan struct{}
	seed   uint64

	mu       sync.Mutex
	faults   []*armed
	requests []*Request
	seen     map[string]int
}

type armed struct {
	Fault
	hits int
}

// New starts a proxy in front of an endpoint. It ends with the test.
func New(t pg.TB, endpoint string, seed uint64) *Proxy {
	t.Helper()
	to, err := url.Parse(endpoint)
	if err != nil {
		t.Fatalf("proxy: %v", err)
	}
	p := &Proxy{to: to, seed: seed, closed: make(chan struct{}), seen: map[string]int{}}
	p.client = &http.Client{
		Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 32},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	p.server = httptest.NewServer(p)
	p.Endpoint = p.server.URL
	t.Cleanup(func() {
		close(p.closed) // hanging answers end
		p.server.CloseClientConnections()
		p.server.Close()
		p.client.CloseIdleConnections()
	})
	return p
}

// Add queues faults.
func (p *Proxy) Add(faults ...Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range faults {
		if f.Times == 0 {
			f.Times = 1
		}
		p.faults = append(p.faults, &armed{Fault: f})
	}
}

// Reset forgets all faults.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = nil
}

// Requests are those whose key contains a word, in the order in which they came.
func (p *Proxy) Requests(word string) []Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	var found []Request
	for _, r := range p.requests {
		if strings.Contains(r.Key, word) {
			found = append(found, *r)
		}
	}
	return found
}

// Forget begins a new record.
func (p *Proxy) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests = nil
}

// Remove forgets the faults of a name.
func (p *Proxy) Remove(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = slices.DeleteFunc(p.faults, func(f *armed) bool { return f.Name == name })
}

// Hits is how often faults of this name acted.
func (p *Proxy) Hits(name string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, r := range p.requests {
		if r.Fault == name {
			n++
		}
	}
	return n
}

// Kinds counts requests by kind: "PUT 2 HEAD 1", in the order of their first.
func Kinds(requests []Request) string {
	var order []string
	count := map[string]int{}
	for _, r := range requests {
		if count[r.Kind] == 0 {
			order = append(order, r.Kind)
		}
		count[r.Kind]++
	}
	for i, kind := range order {
		order[i] = fmt.Sprintf("%s %d", kind, count[kind])
	}
	return strings.Join(order, " ")
}

// ServeHTTP is http.Handler's.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &Exchange{p: p, w: w, r: r, Kind: r.Method}
	_, x.Key, _ = strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if r.URL.Query().Get("list-type") == "2" {
		x.Kind, x.Key = List, r.URL.Query().Get("prefix")
	}
	name, do := p.choose(x.Kind, x.Key)
	record := &Request{Kind: x.Kind, Key: x.Key, Fault: name}
	p.mu.Lock()
	p.requests = append(p.requests, record)
	p.mu.Unlock()
	x.record = record
	if do == nil {
		do = Pass
	}
	do(x)
}

// choose finds the fault for a request.
func (p *Proxy) choose(kind, key string) (string, Action) {
	p.mu.Lock()
	defer p.mu.Unlock()
	request := kind + " " + key
	n := p.seen[request]
	p.seen[request]++
	for _, f := range p.faults {
		if f.Kind != "" && f.Kind != kind || !strings.Contains(key, f.Key) {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			continue
		}
		if f.Times != Always && f.hits >= f.Times || f.Chance > 0 && dice(p.seed, f.Name, request, n) >= f.Chance {
			continue
		}
		f.hits++
		return f.Name, f.Do
	}
	return "", nil
}

// dice is a number from 0 to 1 that only depends on what it is given.
func dice(seed uint64, name, request string, n int) float64 {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%d %s %s %d", seed, name, request, n)
	x := h.Sum64()
	// FNV's last byte reaches the high bits badly: mix as splitmix64 does.
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	x ^= x >> 31
	return float64(x>>11) / (1 << 53)
}

// Exchange is one request and its answer.
type Exchange struct {
	Kind, Key string

	p      *Proxy
	w      http.ResponseWriter
	r      *http.Request
	record *Request
}

// Answer is what the store answered.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Forward has the store answer. change, if not nil, may change the request before.
func (x *Exchange) Forward(change func(*http.Request)) (*Answer, error) {
	out := x.r.Clone(x.r.Context())
	out.RequestURI = ""
	out.URL.Scheme, out.URL.Host = x.p.to.Scheme, x.p.to.Host // the signature covers the Host header, which stays
	out.Header.Del("Expect")                                  // the answer to it was given by this server
	if out.ContentLength == 0 {
		out.Body = http.NoBody
	}
	if change != nil {
		change(out)
	}
	resp, err := x.p.client.Do(out)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	return &Answer{Status: resp.StatusCode, Header: resp.Header, Body: body}, nil
}

// head sends the head of an answer. length is the Content-Length, or -1 for none.
func (x *Exchange) head(a *Answer, length int) {
	h := x.w.Header()
	for k, v := range a.Header {
		h[k] = v
	}
	h.Del("Transfer-Encoding")
	h.Del("Content-Length")
	if length >= 0 && x.r.Method != http.MethodHead {
		h.Set("Content-Length", fmt.Sprint(length))
	} else if length >= 0 {
		h["Content-Length"] = a.Header["Content-Length"]
	}
	x.told(a.Status)
	x.w.WriteHeader(a.Status)
}

// told records what the client is about to be told.
func (x *Exchange) told(status int) {
	x.p.mu.Lock()
	defer x.p.mu.Unlock()
	x.record.Status = status
}

// Send sends the whole answer.
func (x *Exchange) Send(a *Answer) {
	x.head(a, len(a.Body))
	_, _ = x.w.Write(a.Body)
}

// Drain reads the request's body.
func (x *Exchange) Drain() { _, _ = io.Copy(io.Discard, x.r.Body) }
