package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"pgstow/test/pg"
)

// stage prints what happens and when.
type stage struct {
	*pg.Standalone
	begun time.Time
}

// say begins a step.
func (s *stage) say(format string, args ...any) {
	fmt.Printf("%6.1f s  %s\n", time.Since(s.begun).Seconds(), fmt.Sprintf(format, args...))
}

// note adds a line to a step.
func (s *stage) note(format string, args ...any) {
	fmt.Printf("          | %s\n", fmt.Sprintf(format, args...))
}

// show adds a program's output to a step.
func (s *stage) show(output string) {
	for line := range strings.Lines(strings.TrimSpace(output)) {
		s.note("%s", strings.TrimRight(line, " \n"))
	}
}

// must runs pgstow as the server's user and returns its standard output. It fails the demo unless the program exits with 0.
func (d *demo) must(env []string, args ...string) string {
	out, err := d.try(env, args...)
	if err != nil {
		d.Fatalf("pgstow %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// try is must that returns the error, and with it what the program said.
func (d *demo) try(env []string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := pg.Command(ctx, filepath.Join(d.bin, "pgstow"), args...)
	cmd.Env = append(cmd.Env, env...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String() + stderr.String(), err
	}
	return stdout.String(), nil
}
