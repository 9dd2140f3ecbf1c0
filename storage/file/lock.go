package file

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// lock takes the store's lock, shared or exclusive; see the package comment for who takes which. It is held only around
// a rename or unlink, never while a body is written. Closing the result releases it, as does the end of the process.
func lock(ctx context.Context, r *os.Root, exclusive bool) (*os.File, error) {
	f, err := r.OpenFile(lockFile, os.O_RDWR, 0) // NFS wants it writable for an exclusive lock
	if err != nil {
		return nil, err
	}
	how := unix.LOCK_SH
	if exclusive {
		how = unix.LOCK_EX
	}
	err = flock(f, how|unix.LOCK_NB)
	if err == nil {
		return f, nil
	}
	if !errors.Is(err, unix.EWOULDBLOCK) {
		_ = f.Close()
		return nil, err
	}
	done := make(chan error, 1)
	go func() { done <- flock(f, how) }()
	select {
	case err = <-done:
	case <-ctx.Done():
		go func() { // flock cannot be interrupted; let the lock go as soon as it comes
			if <-done == nil {
				_ = flock(f, unix.LOCK_UN)
			}
			_ = f.Close()
		}()
		return nil, context.Cause(ctx)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
