package spool_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgstow/wal/spool"
)

const (
	kind = "push"
	// farBeyond is longer than any test waits: who waits for it is woken by something else, or not at all.
	farBeyond = time.Hour
)

// holdEnv names a file that the test binary is to lock, as another process that has a claim, instead of running tests.
const holdEnv = "PGSTOW_SPOOL_TEST_HOLD"

func TestMain(m *testing.M) {
	if path := os.Getenv(holdEnv); path != "" {
		if err := hold(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// hold has the lock until its standard input ends.
func hold(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	fmt.Println("held")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	return f.Close()
}

// holder is another process that has a claim.
func holder(t *testing.T, path string) *exec.Cmd {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), holdEnv+"="+path)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "held\n" {
		t.Fatalf("%q, %v", line, err)
	}
	return cmd
}

// awaitWaiter waits until somebody waits for the lock of a file: /proc/locks has a line "1: -> FLOCK  ADVISORY  READ 4711 08:01:42 0 EOF" for
// each, the last number of the three being the file's.
func awaitWaiter(t *testing.T, path string, done <-chan bool) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	inode := fmt.Sprintf(":%d ", info.Sys().(*syscall.Stat_t).Ino)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		locks, err := os.ReadFile("/proc/locks")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(locks)) {
			if strings.Contains(line, "-> FLOCK") && strings.Contains(line, inode) {
				return
			}
		}
		select {
		case <-done:
			t.Fatal("did not wait")
		case <-tick.C:
		}
	}
	t.Fatalf("nobody waits for %s", path)
}

func claimFile(s *spool.Spool, name string) string {
	return filepath.Join(s.Dir(), "claims", kind+"."+name)
}

func silent(t *testing.T, path string) {
	t.Helper()
	past := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, past, past); err != nil {
		t.Fatal(err)
	}
}

func TestClaimIsForOne(t *testing.T) {
	s, _ := create(t)
	c, ok := s.Claim(kind, segmentName)
	if !ok || !c.Held() {
		t.Fatal("no claim")
	}
	if _, ok := s.Claim(kind, segmentName); ok {
		t.Fatal("a second claim of the same name")
	}
	other, ok := s.Claim(kind, walName(7))
	if !ok {
		t.Fatal("no claim of another name")
	}
	fetch, ok := s.Claim("fetch", segmentName)
	if !ok {
		t.Fatal("no claim of another kind")
	}
	other.Release()
	fetch.Release()
	c.Release()
	if _, err := os.Lstat(claimFile(s, segmentName)); !os.IsNotExist(err) {
		t.Fatalf("the file of a released claim is still there: %v", err)
	}
	c, ok = s.Claim(kind, segmentName)
	if !ok {
		t.Fatal("no claim after its release")
	}
	c.Release()
}

func TestClaimOfAProcessThatDied(t *testing.T) {
	s, _ := create(t)
	cmd := holder(t, claimFile(s, segmentName))
	if _, ok := s.Claim(kind, segmentName); ok {
		t.Fatal("claimed what another process has")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	c, ok := s.Claim(kind, segmentName)
	if !ok {
		t.Fatal("no claim after its holder died")
	}
	c.Release()
}

func TestClaimOfAHolderThatHangs(t *testing.T) {
	s, _ := create(t)
	old, ok := s.Claim(kind, segmentName)
	if !ok {
		t.Fatal("no claim")
	}
	silent(t, claimFile(s, segmentName))
	if s.AwaitClaim(kind, segmentName, spool.ClaimStale) {
		t.Fatal("waited for a holder that hangs")
	}
	c, ok := s.Claim(kind, segmentName)
	if !ok {
		t.Fatal("the claim was not taken over")
	}
	if old.Held() {
		t.Fatal("the old holder still thinks that it has it")
	}
	old.Release()
	if !c.Held() {
		t.Fatal("the old holder released the new one's claim")
	}
	c.Release()
}

func TestAwaitClaim(t *testing.T) {
	s, _ := create(t)
	if s.AwaitClaim(kind, segmentName, farBeyond) {
		t.Fatal("waited for nobody")
	}
	for what, end := range map[string]func(*spool.Claim, *exec.Cmd){
		"released": func(c *spool.Claim, _ *exec.Cmd) { c.Release() },
		"killed":   func(_ *spool.Claim, cmd *exec.Cmd) { _ = cmd.Process.Kill(); _ = cmd.Wait() },
	} {
		t.Run(what, func(t *testing.T) {
			var c *spool.Claim
			var cmd *exec.Cmd
			if what == "killed" {
				cmd = holder(t, claimFile(s, segmentName))
			} else {
				c, _ = s.Claim(kind, segmentName)
			}
			done := make(chan bool)
			go func() { done <- s.AwaitClaim(kind, segmentName, farBeyond) }()
			awaitWaiter(t, claimFile(s, segmentName), done)
			end(c, cmd)
			if !<-done {
				t.Fatal("woken, but did not say that it had waited")
			}
		})
	}
}

func TestAwaitClaimGivesUpOnSilence(t *testing.T) {
	s, _ := create(t)
	c, ok := s.Claim(kind, segmentName)
	if !ok {
		t.Fatal("no claim")
	}
	defer c.Release()
	if !s.AwaitClaim(kind, segmentName, 20*time.Millisecond) { // returns at all: nobody releases
		t.Fatal("did not wait")
	}
}

func TestLock(t *testing.T) {
	s, root := create(t)
	lock, ok := s.Lock("worker", farBeyond)
	if !ok || !s.Locked("worker", farBeyond) {
		t.Fatal("no lock")
	}
	if _, ok := s.Lock("worker", farBeyond); ok {
		t.Fatal("two locks of one kind")
	}
	silent(t, filepath.Join(s.Dir(), "worker.lock"))
	if s.Locked("worker", time.Minute) {
		t.Fatal("a holder that hangs counts")
	}
	if err := os.RemoveAll(root); err != nil {
		t.Fatal(err)
	}
	if lock.Held() {
		t.Fatal("held although the spool is gone")
	}
	lock.Release()
	if _, ok := s.Lock("worker", farBeyond); ok {
		t.Fatal("a lock in a spool that is gone")
	}
	if _, ok := s.Claim(kind, segmentName); ok {
		t.Fatal("a claim in a spool that is gone")
	}
}

func TestNothingIsClaimedWithoutASpool(t *testing.T) {
	var s *spool.Spool
	c, ok := s.Claim(kind, segmentName)
	if ok || s.AwaitClaim(kind, segmentName, farBeyond) || s.Locked(kind, farBeyond) || c.Held() {
		t.Fatal("something is claimed")
	}
	c.Beat()
	c.Release()
	s.DropClaims(kind)
	s, _ = create(t)
	for _, name := range []string{"", "../x", ".x", "a/b"} {
		if _, ok := s.Claim(kind, name); ok {
			t.Errorf("claimed %q", name)
		}
	}
}

func TestDropClaims(t *testing.T) {
	s, _ := create(t)
	c, ok := s.Claim(kind, segmentName)
	if !ok {
		t.Fatal("no claim")
	}
	left := claimFile(s, walName(9))
	for _, path := range []string{left, filepath.Join(s.Dir(), "claims", "fetch."+segmentName)} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	half, fresh := filepath.Join(s.Dir(), ".new-1"), filepath.Join(s.Dir(), ".new-2")
	for _, path := range []string{half, fresh} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	silent(t, half)
	s.DropClaims(kind)
	for _, path := range []string{left, half} {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("what nobody works on stays: %s: %v", path, err)
		}
	}
	if _, err := os.Lstat(fresh); err != nil {
		t.Errorf("what somebody may be writing was dropped: %v", err)
	}
	if !c.Held() {
		t.Error("somebody's claim was dropped")
	}
	if _, err := os.Lstat(filepath.Join(s.Dir(), "claims", "fetch."+segmentName)); err != nil {
		t.Errorf("another kind was dropped: %v", err)
	}
	c.Release()
}

func TestClaimsOnDamagedFiles(t *testing.T) {
	for _, d := range damages() {
		t.Run(d.name, func(t *testing.T) {
			s, _ := create(t)
			c, ok := s.Claim(kind, segmentName)
			if !ok {
				t.Fatal("no claim")
			}
			c.Beat()
			d.do(t, claimFile(s, segmentName))
			s.AwaitClaim(kind, segmentName, time.Millisecond)
			c.Beat()
			c.Release()
			// What is no file is nobody's; any other is claimed anew. Other claims do not suffer.
			again, ok := s.Claim(kind, segmentName)
			if info, err := os.Lstat(claimFile(s, segmentName)); ok != (err == nil && info.Mode().IsRegular()) {
				t.Errorf("claimed again: %t; %v, %v", ok, info, err)
			}
			if ok {
				again.Release()
			}
			other, ok := s.Claim(kind, walName(7))
			if !ok || !other.Held() {
				t.Error("no claim of another name")
			}
			other.Release()
		})
	}
}
