package backup_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgstow/backup"
	"pgstow/catalog"
	"pgstow/test/pg"
	"pgstow/wal"
	"pgstow/wal/pgcontrol"
)

// RULES-physical A3, A6: which backup a new one begins with.
func TestChooseReference(t *testing.T) {
	one := wal.NewHistory(1)
	two := wal.History{{Timeline: 1, End: 500}, {Timeline: 2, End: wal.MaxLSN}}
	other := wal.History{{Timeline: 1, End: 450}, {Timeline: 2, End: wal.MaxLSN}}
	three := wal.History{{Timeline: 1, End: 500}, {Timeline: 2, End: 700}, {Timeline: 3, End: wal.MaxLSN}}
	control := pgcontrol.Control{Redo: 900, BlockSize: 8192, RelSegSize: 131072, WALSegmentSize: 1 << 20, Version: 1300, CatalogVersion: 5}
	b := func(id string, h wal.History, start, stop wal.LSN, edit ...func(*catalog.BackupSummary)) catalog.BackupSummary {
		s := catalog.BackupSummary{BackupHeader: catalog.BackupHeader{
			ID: id, Start: start, Stop: stop, Timeline: h.Timeline(), StopTimeline: h.Timeline(), History: catalog.SwitchesOf(h), ControlRedo: start,
			BlockSize: 8192, RelSegSize: 131072, WALSegmentSize: 1 << 20, ControlVersion: 1300, CatalogVersion: 5,
		}}
		for _, e := range edit {
			e(&s)
		}
		return s
	}
	list := func(s ...catalog.BackupSummary) []catalog.BackupSummary { return s }
	for name, c := range map[string]struct {
		have  []catalog.BackupSummary
		h     wal.History
		start wal.LSN
		want  string // id, or what the reason says
	}{
		"none":                      {nil, one, 1000, "no earlier backup"},
		"the last one":              {list(b("x", one, 100, 200), b("y", one, 300, 400)), one, 1000, "y"},
		"by stop, not by order":     {list(b("y", one, 300, 400), b("x", one, 100, 200)), one, 1000, "y"},
		"still running then":        {list(b("x", one, 100, 200), b("y", one, 300, 400)), one, 350, "x"},
		"ended where we start":      {list(b("y", one, 300, 400)), one, 400, "y"},
		"a lagging standby":         {list(b("y", one, 300, 400)), one, 300, "after the start of this one"},
		"before a promotion":        {list(b("x", one, 100, 200)), two, 1000, "x"},
		"to the switch":             {list(b("x", one, 100, 500)), two, 1000, "x"},
		"over the switch":           {list(b("x", one, 100, 501)), two, 1000, "did not come from"},
		"the older one of our past": {list(b("x", one, 100, 200), b("y", one, 600, 700)), two, 1000, "x"},
		"another timeline 2":        {list(b("x", two, 600, 700)), other, 1000, "did not come from"},
		"a timeline to come":        {list(b("x", two, 600, 700)), one, 1000, "did not come from"},
		"two switches":              {list(b("x", two, 600, 650)), three, 1000, "x"},
		"over the second switch":    {list(b("x", two, 600, 750)), three, 1000, "did not come from"},
		"checksums":                 {list(b("w", one, 50, 60), b("x", one, 100, 200, func(s *catalog.BackupSummary) { s.ChecksumVersion = 1 })), one, 1000, "data checksum version 1"},
		"block size":                {list(b("x", one, 100, 200, func(s *catalog.BackupSummary) { s.BlockSize = 4096 })), one, 1000, "block size"},
		"segment size":              {list(b("x", one, 100, 200, func(s *catalog.BackupSummary) { s.RelSegSize = 4 })), one, 1000, "relation segment size"},
		"WAL segment size":          {list(b("x", one, 100, 200, func(s *catalog.BackupSummary) { s.WALSegmentSize = 1 << 24 })), one, 1000, "WAL segment size"},
		"catalog version":           {list(b("x", one, 100, 200, func(s *catalog.BackupSummary) { s.CatalogVersion = 4 })), one, 1000, "catalog version"},
		"pg_control went back":      {list(b("x", one, 100, 200, func(s *catalog.BackupSummary) { s.ControlRedo = 950 })), one, 1000, "checkpoint"},
	} {
		id, why := backup.ChooseReference(c.have, c.start, c.h, control)
		if id != c.want && (id != "" || !strings.Contains(why, c.want)) {
			t.Errorf("%s: %q, %q; want %q", name, id, why, c.want)
		}
	}
}

// A3, A4: copies of a data directory that went their own way, on a timeline of their
// own or on the same one, are not taken for the server that a later backup was of.
func TestCopiesOfTheDirectory(t *testing.T) {
	t.Parallel()
	const major = 18
	s := newIncrementalServer(t, major, true)
	repo, _ := newRepo(t)
	create := func(s *pg.Server) catalog.BackupHeader {
		t.Helper()
		h, err := backup.Create(t.Context(), repo, backup.CreateOptions{Cluster: "main", Conn: s.DSN("postgres"), WAL: backup.WALInclude})
		if err != nil {
			t.Fatal(err)
		}
		samePages(t, rebuild(t, repo, h), s.Dir)
		return h
	}
	change := func(s *pg.Server, by int) {
		s.Exec(fmt.Sprintf("UPDATE t SET a = a + %d WHERE a %% 7 = 0", by))
		s.Exec("VACUUM (FREEZE) t")
	}
	s.Exec("CREATE TABLE t AS SELECT generate_series(1, 30000) a")
	first := create(s)
	change(s, 1)
	s.Stop(pg.Fast)
	clone := func() string {
		dir := filepath.Join(pg.TempDir(t), "data")
		run(t, "cp", "-a", s.Dir, dir)
		pg.Chown(t, dir)
		return dir
	}
	sameLine, newLine := clone(), clone()
	s.Start()
	change(s, 2)
	second := create(s)
	if second.Reference != first.ID || second.Method != catalog.MethodSummaries {
		t.Fatalf("%+v", second)
	}
	s.Stop(pg.Fast)

	// On the same timeline, past the second backup's stop, where nothing but the
	// content tells: the summaries are of another WAL.
	x := pg.Attach(t, sameLine, pg.Options{Major: major})
	x.Start()
	change(x, 3)
	for x.Value(fmt.Sprintf("SELECT (pg_current_wal_lsn() > '%s')::text", second.Stop)) != "true" {
		x.Exec("SELECT pg_switch_wal()")
		change(x, 4)
	}
	x.Exec("CHECKPOINT")
	h := create(x)
	if h.Reference != second.ID || h.Method != catalog.MethodScan || !strings.Contains(h.Why, "summary") {
		t.Errorf("%s since %s: %s", h.Method, h.Reference, h.Why)
	}
	x.Stop(pg.Fast)

	// On a timeline that left before the second backup's stop.
	if err := os.WriteFile(filepath.Join(newLine, "recovery.signal"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	y := pg.Attach(t, newLine, pg.Options{Major: major, Args: []string{"-c", "restore_command=false"}})
	y.Start()
	y.WaitPrimary()
	change(y, 5)
	h = create(y)
	if h.Timeline != 2 || h.Reference != first.ID || h.Method == catalog.MethodFull {
		t.Errorf("timeline %d: %s since %q: %s", h.Timeline, h.Method, h.Reference, h.Why)
	}
	for _, id := range []string{first.ID, h.ID} {
		if _, err := repo.DeleteBackup(t.Context(), h.Ref(), id, catalog.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if h = create(y); h.Method != catalog.MethodFull || !strings.Contains(h.Why, "did not come from") {
		t.Errorf("%s since %q: %s", h.Method, h.Reference, h.Why)
	}
}

// A standby's backup begins with the primary's, and the other way round; a restart point
// that lies before the end of the last backup makes that one no reference.
func TestIncrementalOnStandby(t *testing.T) {
	t.Parallel()
	repo, _ := newRepo(t)
	primary := newIncrementalServer(t, 18, true)
	primary.Exec("CREATE TABLE t AS SELECT generate_series(1, 30000) a")
	// What the last backup ended in stays, so that the summaries of both are known to be of one past.
	primary.Exec("ALTER SYSTEM SET wal_keep_size = '1GB'")
	primary.Exec("SELECT pg_reload_conf()")
	standby := standbyOf(t, primary)
	create := func(s *pg.Server) catalog.BackupHeader {
		t.Helper()
		h, err := backup.Create(t.Context(), repo, backup.CreateOptions{Cluster: "main", Conn: s.DSN("postgres"), WAL: backup.WALInclude})
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	advance := func(n int) {
		t.Helper()
		primary.Exec(fmt.Sprintf("UPDATE t SET a = a + %d WHERE a %% 9 = 0", n))
		primary.Exec("CHECKPOINT")
		lsn := primary.CurrentLSN()
		standby.AwaitValue(fmt.Sprintf("SELECT (pg_last_wal_replay_lsn() >= '%s')::text", lsn), "true")
		standby.Exec("CHECKPOINT")
	}
	first := create(primary)
	if h := create(standby); h.Method != catalog.MethodFull || !strings.Contains(h.Why, "after the start of this one") {
		t.Errorf("a standby behind the last backup: %s since %q: %s", h.Method, h.Reference, h.Why)
	}
	advance(1)
	second := create(standby)
	if !second.Standby || second.Method == catalog.MethodFull {
		t.Errorf("standby: %s since %q (the first is %s): %s", second.Method, second.Reference, first.ID, second.Why)
	}
	advance(2)
	third := create(primary)
	if third.Reference != second.ID || third.Method != catalog.MethodSummaries {
		t.Errorf("primary: %s since %q: %s", third.Method, third.Reference, third.Why)
	}
	samePages(t, rebuild(t, repo, third), primary.Dir)
	want := primary.Sums()
	dir := filepath.Join(pg.TempDir(t), "data")
	rebuild(t, repo, third).write(t, dir)
	pg.Chown(t, dir)
	restored := pg.Restored(t, dir, pg.Options{Major: 18})
	restored.WaitPrimary()
	if got := restored.Sums(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
}
