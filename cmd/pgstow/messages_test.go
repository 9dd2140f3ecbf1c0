package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"pgstow/storage/retry"
)

func TestRetriesAreToldNowAndThen(t *testing.T) {
	var out strings.Builder
	log := &retryLog{e: &environment{stderr: &out}}
	event := retry.Event{Op: "put", Key: "main/1/x", Try: 2, Err: errors.New("connection refused"), Wait: 1500 * time.Millisecond}
	for range 5 {
		log.told(event)
	}
	if want := "pgstow: put main/1/x: try 2 failed: connection refused; the next in 1.5s\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	out.Reset()
	log.last = log.last.Add(-retryInterval)
	log.told(event)
	if !strings.HasSuffix(out.String(), "; 4 more retries since the last line\n") {
		t.Errorf("got %q", out.String())
	}
}

func TestWhatWasMeant(t *testing.T) {
	known := []string{"--repo", "--json", "--no-server", "list", "backup"}
	for word, want := range map[string]string{
		"--jsn": "--json", "--rpeo": "--repo", "--no-sever": "--no-server", "bakup": "backup", "lst": "list", "frobnicate": "", "--frobnicate": "", "": "", "ab": "",
	} {
		got := meant(word, known)
		if want == "" && got != "" || want != "" && got != "; did you mean "+want+"?" {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}

// TestWhoCalled: what may have been PostgreSQL's call gets PostgreSQL's exit codes, and nothing else does.
func TestWhoCalled(t *testing.T) {
	for line, want := range map[string]string{
		"wal push x": "push", "push x": "push", "wall push x": "push", "--repo r wal push x": "push",
		"wal fetch a b": "fetch", "fetch a b": "fetch", "wal fecth a pg_wal/RECOVERYXLOG": "fetch", "restore a pg_wal/RECOVERYHISTORY": "fetch",
		"backup create --label push": "", "backup create --label fetch": "", "restore fetch": "", "wal list": "",
	} {
		args := append([]string{"pgstow"}, strings.Fields(line)...)
		got := ""
		if isWALPush(args) {
			got += "push"
		}
		if isWALFetch(args) {
			got += "fetch"
		}
		if got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}
