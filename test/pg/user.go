package pg

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// Credential is the user that servers run as: nil, the test's own, unless that is root; then postgres, or nobody where there is no such user.
func Credential() *syscall.Credential {
	if os.Getuid() != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil && uid != 0 {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), NoSetGroups: false}
		}
	}
	return &syscall.Credential{Uid: 65534, Gid: 65534}
}

// Command is exec.CommandContext for a program that is to run as the server's user, with PATH and the temporary folder as its environment: set
// or append to Env for more. Its working directory is the temporary folder.
func Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = baseEnv()
	cmd.Dir = tempRoot()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: Credential()}
	return cmd
}

// baseEnv is what a server inherits: nothing of the caller's PG*, AWS_* or PGSTOW_* settings, and messages in English.
func baseEnv() []string {
	env := []string{"LC_ALL=C", "TZ=UTC", "HOME=" + tempRoot()}
	for _, k := range []string{"PATH", "TMPDIR"} {
		if v, ok := os.LookupEnv(k); ok {
			env = append(env, k+"="+v)
		}
	}
	return env
}

// TempDir makes a folder that belongs to the server's user and that others may enter, and removes it when the test ends. t.TempDir will not do: a
// test that runs as root gets one that others cannot enter, and its path can be too long for a unix socket (107 bytes).
func TempDir(t TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(tempRoot(), "pgstow")
	if err != nil {
		t.Fatalf("temporary folder: %v", err)
	}
	t.Cleanup(func() {
		if os.Getenv("PGSTOW_TEST_KEEP") != "" {
			t.Logf("kept %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Logf("remove %s: %v", dir, err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatalf("temporary folder: %v", err)
	}
	Chown(t, dir)
	return dir
}

// Chown gives files and folders, and all that is in them, to the server's user. It does nothing if that is who runs the test.
func Chown(t TB, paths ...string) {
	t.Helper()
	c := Credential()
	if c == nil {
		return
	}
	for _, p := range paths {
		err := filepath.WalkDir(p, func(path string, _ os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(path, int(c.Uid), int(c.Gid))
		})
		if err != nil {
			t.Fatalf("chown: %v", err)
		}
	}
}

// tempRoot is os.TempDir, or /tmp where that is too long for a socket's path or closed to the server's user.
func tempRoot() string {
	dir := os.TempDir()
	if len(dir) > 60 || !openToOthers(dir) {
		return "/tmp"
	}
	return dir
}

// sharedCache is a folder of ours that the server's user can read and that outlives the test process, locked until unlock is called.
func sharedCache() (dir string, unlock func(), err error) {
	dir = filepath.Join(tempRoot(), fmt.Sprintf("pgstow-test-cache-%d", os.Getuid()))
	if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
		return "", nil, err
	}
	fi, err := os.Lstat(dir)
	if err != nil {
		return "", nil, err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); !ok || !fi.IsDir() || int(st.Uid) != os.Getuid() {
		return "", nil, fmt.Errorf("%s exists and is not a folder of ours: remove it", dir)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", nil, err
	}
	unlock, err = lockFile(filepath.Join(dir, "lock"))
	return dir, unlock, err
}

func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { _ = f.Close() }, nil
}

// freePort asks the kernel for a TCP port that nobody listens on. Another process may take it before the server does, which Start then reports.
func freePort(t TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("free port: %v", err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}
