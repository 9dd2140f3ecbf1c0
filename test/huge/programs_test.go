package huge_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgstow/test/pg"
	"pgstow/wal"
)

// maxResident bounds what a program may take. What is measured includes, before its own beginning, this process.
const maxResident = 256 << 20

// program is a call of pgstow that has to list the archive.
type program struct {
	name  string
	args  []string
	exit  int
	reads bool   // also headers of single segments, not names alone
	says  string // on the standard error
	check func(t *testing.T, s *scene, out []byte)
}

var programs = []program{
	{name: "wal list", args: []string{"wal", "list", "--json"}, exit: 3, says: "301 segments are missing", check: checkList},
	{name: "info", args: []string{"info", "--json"}, reads: true, check: checkInfo},
	{name: "check", args: []string{"check", "--no-server", "--json"}, exit: 1, says: "checks failed", check: checkFindings},
	// The latest that is there lies behind the young hole.
	{name: "restore", args: []string{"restore", "--dry-run", "--json", "DIR"}, exit: 13, reads: true, says: "missing in the archive"},
}

func (p program) run(t *testing.T, s *scene, env []string) {
	t.Helper()
	args := append([]string{}, p.args...)
	for i, arg := range args {
		if arg == "DIR" {
			args[i] = filepath.Join(t.TempDir(), "new")
		}
	}
	cmd := exec.CommandContext(t.Context(), pg.Binary(t, "pgstow"), args...)
	cmd.Env = append([]string{"HOME=" + t.TempDir(), "PGSTOW_ENCRYPTION=none", "PGSTOW_CLUSTER=main", "AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=b"}, env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	begin := time.Now()
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if code := cmd.ProcessState.ExitCode(); code != p.exit {
		t.Fatalf("exit status %d, want %d: %s", code, p.exit, &stderr)
	}
	if !strings.Contains(stderr.String(), p.says) {
		t.Errorf("it says %q, want %q in it", &stderr, p.says)
	}
	resident := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
	t.Logf("%s, %s of processor time, %d MiB resident, %d bytes printed", time.Since(begin).Round(time.Millisecond),
		(cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Round(10*time.Millisecond), resident>>20, len(out))
	if resident > maxResident {
		t.Errorf("%d MiB resident", resident>>20)
	}
	if p.check != nil {
		p.check(t, s, out)
	}
}

func checkList(t *testing.T, s *scene, out []byte) {
	t.Helper()
	var list []struct {
		EndLSN  string `json:"end_lsn"`
		Pieces  int    `json:"pieces"`
		Objects int    `json:"objects"`
		Holes   []struct {
			First   string `json:"first"`
			Overdue bool   `json:"overdue"`
		} `json:"holes"`
	}
	if err := json.Unmarshal(out, &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 || len(list[0].Holes) != 2 || len(list[1].Holes) != 1 {
		t.Fatalf("%+v", list)
	}
	wide, young := list[0].Holes[1], list[1].Holes[0]
	if wide.First != wal.SegmentName(1, s.wide.First, segmentSize).String() || !wide.Overdue || young.Overdue {
		t.Errorf("holes %+v and %+v", wide, young)
	}
	if list[1].EndLSN != s.two.End().String() || list[1].Pieces != 3 || list[0].Objects != s.one.Count {
		t.Errorf("%+v", list)
	}
}

func checkInfo(t *testing.T, s *scene, out []byte) {
	t.Helper()
	var info struct {
		Clusters []struct {
			Windows []struct {
				ToLSN       string `json:"to_lsn"`
				Hole        string `json:"hole"`
				HoleOverdue bool   `json:"hole_overdue"`
			} `json:"windows"`
		} `json:"clusters"`
	}
	if err := json.Unmarshal(out, &info); err != nil {
		t.Fatal(err)
	}
	if len(info.Clusters) != 1 || len(info.Clusters[0].Windows) != 4 {
		t.Fatalf("%+v", info)
	}
	windows := info.Clusters[0].Windows
	if w := windows[0]; w.Hole != wal.SegmentName(1, s.wide.First, segmentSize).String() || !w.HoleOverdue {
		t.Errorf("window at the wide hole: %+v", w)
	}
	if w := windows[3]; w.ToLSN != s.two.End().String() || w.Hole == "" || w.HoleOverdue {
		t.Errorf("last window: %+v", w)
	}
}

func checkFindings(t *testing.T, s *scene, out []byte) {
	t.Helper()
	var report struct {
		Findings []struct{ Level, What, Text string }
	}
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatal(err)
	}
	levels := map[string]int{}
	for _, f := range report.Findings {
		if f.What == "wal" {
			levels[f.Level]++
		}
	}
	if levels["failed"] != 2 || levels["warning"] != 1 {
		t.Errorf("findings about WAL: %v, want two overdue holes and one in progress\n%s", levels, out)
	}
}

// TestPrograms: each command lists the archive once.
func TestPrograms(t *testing.T) {
	n := segments(t)
	s := newScene(n)
	b, endpoint := s.bucket(t, 0)
	if _, err := s.put(t.Context(), open(t, endpoint)); err != nil {
		t.Fatal(err)
	}
	env := []string{"PGSTOW_REPO=s3://bucket?endpoint=" + endpoint}
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			b.Counts()
			p.run(t, s, env)
			count := b.Counts()
			t.Logf("%+v", count)
			if count.Lists < n/1000 || count.Lists > n/1000+constantLists {
				t.Errorf("%d lists for %d segments", count.Lists, n)
			}
		})
	}
}

// TestTheMeasure: the bucket counts a second list, so that the tests above can fail.
func TestTheMeasure(t *testing.T) {
	s := newScene(segments(t))
	b, endpoint := s.bucket(t, 0)
	r, err := s.put(t.Context(), open(t, endpoint))
	if err != nil {
		t.Fatal(err)
	}
	b.Counts()
	for range 2 {
		if _, err := r.ListWAL(t.Context(), ref, segmentSize); err != nil {
			t.Fatal(err)
		}
	}
	if count := b.Counts(); count.Lists <= segments(t)/1000+constantLists {
		t.Errorf("two lists took %d requests, which is less than the limit for one", count.Lists)
	}
}
