package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"pgstow/test/pg"
)

// stage prints what happens with the time it takes, and is what the test harness wants of a test.
type stage struct {
	begun time.Time

	mu       sync.Mutex
	failed   bool
	cleanups []func()
}

// failure is what Fatalf panics with.
type failure struct{}

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

func (s *stage) cleanup() {
	for {
		s.mu.Lock()
		if len(s.cleanups) == 0 {
			s.mu.Unlock()
			return
		}
		last := s.cleanups[len(s.cleanups)-1]
		s.cleanups = s.cleanups[:len(s.cleanups)-1]
		s.mu.Unlock()
		last()
	}
}

// Helper is part of pg.TB.
func (s *stage) Helper() {}

// Logf is part of pg.TB.
func (s *stage) Logf(format string, args ...any) { s.show(fmt.Sprintf(format, args...)) }

// Fatalf is part of pg.TB: it ends the demo.
func (s *stage) Fatalf(format string, args ...any) {
	s.mu.Lock()
	s.failed = true
	s.mu.Unlock()
	fmt.Fprintf(os.Stderr, "the demo failed: "+format+"\n", args...)
	panic(failure{})
}

// Skipf is part of pg.TB: what the demo needs is not there.
func (s *stage) Skipf(format string, args ...any) { s.Fatalf(format, args...) }

// Failed is part of pg.TB.
func (s *stage) Failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// Cleanup is part of pg.TB.
func (s *stage) Cleanup(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cleanups = append(s.cleanups, f)
}
