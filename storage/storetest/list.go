package storetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgstow/storage"
)

// collect drains a list to its keys.
func collect(seq iter.Seq2[storage.Info, error]) ([]string, error) {
	var keys []string
	for info, err := range seq {
		if err != nil {
			return keys, err
		}
		keys = append(keys, info.Key)
	}
	return keys, nil
}

// fill puts keys in parallel; the body of each is its key.
func fill(t *testing.T, s storage.Store, keys []string) {
	t.Helper()
	work := make(chan string)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for key := range work {
				if _, err := s.Put(t.Context(), key, []byte(key), storage.IfAbsent); err != nil {
					t.Errorf("put %s: %v", key, err)
				}
			}
		})
	}
	for _, key := range keys {
		work <- key
	}
	close(work)
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

func testListOrder(t *testing.T, s storage.Store) {
	// In the order of whole keys. Sorting names folder by folder would give another one.
	want := []string{
		"A", "a-b", "a-b-", "a.b", "a/-", "a/0/x", "a/0a", "a/b", "a0", "a_", "aa/b", "b.c/d", "b/c", "b0/c", "bb",
	}
	mixed := slices.Clone(want)
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
	fill(t, s, mixed)
	for info, err := range s.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		if info.Size != int64(len(info.Key)) || info.Modified.IsZero() {
			t.Errorf("info %+v", info)
		}
	}
	for _, c := range []struct{ prefix, after string }{
		{"", ""}, {"a", ""}, {"a/", ""}, {"a/0", ""}, {"a/0/", ""}, {"b/c", ""}, {"z", ""}, {"a/b/c", ""}, {"missing/folder/", ""},
		{"", "a-b"}, {"", "a"}, {"", "a/"}, {"", "a/0"}, {"", "a/0/x"}, {"", "a/0/y"}, {"", "a/z/z"}, {"", "bb"}, {"", "zz"}, {"", "0"},
		{"a/", "a/-"}, {"a/", "a-"}, {"a/", "b"}, {"b", "b.c/d"}, {"b", "b.c/e"},
	} {
		checkList(t, s, want, c.prefix, c.after)
	}
}

// testListProperty compares List with the obvious model on random sets of keys.
func testListProperty(t *testing.T, s storage.Store) {
	rnd := rand.New(rand.NewPCG(3, 4))
	name := func() string {
		n := make([]byte, 1+rnd.IntN(3))
		for i := range n {
			n[i] = "0a-._z"[rnd.IntN(6)]
		}
		if n[0] == '.' {
			n[0] = 'b'
		}
		return string(n)
	}
	key := func() string {
		parts := make([]string, 1+rnd.IntN(3))
		for i := range parts {
			parts[i] = name()
		}
		return strings.Join(parts, "/")
	}
	var keys []string
	for len(keys) < 120 {
		k := key()
		clash := slices.ContainsFunc(keys, func(o string) bool {
			return o == k || strings.HasPrefix(o, k+"/") || strings.HasPrefix(k, o+"/")
		})
		if !clash {
			keys = append(keys, k)
		}
	}
	fill(t, s, keys)
	for range 60 {
		prefix, after := "", ""
		if rnd.IntN(3) > 0 {
			k := keys[rnd.IntN(len(keys))]
			prefix = k[:rnd.IntN(len(k)+1)]
		}
		if rnd.IntN(3) > 0 {
			after = key()
		}
		checkList(t, s, keys, prefix, after)
	}
}

func checkList(t *testing.T, s storage.Store, all []string, prefix, after string) {
	t.Helper()
	var want []string
	for _, k := range all {
		if strings.HasPrefix(k, prefix) && k > after {
			want = append(want, k)
		}
	}
	slices.Sort(want)
	got, err := collect(s.List(t.Context(), prefix, after))
	if err != nil {
		t.Fatalf("list prefix %q after %q: %v", prefix, after, err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("list prefix %q after %q:\n got %q\nwant %q", prefix, after, got, want)
	}
}

func testListStops(t *testing.T, s storage.Store) {
	var keys []string
	for i := range 25 {
		keys = append(keys, fmt.Sprintf("stop/%02d/x", i))
	}
	fill(t, s, keys)
	var got []string
	for info, err := range s.List(t.Context(), "stop/", "") {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, info.Key); len(got) == 3 {
			break
		}
	}
	if !slices.Equal(got, keys[:3]) {
		t.Errorf("got %q", got)
	}
	// A sequence can be walked again, from the start.
	seq := s.List(t.Context(), "stop/", keys[19])
	for range 2 {
		if got, err := collect(seq); err != nil || !slices.Equal(got, keys[20:]) {
			t.Errorf("got %q, %v", got, err)
		}
	}
	// Other calls work while a list is open, and its context ends it.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	var last error
	for info, err := range s.List(ctx, "stop/", "") {
		if last = err; err != nil {
			break
		}
		if n++; n == 2 {
			if string(mustRead(t, s, info.Key)) != info.Key {
				t.Errorf("reading %s inside of a list", info.Key)
			}
			cancel()
		}
	}
	if n == len(keys) && last == nil {
		t.Log("the whole list was fetched before its context ended") // a store may have it all in its first page
	} else if !errors.Is(last, context.Canceled) {
		t.Errorf("list ended with %v after %d of %d keys, want context.Canceled", last, n, len(keys))
	}
}

func testDelete(t *testing.T, s storage.Store) {
	ctx := t.Context()
	fill(t, s, []string{"d/1", "d/2", "d/deep/er/3", "d.x", "e"})
	if err := s.Delete(ctx); err != nil {
		t.Errorf("delete of nothing: %v", err)
	}
	if err := s.Delete(ctx, "missing", "d", "d/1/below", "d/missing"); err != nil {
		t.Errorf("delete of missing keys: %v", err)
	}
	if err := s.Delete(ctx, "d/1", "d/missing", "d/deep/er/3"); err != nil {
		t.Errorf("delete: %v", err)
	}
	checkList(t, s, []string{"d/2", "d.x", "e"}, "", "")
	if _, _, err := s.Get(ctx, "d/1", storage.Range{}); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("get after delete: %v, want ErrNotExist", err)
	}
	if _, err := s.Put(ctx, "d/1", []byte("again"), storage.IfAbsent); err != nil {
		t.Errorf("create after delete: %v", err)
	}
	if err := s.Delete(ctx, "e", "d.x", "d/2", "d/1", "d/1"); err != nil {
		t.Errorf("delete: %v", err)
	}
	checkList(t, s, nil, "", "")
	// What was a folder may become an object once it is empty.
	if _, err := s.Put(ctx, "d", []byte("object now"), storage.IfAbsent); err != nil {
		t.Errorf("create where a folder was: %v", err)
	}
}

// testDeleteAgainstCreate creates and deletes objects of one folder at the same time. One object stays, because MinIO
// refuses a Put with AccessDenied when a Delete removes the last object of its folder at that moment.
func testDeleteAgainstCreate(t *testing.T, s storage.Store) {
	mustPut(t, s, "x/y/z/stays", nil)
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := range 15 {
				key := fmt.Sprintf("x/y/z/%d-%d", worker, i)
				if _, err := s.Put(t.Context(), key, []byte(key), storage.IfAbsent); err != nil {
					t.Error(err)
				}
				if err := s.Delete(t.Context(), key); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	checkList(t, s, []string{"x/y/z/stays"}, "", "")
}
