package main_test

import (
	"testing"
	"time"

	"pgstow/wal/spool"
)

// TestPushOfAClaimedFile: a file that somebody stores now is waited for. What counts is the mark.
func TestPushOfAClaimedFile(t *testing.T) {
	args := []string{"--repo", "x", "pg_wal/" + segment}
	for _, c := range []struct {
		what string
		end  func(*world, *spool.Spool)
		code int
	}{
		{"stored", (*world).mark, 0},
		{"given up", func(*world, *spool.Spool) {}, 77},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := newWorld(t, true)
			s := w.open("push", args...)
			claim, ok := s.Claim("push", segment)
			if !ok {
				t.Fatal("no claim")
			}
			done := make(chan int)
			go func() {
				code, _ := w.run(append([]string{"push"}, args...)...)
				done <- code
			}()
			for range 10 { // longer than a beat counts, all beats together
				select {
				case code := <-done:
					t.Fatalf("did not wait: code %d", code)
				case <-time.After(spool.ClaimStale / 8):
					claim.Beat()
				}
			}
			c.end(w, s)
			claim.Release()
			if code := <-done; code != c.code {
				t.Errorf("code %d, want %d", code, c.code)
			}
		})
	}
}
