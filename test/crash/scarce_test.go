package crash_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

// scarce is a folder in which little can be written: a small tmpfs, or where nothing may be mounted a plain folder, with programs that may not write
// large files.
type scarce struct {
	t       *testing.T
	Dir     string
	mounted bool
	blocks  int // for the programs, of 512 bytes; -1 is no limit
}

const plenty = "size=1g"

// newScarce makes one for size bytes in all, or for files of at most blocks × 512 bytes.
func newScarce(t *testing.T, size, blocks int) *scarce {
	t.Helper()
	s := &scarce{t: t, Dir: filepath.Join(pg.TempDir(t), "scarce"), blocks: blocks}
	if err := os.Mkdir(s.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	switch err := s.mount(0, fmt.Sprintf("size=%d", size)); {
	case err == nil:
		s.mounted, s.blocks = true, -1
		t.Cleanup(func() {
			if err := unix.Unmount(s.Dir, unix.MNT_DETACH); err != nil {
				t.Errorf("unmount: %v", err)
			}
		})
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES), errors.Is(err, unix.ENOSYS):
		t.Logf("no file system may be mounted here (%v): the size of files is limited instead", err)
	default:
		t.Fatalf("mount: %v", err)
	}
	pg.Chown(t, s.Dir)
	return s
}

func (s *scarce) mount(flags uintptr, options string) error {
	if os.Getenv("PGSTOW_TEST_NO_MOUNT") != "" {
		return unix.EPERM
	}
	return unix.Mount("pgstow-test", s.Dir, "tmpfs", flags, options)
}

// Fill leaves no byte free.
func (s *scarce) Fill() {
	s.t.Helper()
	if !s.mounted {
		return
	}
	f, err := os.Create(filepath.Join(s.Dir, "filler"))
	if err != nil {
		s.t.Fatal(err)
	}
	for zeros := make([]byte, 4096); err == nil; {
		_, err = f.Write(zeros)
	}
	if !errors.Is(err, unix.ENOSPC) {
		s.t.Fatalf("filling: %v", err)
	}
	if err := f.Close(); err != nil {
		s.t.Fatal(err)
	}
}

// Grow makes room.
func (s *scarce) Grow() {
	s.t.Helper()
	s.blocks = -1
	if s.mounted {
		if err := s.mount(unix.MS_REMOUNT, plenty); err != nil {
			s.t.Fatalf("remount: %v", err)
		}
	}
}

// Full is what the kernel says of it.
func (s *scarce) Full() string {
	if s.mounted {
		return unix.ENOSPC.Error()
	}
	return unix.EFBIG.Error()
}

// Run calls pgstow where little can be written.
func (s *scarce) Run(w *world.World, env []string, args ...string) world.Result {
	s.t.Helper()
	cmd := w.Command("pgstow", args...)
	if s.blocks >= 0 {
		program := append([]string{cmd.Path}, args...)
		limited := pg.Command(s.t.Context(), "/bin/sh", append([]string{"-c", fmt.Sprintf(`ulimit -f %d; exec "$@"`, s.blocks), "sh"}, program...)...)
		limited.Env = cmd.Env
		cmd = limited
	}
	cmd.Env = append(cmd.Env, env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		s.t.Fatal(err)
	}
	return world.Result{Args: args, Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
}
