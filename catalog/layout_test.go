package catalog_test

import (
	"strings"
	"testing"

	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/wal"
)

func TestKeys(t *testing.T) {
	const p = "main/7300123456789012345/"
	seg := wal.SegmentName(1, 0x2A3, wal.DefaultSegmentSize)
	partial, backup := seg, seg
	partial.Kind, backup.Kind, backup.Offset = wal.Partial, wal.BackupHistory, 0x28
	const id = "20261124T154500Z-k3f9"
	for _, tt := range []struct{ got, want string }{
		{catalog.RepoKey, "repo.json"},
		{mainRef.InfoKey(), p + "cluster.json"},
		{mainRef.WALKey(seg, ""), p + "wal/00000001/00000002/0000000100000002000000A3"},
		{mainRef.WALKey(partial, "0badcafe"), p + "wal/00000001/00000002/0000000100000002000000A3.partial.0badcafe"},
		{mainRef.WALKey(backup, ""), p + "wal/00000001/00000002/0000000100000002000000A3.00000028.backup"},
		{mainRef.WALKey(wal.HistoryName(0x1F), ""), p + "wal/0000001F/0000001F.history"},
		{mainRef.PieceKey(seg, 0x2A3000000, 0x2A3000100), p + "wal/00000001/00000002/0000000100000002000000A3.00000002A3000000-00000002A3000100"},
		{mainRef.BackupManifestKey(id), p + "backup/" + id + "/manifest"},
		{mainRef.PackKey(id, 12), p + "pack/" + id + "/12"},
		{mainRef.DumpManifestKey(id), p + "dump/" + id + "/manifest"},
		{mainRef.DumpKey(id, 3), p + "dump/" + id + "/3"},
		{catalog.LeaseKey("main", id), "main/lease/" + id + ".json"},
		{catalog.SweepKey("main", "x"), "main/sweep/x.json"},
		{catalog.HoldKey("main", "x"), "main/hold/x.json"},
	} {
		if tt.got != tt.want {
			t.Errorf("key %s, want %s", tt.got, tt.want)
		}
		if err := storage.CheckKey(tt.got); err != nil {
			t.Error(err)
		}
	}
}

func TestParseWALKey(t *testing.T) {
	const p = "main/7300123456789012345/wal/"
	for _, key := range []string{
		p + "00000001/00000002/0000000100000002000000A3",
		p + "00000001/00000002/0000000100000002000000A3.partial.0badcafe",
		p + "00000001/00000002/0000000100000002000000A3.00000028.backup",
		p + "0000001F/0000001F.history",
		p + "00000001/00000002/0000000100000002000000A3.00000002A3000000-00000002A3000100",
	} {
		o, ok := catalog.ParseWALKey(mainRef, key)
		if !ok {
			t.Errorf("%s is not taken", key)
			continue
		}
		again := mainRef.WALKey(o.Name, o.Hash8)
		if o.Kind == catalog.WALPiece {
			again = mainRef.PieceKey(o.Name, o.From, o.To)
		}
		if again != key {
			t.Errorf("%s becomes %s", key, again)
		}
	}
	for _, key := range []string{
		"", "main/7300123456789012345/backup/x", "other/7300123456789012345/wal/00000001/00000001.history",
		p + "00000002/00000001.history",                                   // another timeline's folder
		p + "00000001/00000003/0000000100000002000000A3",                  // another log's folder
		p + "00000001/00000002/x/0000000100000002000000A3",                // too deep
		p + "00000001/0000000100000002000000A3",                           // not deep enough
		p + "00000001/00000002/0000000100000002000000A3.partial",          // no hash
		p + "00000001/00000002/0000000100000002000000A3.partial.0BADCAFE", // upper case
		p + "00000001/00000002/0000000100000002000000a3",                  // lower case
		p + "00000001/00000002/0000000100000002000000A3.00000002A3000100-00000002A3000100",
		p + "00000001/00000002/0000000100000002000000A3.00000002a3000000-00000002A3000100",
	} {
		if o, ok := catalog.ParseWALKey(mainRef, key); ok {
			t.Errorf("%q is taken for %+v", key, o)
		}
	}
}

func FuzzParseWALKey(f *testing.F) {
	p := mainRef.WALPrefix()
	f.Add("00000001/00000002/0000000100000002000000A3")
	f.Add("00000001/00000002/0000000100000002000000A3.partial.0badcafe")
	f.Add("00000001/00000002/0000000100000002000000A3.00000028.backup")
	f.Add("0000001F/0000001F.history")
	f.Add("00000001/00000002/0000000100000002000000A3.00000002A3000000-00000002A3000100")
	f.Fuzz(func(t *testing.T, tail string) {
		o, ok := catalog.ParseWALKey(mainRef, p+tail)
		if !ok {
			return
		}
		again := mainRef.WALKey(o.Name, o.Hash8)
		if o.Kind == catalog.WALPiece {
			again = mainRef.PieceKey(o.Name, o.From, o.To)
		}
		if again != p+tail {
			t.Errorf("%s becomes %s", p+tail, again)
		}
	})
}

func TestCheckClusterName(t *testing.T) {
	for _, name := range []string{"main", "a", "A-1_b.c", "7", strings.Repeat("x", 63)} {
		if err := catalog.CheckClusterName(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", "repo", "repo.json", ".x", "-x", "_x", "a/b", "a b", "ä", "..", strings.Repeat("x", 64)} {
		if catalog.CheckClusterName(name) == nil {
			t.Errorf("%q is taken", name)
		}
	}
	if (catalog.ClusterRef{Name: "main"}).Check() == nil {
		t.Error("no system identifier is taken")
	}
}

func TestParsePackKey(t *testing.T) {
	const id = "20261124T154500Z-k3f9"
	if got, n, ok := catalog.ParsePackKey(mainRef, mainRef.PackKey(id, 7)); !ok || got != id || n != 7 {
		t.Errorf("%q %d %v", got, n, ok)
	}
	for _, key := range []string{mainRef.PackKey(id, 7) + "/x", mainRef.PackPrefix(id) + "07", mainRef.PackPrefix(id) + "-1", mainRef.PackPrefix("x") + "1"} {
		if _, _, ok := catalog.ParsePackKey(mainRef, key); ok {
			t.Errorf("%s is taken", key)
		}
	}
}

func TestComparePaths(t *testing.T) {
	sorted := []string{"a", "a/b", "a/b/c", "a/c", "a\x01", "a-", "a-/x", "a.b", "a0", "b", "ä"}
	for i, a := range sorted {
		for j, b := range sorted {
			got := catalog.ComparePaths(a, b)
			if (got < 0) != (i < j) || (got == 0) != (i == j) {
				t.Errorf("ComparePaths(%q, %q) = %d", a, b, got)
			}
		}
	}
}
