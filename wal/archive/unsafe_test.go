package archive_test

import (
	"strings"
	"testing"

	"pgstow/catalog"
	"pgstow/storage/fault"
	"pgstow/storage/file"
	"pgstow/wal/archive"
)

// A store without conditional writes that was accepted all the same is named at each push, from the spool's memory too.
func TestPushSaysThatAStoreIsUnsafe(t *testing.T) {
	t.Parallel()
	below, err := file.Open(file.Options{Root: t.TempDir()})
	must(t, err)
	s := fault.New(below).Add(fault.Fault{Op: fault.Put, Kind: fault.IgnoreCondition, Times: -1})
	w := newWorldOn(t, s, catalog.InitOptions{EncryptionNone: true, AllowUnsafe: true}, catalog.Pins{EncryptionNone: true, AllowUnsafe: true})
	for _, name := range []string{plainSegment, switchedSegment} {
		w.warns = nil
		_, err := archive.Push(t.Context(), w.pushOptions(), w.place(name, fixture(t, name)))
		must(t, err)
		if all := strings.Join(w.warns, "\n"); !strings.Contains(all, "no conditional writes") {
			t.Errorf("%s: warnings %q", name, all)
		}
	}
	safe := newWorld(t)
	safe.push(plainSegment)
	if len(safe.warns) != 0 {
		t.Errorf("a safe store: warnings %q", safe.warns)
	}
}
