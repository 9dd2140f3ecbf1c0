package pg

import (
	"fmt"
	"io"
	"sync"
)

// Standalone is a TB for programs that are no test: what fails ends the program's Run, cleanups are carried out in any case.
type Standalone struct {
	Out io.Writer

	mu       sync.Mutex
	failed   bool
	cleanups []func()
	cleaning sync.Mutex // held until all are done
}

// failure is what Fatalf panics with.
type failure struct{}

// Run calls f and then every cleanup, the last one first; it tells whether nothing failed.
func (s *Standalone) Run(f func()) bool {
	defer s.CleanUp()
	s.guard(f)
	return !s.Failed()
}

func (s *Standalone) guard(f func()) {
	defer func() {
		if r := recover(); r != nil {
			if _, ours := r.(failure); !ours {
				panic(r)
			}
		}
	}()
	f()
}

// CleanUp carries out the cleanups that are left and returns when all are done, also those of another call. Run does so by itself; a program that is
// interrupted calls it before it exits.
func (s *Standalone) CleanUp() {
	s.cleaning.Lock()
	defer s.cleaning.Unlock()
	for {
		s.mu.Lock()
		n := len(s.cleanups)
		if n == 0 {
			s.mu.Unlock()
			return
		}
		last := s.cleanups[n-1]
		s.cleanups = s.cleanups[:n-1]
		s.mu.Unlock()
		s.guard(last)
	}
}

// Helper is part of TB.
func (s *Standalone) Helper() {}

// Logf is part of TB.
func (s *Standalone) Logf(format string, args ...any) {
	_, _ = fmt.Fprintf(s.Out, format+"\n", args...)
}

// Fatalf is part of TB: it ends Run.
func (s *Standalone) Fatalf(format string, args ...any) {
	s.mu.Lock()
	s.failed = true
	s.mu.Unlock()
	s.Logf(format, args...)
	panic(failure{})
}

// Skipf is part of TB: what is needed is not there.
func (s *Standalone) Skipf(format string, args ...any) { s.Fatalf(format, args...) }

// Failed is part of TB.
func (s *Standalone) Failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// Cleanup is part of TB.
func (s *Standalone) Cleanup(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cleanups = append(s.cleanups, f)
}
