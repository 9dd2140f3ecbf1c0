// Package huge tests what pgstow does with archives of a million segments: how many requests that takes and how much memory, and that what is
// found in them is right. The archives are names without content: hard links to one file, or a server that makes up its lists.
package huge

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Names are the keys of many objects that nobody stored: Key(i) for i in [0, Len()), ascending.
type Names interface {
	Len() int
	Key(i int) string
	Modified(i int) time.Time
	Body(i int) []byte
}

// find is the first name at or behind key.
func find(n Names, key string) int {
	return sort.Search(n.Len(), func(i int) bool { return n.Key(i) >= key })
}

// madeUpSize is what a list says of the size of an object that nobody stored.
const madeUpSize = 4 << 20

// Bucket answers as an S3 server does that holds Names, and in addition what is put into it.
type Bucket struct {
	Names   Names
	Latency time.Duration // before each answer

	mu     sync.Mutex
	stored map[string][]byte
	lists  int // answered requests
	keys   int // entries in them
	others int
	now    int // being answered
	most   int // being answered at a time
}

// Requests are what was asked since the last call of Counts.
type Requests struct {
	Lists    int // ListObjectsV2
	Keys     int // in their answers
	Others   int
	Parallel int // most of all at a time
}

// Counts returns the requests since the last call.
func (b *Bucket) Counts() Requests {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := Requests{b.lists, b.keys, b.others, b.most}
	b.lists, b.keys, b.others, b.most = 0, 0, 0, 0
	return r
}

// ServeHTTP answers path-style requests, whatever the bucket is called.
func (b *Bucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	b.now++
	b.most = max(b.most, b.now)
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		b.now--
		b.mu.Unlock()
	}()
	select {
	case <-time.After(b.Latency):
	case <-r.Context().Done():
		return
	}
	_, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if key == "" {
		b.list(w, r.URL.Query())
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client is gone
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.others++
	b.object(w, r, key, body)
}

func (b *Bucket) object(w http.ResponseWriter, r *http.Request, key string, body []byte) {
	have, ok := b.stored[key]
	if !ok && b.Names != nil {
		if i := find(b.Names, key); i < b.Names.Len() && b.Names.Key(i) == key {
			have, ok = b.Names.Body(i), true
		}
	}
	switch r.Method {
	case http.MethodPut:
		if want := r.Header.Get("If-Match"); ok && r.Header.Get("If-None-Match") != "" || want != "" && (!ok || want != tag(have)) {
			refuse(w, http.StatusPreconditionFailed, "PreconditionFailed")
			return
		}
		if b.stored == nil {
			b.stored = map[string][]byte{}
		}
		b.stored[key] = body
		w.Header().Set("ETag", tag(body))
	case http.MethodDelete:
		delete(b.stored, key)
		w.WriteHeader(http.StatusNoContent)
	default:
		if !ok {
			refuse(w, http.StatusNotFound, "NoSuchKey")
			return
		}
		w.Header().Set("ETag", tag(have))
		http.ServeContent(w, r, "", storedAt, bytes.NewReader(have))
	}
}

// storedAt is when everything was stored that was put.
var storedAt = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func tag(body []byte) string {
	sum := sha256.Sum256(body)
	return `"` + hex.EncodeToString(sum[:16]) + `"`
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, "<Error><Code>%s</Code></Error>", code)
}

// entry is one object of a list.
type entry struct {
	key      string
	size     int
	modified time.Time
}

func (b *Bucket) list(w http.ResponseWriter, q url.Values) {
	limit := 1000
	if n, err := strconv.Atoi(q.Get("max-keys")); err == nil {
		limit = min(n, limit)
	}
	entries, more := b.page(q.Get("prefix"), cmp.Or(q.Get("continuation-token"), q.Get("start-after")), limit)
	b.mu.Lock()
	b.lists++
	b.keys += len(entries)
	b.mu.Unlock()
	var out bytes.Buffer
	fmt.Fprintf(&out, `<?xml version="1.0" encoding="UTF-8"?>`+"\n"+`<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name>`+
		`<KeyCount>%d</KeyCount><MaxKeys>%d</MaxKeys><EncodingType>url</EncodingType><IsTruncated>%v</IsTruncated>`, len(entries), limit, more)
	if more {
		fmt.Fprintf(&out, "<NextContinuationToken>%s</NextContinuationToken>", entries[len(entries)-1].key)
	}
	for _, e := range entries {
		fmt.Fprintf(&out, "<Contents><Key>%s</Key><LastModified>%s</LastModified><ETag>&#34;d41d8cd98f00b204e9800998ecf8427e&#34;</ETag><Size>%d</Size>"+
			"<StorageClass>STANDARD</StorageClass></Contents>", url.QueryEscape(e.key), e.modified.UTC().Format("2006-01-02T15:04:05.000Z"), e.size)
	}
	out.WriteString("</ListBucketResult>")
	w.Header().Set("Content-Type", "application/xml")
	w.Header().Set("Content-Length", strconv.Itoa(out.Len()))
	_, _ = w.Write(out.Bytes())
}

// page merges what was stored with the names.
func (b *Bucket) page(prefix, after string, limit int) (out []entry, more bool) {
	b.mu.Lock()
	put := slices.Sorted(maps.Keys(b.stored))
	sizes := make(map[string]int, len(put))
	for key, body := range b.stored {
		sizes[key] = len(body)
	}
	b.mu.Unlock()
	wanted := func(key string) bool { return key > after && strings.HasPrefix(key, prefix) }
	put = slices.DeleteFunc(put, func(key string) bool { return !wanted(key) })
	n := 0
	if b.Names != nil {
		n = find(b.Names, max(prefix, after))
		if n < b.Names.Len() && b.Names.Key(n) == after {
			n++
		}
	}
	for {
		var next entry
		if b.Names != nil && n < b.Names.Len() {
			if key := b.Names.Key(n); wanted(key) {
				next = entry{key, madeUpSize, b.Names.Modified(n)}
			}
		}
		fromPut := len(put) > 0 && (next.key == "" || put[0] < next.key)
		if fromPut {
			next = entry{put[0], sizes[put[0]], storedAt}
		}
		switch {
		case next.key == "":
			return out, false
		case len(out) == limit:
			return out, true
		case fromPut:
			put = put[1:]
		default:
			n++
		}
		out = append(out, next)
	}
}
