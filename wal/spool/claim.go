package spool

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// A claim says that some process is at work on something now, so that others wait for it instead of doing it twice. It is a lock that the
// kernel drops when its holder dies, on a file whose modification time is the holder's heartbeat: a holder that was stopped, or that hangs,
// counts no longer. Like everything in a spool it is advice: who gets no claim may do the work all the same.
//
//	claims/<kind>.<name>   one WAL file (see Claim)
//	<kind>.lock            one process of that kind for the whole spool (see Lock)
const (
	claimsFolder = "claims"
	lockSuffix   = ".lock"
	// claimTries bounds how often a file is opened anew because somebody removed or replaced it meanwhile.
	claimTries = 8
	// beatEvery is how often a beat is written at most.
	beatEvery = 250 * time.Millisecond
	// backwards is how far a beat may lie in the future: file times come from a coarser clock. More means that the clock was set back.
	backwards = time.Second
)

// ClaimStale is how long after its last beat a claim counts no longer. Holders beat at least every second while they get on.
const ClaimStale = 2 * time.Second

// Claim is held until Release, or until the process ends. All methods work on a nil *Claim, and are for one goroutine at a time.
type Claim struct {
	path   string
	folder string // to be removed with its last claim; "": stays
	f      *os.File
	beat   time.Time
}

// Claim takes the claim of this kind on a WAL file's name; false means that somebody else has it and gets on with it, or that the spool
// cannot be written. One whose holder does not beat any more is taken over.
func (s *Spool) Claim(kind, name string) (*Claim, bool) {
	if s == nil || !validName(kind) || !validName(name) {
		return nil, false
	}
	for range claimTries { // the folder goes with the last claim, so another's may take it away between
		if err := os.Mkdir(filepath.Join(s.dir, claimsFolder), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, false
		}
		c, err := take(s.claimPath(kind, name), ClaimStale)
		if err == nil {
			c.folder = filepath.Join(s.dir, claimsFolder)
			return c, true
		}
		if !errors.Is(err, os.ErrNotExist) {
			return nil, false
		}
	}
	return nil, false
}

// Lock takes the lock of this kind for the whole spool, or takes it over from a holder whose last beat is older than stale.
func (s *Spool) Lock(kind string, stale time.Duration) (*Claim, bool) {
	if s == nil || !validName(kind) {
		return nil, false
	}
	c, err := take(filepath.Join(s.dir, kind+lockSuffix), stale)
	return c, err == nil
}

// Locked tells whether somebody has the lock of this kind and has beaten within stale.
func (s *Spool) Locked(kind string, stale time.Duration) bool {
	if s == nil || !validName(kind) {
		return false
	}
	return isHeld(filepath.Join(s.dir, kind+lockSuffix), stale)
}

// Claimed tells whether somebody has the claim of this kind on a name and gets on with it.
func (s *Spool) Claimed(kind, name string) bool {
	if s == nil || !validName(kind) || !validName(name) {
		return false
	}
	return isHeld(s.claimPath(kind, name), ClaimStale)
}

// AwaitClaim waits while somebody gets on with the claim of this kind on a name: until it is released, or until beyond after its last beat. It
// returns at once, and false, when nobody has it or its holder hangs already. What came of it is for the caller to look up. The kernel wakes it.
func (s *Spool) AwaitClaim(kind, name string, beyond time.Duration) (waited bool) {
	if s == nil || !validName(kind) || !validName(name) {
		return false
	}
	f, ok := held(s.claimPath(kind, name))
	if !ok {
		return false
	}
	if left, there := freshAt(s.claimPath(kind, name), beyond); there && left <= 0 {
		_ = f.Close()
		return false
	}
	released := make(chan struct{})
	go func() {
		// If the wait is given up, this ends with the lock's holder or with this process, whichever is first.
		_ = flock(f, syscall.LOCK_SH)
		close(released)
		_ = f.Close()
	}()
	for {
		left, there := freshAt(s.claimPath(kind, name), beyond)
		if !there {
			return true
		}
		if left <= 0 {
			return waited
		}
		waited = true
		timer := time.NewTimer(left)
		select {
		case <-released:
			timer.Stop()
			return true
		case <-timer.C:
		}
	}
}

// DropClaims removes the claims of this kind that nobody holds, and what killed writers left behind.
func (s *Spool) DropClaims(kind string) {
	if s == nil || !validName(kind) {
		return
	}
	entries, err := os.ReadDir(filepath.Join(s.dir, claimsFolder))
	if err != nil {
		return
	}
	for _, entry := range entries {
		if name, ok := cutKind(entry.Name(), kind); ok && validName(name) {
			if c, err := take(s.claimPath(kind, name), ClaimStale); err == nil {
				c.Release()
			}
		}
	}
	_ = os.Remove(filepath.Join(s.dir, claimsFolder)) // only an empty one
	sweepTemporary(s.dir, -1, forgotten)
}

func cutKind(file, kind string) (name string, ok bool) {
	if len(file) <= len(kind) || file[:len(kind)] != kind || file[len(kind)] != '.' {
		return "", false
	}
	return file[len(kind)+1:], true
}

func (s *Spool) claimPath(kind, name string) string {
	return filepath.Join(s.dir, claimsFolder, kind+"."+name)
}

// Beat says that the holder gets on. It may be called often: most calls do nothing.
func (c *Claim) Beat() {
	now := time.Now()
	if c == nil || now.Sub(c.beat) < beatEvery {
		return
	}
	c.beat = now
	// Writing sets the modification time, by the clock of the file system.
	_, _ = c.f.WriteAt([]byte{'.'}, 0)
}

// Held tells whether the claim is still the one that others see: not removed with the spool, nor taken over.
func (c *Claim) Held() bool { return c != nil && isAt(c.f, c.path) }

// Release gives the claim back, and removes its file. The file goes first: a waiter that wakes holds a lock on nothing that others see.
func (c *Claim) Release() {
	if c == nil {
		return
	}
	if isAt(c.f, c.path) {
		_ = os.Remove(c.path)
	}
	if c.folder != "" {
		_ = os.Remove(c.folder) // only an empty one
	}
	_ = c.f.Close()
}

var errClaimed = errors.New("somebody else has it")

// take makes or opens the file at path and locks it. A file that was removed or replaced between is tried again.
func take(path string, stale time.Duration) (*Claim, error) {
	for range claimTries {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
		if err != nil {
			return nil, err
		}
		switch err := flock(f, syscall.LOCK_EX|syscall.LOCK_NB); {
		case err == nil && isAt(f, path):
			c := &Claim{path: path, f: f}
			c.Beat()
			return c, nil
		case err == nil: // on a file that others do not see any more
		case errors.Is(err, syscall.EWOULDBLOCK) && fresh(f, stale) <= 0:
			// The holder hangs. Its lock cannot be broken, but the file can be exchanged; the holder finds that out by Held.
			if isAt(f, path) {
				_ = os.Remove(path)
			}
		default:
			_ = f.Close()
			return nil, errClaimed
		}
		_ = f.Close()
	}
	return nil, errClaimed
}

// held opens the file at path if somebody has locked it.
func held(path string) (*os.File, bool) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, false
	}
	if err := flock(f, syscall.LOCK_SH|syscall.LOCK_NB); errors.Is(err, syscall.EWOULDBLOCK) {
		return f, true
	}
	_ = f.Close()
	return nil, false
}

// isHeld tells whether somebody has locked the file at path and has beaten within stale.
func isHeld(path string, stale time.Duration) bool {
	f, ok := held(path)
	if !ok {
		return false
	}
	defer func() { _ = f.Close() }()
	return fresh(f, stale) > 0
}

// fresh is how much is left of the time that a beat counts; 0 or less: nothing.
func fresh(f *os.File, stale time.Duration) time.Duration {
	info, err := f.Stat()
	if err != nil {
		return 0
	}
	return left(info, stale)
}

// freshAt is fresh of the file at path, if it is there.
func freshAt(path string, stale time.Duration) (remaining time.Duration, there bool) {
	info, err := os.Lstat(path)
	if err != nil {
		return 0, false
	}
	return left(info, stale), true
}

func left(info os.FileInfo, stale time.Duration) time.Duration {
	age := time.Since(info.ModTime())
	if age < -backwards {
		return 0
	}
	return stale - age
}

// isAt tells whether f is the file that path names now.
func isAt(f *os.File, path string) bool {
	own, err := f.Stat()
	if err != nil {
		return false
	}
	now, err := os.Lstat(path)
	return err == nil && os.SameFile(own, now)
}

func flock(f *os.File, how int) error {
	for {
		if err := syscall.Flock(int(f.Fd()), how); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
