package receive_test

import (
	"context"
	"iter"
	"strings"
	"sync"
	"testing"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/test/e2e/world"
	library "pgstow/wal/receive"
)

// moving is a store that lets something happen before the WAL is listed for the first time.
type moving struct {
	storage.Store
	once sync.Once
	do   func()
}

func (m *moving) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Info, error] {
	if strings.Contains(prefix, "/wal/") {
		m.once.Do(m.do)
	}
	return m.Store.List(ctx, prefix, after)
}

// TestServerMovesOn: between the question where the server is and the look into the archive the server pushes several segments. The archive then
// goes further than the server's answer did, which is no sign of another history.
func TestServerMovesOn(t *testing.T) {
	t.Parallel()
	w := world.New(t, world.Options{WALSegmentSizeMiB: 1})
	s := w.Server
	s.ArchiveAll()
	moved := false
	m := &moving{Store: w.Store, do: func() {
		for range 3 {
			s.ArchiveAll()
		}
		moved = true
	}}
	streaming := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var once sync.Once
	err := library.Run(ctx, library.Options{
		Store: m, Pins: catalog.Pins{EncryptionNone: true}, Cluster: "main", DSN: s.DSN("postgres"), Slot: "pgstow", CreateSlot: true, Once: true,
		Events: func(e library.Event) {
			if _, ok := e.(library.StreamingEvent); ok {
				once.Do(func() { close(streaming); cancel() })
			}
		},
	})
	if !moved {
		t.Error("the archive was not listed before it streamed")
	}
	select {
	case <-streaming:
	default:
		t.Errorf("it did not stream: %v", err)
	}
	if err != nil {
		t.Errorf("receive: %v", err)
	}
}
