package stream_test

import (
	"testing"

	"pgstow/backup/stream"
)

// The command in the grammars of both kinds of servers.
func TestCommand(t *testing.T) {
	for _, c := range []struct {
		o     stream.BackupOptions
		major int
		want  string
	}{
		{stream.BackupOptions{Label: "a"}, 13, "BASE_BACKUP LABEL 'a' PROGRESS NOWAIT FAST MANIFEST 'no'"},
		{stream.BackupOptions{Label: "it's", Spread: true, MaxRate: 50 << 20}, 14, "BASE_BACKUP LABEL 'it''s' PROGRESS NOWAIT MAX_RATE 51200 MANIFEST 'no'"},
		{stream.BackupOptions{Label: "it's"}, 15, "BASE_BACKUP (LABEL 'it''s', PROGRESS, CHECKPOINT 'fast', WAIT false, MANIFEST 'no')"},
		{stream.BackupOptions{Label: "a", Spread: true, MaxRate: 1}, 18, "BASE_BACKUP (LABEL 'a', PROGRESS, CHECKPOINT 'spread', WAIT false, MANIFEST 'no', TABLESPACE_MAP, MAX_RATE 32)"},
		{stream.BackupOptions{Label: "a", MaxRate: 2 << 30}, 16, "BASE_BACKUP (LABEL 'a', PROGRESS, CHECKPOINT 'fast', WAIT false, MANIFEST 'no', TABLESPACE_MAP)"},
	} {
		if got := c.o.SQL(c.major); got != c.want {
			t.Errorf("%d: %s\nwant %s", c.major, got, c.want)
		}
	}
}

// A server cannot make us write outside of what we think it sent.
func TestValidPath(t *testing.T) {
	for _, path := range []string{"a", "a/b", "base/1/1259_vm", "..a/b..", "\xff"} {
		if !stream.ValidPath(path) {
			t.Errorf("%q is refused", path)
		}
	}
	for _, path := range []string{"", ".", "..", "/a", "a/", "a//b", "a/../b", "./a", "a/."} {
		if stream.ValidPath(path) {
			t.Errorf("%q is taken", path)
		}
	}
}

// The messages of 15 and newer, and what comes before the files.
func TestMessages(t *testing.T) {
	list := []stream.Tablespace{{OID: 16385, Location: "/a"}, {OID: 5}, {}}
	for message, want := range map[string]int{
		"nbase.tar\x00\x00": 2, "n16385.tar\x00/a\x00": 0, "n5.tar\x00": 1, "p\x00\x00\x00\x00\x00\x00\x00\x07": -1, "dxyz": -1,
	} {
		if got, err := stream.Announced([]byte(message), list...); err != nil || got != want {
			t.Errorf("%q: %d, %v", message, got, err)
		}
	}
	for _, message := range []string{"", "n", "nbase.tar.gz\x00\x00", "n0.tar\x00", "n6.tar\x00", "m", "x"} {
		if got, err := stream.Announced([]byte(message), list...); err == nil {
			t.Errorf("%q: %d", message, got)
		}
	}
	lsn, tli, err := stream.Position([][]string{{"1/2000028", "3"}})
	if err != nil || lsn != 0x102000028 || tli != 3 {
		t.Errorf("%s on %d, %v", lsn, tli, err)
	}
	for _, rows := range [][][]string{nil, {{"1/2"}}, {{"x", "1"}}, {{"1/2", "x"}}, {{"1/2", "1"}, {"1/2", "1"}}} {
		if lsn, tli, err := stream.Position(rows); err == nil {
			t.Errorf("%q: %s on %d", rows, lsn, tli)
		}
	}
	if got, err := stream.ParseTablespace([]string{"16385", "/a b", "7"}); err != nil || got != (stream.Tablespace{OID: 16385, Location: "/a b", Size: 7 << 10}) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := stream.ParseTablespace([]string{"", "", ""}); err != nil || got != (stream.Tablespace{}) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, row := range [][]string{nil, {"1", "/a"}, {"x", "/a", "1"}, {"1", "/a", "x"}} {
		if got, err := stream.ParseTablespace(row); err == nil {
			t.Errorf("%q: %+v", row, got)
		}
	}
}
