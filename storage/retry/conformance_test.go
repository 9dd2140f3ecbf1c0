package retry_test

import (
	"context"
	"io"
	"testing"

	"pgstow/storage"
	"pgstow/storage/fault"
	"pgstow/storage/file"
	"pgstow/storage/retry"
	"pgstow/storage/storetest"
)

func newFile(t *testing.T) *file.Store {
	t.Helper()
	s, err := file.Open(file.Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storage.Store { return retry.New(newFile(t), retry.Policy{}, nil) })
}

// flaky lets every other call fail, before or after it was done, or its body break off. It spares the two keys with which
// the contract is tested in ways that hold only as long as no reply is lost: a counter without a nonce, and reading
// through one call while an object is replaced.
type flaky struct {
	*fault.Store
}

func newFlaky(t *testing.T) flaky {
	s := fault.New(newFile(t))
	for i := range 2000 {
		kind := []fault.Kind{fault.Before, fault.After, fault.Short}[i%3]
		s.Add(fault.Fault{Nth: 2*i + 1, Kind: kind, At: int64(i % 7)})
	}
	return flaky{s}
}

func (f flaky) pick(key string) storage.Store {
	if key == "swap/counter" || key == "atomic/key" {
		return f.Unwrap()
	}
	return f.Store
}

func (f flaky) Put(ctx context.Context, key string, body []byte, cond storage.Condition) (storage.Info, error) {
	return f.pick(key).Put(ctx, key, body, cond)
}

func (f flaky) Get(ctx context.Context, key string, r storage.Range) (io.ReadCloser, storage.Info, error) {
	return f.pick(key).Get(ctx, key, r)
}

// The contract holds over a store that fails half of the time.
func TestConformanceOverFailures(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storage.Store {
		return retry.New(newFlaky(t), retry.Policy{FirstWait: 1, MaxWait: 1000}, nil)
	})
}
