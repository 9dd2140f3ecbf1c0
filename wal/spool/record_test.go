package spool_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestRecordIsValidForItsTime(t *testing.T) {
	s, _ := create(t)
	now := time.Unix(1_800_000_000, 0)
	if err := s.PutRecord("repository", []byte("payload"), now); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		kind string
		at   time.Time
		ok   bool
	}{
		{"at once", "repository", now, true},
		{"at the last moment", "repository", now.Add(time.Hour), true},
		{"too late", "repository", now.Add(time.Hour + 1), false},
		{"from the future", "repository", now.Add(-1), false},
		{"another kind", "cluster", now, false},
		{"an impossible kind", "../repository", now, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := s.Record(c.kind, time.Hour, c.at)
			if ok != c.ok || ok && string(got) != "payload" {
				t.Errorf("got %q, %v", got, ok)
			}
		})
	}
	if err := os.Rename(filepath.Join(s.Dir(), "repository.record"), filepath.Join(s.Dir(), "cluster.record")); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Record("cluster", time.Hour, now); ok {
		t.Error("a record under another kind's name is believed")
	}
}

func TestDamagedRecordIsNotBelieved(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for _, d := range damages() {
		t.Run(d.name, func(t *testing.T) {
			s, _ := create(t)
			if err := s.PutRecord("repository", []byte("payload"), now); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(s.Dir(), "repository.record")
			d.do(t, path)
			if _, ok := s.Record("repository", time.Hour, now); ok {
				t.Fatal("still believed")
			}
			_ = os.RemoveAll(path)
			if err := s.PutRecord("repository", []byte("again"), now); err != nil {
				t.Fatal(err)
			}
			if got, ok := s.Record("repository", time.Hour, now); !ok || string(got) != "again" {
				t.Fatalf("after the damage was gone: %q, %v", got, ok)
			}
		})
	}
	t.Run("every bit", func(t *testing.T) {
		s, _ := create(t)
		if err := s.PutRecord("repository", []byte("payload"), now); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(s.Dir(), "repository.record")
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := range len(good) * 8 {
			bad := append([]byte(nil), good...)
			bad[i/8] ^= 1 << (i % 8)
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, ok := s.Record("repository", time.Hour, now); ok {
				t.Fatalf("bit %d flipped: still believed", i)
			}
		}
	})
	t.Run("forgotten", func(t *testing.T) {
		s, _ := create(t)
		if err := s.PutRecord("repository", nil, now); err != nil {
			t.Fatal(err)
		}
		s.Forget("repository")
		if _, ok := s.Record("repository", time.Hour, now); ok {
			t.Fatal("still there")
		}
	})
}
