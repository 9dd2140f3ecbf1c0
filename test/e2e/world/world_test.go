package world_test

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"pgstow/test/e2e/world"
)

func TestMain(m *testing.M) { os.Exit(world.Main(m)) }

// TestWorld walks through everything that the stage offers.
func TestWorld(t *testing.T) {
	world.EachStore(t, func(t *testing.T, store string) {
		w := world.New(t, world.Options{Store: store, Encrypted: true, Count: store == world.MinIO})
		w.Server.Exec("CREATE TABLE t AS SELECT generate_series(1, 100) AS i")
		b := w.Backup()
		if b.Timeline != 1 || b.DamagedPages != 0 {
			t.Errorf("backup: %+v", b)
		}
		name := w.Server.ArchiveAll()
		keys := w.WALKeys(name)
		if len(keys) == 0 || !strings.HasPrefix(keys[0], w.Prefix()) {
			t.Errorf("keys of %s: %v", name, keys)
		}
		if store == world.MinIO {
			if n := len(w.RequestsFor("PUT", name)); n != len(keys) {
				t.Errorf("%d PUTs of %s, want %d", n, name, len(keys))
			}
		}
		before := w.Read(keys[0])
		undo := w.FlipByte(keys[0], 7)
		if bytes.Equal(w.Read(keys[0]), before) {
			t.Error("the object has not changed")
		}
		undo()
		if !bytes.Equal(w.Read(keys[0]), before) {
			t.Error("the object is not what it was")
		}
		want := w.Server.Sums()
		dir := w.Restore("--action", "promote")
		w.VerifyBackup(dir, false)
		s := w.StartRestored(dir)
		if d := want.Diff(s.Sums()); d != "" {
			t.Error(d)
		}
		w.Expect(64, []string{"no-such-command"}, "no-such-command")
	})
}
