package pg

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// Installation is one installed version of PostgreSQL.
type Installation struct {
	Major  int
	BinDir string // with initdb, pg_ctl and postgres at least
}

// Bin is the path of a program of this version. Not every installation has every program: see [Installation.Has] and [ClientBin].
func (i Installation) Bin(name string) string { return filepath.Join(i.BinDir, name) }

// Has tells whether the installation has a program.
func (i Installation) Has(name string) bool {
	_, err := os.Stat(i.Bin(name))
	return err == nil
}

// Find looks for a version in /usr/lib/postgresql/<major>, where Debian puts it, then in .cache/pg/<major>, where `make` puts it.
func Find(major int) (Installation, error) {
	inst := Installation{Major: major, BinDir: fmt.Sprintf("/usr/lib/postgresql/%d/bin", major)}
	if inst.Has("postgres") && inst.Has("initdb") {
		return inst, nil
	}
	root, err := ModuleRoot()
	if err != nil {
		return Installation{}, err
	}
	dir := filepath.Join(root, ".cache", "pg", strconv.Itoa(major))
	if _, err := os.Stat(filepath.Join(dir, "bin", "postgres")); err != nil {
		return Installation{}, fmt.Errorf("PostgreSQL %d is not installed: run `make postgres-%d`", major, major)
	}
	dir, err = reachable(dir)
	if err != nil {
		return Installation{}, err
	}
	return Installation{Major: major, BinDir: filepath.Join(dir, "bin")}, nil
}

// ClientBin is the path of a client program such as psql, pgbench, pg_dump or pg_verifybackup of the given version, or where that version came
// without it, of the newest version that has it. pgbench and psql work with any server; the others only with their own version or an older one.
func ClientBin(major int, name string) (string, error) {
	for _, m := range append([]int{major}, 18, 17, 16, 15, 14, 13) {
		if inst, err := Find(m); err == nil && inst.Has(name) {
			return inst.Bin(name), nil
		}
	}
	return "", fmt.Errorf("%s is not installed: run `make postgres-%d`", name, DefaultMajor)
}

// Majors are the versions that a test over versions is to run on: those named in PGSTOW_TEST_MAJORS ("13 14 15"), else these, or
// [DefaultMajor] alone where there are none.
func Majors(t TB, unset ...int) []int {
	t.Helper()
	var majors []int
	for _, f := range strings.Fields(os.Getenv("PGSTOW_TEST_MAJORS")) {
		m, err := strconv.Atoi(f)
		if err != nil {
			t.Fatalf("PGSTOW_TEST_MAJORS: %v", err)
		}
		majors = append(majors, m)
	}
	if len(majors) == 0 {
		majors = unset
	}
	if len(majors) == 0 {
		majors = []int{DefaultMajor}
	}
	return majors
}

// ModuleRoot is the folder of this module's go.mod, found from the working directory upwards.
func ModuleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(b), "module pgstow\n") {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no go.mod of module pgstow in the working directory or above it")
		}
		dir = up
	}
}

// reachable returns dir itself if the server's user can get there, and a copy of it under the temporary folder if not: the checkout may lie below
// a home folder that is closed to others.
func reachable(dir string) (string, error) {
	if openToOthers(dir) {
		return dir, nil
	}
	fi, err := os.Stat(dir)
	if err != nil {
		return "", err
	}
	cache, unlock, err := sharedCache()
	if err != nil {
		return "", err
	}
	defer unlock()
	dst := filepath.Join(cache, fmt.Sprintf("%s-%x", filepath.Base(dir), fi.ModTime().UnixNano()))
	if _, err := os.Stat(dst); err == nil {
		return dst, nil
	}
	tmp := dst + ".tmp"
	if err := os.RemoveAll(tmp); err != nil {
		return "", err
	}
	if out, err := exec.Command("cp", "-r", "--preserve=mode,links", dir, tmp).CombinedOutput(); err != nil {
		return "", fmt.Errorf("copy %s: %w: %s", dir, err, out)
	}
	return dst, os.Rename(tmp, dst)
}

// openToOthers tells whether every folder on the way to path, path included, may be entered by the server's user.
func openToOthers(path string) bool {
	if Credential() == nil {
		return true
	}
	for p := path; ; p = filepath.Dir(p) {
		fi, err := os.Stat(p)
		if err != nil || fi.Mode().Perm()&0o001 == 0 {
			return false
		}
		if p == filepath.Dir(p) {
			return true
		}
	}
}
