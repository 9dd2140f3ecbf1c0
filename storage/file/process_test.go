//go:build linux

package file_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"pgstow/storage"
	"pgstow/storage/file"
)

// roleEnv makes the test binary play another process instead of running tests.
const roleEnv = "PGSTOW_FILE_TEST_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		os.Exit(play(role, os.Args[len(os.Args)-1]))
	}
	os.Exit(m.Run())
}

// play runs a role on the store at root. What it prints is its result.
func play(role, root string) int {
	if role == "full disk" { // in a mount namespace of its own
		if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=1m,mode=0700"); err != nil {
			fmt.Println("cannot mount:", err)
			return 0
		}
	}
	s, err := file.Open(file.Options{Root: root})
	if err == nil {
		switch role {
		case "count":
			err = count(s, 25)
		case "put":
			_, err = s.Put(context.Background(), "dir/k", []byte("x"), storage.IfAbsent)
		case "write for ever":
			err = writeForEver(s)
		case "full disk":
			err = fillDisk(s, root)
		}
	}
	if err != nil {
		fmt.Printf("error permission=%v: %v\n", errors.Is(err, storage.ErrPermission), err)
		return 1
	}
	fmt.Println("done")
	return 0
}

func command(t *testing.T, role, root string, attr *syscall.SysProcAttr) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], root)
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = attr
	return cmd
}

func count(s storage.Store, n int) error {
	ctx := context.Background()
	for n > 0 {
		body, info, err := storage.ReadAll(ctx, s, "counter", 100)
		if err != nil {
			return err
		}
		i, err := strconv.Atoi(string(body))
		if err != nil {
			return err
		}
		_, err = s.Put(ctx, "counter", []byte(strconv.Itoa(i+1)), storage.IfMatch(info.ETag))
		switch {
		case err == nil:
			n--
		case !errors.Is(err, storage.ErrExist):
			return err
		}
	}
	return nil
}

// Compare-and-swap among processes loses nothing.
func TestSwapsOfManyProcesses(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, "counter", "0")
	var cmds []*exec.Cmd
	for range 4 {
		cmd := command(t, "count", dir, nil)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds = append(cmds, cmd)
	}
	for _, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	if body, _, err := storage.ReadAll(t.Context(), s, "counter", 10); err != nil || string(body) != "100" {
		t.Errorf("counter is %s after 100 increments, %v", body, err)
	}
}

func writeForEver(s storage.Store) error {
	body := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for i := 0; ; i++ {
		key := fmt.Sprintf("d%d/e/%d", i%3, i)
		if _, err := s.Put(context.Background(), key, body, storage.IfAbsent); err != nil {
			return err
		}
		fmt.Println(key)
	}
}

// A process that dies at any moment leaves whole objects, among them all that it was told are stored.
func TestKilledWriter(t *testing.T) {
	for round := range 5 {
		dir := t.TempDir()
		cmd := command(t, "write for ever", dir, nil)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var acknowledged []string
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if acknowledged = append(acknowledged, lines.Text()); len(acknowledged) == 3+round {
				_ = cmd.Process.Kill()
			}
		}
		_ = cmd.Wait()
		s := open(t, dir)
		there := make(map[string]bool)
		for info, err := range s.List(t.Context(), "", "") {
			if err != nil || info.Size != 1<<20 {
				t.Errorf("%s: %d bytes, %v", info.Key, info.Size, err)
			}
			there[info.Key] = true
		}
		for _, key := range acknowledged {
			if !there[key] {
				t.Errorf("%s was acknowledged and is not there", key)
			}
		}
		if len(there) > len(acknowledged)+1 {
			t.Errorf("%d objects, %d acknowledged", len(there), len(acknowledged))
		}
	}
}

// fillDisk puts what does not fit into a small file system, and checks what that leaves behind.
func fillDisk(s storage.Store, root string) error {
	ctx := context.Background()
	if _, err := s.Put(ctx, "small", make([]byte, 100_000), storage.IfAbsent); err != nil {
		return err
	}
	_, err := s.Put(ctx, "dir/big", make([]byte, 2<<20), storage.IfAbsent)
	if err == nil || !errors.Is(err, syscall.ENOSPC) || !errors.Is(err, storage.ErrFull) || !strings.Contains(err.Error(), "file system is full") {
		return fmt.Errorf("a put that does not fit ended with: %w", err)
	}
	if left, err := os.ReadDir(filepath.Join(root, ".tmp")); err != nil || len(left) > 0 {
		return fmt.Errorf("left in .tmp: %v, %w", left, err)
	}
	if _, err := s.Stat(ctx, "dir/big"); !errors.Is(err, storage.ErrNotExist) {
		return fmt.Errorf("the object that did not fit: %w", err)
	}
	if _, err := s.Put(ctx, "other", make([]byte, 600_000), storage.IfAbsent); err != nil {
		return fmt.Errorf("the space was not given back: %w", err)
	}
	return nil
}

func TestFullDisk(t *testing.T) {
	cmd := command(t, "full disk", t.TempDir(), &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	})
	out, err := cmd.Output()
	var exit *exec.ExitError
	switch {
	case err != nil && !errors.As(err, &exit):
		t.Skipf("this host allows no namespaces: %v", err)
	case strings.HasPrefix(string(out), "cannot mount"):
		t.Skipf("this host allows no mounts in namespaces: %s", out)
	case err != nil || string(out) != "done\n":
		t.Errorf("%s, %v", out, err)
	}
}

func TestOwnerAndMode(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can give files away")
	}
	const uid, gid, other = 54321, 54322, 54323
	// A folder that other users can reach, unlike t.TempDir.
	base, err := os.MkdirTemp("", "pgstow-owner")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	dir := filepath.Join(base, "root")
	if err := errors.Join(os.Chmod(base, 0o755), os.Mkdir(dir, 0), os.Chown(dir, uid, gid),
		os.Chmod(dir, 0o770|os.ModeSetgid)); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(base, "test")
	if err := copyFile(os.Args[0], binary); err != nil {
		t.Fatal(err)
	}
	old := syscall.Umask(0o077) // plays no part
	defer syscall.Umask(old)
	put(t, open(t, dir), "a/b/k", "x")
	for name, mode := range map[string]os.FileMode{
		"a": os.ModeDir | os.ModeSetgid | 0o770, "a/b": os.ModeDir | os.ModeSetgid | 0o770, "a/b/k": 0o660,
		".tmp": os.ModeDir | os.ModeSetgid | 0o770, ".pgstow.lock": 0o660,
	} {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		st := info.Sys().(*syscall.Stat_t)
		if info.Mode() != mode || st.Uid != uid || st.Gid != gid {
			t.Errorf("%s: %v of %d:%d, want %v of %d:%d", name, info.Mode(), st.Uid, st.Gid, mode, uid, gid)
		}
	}
	as := func(uid uint32) string {
		cmd := command(t, "put", dir, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}})
		cmd.Path, cmd.Args[0] = binary, binary
		out, _ := cmd.Output()
		return string(out)
	}
	// The owner goes on where root has written.
	if out := as(uid); out != "done\n" {
		t.Errorf("the owner: %s", out)
	}
	// Another user could write, by the group, but what he writes would be his.
	if err := open(t, dir).Delete(t.Context(), "dir/k"); err != nil {
		t.Fatal(err)
	}
	before := tree(t, dir)
	if out := as(other); !strings.HasPrefix(out, "error permission=true") || !strings.Contains(out, "belong to user 54321") {
		t.Errorf("another user: %s", out)
	}
	wantTree(t, dir, before...)
	// Nor does he leave anything in a folder that is still empty.
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, "a")), os.RemoveAll(filepath.Join(dir, ".tmp")),
		os.Remove(filepath.Join(dir, ".pgstow.lock"))); err != nil {
		t.Fatal(err)
	}
	if out := as(other); !strings.HasPrefix(out, "error permission=true") {
		t.Errorf("another user in an empty folder: %s", out)
	}
	wantTree(t, dir)
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}
