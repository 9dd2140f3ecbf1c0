package restore_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"os"
	"reflect"
	"strings"
	"testing"

	"pgstow/backup/backupmanifest"
	"pgstow/backup/pagemap"
	"pgstow/backup/restore"
	"pgstow/catalog"
)

func TestCleanLabel(t *testing.T) {
	in := "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nCHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n" +
		"START TIME: 2026-11-24 15:00:00 UTC\nLABEL: INCREMENTAL FROM LSN: x\nSTART TIMELINE: 1\nINCREMENTAL FROM LSN: 0/1000028\nINCREMENTAL FROM TLI: 1\n"
	want := in[:strings.Index(in, "\nINCREMENTAL")+1]
	if got := string(restore.CleanLabel([]byte(in))); got != want {
		t.Errorf("got %q", got)
	}
	if got := string(restore.CleanLabel([]byte(want))); got != want {
		t.Errorf("an ordinary label changed: %q", got)
	}
}

func TestInvalidateCheckpoint(t *testing.T) {
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		raw := make([]byte, 8192)
		for i := range 288 {
			raw[i] = byte(i * 7)
		}
		sum := func(b []byte) uint32 { return crc32.Checksum(b[:288], crc32.MakeTable(crc32.Castagnoli)) }
		order.PutUint32(raw[288:], sum(raw))
		before := bytes.Clone(raw)
		got, err := restore.InvalidateCheckpoint(raw)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(raw, before) {
			t.Error("the argument was changed")
		}
		if order.Uint64(got[32:]) != 0xDEAD || order.Uint32(got[288:]) != sum(got) {
			t.Errorf("%v: checkpoint %x, checksum right: %v", order, order.Uint64(got[32:]), order.Uint32(got[288:]) == sum(got))
		}
		order.PutUint64(got[32:], order.Uint64(raw[32:]))
		copy(got[288:292], raw[288:292])
		if !bytes.Equal(got, raw) {
			t.Error("more than checkpoint and checksum changed")
		}
		raw[5] ^= 1
		if _, err := restore.InvalidateCheckpoint(raw); err == nil {
			t.Error("a torn pg_control was accepted")
		}
	}
}

func TestFileMode(t *testing.T) {
	for _, tt := range []struct{ directory, recorded, want fs.FileMode }{
		{0o700, 0o600, 0o600}, {0o700, 0o644, 0o600}, {0o700, 0, 0o600}, {0o700, 0o750, 0o700},
		{0o750, 0o640, 0o640}, {0o750, 0o600, 0o600}, {0o750, 0o666, 0o640}, {0o750, 0, 0o640}, {0o750, 0o400, 0o600},
	} {
		if got := restore.FileMode(tt.directory, tt.recorded); got != tt.want {
			t.Errorf("%04o in %04o: got %04o, want %04o", tt.recorded, tt.directory, got, tt.want)
		}
	}
}

func TestKernel(t *testing.T) {
	for release, want := range map[string]bool{"5.8.0": true, "5.7.19-x": false, "5.10.0-8-amd64": true, "6.1": true, "4.19.0": false, "": false, "x": false} {
		if restore.KernelAtLeast(release, 5, 8) != want {
			t.Errorf("%q: want %v", release, want)
		}
	}
}

func TestSpace(t *testing.T) {
	dir := t.TempDir()
	if err := restore.CheckSpace([]restore.NeedT{restore.Need(dir, 1), restore.Need(dir+"/not/yet", 1)}); err != nil {
		t.Error(err)
	}
	var full *restore.SpaceError
	err := restore.CheckSpace([]restore.NeedT{restore.Need(dir, 1<<61), restore.Need(dir+"/b", 1<<61)})
	if !errors.As(err, &full) || len(full.Paths) != 2 || full.Need != 1<<62 {
		t.Errorf("got %v", err)
	}
}

func TestOwner(t *testing.T) {
	dir := t.TempDir()
	if os.Geteuid() != 0 {
		if o, err := restore.ResolveOwner("", dir); err != nil || o.Set {
			t.Errorf("got %+v, %v", o, err)
		}
		if _, err := restore.ResolveOwner("4242", dir); !errors.Is(err, restore.ErrOptions) {
			t.Errorf("another user without being root: %v", err)
		}
		return
	}
	if _, err := restore.ResolveOwner("", dir); err == nil || !strings.Contains(catalog.Hint(err), "--owner") {
		t.Errorf("root's own directory: %v", err)
	}
	if _, err := restore.ResolveOwner("0", dir); !errors.Is(err, restore.ErrOptions) {
		t.Errorf("root as owner: %v", err)
	}
	if o, err := restore.ResolveOwner("4242:4243", dir); err != nil || o.UID != 4242 || o.GID != 4243 || !o.Set {
		t.Errorf("by number: %+v, %v", o, err)
	}
	if err := os.Chown(dir, 4242, 4243); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, dir + "/new"} {
		if o, err := restore.ResolveOwner("", path); err != nil || o.UID != 4242 || o.GID != 4243 || !o.Set {
			t.Errorf("%s: %+v, %v", path, o, err)
		}
	}
}

func TestMapRuns(t *testing.T) {
	var m pagemap.Map
	a, b := pagemap.PackRef{Backup: "a", Pack: 1}, pagemap.PackRef{Backup: "b", Pack: 1}
	hashes := make([]uint64, 16)
	m.Append(a, 2, 10, hashes[:4])
	m.AppendZero(hashes[:3])
	m.Append(b, 0, 0, hashes[:2])
	packs := []pagemap.PackRef{b, a}
	got, err := restore.MapRuns(&m, 8192, nil, packs)
	want := []restore.TestRun{{0, 1, 2, 10 * 8192, 4 * 8192}, {7 * 8192, 0, 0, 0, 2 * 8192}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	got, err = restore.MapRuns(&m, 8192, []bool{true, false, true, false, false, false, false, true, true}, packs)
	want = []restore.TestRun{{8192, 1, 2, 11 * 8192, 8192}, {3 * 8192, 1, 2, 13 * 8192, 8192}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("with kept pages: got %v, %v", got, err)
	}
	if _, err := restore.MapRuns(&m, 8192, nil, packs[:1]); err == nil {
		t.Error("a pack that is not in the table was accepted")
	}
}

func TestWALRanges(t *testing.T) {
	h := catalog.BackupHeader{Timeline: 2, StopTimeline: 3, Start: 0x150, Stop: 0x300, History: []catalog.TimelineSwitch{{Timeline: 1, End: 0x100}, {Timeline: 2, End: 0x200}}}
	want := []backupmanifest.WALRange{{Timeline: 2, Start: 0x150, End: 0x200}, {Timeline: 3, Start: 0x200, End: 0x300}}
	if got := restore.WALRanges(h); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
	h.Timeline, h.Start = 3, 0x250
	if got := restore.WALRanges(h); !reflect.DeepEqual(got, []backupmanifest.WALRange{{Timeline: 3, Start: 0x250, End: 0x300}}) {
		t.Errorf("got %v", got)
	}
}
