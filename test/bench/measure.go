package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"pgstow/test/pg"
)

// sample is one run of a whole process, its children included.
type sample struct {
	wall, cpu time.Duration
	rss       int64 // peak resident memory of the largest process, bytes
}

// side is what is timed: a command, and what must be done before each run of it.
type side struct {
	name    string
	command string // for bash, run as the server's user
	env     []string
	before  func()
	samples []sample
}

type row struct {
	what           string
	ours, baseline *side
	target         string
}

// pairs runs A B A B … and keeps the row for the table.
func (b *bench) pairs(what, target string, rounds int, ours, baseline *side) {
	for i := range rounds {
		for _, s := range []*side{ours, baseline} {
			if s.before != nil {
				s.before()
			}
			s.samples = append(s.samples, b.time(s))
		}
		b.Logf("%s %d/%d: %v %v", what, i+1, rounds, ours.samples[i].wall.Round(time.Millisecond), baseline.samples[i].wall.Round(time.Millisecond))
	}
	b.rows = append(b.rows, row{what, ours, baseline, target})
}

func (b *bench) time(s *side) sample {
	cmd := pg.Command(context.Background(), "bash", "-o", "pipefail", "-c", s.command)
	cmd.Env = append(cmd.Env, s.env...)
	start := time.Now()
	out, err := cmd.CombinedOutput()
	wall := time.Since(start)
	if err != nil {
		b.Fatalf("%s: %v\n%s", s.name, err, out)
	}
	return sample{wall: wall, cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), rss: peak(cmd)}
}

func peak(cmd *exec.Cmd) int64 {
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0
	}
	return usage.Maxrss << 10
}

func median[T any](s []sample, by func(sample) T, less func(a, b T) int) T {
	values := make([]T, len(s))
	for i, v := range s {
		values[i] = by(v)
	}
	slices.SortFunc(values, less)
	return values[len(values)/2]
}

func wallOf(s *side) time.Duration {
	return median(s.samples, func(v sample) time.Duration { return v.wall }, func(a, b time.Duration) int { return int(a - b) })
}

func cpuOf(s *side) time.Duration {
	return median(s.samples, func(v sample) time.Duration { return v.cpu }, func(a, b time.Duration) int { return int(a - b) })
}

func rssOf(s *side) int64 {
	return median(s.samples, func(v sample) int64 { return v.rss }, func(a, b int64) int { return int(a - b) })
}

func (b *bench) print() {
	t := table.NewWriter()
	t.SetOutputMirror(os.Stdout)
	t.AppendHeader(table.Row{"what", "baseline", "ours p50", "baseline p50", "ratio", "target", "ours cpu", "baseline cpu", "ours peak RSS"})
	for _, r := range b.rows {
		ours, base := wallOf(r.ours), wallOf(r.baseline)
		t.AppendRow(table.Row{
			r.what, r.baseline.name, short(ours), short(base), fmt.Sprintf("%.2f", ours.Seconds()/base.Seconds()), r.target,
			short(cpuOf(r.ours)), short(cpuOf(r.baseline)), fmt.Sprintf("%d MB", rssOf(r.ours)/1e6),
		})
	}
	t.Render()
}

func short(d time.Duration) string {
	if d < 100*time.Millisecond {
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}

// quote makes a word for the shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
