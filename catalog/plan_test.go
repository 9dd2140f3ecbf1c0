package catalog_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"pgstow/catalog"
	"pgstow/storage/object"
	"pgstow/wal"
)

const mb = wal.LSN(1 << 20) // one segment

func backupAt(id string, tli wal.TimelineID, start, stop wal.LSN, stopped time.Time) catalog.BackupSummary {
	return catalog.BackupSummary{BackupHeader: catalog.BackupHeader{
		ID: id, Cluster: mainRef.Name, SystemID: mainRef.SystemID, Start: start, Stop: stop, Timeline: tli, StopTimeline: tli,
		StartedAt: stopped.Add(-time.Minute), StoppedAt: stopped, NextXID: 500,
	}}
}

// segments is a SegmentFacts of one fact per segment.
type segments map[catalog.SegmentID]catalog.SegmentFact

func (s segments) Header(_ context.Context, tli wal.TimelineID, n wal.SegmentNumber) (catalog.SegmentFact, error) {
	return s[catalog.SegmentID{Timeline: tli, Number: n}], nil
}

func (s segments) Decode(_ context.Context, tli wal.TimelineID, n wal.SegmentNumber, until wal.LSN) (catalog.SegmentFact, error) {
	f := s[catalog.SegmentID{Timeline: tli, Number: n}]
	f.Exact, f.Begins = true, f.LastRecord
	if f.LastRecord+64 > until {
		f.LastRecord -= 64
	}
	return f, nil
}

// archive of timeline 1 with segments 1 to 9 but for some, one commit a minute in each; the fork to timeline 2 is in 6.
func smallFacts(missing ...wal.SegmentNumber) catalog.Facts {
	w := &world{stored: map[catalog.SegmentID]bool{}}
	facts := segments{}
	add := func(tli wal.TimelineID, n wal.SegmentNumber) {
		if slices.Contains(missing, n) {
			return
		}
		id := catalog.SegmentID{Timeline: tli, Number: n}
		w.stored[id] = true
		at := day.Add(time.Duration(n) * time.Minute)
		facts[id] = catalog.SegmentFact{LastRecord: wal.LSN(n)*mb + mb - 64, FirstCommit: at, LastCommit: at, MaxXID: 500 + 10*uint32(n)}
	}
	for n := wal.SegmentNumber(1); n <= 9; n++ {
		add(1, n)
	}
	for n := wal.SegmentNumber(6); n <= 8; n++ {
		add(2, n)
	}
	return catalog.Facts{
		WAL: w.index(), Segments: facts,
		Histories: map[wal.TimelineID]wal.History{2: {{Timeline: 1, End: 6*mb + mb/2}, {Timeline: 2, End: wal.MaxLSN}}},
		Backups: []catalog.BackupSummary{
			backupAt("20261124T154600Z-aaaa", 1, 1*mb+40, 1*mb+400, day.Add(time.Minute)),
			backupAt("20261124T154900Z-bbbb", 1, 4*mb+40, 4*mb+400, day.Add(4*time.Minute)),
			backupAt("20261124T155200Z-cccc", 1, 7*mb+40, 7*mb+400, day.Add(7*time.Minute)),
		},
	}
}

func TestPlanTimelines(t *testing.T) {
	latest, one, two := catalog.TimelineChoice{}, catalog.TimelineChoice{ID: 1}, catalog.TimelineChoice{ID: 2}
	for _, tt := range []struct {
		name     string
		timeline catalog.TimelineChoice
		backup   string
		want     string // backup
		tli      wal.TimelineID
		path     string
	}{
		// Timeline 2 left timeline 1 in segment 6, so the backup at 7 on timeline 1 is on a dead branch.
		{"latest", latest, "", "20261124T154900Z-bbbb", 2, "1:4-5 2:6-8"},
		{"by number", one, "", "20261124T155200Z-cccc", 1, "1:7-9"},
		{"the newer one by number", two, "", "20261124T154900Z-bbbb", 2, "1:4-5 2:6-8"},
		{"current", catalog.TimelineChoice{Current: true}, "", "20261124T155200Z-cccc", 1, "1:7-9"},
		{"latest from a dead branch", latest, "20261124T155200Z-cccc", "20261124T155200Z-cccc", 1, "1:7-9"},
		{"latest from an old one", latest, "20261124T154600Z-aaaa", "20261124T154600Z-aaaa", 2, "1:1-5 2:6-8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := catalog.PlanRestore(t.Context(), smallFacts(), catalog.Target{Timeline: tt.timeline}, catalog.BackupSelector{ID: tt.backup})
			if err != nil {
				t.Fatal(err)
			}
			if p.Backup.ID != tt.want || p.Timeline != tt.tli || pathString(p) != tt.path {
				t.Errorf("backup %s on timeline %d path %s, want %s on %d path %s", p.Backup.ID, p.Timeline, pathString(p), tt.want, tt.tli, tt.path)
			}
		})
	}
}

func pathString(p catalog.Plan) string {
	var parts []string
	for _, w := range p.Path {
		parts = append(parts, w.Timeline.String()+":"+decimal(w.First)+"-"+decimal(w.Last))
	}
	return strings.Join(parts, " ")
}

func decimal(n wal.SegmentNumber) string { return wal.TimelineID(n).String() }

func TestPlanErrors(t *testing.T) {
	at := func(n int) time.Time { return day.Add(time.Duration(n) * time.Minute) }
	two := catalog.TimelineChoice{ID: 2}
	for _, tt := range []struct {
		name    string
		missing []wal.SegmentNumber
		target  catalog.Target
		backup  string
		want    []string // in the message
	}{
		{"no such backup", nil, catalog.Target{}, "20260101T000000Z-zzzz", []string{"does not exist"}},
		{"no such timeline", nil, catalog.Target{Timeline: catalog.TimelineChoice{ID: 7}}, "", []string{"timeline 7 is not in the archive"}},
		{"LSN before all backups", nil, catalog.Target{Kind: catalog.TargetLSN, LSN: mb + 50}, "", []string{"LSN 0/100032", "20261124T154600Z-aaaa is consistent from: 0/100190"}},
		{"LSN behind the end", nil, catalog.Target{Kind: catalog.TargetLSN, LSN: 20 * mb}, "", []string{"behind the end", "0/900000", "15:53:00 UTC"}},
		{"the last record, which is whole", nil, catalog.Target{Kind: catalog.TargetLSN, LSN: 9*mb - 64, Timeline: two}, "", nil},
		{"time before all", nil, catalog.Target{Kind: catalog.TargetTime, Time: day}, "", []string{"ends behind it", "2026-11-24 15:46:00 UTC"}},
		{"equal to the stop time", nil, catalog.Target{Kind: catalog.TargetTime, Time: at(1)}, "", []string{"ends behind it"}},
		{"time of the last commit", nil, catalog.Target{Kind: catalog.TargetTime, Time: at(8)}, "", []string{"no later commit", "15:53:00"}},
		{"exclusive, the last commit", nil, catalog.Target{Kind: catalog.TargetTime, Time: at(8), Exclusive: true}, "", nil},
		{"just before the last commit", nil, catalog.Target{Kind: catalog.TargetTime, Time: at(8).Add(-1)}, "", nil},
		{"xid of the past", nil, catalog.Target{Kind: catalog.TargetXID, XID: 499}, "", []string{"transaction 499", "ends behind it"}},
		{"xid of the future", nil, catalog.Target{Kind: catalog.TargetXID, XID: 581}, "", []string{"no such transaction"}},
		{"the last xid", nil, catalog.Target{Kind: catalog.TargetXID, XID: 580}, "", nil},
		{"unknown name", nil, catalog.Target{Kind: catalog.TargetName, Name: "x"}, "", []string{`restore point "x"`, "no restore point of this name"}},
		{"hole before the target", []wal.SegmentNumber{7}, catalog.Target{}, "", []string{"000000020000000000000007 is missing", "goes on with 000000020000000000000008", "20261124T154900Z-bbbb", "0/700000"}},
		{"hole of several", []wal.SegmentNumber{5, 6}, catalog.Target{}, "20261124T154600Z-aaaa", []string{"000000010000000000000005 to 000000020000000000000006 are missing"}},
		{"hole that is taken for the end", []wal.SegmentNumber{7}, catalog.Target{StopAtHole: true}, "", nil},
		{"hole before the backup is consistent", []wal.SegmentNumber{4}, catalog.Target{StopAtHole: true}, "20261124T154900Z-bbbb", []string{"000000010000000000000004 is missing"}},
		{"hole behind the target", []wal.SegmentNumber{7}, catalog.Target{Kind: catalog.TargetTime, Time: at(5)}, "", nil},
		{"hole in the backup's own WAL", []wal.SegmentNumber{4}, catalog.Target{Kind: catalog.TargetImmediate}, "20261124T154900Z-bbbb", []string{"000000010000000000000004 is missing"}},
		{"an older backup will do", []wal.SegmentNumber{4}, catalog.Target{Kind: catalog.TargetImmediate}, "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := catalog.PlanRestore(t.Context(), smallFacts(tt.missing...), tt.target, catalog.BackupSelector{ID: tt.backup})
			if (err == nil) != (tt.want == nil) {
				t.Fatalf("error %v, want one with %q", err, tt.want)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
		})
	}
}

// TestPlanPiecesBehindAHole: pieces show that the archive goes on as a segment does; where the hole is to be the end, pieces before it count.
func TestPlanPiecesBehindAHole(t *testing.T) {
	f := smallFacts(7, 8)
	latest, atHole := catalog.Target{}, catalog.Target{StopAtHole: true}
	plan := func(target catalog.Target) (catalog.Plan, error) {
		return catalog.PlanRestore(t.Context(), f, target, catalog.BackupSelector{})
	}
	if p, err := plan(latest); err != nil || p.WALEnd != 7*mb {
		t.Fatalf("without pieces: up to %s, %v", p.WALEnd, err)
	}
	two := f.WAL.Timeline(2)
	two.Pieces = []catalog.PieceRun{{Segment: 8, From: 8 * mb, To: 8*mb + 500, Count: 1, Newest: day}}
	var gap *catalog.GapError
	if _, err := plan(latest); !errors.As(err, &gap) || gap.First != "000000020000000000000007" || gap.Next != "000000020000000000000008" || gap.Hole.Since != day {
		t.Errorf("pieces behind a hole: %+v, %v", gap, err)
	}
	if p, err := plan(atHole); err != nil || p.WALEnd != 7*mb || len(p.Notes) == 0 {
		t.Errorf("up to the hole: %s, %q, %v", p.WALEnd, p.Notes, err)
	}
	two.Pieces = append([]catalog.PieceRun{{Segment: 7, From: 7 * mb, To: 7*mb + 100, Count: 1, Newest: day}}, two.Pieces...)
	if _, err := plan(latest); !errors.As(err, &gap) {
		t.Errorf("pieces on both sides of a hole: %v", err)
	}
	if p, err := plan(atHole); err != nil || p.WALEnd != 7*mb+100 {
		t.Errorf("up to the hole with its pieces: %s, %v", p.WALEnd, err)
	}
	two.Pieces[0].To = 8 * mb // all of it
	if p, err := plan(latest); err != nil || p.WALEnd != 8*mb+500 {
		t.Errorf("pieces that are all of a segment: %s, %v", p.WALEnd, err)
	}
}

// TestPlanOpenRecord: the last record of a path that its segment cuts cannot stop recovery.
func TestPlanOpenRecord(t *testing.T) {
	f := smallFacts()
	id := catalog.SegmentID{Timeline: 2, Number: 8}
	target := catalog.Target{Kind: catalog.TargetLSN, LSN: 9*mb - 32}
	seg := f.Segments.(segments)
	whole := seg[id]
	whole.LastRecord = 9*mb - 32 // its 64 bytes do not fit
	seg[id] = whole
	_, err := catalog.PlanRestore(t.Context(), f, target, catalog.BackupSelector{})
	var u *catalog.UnreachableError
	if !errors.As(err, &u) || len(u.Nearest) == 0 || u.Nearest[0].LSN != 9*mb {
		t.Errorf("error %v, want one that names the end of the archive", err)
	}
	whole.Switch = true
	seg[id] = whole
	if _, err := catalog.PlanRestore(t.Context(), f, target, catalog.BackupSelector{}); err != nil {
		t.Errorf("a switch record ends the segment: %v", err)
	}
}

func TestPlanFork(t *testing.T) {
	// The newer timeline has nothing in the archive but its history: the older segment is good up to the fork.
	f := smallFacts(6, 7, 8, 9)
	x := f.WAL.Timeline(1)
	x.Ranges[len(x.Ranges)-1].Last = 6
	p, err := catalog.PlanRestore(t.Context(), f, catalog.Target{}, catalog.BackupSelector{})
	if err != nil {
		t.Fatal(err)
	}
	if p.Timeline != 2 || pathString(p) != "1:4-5 1:6-6" || p.WALEnd != 6*mb+mb/2 {
		t.Errorf("timeline %d path %s end %s", p.Timeline, pathString(p), p.WALEnd)
	}
}

func TestPlanIncluded(t *testing.T) {
	f := smallFacts(1, 2, 3, 4, 5, 6, 7, 8, 9)
	f.Backups = f.Backups[:1]
	f.Backups[0].WALIncluded = true
	for _, kind := range []catalog.TargetKind{catalog.TargetImmediate, catalog.TargetLatest} {
		p, err := catalog.PlanRestore(t.Context(), f, catalog.Target{Kind: kind}, catalog.BackupSelector{})
		if err != nil {
			t.Fatal(err)
		}
		if p.NeedsArchive || len(p.Path) != 0 || p.WALEnd != f.Backups[0].Stop {
			t.Errorf("%v: archive %v path %v end %s", kind, p.NeedsArchive, p.Path, p.WALEnd)
		}
	}
	_, err := catalog.PlanRestore(t.Context(), f, catalog.Target{Kind: catalog.TargetLSN, LSN: 2 * mb}, catalog.BackupSelector{})
	var u *catalog.UnreachableError
	if !errors.As(err, &u) {
		t.Errorf("error %v", err)
	}
}

func TestPlanUnreadHistory(t *testing.T) {
	f := smallFacts()
	f.Unread = []wal.TimelineID{2}
	_, err := catalog.PlanRestore(t.Context(), f, catalog.Target{}, catalog.BackupSelector{})
	wantErr(t, err, object.ErrNoIdentity)
	wantHint(t, err)
}

// TestPlanLooksAtFewSegments: a target that the last segments decide costs few reads, however long the archive is.
func TestPlanLooksAtFewSegments(t *testing.T) {
	const last = 1_000_000
	c := counting{limit: last}
	f := catalog.Facts{
		WAL: &catalog.WALIndex{Ref: mainRef, SegmentSize: segmentSize, Timelines: []catalog.TimelineWAL{
			{Timeline: 1, Ranges: []catalog.SegmentRange{{First: 1, Last: last}}},
		}},
		Segments: &c,
		Backups:  []catalog.BackupSummary{backupAt("20261124T154600Z-aaaa", 1, 1*mb+40, 1*mb+400, day)},
	}
	for _, target := range []catalog.Target{
		{}, {Kind: catalog.TargetImmediate}, {Kind: catalog.TargetTime, Time: day.Add(time.Hour)}, {Kind: catalog.TargetLSN, LSN: 500 * mb},
		{Kind: catalog.TargetXID, XID: 600}, {Kind: catalog.TargetTime, Time: day.AddDate(10, 0, 0)},
	} {
		c.calls = 0
		_, err := catalog.PlanRestore(t.Context(), f, target, catalog.BackupSelector{})
		var u *catalog.UnreachableError
		if err != nil && !errors.As(err, &u) {
			t.Fatal(err)
		}
		if c.calls > 20 {
			t.Errorf("%v: %d segments were looked at", target, c.calls)
		}
	}
}

// counting has a commit a minute.
type counting struct {
	calls int
	limit wal.SegmentNumber
}

func (c *counting) Header(_ context.Context, _ wal.TimelineID, n wal.SegmentNumber) (catalog.SegmentFact, error) {
	c.calls++
	at := day.Add(time.Duration(n) * time.Minute)
	return catalog.SegmentFact{LastRecord: wal.LSN(n)*mb + 100, FirstCommit: at, LastCommit: at, MaxXID: 500 + uint32(n)}, nil
}

func (c *counting) Decode(ctx context.Context, tli wal.TimelineID, n wal.SegmentNumber, _ wal.LSN) (catalog.SegmentFact, error) {
	f, err := c.Header(ctx, tli, n)
	f.Exact, f.Begins = true, f.LastRecord
	return f, err
}

func TestSortBackups(t *testing.T) {
	// Ids and times contradict the lineage on purpose.
	list := []catalog.BackupSummary{
		backupAt("20200101T000000Z-aaaa", 2, 5*mb, 6*mb, day),
		backupAt("20300101T000000Z-bbbb", 1, 5*mb, 9*mb, day.Add(time.Hour)),
		backupAt("20250101T000000Z-cccc", 1, 1*mb, 2*mb, day.Add(2*time.Hour)),
		backupAt("20240101T000000Z-dddd", 1, 2*mb, 9*mb, day.Add(3*time.Hour)),
	}
	catalog.SortBackups(list)
	var got []string
	for _, b := range list {
		got = append(got, b.ID[17:])
	}
	if want := []string{"cccc", "dddd", "bbbb", "aaaa"}; !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
}
