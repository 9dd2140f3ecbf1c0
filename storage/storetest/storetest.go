// Package storetest holds the tests that every implementation and wrapper of storage.Store passes: the contract of that
// interface, written as tests.
package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"testing"

	"pgstow/storage"
)

// Run tests a store. newStore returns an empty one, which may share its bucket or folder with others that it returned;
// it registers its own cleanup.
func Run(t *testing.T, newStore func(t *testing.T) storage.Store) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, storage.Store){
		"PutGetStat":            testPutGetStat,
		"Ranges":                testRanges,
		"Absence":               testAbsence,
		"Conditions":            testConditions,
		"ConcurrentCreates":     testConcurrentCreates,
		"ConcurrentSwaps":       testConcurrentSwaps,
		"SwapAgainstDelete":     testSwapAgainstDelete,
		"ReadersSeeWholeBodies": testReadersSeeWholeBodies,
		"ListOrder":             testListOrder,
		"ListProperty":          testListProperty,
		"ListStops":             testListStops,
		"Delete":                testDelete,
		"DeleteAgainstCreate":   testDeleteAgainstCreate,
		"InvalidKeys":           testInvalidKeys,
		"LongKey":               testLongKey,
		"CancelledContext":      testCancelledContext,
		"String":                testString,
	} {
		t.Run(name, func(t *testing.T) { test(t, newStore(t)) })
	}
}

func testPutGetStat(t *testing.T, s storage.Store) {
	ctx := t.Context()
	for _, size := range []int{0, 1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 3<<20 + 17} {
		body := pattern(size)
		before := bytes.Clone(body)
		sum := sha256.Sum256(body)
		put, err := s.Put(ctx, "a/b/object", body, storage.Any)
		if err != nil {
			t.Fatalf("put of %d bytes: %v", size, err)
		}
		if put.Key != "a/b/object" || put.Size != int64(size) || put.ETag == "" || put.SHA256 == nil || *put.SHA256 != sum {
			t.Errorf("put of %d bytes: info %+v", size, put)
		}
		if !bytes.Equal(body, before) {
			t.Errorf("put of %d bytes changed the body", size)
		}
		got, info, err := storage.ReadAll(ctx, s, "a/b/object", 1<<30)
		if err != nil {
			t.Fatalf("get of %d bytes: %v", size, err)
		}
		if !bytes.Equal(got, before) {
			t.Errorf("get of %d bytes: other content", size)
		}
		stat, err := s.Stat(ctx, "a/b/object")
		if err != nil {
			t.Fatalf("stat: %v", err)
		}
		for what, i := range map[string]storage.Info{"get": info, "stat": stat} {
			if i.Key != "a/b/object" || i.Size != int64(size) || i.Modified.IsZero() {
				t.Errorf("%s of %d bytes: info %+v", what, size, i)
			}
			if i.SHA256 != nil && *i.SHA256 != sum {
				t.Errorf("%s of %d bytes: wrong SHA-256", what, size)
			}
			if i.ETag != "" && i.ETag != put.ETag || i.ETag == "" && size <= 64<<10 {
				t.Errorf("%s of %d bytes: ETag %q, put gave %q", what, size, i.ETag, put.ETag)
			}
		}
	}
	if _, _, err := storage.ReadAll(ctx, s, "a/b/object", 1<<20); err == nil {
		t.Error("ReadAll of more than its limit succeeded")
	}
}

func testRanges(t *testing.T, s storage.Store) {
	const size = 100_000
	body := pattern(size)
	mustPut(t, s, "object", body)
	mustPut(t, s, "empty", nil)
	for _, c := range []struct {
		r        storage.Range
		from, to int // -1: ErrRange
	}{
		{storage.Range{}, 0, size},
		{storage.Range{Offset: 0, Length: 1}, 0, 1},
		{storage.Range{Offset: 512, Length: 1024}, 512, 1536},
		{storage.Range{Offset: 99_990}, 99_990, size},
		{storage.Range{Offset: 99_990, Length: 500}, 99_990, size},
		{storage.Range{Offset: size - 1, Length: 1}, size - 1, size},
		{storage.Range{Offset: -1}, size - 1, size},
		{storage.Range{Offset: -4096}, size - 4096, size},
		{storage.Range{Offset: -size}, 0, size},
		{storage.Range{Offset: -2 * size}, 0, size},
		{storage.Range{Offset: size}, -1, 0},
		{storage.Range{Offset: size + 1, Length: 5}, -1, 0},
		{storage.Range{Offset: 1, Length: -1}, -1, 0},
		{storage.Range{Offset: -1, Length: 1}, -1, 0},
	} {
		got, info, err := storage.ReadRange(t.Context(), s, "object", c.r, size)
		if c.from < 0 {
			if !errors.Is(err, storage.ErrRange) {
				t.Errorf("%+v: error %v, want ErrRange", c.r, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%+v: %v", c.r, err)
			continue
		}
		if !bytes.Equal(got, body[c.from:c.to]) {
			t.Errorf("%+v: %d bytes, want %d, or other content", c.r, len(got), c.to-c.from)
		}
		if info.Size != size {
			t.Errorf("%+v: size %d, want that of the whole object", c.r, info.Size)
		}
	}
	for _, r := range []storage.Range{{Offset: -1}, {Offset: 1}, {Length: 1}} {
		if _, _, err := storage.ReadRange(t.Context(), s, "empty", r, size); !errors.Is(err, storage.ErrRange) {
			t.Errorf("%+v of an empty object: error %v, want ErrRange", r, err)
		}
	}
}

func testAbsence(t *testing.T, s storage.Store) {
	mustPut(t, s, "dir/object", []byte("x"))
	for _, key := range []string{"missing", "dir", "dir/missing", "dir/object/below", "other/dir/x", "di", "dir/objec"} {
		if _, _, err := s.Get(t.Context(), key, storage.Range{}); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("get %s: error %v, want ErrNotExist", key, err)
		}
		if _, err := s.Stat(t.Context(), key); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("stat %s: error %v, want ErrNotExist", key, err)
		}
	}
}

func testInvalidKeys(t *testing.T, s storage.Store) {
	ctx := t.Context()
	for _, key := range []string{"", "/", "/a", "a/", "a//b", ".", "..", "a/../b", ".a", "a/.b", "a b", "ä", "a\x00b", "a\\b"} {
		_, err := s.Put(ctx, key, nil, storage.Any)
		wantInvalid(t, "put", key, err)
		_, _, err = s.Get(ctx, key, storage.Range{})
		wantInvalid(t, "get", key, err)
		_, err = s.Stat(ctx, key)
		wantInvalid(t, "stat", key, err)
		wantInvalid(t, "delete", key, s.Delete(ctx, "fine", key))
	}
	for _, prefix := range []string{"/", "a//", "../", "a/..", " "} {
		_, err := collect(s.List(ctx, prefix, ""))
		wantInvalid(t, "list", prefix, err)
	}
}

func wantInvalid(t *testing.T, op, key string, err error) {
	t.Helper()
	if !errors.Is(err, storage.ErrInvalidKey) {
		t.Errorf("%s %q: error %v, want ErrInvalidKey", op, key, err)
	}
}

func testLongKey(t *testing.T, s storage.Store) {
	key := string(bytes.Repeat([]byte("k"), 255)) + "/" + string(bytes.Repeat([]byte("0123456789abcdef/"), 15)) + "x"
	if len(key) != storage.MaxKey {
		key += string(bytes.Repeat([]byte("y"), storage.MaxKey-len(key)))
	}
	mustPut(t, s, key, []byte("long"))
	keys, err := collect(s.List(t.Context(), "", ""))
	if err != nil || !slices.Equal(keys, []string{key}) {
		t.Errorf("list: %q, %v", keys, err)
	}
}

func testCancelledContext(t *testing.T, s storage.Store) {
	mustPut(t, s, "present", []byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, putErr := s.Put(ctx, "key", []byte("x"), storage.IfAbsent)
	_, _, getErr := s.Get(ctx, "present", storage.Range{})
	_, statErr := s.Stat(ctx, "present")
	_, listErr := collect(s.List(ctx, "", ""))
	for op, err := range map[string]error{
		"put": putErr, "get": getErr, "stat": statErr, "list": listErr, "delete": s.Delete(ctx, "present"),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: error %v, want context.Canceled", op, err)
		}
	}
	keys, err := collect(s.List(t.Context(), "", ""))
	if err != nil || !slices.Equal(keys, []string{"present"}) {
		t.Errorf("afterwards the store holds %q, %v", keys, err)
	}
	// A body that is open when the context ends does not go on as if nothing had happened.
	mustPut(t, s, "big", pattern(8<<20))
	ctx, cancel = context.WithCancel(t.Context())
	body, _, err := s.Get(ctx, "big", storage.Range{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = body.Close() }()
	cancel()
	if _, err := io.Copy(io.Discard, body); !errors.Is(err, context.Canceled) {
		t.Errorf("reading on after the context ended: %v, want context.Canceled", err)
	}
}

func testString(t *testing.T, s storage.Store) {
	if s.String() == "" {
		t.Error("String is empty")
	}
}

// pattern returns bytes of which no two parts of some length are alike.
func pattern(size int) []byte {
	b := make([]byte, size)
	x := uint32(2463534242)
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	return b
}

func mustPut(t *testing.T, s storage.Store, key string, body []byte) storage.Info {
	t.Helper()
	info, err := s.Put(t.Context(), key, body, storage.Any)
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
	return info
}

func mustRead(t *testing.T, s storage.Store, key string) []byte {
	t.Helper()
	body, _, err := storage.ReadAll(t.Context(), s, key, 1<<30)
	if err != nil {
		t.Fatalf("read %s: %v", key, err)
	}
	return body
}
