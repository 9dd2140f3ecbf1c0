package backup_test

import (
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgstow/backup"
	"pgstow/backup/source"
)

func sequence(entries []source.Entry) iter.Seq2[source.Entry, error] {
	return func(yield func(source.Entry, error) bool) {
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// Every entry is planned once, in order, every page of a relation exactly once,
// and no job is much larger than the rest.
func TestPlanJobs(t *testing.T) {
	const pageSize, parts = 8192, 100
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 3))
		var entries []source.Entry
		for i := range 1 + rng.IntN(300) {
			e := source.Entry{Path: fmt.Sprintf("f%05d", i), Class: source.Class(1 + rng.IntN(4))}
			switch rng.IntN(4) {
			case 0:
				e.Size = int64(rng.IntN(3 * backup.JobPlain))
			case 1:
				e.Size = int64(rng.IntN(1 << 20))
			case 2:
				e.Size = int64(rng.IntN(3 * pageSize))
			}
			entries = append(entries, e)
		}
		next, page := 0, uint32(0)
		for job, err := range backup.PlanJobs(sequence(entries), pageSize, parts) {
			if err != nil {
				t.Fatal(err)
			}
			if len(job) == 0 || len(job) > parts {
				t.Fatalf("seed %d: job of %d parts", seed, len(job))
			}
			pages := int64(0)
			for _, p := range job {
				e := entries[next]
				if p.Path != e.Path || p.Entry != (e.Class == source.Dir || e.Class == source.Link) {
					t.Fatalf("seed %d: part %+v, want %s", seed, p, e.Path)
				}
				pages += int64(p.Pages)
				if e.Class != source.Relation {
					next++
					continue
				}
				if p.First != page {
					t.Fatalf("seed %d: part %+v begins at another page than %d", seed, p, page)
				}
				page += p.Pages
				if !p.Last {
					if p.Pages < 128 {
						t.Fatalf("seed %d: a crumb: %+v", seed, p)
					}
					continue
				}
				if page != uint32(e.Size/pageSize) {
					t.Fatalf("seed %d: %s ends at page %d of %d", seed, p.Path, page, e.Size/pageSize)
				}
				next, page = next+1, 0
			}
			if pages*pageSize > backup.JobPlain+2<<20 {
				t.Fatalf("seed %d: job of %d pages", seed, pages)
			}
		}
		if next != len(entries) || page != 0 {
			t.Fatalf("seed %d: %d of %d entries", seed, next, len(entries))
		}
	}
}

func TestPlanJobsPassesErrors(t *testing.T) {
	failed := errors.New("failed")
	var got error
	for _, err := range backup.PlanJobs(func(yield func(source.Entry, error) bool) {
		yield(source.Entry{}, failed)
	}, 8192, 10) {
		got = err
	}
	if !errors.Is(got, failed) {
		t.Errorf("error %v", got)
	}
}

// RULES-physical B1: each of the three things must agree.
func TestCheckDirectory(t *testing.T) {
	dir := t.TempDir()
	began := time.Unix(1_700_000_000, 0)
	pid := fmt.Sprintf("4711\n%s\n%d\n5432\n/tmp\n\n  5432001 7\nready\n", dir, began.Unix())
	if err := os.WriteFile(filepath.Join(dir, "postmaster.pid"), []byte(pid), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		data    string
		port    int
		started time.Time
		want    string
	}{
		"the same":        {dir, 5432, began.Add(40 * time.Millisecond), ""},
		"by a link":       {link + "/", 5432, began.Add(20 * time.Second), ""},
		"other directory": {t.TempDir(), 5432, began, "the data directory"},
		"other port":      {dir, 5433, began, "the port"},
		"started before":  {dir, 5432, began.Add(-time.Hour), "the start time"},
		"restarted":       {dir, 5432, began.Add(time.Hour), "the start time"},
	} {
		err := backup.CheckDirectory(dir, c.data, c.port, c.started)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
