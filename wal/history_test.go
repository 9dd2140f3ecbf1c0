package wal_test

import (
	"path/filepath"
	"reflect"
	"testing"

	"pgstow/wal"
)

func TestHistoryFilesComeBackByteForByte(t *testing.T) {
	eachMajor(t, func(t *testing.T, dir string, _ int) {
		for tli, name := range map[wal.TimelineID]string{2: "00000002.history", 3: "00000003.history"} {
			b := readFile(t, dir, "fork", name)
			h, err := wal.ParseHistory(tli, b)
			if err != nil {
				t.Fatal(err)
			}
			if got := h.Format(); string(got) != string(b) {
				t.Errorf("%s: written as\n%s\nwant\n%s", name, got, b)
			}
			if len(h) != int(tli) || h[0].Reason != "no recovery target specified" {
				t.Errorf("%s: %+v", name, h)
			}
		}
		two, err2 := wal.ParseHistory(2, readFile(t, dir, "fork", "00000002.history"))
		three, err3 := wal.ParseHistory(3, readFile(t, dir, "fork", "00000003.history"))
		if err2 != nil || err3 != nil || !three.Descends(two) || two.Descends(three) {
			t.Errorf("timeline 3 does not descend from 2: %v, %v", err2, err3)
		}
	})
}

func TestParseHistory(t *testing.T) {
	want := wal.History{{1, 0x3000000, "before 2026-11-24"}, {3, 0x1_04000000, ""}, {5, wal.MaxLSN, ""}}
	for _, s := range []string{
		"1\t0/3000000\tbefore 2026-11-24\n\n3\t1/4000000\t\n",
		"# made by hand\n  1 0/3000000 before 2026-11-24\n\n \t\n  # more\n3 1/04000000\n",
		"1\t0/3000000\tbefore 2026-11-24\r\n3\t1/4000000\t",
	} {
		h, err := wal.ParseHistory(5, []byte(s))
		if err != nil || !reflect.DeepEqual(h, want) {
			t.Errorf("%q: %+v, %v", s, h, err)
		}
	}
	for _, s := range []string{"", "\n", "# nothing\n"} {
		h, err := wal.ParseHistory(1, []byte(s))
		if err != nil || !h.Equal(wal.NewHistory(1)) || len(h.Format()) != 0 {
			t.Errorf("%q: %+v, %v", s, h, err)
		}
	}
	for _, s := range []string{
		"x", "1", "1\t0", "1\t0/", "1\t/0", "10/3000000 x", "-1\t0/1", "4294967296\t0/1", "1\t0/123456789",
		"2\t0/1\n1\t0/2", "1\t0/1\n1\t0/2", "5\t0/1", "6\t0/1", "1 0/1 ok\nrubbish",
	} {
		if h, err := wal.ParseHistory(5, []byte(s)); err == nil {
			t.Errorf("%q passes as %+v", s, h)
		}
	}
}

func TestHistoryQuestions(t *testing.T) {
	const size = wal.SegmentSize(1 << 20)
	h := wal.History{{1, 0x250000, ""}, {2, 0x300000, ""}, {4, 0x380000, ""}, {7, wal.MaxLSN, ""}}
	for _, c := range []struct {
		lsn wal.LSN
		tli wal.TimelineID
	}{{0, 1}, {0x24FFFF, 1}, {0x250000, 2}, {0x2FFFFF, 2}, {0x300000, 4}, {0x380000, 7}, {wal.MaxLSN, 7}} {
		if got := h.TimelineOf(c.lsn); got != c.tli {
			t.Errorf("%s is on %d, want %d", c.lsn, got, c.tli)
		}
	}
	// The segment with a fork is taken from the newer timeline; 3 has two forks, one of them at its first byte.
	for n, tli := range []wal.TimelineID{1, 1, 2, 7, 7} {
		if got := h.TimelineOfSegment(wal.SegmentNumber(n), size); got != tli {
			t.Errorf("segment %d is of %d, want %d", n, got, tli)
		}
	}
	for _, c := range []struct {
		tli wal.TimelineID
		end wal.LSN
		ok  bool
	}{{1, 0x250000, true}, {4, 0x380000, true}, {7, 0, false}, {3, 0, false}} {
		if end, ok := h.Ancestor(c.tli); end != c.end || ok != c.ok {
			t.Errorf("ancestor %d: %s, %v", c.tli, end, ok)
		}
	}
	for _, c := range []struct {
		tli  wal.TimelineID
		lsn  wal.LSN
		want bool
	}{{1, 0x250000, true}, {1, 0x250001, false}, {2, 0x250000, true}, {2, 0x24FFFF, false}, {7, 0x900000, true}, {3, 0x260000, false}} {
		if got := h.Contains(c.tli, c.lsn); got != c.want {
			t.Errorf("contains %d at %s: %v", c.tli, c.lsn, got)
		}
	}
	if tli, at, ok := h.Parent(); tli != 4 || at != 0x380000 || !ok || h.Timeline() != 7 {
		t.Errorf("parent %d at %s", tli, at)
	}
	if begin, ok := h.Begin(4); begin != 0x300000 || !ok {
		t.Errorf("4 begins at %s", begin)
	}
	if _, ok := h.Begin(5); ok {
		t.Error("5 begins")
	}
	if _, _, ok := wal.NewHistory(1).Parent(); ok {
		t.Error("timeline 1 has a parent")
	}
	var none wal.History
	if none.Timeline() != 0 || none.TimelineOf(1) != 0 || none.TimelineOfSegment(1, size) != 0 || h.Descends(none) {
		t.Error("an empty history answers")
	}
	for _, c := range []struct {
		o    wal.History
		want bool
	}{
		{h, true},
		{wal.NewHistory(1), true},
		{wal.History{{1, 0x250000, "another reason"}, {2, wal.MaxLSN, ""}}, true},
		{wal.History{{1, 0x250001, ""}, {2, wal.MaxLSN, ""}}, false},
		{wal.History{{1, 0x250000, ""}, {3, wal.MaxLSN, ""}}, false},
		{append(h[:3:3], wal.HistoryEntry{Timeline: 7, End: 0x400000}, wal.HistoryEntry{Timeline: 8, End: wal.MaxLSN}), false},
	} {
		if got := h.Descends(c.o); got != c.want {
			t.Errorf("descends from %v: %v", c.o, got)
		}
		if got := h.Equal(c.o); got != (len(c.o) == len(h)) {
			t.Errorf("equal to %v: %v", c.o, got)
		}
	}
}

func TestBackupFiles(t *testing.T) {
	eachMajor(t, func(t *testing.T, dir string, major int) {
		label, err := wal.ParseBackupLabel(readFile(t, dir, "backup", "backup_label"))
		if err != nil {
			t.Fatal(err)
		}
		paths, err := filepath.Glob(filepath.Join(dir, "backup", "*.backup"))
		if err != nil || len(paths) != 1 {
			t.Fatalf("%v, %v", paths, err)
		}
		f, err := wal.ParseBackupFile(readFile(t, paths[0]))
		if err != nil {
			t.Fatal(err)
		}
		if f.BackupLabel != label {
			t.Errorf("the history file says %+v, the label %+v", f.BackupLabel, label)
		}
		if got := wal.BackupHistoryName(f.StartTimeline, f.StartLSN, 1<<20).String(); got != filepath.Base(paths[0]) {
			t.Errorf("start %s would give the name %s, it is %s", f.StartLSN, got, filepath.Base(paths[0]))
		}
		from := "primary"
		if major < 14 {
			from = "master"
		}
		if label.Label != "a label" || label.Method != "streamed" || label.From != from || label.StartTimeline != 1 || f.StopTimeline != 1 {
			t.Errorf("%+v", f)
		}
		if label.StartTime.Year() != 2026 || f.StopTime.Before(label.StartTime) || label.IncrementalFromLSN != 0 {
			t.Errorf("%+v", f)
		}
		if f.StopLSN <= f.CheckpointLSN || f.CheckpointLSN <= f.StartLSN || f.StartSegment.Number(1<<20) != wal.SegmentSize(1<<20).SegmentOf(f.StartLSN) {
			t.Errorf("%+v", f)
		}
	})
}

const labelText = `START WAL LOCATION: 0/9000028 (file 000000010000000000000009)
CHECKPOINT LOCATION: 0/9000060
BACKUP METHOD: streamed
BACKUP FROM: standby
START TIME: 2026-11-24 15:38:00 CET
LABEL: evil
START TIMELINE: 99
START TIMELINE: 1
INCREMENTAL FROM LSN: 0/7000028
INCREMENTAL FROM TLI: 1
`

// The history file that a server of 17 or newer archives after an incremental backup.
func TestIncrementalBackupFile(t *testing.T) {
	f, err := wal.ParseBackupFile([]byte(`START WAL LOCATION: 0/1E000028 (file 00000001000000000000001E)
STOP WAL LOCATION: 0/1E000120 (file 00000001000000000000001E)
CHECKPOINT LOCATION: 0/1E000080
BACKUP METHOD: streamed
BACKUP FROM: primary
START TIME: 2026-11-24 21:10:53 UTC
LABEL: a label
START TIMELINE: 1
STOP TIME: 2026-11-24 21:10:54 UTC
STOP TIMELINE: 1
INCREMENTAL FROM LSN: 0/1C000028
INCREMENTAL FROM TLI: 1
`))
	if err != nil {
		t.Fatal(err)
	}
	if f.StopLSN != 0x1E000120 || f.StopTimeline != 1 || f.Label != "a label" || f.IncrementalFromLSN != 0x1C000028 || f.IncrementalFromTimeline != 1 {
		t.Errorf("%+v", f)
	}
}

func TestBackupLabelWithLineBreak(t *testing.T) {
	l, err := wal.ParseBackupLabel([]byte(labelText))
	if err != nil {
		t.Fatal(err)
	}
	if l.Label != "evil\nSTART TIMELINE: 99" || l.StartTimeline != 1 || l.From != "standby" {
		t.Errorf("%+v", l)
	}
	if l.IncrementalFromLSN != 0x7000028 || l.IncrementalFromTimeline != 1 {
		t.Errorf("%+v", l)
	}
	if !l.StartTime.IsZero() || l.StartTimeText != "2026-11-24 15:38:00 CET" {
		t.Errorf("CET became %s", l.StartTime)
	}
}

func TestBackupLabelRefusals(t *testing.T) {
	// Every line is needed, and in its place.
	var at []int
	for i, c := range labelText {
		if c == '\n' {
			at = append(at, i+1)
		}
	}
	begin := 0
	for i, end := range at {
		cut := labelText[:begin] + labelText[end:]
		_, err := wal.ParseBackupLabel([]byte(cut))
		if ok := i == 6 || i == 7; (err == nil) != ok { // the second line of the label, and the one it imitates
			t.Errorf("without %q: %v", labelText[begin:end], err)
		}
		begin = end
	}
	if _, err := wal.ParseBackupFile([]byte(labelText)); err == nil {
		t.Error("a label passes as a history file")
	}
	for _, s := range []string{"", "\n", "START WAL LOCATION: 0/9 (file x)\n", "START WAL LOCATION: 0/9000028\n"} {
		if _, err := wal.ParseBackupLabel([]byte(s)); err == nil {
			t.Errorf("%q passes", s)
		}
	}
}

func FuzzHistory(f *testing.F) {
	f.Add([]byte("1\t0/3000000\tbefore 2026-11-24\n\n3\t1/4000000\tx\n"))
	f.Add([]byte("# made by hand\n  1 0/3000000 why\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := wal.ParseHistory(1000, b)
		if err != nil {
			return
		}
		again, err := wal.ParseHistory(1000, h.Format())
		if err != nil || !reflect.DeepEqual(again, h) {
			t.Errorf("%q: %+v is written as %q, which is %+v, %v", b, h, h.Format(), again, err)
		}
		if !h.Descends(h) || h.Timeline() != 1000 {
			t.Errorf("%+v is not itself", h)
		}
		for _, e := range h {
			h.TimelineOf(e.End)
			h.Contains(e.Timeline, e.End)
		}
	})
}
