// Package script_test runs the real programs by scripts: one file in testdata for each behaviour of the command line. They need no server;
// what needs one is in test/e2e.
package script_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"pgstow/test/pg"
)

// TestScripts runs testdata/*.txtar. Beside testscript's own commands they have those of [commands], the variables
//
//	REPO      file://…/repo of the script's own folder, not made yet
//	DATA      a data directory of PostgreSQL 15: pg_control and some WAL of 1 MiB a segment, from the fixtures of package wal
//	SYSTEM    its system identifier
//	COLD      a data directory of PostgreSQL 15 as initdb makes it; only where the condition [postgres] holds
//
// and PATH begins with our programs.
func TestScripts(t *testing.T) {
	programs := filepath.Dir(pg.Binary(t, "pgstow"))
	cold, haveServer := coldCluster(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Cmds:                commands(),
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "postgres":
				return haveServer, nil
			case "root":
				return os.Getuid() == 0, nil
			}
			return false, errors.New("unknown condition " + cond)
		},
		Setup: func(e *testscript.Env) error {
			data := filepath.Join(e.WorkDir, "data")
			e.Setenv("PATH", programs+string(os.PathListSeparator)+e.Getenv("PATH"))
			e.Setenv("REPO", "file://"+filepath.Join(e.WorkDir, "repo"))
			e.Setenv("DATA", data)
			e.Setenv("SYSTEM", "7711775369655300575")
			e.Setenv("COLD", cold)
			e.Setenv("TZ", "UTC")
			e.Setenv("XDG_CACHE_HOME", filepath.Join(e.WorkDir, "cache"))
			return fixtures(data)
		},
	})
}

// coldCluster makes a data directory with initdb, where there is one.
func coldCluster(t *testing.T) (dir string, ok bool) {
	if _, err := pg.Find(pg.DefaultMajor); err != nil && os.Getenv("PGSTOW_TEST_REQUIRE") == "" {
		return "", false
	}
	return pg.Create(t, pg.Options{}).Dir, true
}

// fixtures unpacks what stands for a data directory: whoever pushes needs no more of one than pg_control.
func fixtures(data string) error {
	for from, to := range map[string]string{
		"../../wal/pgcontrol/testdata/15/control/pg_control.gz": "global/pg_control",
		"../../wal/testdata/15/plain/*":                         "pg_wal/",
		"../../wal/testdata/15/huge/*":                          "pg_wal/",
		"../../wal/testdata/15/switched/*":                      "pg_wal/",
		"../../wal/testdata/15/partial/*":                       "pg_wal/",
		"../../wal/testdata/15/fork/*":                          "pg_wal/",
		"../../wal/testdata/15/backup/*.backup":                 "pg_wal/",
		"../../wal/testdata/15/overwrite/*14.gz":                "other/",
	} {
		paths, err := filepath.Glob(from)
		if err != nil || len(paths) == 0 {
			return errors.Join(err, errors.New("no fixture "+from))
		}
		for _, path := range paths {
			target := filepath.Join(data, to)
			if strings.HasSuffix(to, "/") {
				target = filepath.Join(target, strings.TrimSuffix(filepath.Base(path), ".gz"))
			}
			if err := unpack(path, target); err != nil {
				return err
			}
		}
	}
	return nil
}

func unpack(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if strings.HasSuffix(from, ".gz") {
		zipped, err := gzip.NewReader(bytes.NewReader(content))
		if err != nil {
			return err
		}
		if content, err = io.ReadAll(zipped); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o600)
}

type command = func(ts *testscript.TestScript, neg bool, args []string)

// commands are those of our own.
func commands() map[string]command {
	return map[string]command{
		"code": code, "flip": flip, "mode": mode, "capture": capture, "fields": fields, "replace": replace, "empty": empty,
	}
}

// code N PROGRAM ARG… runs a program, which must exit with N. An error goes to stderr in our form and leaves stdout empty, but for the
// codes of commands that have a result all the same (1 and 3, and 12 of a repair) and what recovery must not read (126).
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N PROGRAM ARG…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	switch {
	case err == nil && want == 0:
		return
	case err == nil:
		ts.Fatalf("exit status 0, want %d", want)
	case !errors.As(err, &exit):
		ts.Fatalf("%v", err)
	case exit.ExitCode() != want:
		ts.Fatalf("exit status %d, want %d", exit.ExitCode(), want)
	}
	said := ts.ReadFile("stderr")
	for _, line := range strings.Split(strings.TrimSuffix(said, "\n"), "\n") {
		if !strings.HasPrefix(line, "pgstow: ") && !strings.HasPrefix(line, "pgstow-wal: ") && !strings.HasPrefix(line, "hint: ") {
			ts.Fatalf("a message in another form: %q", line)
		}
		for _, clumsy := range []string{"pgstow: pgstow ", "%!", "<nil>"} {
			if strings.Contains(line, clumsy) {
				ts.Fatalf("%q in a message: %s", clumsy, line)
			}
		}
	}
	if want != 1 && want != 3 && want != 126 && !slices.Contains(args, "repair") && ts.ReadFile("stdout") != "" {
		ts.Fatalf("an error has a result: %s", ts.ReadFile("stdout"))
	}
}

// flip FILE OFFSET changes one bit; a negative offset counts from the end.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	content, err := os.ReadFile(path)
	ts.Check(err)
	at, err := strconv.Atoi(args[1])
	ts.Check(err)
	if at < 0 {
		at += len(content)
	}
	content[at] ^= 0x10
	ts.Check(os.WriteFile(path, content, 0o600))
}

// mode FILE 0600 checks the permissions.
func mode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := "0" + strconv.FormatUint(uint64(info.Mode().Perm()), 8); got != args[1] {
		ts.Fatalf("mode of %s is %s, want %s", args[0], got, args[1])
	}
}

// capture VARIABLE puts the last standard output into a variable; with a second argument the value of that field of the JSON it is.
func capture(ts *testscript.TestScript, _ bool, args []string) {
	text := strings.TrimSpace(ts.ReadFile("stdout"))
	if len(args) > 1 {
		var object map[string]any
		ts.Check(json.Unmarshal([]byte(text), &object))
		value, ok := object[args[1]].(string)
		if !ok {
			ts.Fatalf("no string %s in %s", args[1], text)
		}
		text = value
	}
	ts.Setenv(args[0], text)
}

// fields NAME… checks that the last standard output is one JSON object, or an array whose last element is one, with exactly these fields.
// A name that ends in ? may be missing.
func fields(ts *testscript.TestScript, _ bool, args []string) {
	text := ts.ReadFile("stdout")
	var object map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &object); err != nil {
		var array []map[string]json.RawMessage
		ts.Check(json.Unmarshal([]byte(text), &array))
		if len(array) == 0 {
			ts.Fatalf("an empty array")
		}
		object = array[len(array)-1]
	}
	var want []string
	for _, name := range args {
		name, optional := strings.CutSuffix(name, "?")
		if _, there := object[name]; !there && !optional {
			ts.Fatalf("no field %s", name)
		}
		want = append(want, name)
	}
	for name := range object {
		if !slices.Contains(want, name) {
			ts.Fatalf("field %s is new: say so in docs/json.md and here", name)
		}
	}
}

// replace FILE OLD NEW changes a file. The checksum of a JSON object of the repository goes with it, as for a person with an editor.
func replace(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	content := ts.ReadFile(path)
	if !strings.Contains(content, args[1]) {
		ts.Fatalf("%s does not contain %q", args[0], args[1])
	}
	content = checksumMember.ReplaceAllString(strings.ReplaceAll(content, args[1], args[2]), "")
	ts.Check(os.WriteFile(path, []byte(content), 0o600))
}

var checksumMember = regexp.MustCompile(`,\s*"crc32c": "[0-9a-f]{8}"`)

// empty FOLDER checks that a folder has nothing in it, or is not there.
func empty(ts *testscript.TestScript, _ bool, args []string) {
	entries, err := os.ReadDir(ts.MkAbs(args[0]))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		ts.Fatalf("%v", err)
	}
	if len(entries) > 0 {
		ts.Fatalf("%s has %s in it", args[0], entries[0].Name())
	}
}
