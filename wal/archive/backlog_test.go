package archive_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"pgstow/wal/archive"
)

func TestBacklog(t *testing.T) {
	const segment = 1 << 20
	now := time.Now()
	dir := t.TempDir()
	pgWAL := filepath.Join(dir, "pg_wal")
	if err := os.MkdirAll(filepath.Join(pgWAL, "archive_status"), 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name string, size int64, ago time.Duration) {
		t.Helper()
		path := filepath.Join(pgWAL, name)
		f, err := os.Create(path)
		if err == nil {
			err = f.Truncate(size)
		}
		if err == nil {
			err = f.Close()
		}
		if err == nil {
			err = os.Chtimes(path, time.Time{}, now.Add(-ago))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	look := func() archive.Backlog {
		t.Helper()
		b, err := archive.ReadBacklog(dir, now)
		if err != nil {
			t.Fatal(err)
		}
		if b.Free <= 0 {
			t.Errorf("%d bytes free", b.Free)
		}
		return b
	}
	write("000000010000000000000005", segment, 20*time.Minute)
	if b := look(); len(b.Files) != 0 || b.Bytes != 0 || !b.Since.IsZero() || b.Rate != 0 {
		t.Errorf("%+v", b)
	} else if _, ok := b.UntilFull(); ok {
		t.Error("full without a rate")
	}
	write("000000010000000000000005", segment, 10*time.Second)
	write("000000010000000000000006", segment, 0)
	if b := look(); b.Rate != 0 {
		t.Errorf("%f bytes a second, seen for ten seconds", b.Rate)
	}
	write("000000010000000000000005", segment, 20*time.Minute)
	write("000000010000000000000006", segment, 10*time.Minute)
	write("000000010000000000000007", segment, 0)
	write("000000010000000000000008", segment, 5*time.Hour) // to be written again
	write("00000002.history", 100, time.Minute)
	write("archive_status/000000010000000000000005.ready", 0, 19*time.Minute)
	write("archive_status/000000010000000000000006.ready", 0, 9*time.Minute)
	write("archive_status/000000010000000000000004.done", 0, time.Hour)
	write("archive_status/000000010000000000000003.ready", 0, time.Hour) // its file has gone
	b := look()
	if !b.Files["000000010000000000000005"] || !b.Files["000000010000000000000006"] || len(b.Files) != 2 || b.Bytes != 2*segment {
		t.Errorf("%+v", b)
	}
	if want := now.Add(-19 * time.Minute); b.Since.Sub(want).Abs() > time.Second {
		t.Errorf("waits since %s, want %s", b.Since, want)
	}
	// Two segments in twenty minutes.
	if want := 2.0 * segment / (20 * 60); b.Rate < want*0.99 || b.Rate > want*1.01 {
		t.Errorf("%f bytes a second, want %f", b.Rate, want)
	}
	b.Free, b.Rate = 3600*segment, segment
	if d, ok := b.UntilFull(); !ok || d != time.Hour {
		t.Errorf("full in %s, %v", d, ok)
	}
	if _, err := archive.ReadBacklog(t.TempDir(), now); err == nil {
		t.Error("a folder without pg_wal")
	}
}
