// Package delta_test restores over older and damaged copies, as standbys and of some databases only, with real servers.
package delta_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgstow/test/e2e/world"
	"pgstow/test/pg"
)

const patient = 2 * time.Minute

func TestMain(m *testing.M) { os.Exit(world.Main(m)) }

// eachMajor runs a test on every version that is asked for, side by side.
func eachMajor(t *testing.T, f func(t *testing.T, major int)) {
	t.Helper()
	world.EachMajor(t, pg.Majors(t), f)
}

// outcome is what `restore --json` prints.
type outcome struct {
	Plan struct {
		Backup  string `json:"backup"`
		Resume  bool   `json:"resume"`
		Delta   *found `json:"delta"`
		LeftOut []struct {
			OID  int    `json:"oid"`
			Name string `json:"name"`
			Drop string `json:"drop"`
		} `json:"left_out"`
		Warnings []string `json:"warnings"`
	} `json:"plan"`
	Result struct {
		Bytes        int64 `json:"bytes"`
		BytesWritten int64 `json:"bytes_written"`
		BytesRead    int64 `json:"bytes_read"`
		BytesKept    int64 `json:"bytes_kept"`
		FilesRemoved int64 `json:"files_removed"`
	} `json:"result"`
}

// found is what a plan says of an older copy.
type found struct {
	Compared    bool     `json:"compared"`
	BytesKept   int64    `json:"bytes_kept"`
	BytesFetch  int64    `json:"bytes_fetch"`
	RemoveFiles int64    `json:"remove_files"`
	Removes     []string `json:"removes"`
}

// restore runs `pgstow restore dir --json args...`.
func restore(t *testing.T, w *world.World, dir string, args ...string) outcome {
	t.Helper()
	r := w.RunRestore(dir, append([]string{"--json"}, args...)...)
	w.Check(r, 0)
	var o outcome
	if err := json.Unmarshal([]byte(r.Stdout), &o); err != nil {
		t.Fatalf("%v: %s", err, r)
	}
	return o
}

// dryRun is the plan alone.
func dryRun(t *testing.T, w *world.World, dir string, args ...string) found {
	t.Helper()
	r := w.RunRestore(dir, append([]string{"--dry-run", "--json"}, args...)...)
	w.Check(r, 0)
	var p struct {
		Delta found `json:"delta"`
	}
	world.Decode(t, r.Stdout, &p)
	return p.Delta
}

// sound lets PostgreSQL's own programs judge a server that has recovered, and ends it: every page that is visible, and every
// page that is there.
func sound(t *testing.T, s *pg.Server) {
	t.Helper()
	if s.Install.Major == pg.DefaultMajor { // the other installations have no extensions
		program(t, s.Install.Bin("pg_amcheck"), "--all", "--install-missing", "-h", s.SocketDir, "-p", strconv.Itoa(s.Port), "-U", "postgres")
	}
	checksums := s.Value("SHOW data_checksums") == "on"
	s.Stop(pg.Fast)
	if checksums && s.Install.Has("pg_checksums") {
		program(t, s.Install.Bin("pg_checksums"), "--check", "-D", s.Dir)
	}
}

// verify lets pg_verifybackup judge a directory before its first start. Debian's, of version 15, does not read the manifests of
// 17 and newer.
func verify(w *world.World, dir string, major int) {
	if tool, err := pg.Find(major); major < 17 || err == nil && tool.Has("pg_verifybackup") {
		w.VerifyBackup(dir, false)
	}
}

func program(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := pg.Command(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Errorf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
}

// same fails the test unless a server holds exactly these tables.
func same(t *testing.T, what string, want pg.Sums, got *pg.Server) {
	t.Helper()
	if d := want.Diff(got.Sums()); d != "" {
		t.Errorf("%s:\n%s", what, d)
	}
}
