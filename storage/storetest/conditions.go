package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"pgstow/storage"
)

func testConditions(t *testing.T, s storage.Store) {
	ctx := t.Context()
	first, err := s.Put(ctx, "c/key", []byte("first"), storage.IfAbsent)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	if _, err := s.Put(ctx, "c/key", []byte("other"), storage.IfAbsent); !errors.Is(err, storage.ErrExist) {
		t.Errorf("create of an existing key: %v, want ErrExist", err)
	}
	if _, err := s.Put(ctx, "c/key", []byte("first"), storage.IfAbsent); !errors.Is(err, storage.ErrExist) {
		t.Errorf("create of an existing key with equal bytes: %v, want ErrExist", err)
	}
	if got := mustRead(t, s, "c/key"); string(got) != "first" {
		t.Fatalf("a refused create left %q", got)
	}
	second, err := s.Put(ctx, "c/key", []byte("second"), storage.IfMatch(first.ETag))
	if err != nil {
		t.Fatalf("swap with the right tag: %v", err)
	}
	for what, etag := range map[string]string{"stale": first.ETag, "empty": "", "made up": `"0123456789abcdef"`} {
		if _, err := s.Put(ctx, "c/key", []byte("third"), storage.IfMatch(etag)); !errors.Is(err, storage.ErrExist) {
			t.Errorf("swap with a %s tag: %v, want ErrExist", what, err)
		}
	}
	if _, err := s.Put(ctx, "c/missing", []byte("x"), storage.IfMatch(second.ETag)); !errors.Is(err, storage.ErrExist) {
		t.Errorf("swap of a missing key: %v, want ErrExist", err)
	}
	if _, err := s.Stat(ctx, "c/missing"); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("a refused swap left an object: %v", err)
	}
	stat, err := s.Stat(ctx, "c/key")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(ctx, "c/key", []byte("third"), storage.IfMatch(stat.ETag)); err != nil {
		t.Errorf("swap with the tag that Stat gave: %v", err)
	}
	mustPut(t, s, "c/key", []byte("fourth"))
	if got := mustRead(t, s, "c/key"); string(got) != "fourth" {
		t.Errorf("an unconditional put left %q", got)
	}
}

// contest lets n writers put to key under the same condition at the same moment and returns what the only winner was told.
// Every body is new: a tag may be the same for equal bytes.
func contest(t *testing.T, s storage.Store, key string, n int, cond storage.Condition) (won storage.Info) {
	t.Helper()
	var body []byte
	var wg sync.WaitGroup
	start := make(chan struct{})
	infos, errs := make([]storage.Info, n), make([]error, n)
	writers := func(i int) []byte { return fmt.Appendf(nil, "writer %d of %s %v", i, key, cond) }
	for i := range n {
		wg.Go(func() {
			<-start
			infos[i], errs[i] = s.Put(t.Context(), key, writers(i), cond)
		})
	}
	close(start)
	wg.Wait()
	for i, err := range errs {
		switch {
		case err == nil && body != nil:
			t.Errorf("%s: two writers won", key)
		case err == nil:
			body, won = writers(i), infos[i]
		case !errors.Is(err, storage.ErrExist) && !errors.Is(err, storage.ErrConflict):
			t.Errorf("%s: %v, want ErrExist", key, err)
		}
	}
	if body == nil {
		t.Fatalf("%s: nobody won", key)
	}
	if got := mustRead(t, s, key); !bytes.Equal(got, body) {
		t.Errorf("%s: holds %q, but %q won", key, got, body)
	}
	return won
}

func testConcurrentCreates(t *testing.T, s storage.Store) {
	for round := range 5 {
		contest(t, s, fmt.Sprintf("race/%d/key", round), 20, storage.IfAbsent)
	}
}

func testConcurrentSwaps(t *testing.T, s storage.Store) {
	info := mustPut(t, s, "swap/key", []byte("start"))
	for range 5 {
		info = contest(t, s, "swap/key", 20, storage.IfMatch(info.ETag))
	}
	testCounter(t, s)
}

// testCounter increments one object from several goroutines by compare-and-swap: no increment may be lost.
func testCounter(t *testing.T, s storage.Store) {
	const writers, each = 4, 5
	mustPut(t, s, "swap/counter", []byte("0"))
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				if err := increment(t.Context(), s, "swap/counter"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if got := string(mustRead(t, s, "swap/counter")); got != strconv.Itoa(writers*each) {
		t.Errorf("counter is %s after %d increments", got, writers*each)
	}
}

func increment(ctx context.Context, s storage.Store, key string) error {
	for {
		body, info, err := storage.ReadAll(ctx, s, key, 100)
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(string(body))
		if err != nil {
			return err
		}
		_, err = s.Put(ctx, key, []byte(strconv.Itoa(n+1)), storage.IfMatch(info.ETag))
		if err == nil || !errors.Is(err, storage.ErrExist) && !errors.Is(err, storage.ErrConflict) {
			return err
		}
	}
}

// testSwapAgainstDelete: if both succeed, the swap came first, so the object is gone.
func testSwapAgainstDelete(t *testing.T, s storage.Store) {
	for round := range 20 {
		key := fmt.Sprintf("sd/%d", round)
		info := mustPut(t, s, key, []byte("first"))
		var swapErr, deleteErr error
		var wg sync.WaitGroup
		wg.Go(func() { _, swapErr = s.Put(t.Context(), key, []byte("second"), storage.IfMatch(info.ETag)) })
		wg.Go(func() { deleteErr = s.Delete(t.Context(), key) })
		wg.Wait()
		if deleteErr != nil {
			t.Fatalf("delete: %v", deleteErr)
		}
		if swapErr != nil && !errors.Is(swapErr, storage.ErrExist) && !errors.Is(swapErr, storage.ErrConflict) {
			t.Fatalf("swap: %v", swapErr)
		}
		if _, err := s.Stat(t.Context(), key); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("the object is back after a delete: a swap did not notice it (stat: %v)", err)
		}
	}
}

// testReadersSeeWholeBodies replaces an object while others read it; each version is of one byte value and length.
func testReadersSeeWholeBodies(t *testing.T, s storage.Store) {
	version := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 100_000+i*1000) }
	mustPut(t, s, "atomic/key", version(1))
	var done atomic.Bool
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for !done.Load() {
				body, info, err := storage.ReadAll(t.Context(), s, "atomic/key", 1<<30)
				if err != nil {
					t.Error(err)
					return
				}
				if want := version(int(body[0])); !bytes.Equal(body, want) || info.Size != int64(len(want)) {
					t.Errorf("read a mixture: %d bytes beginning with %d", len(body), body[0])
					return
				}
			}
		})
	}
	for i := 2; i < 30; i++ {
		mustPut(t, s, "atomic/key", version(i))
	}
	done.Store(true)
	wg.Wait()
}
