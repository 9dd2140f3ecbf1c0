package pg

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Pgbench runs pgbench against database postgres and returns its output.
func (s *Server) Pgbench(args ...string) string {
	s.t.Helper()
	out, err := s.TryPgbench(context.Background(), args...)
	if err != nil {
		s.t.Fatalf("%v", err)
	}
	return out
}

// TryPgbench is Pgbench that can be ended and returns its error.
func (s *Server) TryPgbench(ctx context.Context, args ...string) (string, error) {
	bin, err := ClientBin(DefaultMajor, "pgbench")
	if err != nil {
		return "", err
	}
	cmd := Command(ctx, bin, args...)
	cmd.Env = append(cmd.Env, s.Env()...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("pgbench %v: %w\n%s", args, err, out)
	}
	return string(out), nil
}

// PgbenchInit makes pgbench's tables: a scale of 1 is 100,000 accounts, 15 MB.
func (s *Server) PgbenchInit(scale int) {
	s.t.Helper()
	s.Pgbench("-i", "-q", "-s", strconv.Itoa(scale))
}

// PgbenchRun runs pgbench's transactions with two clients for a while.
func (s *Server) PgbenchRun(d time.Duration) {
	s.t.Helper()
	s.Pgbench("-n", "-c", "2", "-T", strconv.Itoa(max(1, int(d.Seconds()))))
}

// build makes both programs once per test process.
var build = sync.OnceValues(buildPrograms)

// Binary is the path of one of our programs, "pgstow" or "pgstow-wal", built from this tree, beside the other and readable by the server's user.
// With PGSTOW_TEST_BIN set to a folder those in it are taken.
func Binary(t TB, name string) string {
	t.Helper()
	dir, err := build()
	if err != nil {
		t.Fatalf("build %s: %v", name, err)
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v", err)
	}
	return path
}

// Programs returns a folder with the content of dir, where our two programs have been built, that the server's user can read.
func Programs(t TB, dir string) string {
	t.Helper()
	published, err := publish(dir)
	if err != nil {
		t.Fatalf("programs in %s: %v", dir, err)
	}
	for _, name := range []string{"pgstow", "pgstow-wal"} {
		if _, err := os.Stat(filepath.Join(published, name)); err != nil {
			t.Fatalf("%s is not in %s: run `make build`", name, dir)
		}
	}
	return published
}

// buildPrograms builds into .cache/test-bin, where the go command leaves what is still up to date, and then puts a copy under a name that holds its
// hash: another test process may build again while these run.
func buildPrograms() (string, error) {
	if dir := os.Getenv("PGSTOW_TEST_BIN"); dir != "" {
		return publish(dir)
	}
	root, err := ModuleRoot()
	if err != nil {
		return "", err
	}
	if err := lookAtSources(root); err != nil {
		return "", err
	}
	stage := filepath.Join(root, ".cache", "test-bin")
	if err := os.MkdirAll(stage, 0o755); err != nil {
		return "", err
	}
	unlock, err := lockFile(filepath.Join(root, ".cache", "test-bin.lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	cmd := exec.Command("go", "build", "-trimpath", "-tags", "urfave_cli_no_docs", "-o", stage+"/", "./cmd/...")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return publish(stage)
}

// lookAtSources asks for the state of each file that the programs are made of: so the go command learns that a test's result depends on them,
// and does not take an old one from its cache.
func lookAtSources(root string) error {
	return filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d == nil {
			return ignoreMissing(err)
		}
		name := d.Name()
		switch {
		case d.IsDir() && path != root && (name[0] == '.' || name == "test" || name == "testdata"):
			return filepath.SkipDir
		case !d.IsDir() && !strings.HasSuffix(name, "_test.go"):
			_, err = os.Stat(path)
		}
		return ignoreMissing(err)
	})
}

// ignoreMissing lets a file go that somebody has removed meanwhile.
func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// publish copies the programs in stage to a folder that the server's user can read, named after their content, and drops those that nobody has asked
// for in a day.
func publish(stage string) (string, error) {
	cache, release, err := sharedCache()
	if err != nil {
		return "", err
	}
	defer release()
	names, err := filepath.Glob(filepath.Join(stage, "*"))
	if err != nil {
		return "", err
	}
	h := sha256.New()
	for _, n := range names {
		f, err := os.Open(n)
		if err != nil {
			return "", err
		}
		_, err = io.Copy(h, f)
		_ = f.Close()
		if err != nil {
			return "", err
		}
	}
	dst := filepath.Join(cache, "bin-"+hex.EncodeToString(h.Sum(nil)[:8]))
	if _, err := os.Stat(dst); err == nil {
		now := time.Now()
		return dst, os.Chtimes(dst, now, now)
	}
	if err := dropOld(cache); err != nil {
		return "", err
	}
	tmp := dst + ".tmp"
	if err := os.RemoveAll(tmp); err != nil {
		return "", err
	}
	if out, err := exec.Command("cp", "-r", stage, tmp).CombinedOutput(); err != nil {
		return "", fmt.Errorf("copy programs: %w: %s", err, out)
	}
	if out, err := exec.Command("chmod", "-R", "a+rX", tmp).CombinedOutput(); err != nil {
		return "", fmt.Errorf("copy programs: %w: %s", err, out)
	}
	return dst, os.Rename(tmp, dst)
}

func dropOld(cache string) error {
	old, err := filepath.Glob(filepath.Join(cache, "bin-*"))
	if err != nil {
		return err
	}
	for _, dir := range old {
		if fi, err := os.Stat(dir); err == nil && time.Since(fi.ModTime()) > 24*time.Hour {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
		}
	}
	return nil
}
