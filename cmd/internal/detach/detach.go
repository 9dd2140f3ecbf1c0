// Package detach is for processes that work on after the command that started them has ended: started so that they hold nothing of the
// server's, and only where their end cannot harm it. Standard library only, since pgstow-wal links it.
package detach

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Options say what to start.
type Options struct {
	// Program is an absolute path.
	Program string
	// Args are those after the program's name.
	Args []string
	Env  []string
}

// Start starts a process that is nobody's: in a session of its own, with /dev/null for its standard files and no other of this process's
// (the server's logging collector ends only when the last writer of its pipe does). It is not waited for: when this process ends, or becomes
// another program that ends, init takes it over. It begins in this process's working directory, and leaves it by Enter. Ask MayAdopt first.
func Start(o Options) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("start %s: %w", o.Program, err)
	}
	defer func() { _ = null.Close() }()
	if err := keepFromChildren(); err != nil {
		return fmt.Errorf("start %s: %w", o.Program, err)
	}
	child, err := os.StartProcess(o.Program, append([]string{filepath.Base(o.Program)}, o.Args...), &os.ProcAttr{
		Env: o.Env, Files: []*os.File{null, null, null}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", o.Program, err)
	}
	return child.Release()
}

// oomScore makes the kernel end such a process before the server (proc(5), oom_score_adj). The server's own may be -1000 and inherited.
const oomScore = "500"

// Enter is what a detached process does before its work, also when somebody started it by hand: a session of its own, dir as its working
// directory (in the data directory it would keep a file system from being unmounted), files for its own user only, nothing inherited but the standard files, and the first to go when memory is short.
func Enter(dir string) error {
	if err := closeInherited(); err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	if syscall.Getpgrp() != syscall.Getpid() { // the leader of a group cannot begin a session, and needs none
		if _, err := syscall.Setsid(); err != nil {
			return fmt.Errorf("detach: %w", err)
		}
	}
	if err := os.Chdir(dir); err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	syscall.Umask(0o077)
	// Where /proc may not be written, the process is as likely to be ended as any other.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte(oomScore), 0)
	return nil
}

// keepFromChildren marks all descriptors beyond the standard ones as not to be inherited. Those that this process opened are so anyway.
func keepFromChildren() error {
	return eachDescriptor(func(fd int) { syscall.CloseOnExec(fd) })
}

// closeInherited closes the descriptors beyond the standard ones that came from the parent: all that this process opened, the Go runtime's
// own included, are marked to be closed on exec, and inherited ones cannot be.
func closeInherited() error {
	return eachDescriptor(func(fd int) {
		const getFlags = syscall.F_GETFD
		flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), getFlags, 0)
		if errno == 0 && flags&syscall.FD_CLOEXEC == 0 {
			_ = syscall.Close(fd)
		}
	})
}

func eachDescriptor(do func(fd int)) error {
	folder, err := os.Open("/proc/self/fd")
	if err != nil {
		return err
	}
	names, err := folder.Readdirnames(-1)
	own := int(folder.Fd())
	_ = folder.Close()
	for _, name := range names {
		if fd, err := strconv.Atoi(name); err == nil && fd > 2 && fd != own {
			do(fd)
		}
	}
	return err
}
