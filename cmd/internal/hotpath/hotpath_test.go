package hotpath_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"pgstow/cmd/internal/hotpath"
	"pgstow/wal/spool"
)

func TestParse(t *testing.T) {
	flags := func(pairs ...string) (all []hotpath.Flag) {
		for i := 0; i < len(pairs); i += 2 {
			all = append(all, hotpath.Flag{Name: pairs[i], Value: pairs[i+1]})
		}
		return all
	}
	const seg = "000000010000000000000042"
	for _, c := range []struct {
		command string
		args    []string
		want    hotpath.Call
		unknown bool
	}{
		{"push", []string{"pg_wal/" + seg}, hotpath.Call{Command: "push", File: seg, Path: "pg_wal/" + seg}, false},
		{"push", []string{"--config", "/etc/x", "--repo=file:///r", "-cluster", "main", "--", "pg_wal/" + seg},
			hotpath.Call{Command: "push", Flags: flags("config", "/etc/x", "repo", "file:///r", "cluster", "main"), File: seg, Path: "pg_wal/" + seg}, false},
		{"fetch", []string{"--timeline=2", "--incomplete", seg, "pg_wal/RECOVERYXLOG"},
			hotpath.Call{Command: "fetch", Flags: flags("timeline", "2", "incomplete", ""), File: seg, Path: "pg_wal/RECOVERYXLOG"}, false},
		{"fetch", []string{"--repo=", seg, "x"}, hotpath.Call{Command: "fetch", Flags: flags("repo", ""), File: seg, Path: "x"}, false},
		{"push", nil, hotpath.Call{}, true},
		{"push", []string{"a", "b"}, hotpath.Call{}, true},
		{"push", []string{""}, hotpath.Call{}, true},
		{"fetch", []string{seg}, hotpath.Call{}, true},
		{"fetch", []string{seg, "x", "y"}, hotpath.Call{}, true},
		{"fetch", []string{"", "x"}, hotpath.Call{}, true},
		{"push", []string{"--help"}, hotpath.Call{}, true},
		{"push", []string{"--frobnicate=1", "x"}, hotpath.Call{}, true},
		{"push", []string{"--config"}, hotpath.Call{}, true},
		{"fetch", []string{"--incomplete=true", seg, "x"}, hotpath.Call{}, true},
		{"push", []string{"--repo=a", "--repo=b", "x"}, hotpath.Call{}, true},
		{"status", []string{"x"}, hotpath.Call{}, true},
	} {
		got, err := hotpath.Parse(c.command, c.args)
		if c.unknown {
			if !errors.Is(err, hotpath.ErrUnknown) {
				t.Errorf("%s %q: got %+v, %v", c.command, c.args, got, err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s %q: got %+v, %v, want %+v", c.command, c.args, got, err, c.want)
		}
	}
}

// dataDirectory makes a folder that passes for a data directory, with a pg_wal that is a link, as with initdb --waldir.
func dataDirectory(t *testing.T, id string) string {
	t.Helper()
	dir := t.TempDir()
	waldir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "global"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "global", "pg_control"), []byte(id+"\x00\x00\x00\x00\x00\x00\x00\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(waldir, filepath.Join(dir, "pg_wal")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func parse(t *testing.T, command string, args ...string) hotpath.Call {
	t.Helper()
	call, err := hotpath.Parse(command, args)
	if err != nil {
		t.Fatal(err)
	}
	return call
}

func TestDataDirectory(t *testing.T) {
	a, b, nowhere := dataDirectory(t, "aaaaaaaa"), dataDirectory(t, "bbbbbbbb"), t.TempDir()
	for _, c := range []struct {
		name    string
		cwd     string
		args    []string
		environ []string
		want    string
	}{
		{"as PostgreSQL calls", a, []string{"pg_wal/X"}, nil, "."},
		{"as pg_rewind calls", b, []string{a + "/pg_wal/X"}, nil, a},
		{"flag first", a, []string{"--pgdata", "/flag", b + "/pg_wal/X"}, []string{"PGSTOW_PGDATA=/env"}, "/flag"},
		{"environment next", a, []string{b + "/pg_wal/X"}, []string{"PGSTOW_PGDATA=/env"}, "/env"},
		{"a file elsewhere", a, []string{nowhere + "/some/X"}, nil, "."},
		{"a bare name", a, []string{"X"}, nil, "."},
		{"nothing at all", nowhere, []string{"/tmp/some/X"}, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Chdir(c.cwd)
			got, err := parse(t, "push", c.args...).DataDirectory(c.environ)
			if got != c.want || (err != nil) != (c.want == "") {
				t.Errorf("got %q, %v, want %q", got, err, c.want)
			}
		})
	}
}

func TestSpoolPlace(t *testing.T) {
	data, other := dataDirectory(t, "aaaaaaaa"), dataDirectory(t, "aaaaaaaa")
	home := t.TempDir()
	config := filepath.Join(home, "pgstow.toml")
	write(t, config, "repo = \"file:///r\"\n")
	environ := []string{"HOME=" + home, "PGSTOW_CONFIG=" + config}
	place := func(environ []string, args ...string) hotpath.Place {
		t.Helper()
		p, err := parse(t, "push", args...).Spool("1.0", environ)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	path := data + "/pg_wal/X"
	base := place(environ, path)
	if want := filepath.Join(home, ".cache", "pgstow"); base.Roots[len(base.Roots)-1] != want {
		t.Errorf("roots %q, want the last to be %q", base.Roots, want)
	}
	if p := place(append(environ, "XDG_CACHE_HOME=/cache"), path); p.Roots[len(p.Roots)-1] != "/cache/pgstow" {
		t.Errorf("roots %q", p.Roots)
	}
	if p := place(append(environ, "PGSTOW_SPOOL=/env"), path); !reflect.DeepEqual(p.Roots, []string{"/env"}) {
		t.Errorf("roots %q", p.Roots)
	}
	if p := place(append(environ, "PGSTOW_SPOOL=/env"), "--spool=/flag", path); !reflect.DeepEqual(p.Roots, []string{"/flag"}) {
		t.Errorf("roots %q", p.Roots)
	}

	for what, same := range map[string]hotpath.Place{
		"the config as a flag":       place(environ, "--config", config, path),
		"the data directory by flag": place(environ, "--pgdata", data, "/elsewhere/X"),
		"which timeline":             place(environ, "--timeline=3", path),
		"another variable":           place(append(environ, "LANG=C"), path),
	} {
		if same.Name != base.Name {
			t.Errorf("%s changes the name", what)
		}
	}
	names := map[string]string{base.Name: "nothing"}
	differs := func(what string, p hotpath.Place) {
		t.Helper()
		if clash, ok := names[p.Name]; ok {
			t.Errorf("%s does not change the name (like %s)", what, clash)
		}
		names[p.Name] = what
	}
	differs("a clone of the data directory", place(environ, other+"/pg_wal/X"))
	differs("--repo", place(environ, "--repo=file:///s", path))
	differs("--cluster", place(environ, "--cluster", "x", path))
	differs("PGSTOW_CLUSTER", place(append(environ, "PGSTOW_CLUSTER=x"), path))
	differs("AWS_ENDPOINT_URL", place(append(environ, "AWS_ENDPOINT_URL=http://x"), path))
	if err := os.Mkdir(filepath.Join(home, ".aws"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(home, ".aws", "config"), "[default]\n")
	differs("~/.aws/config", place(environ, path))
	write(t, config, "repo = \"file:///other\"\n")
	differs("the configuration file", place(environ, path))
	if _, err := parse(t, "push", "--config=/no/such", path).Spool("1.0", environ); err == nil {
		t.Error("a configuration file that is missing is nothing to complain of")
	}
	if _, err := parse(t, "push", "/no/such/X").Spool("1.0", environ); !errors.Is(err, spool.ErrNoDataDirectory) {
		t.Errorf("without a data directory: %v", err)
	}
}

func TestSpoolFromConfigurationFile(t *testing.T) {
	data := dataDirectory(t, "aaaaaaaa")
	config := filepath.Join(t.TempDir(), "c.toml")
	for text, want := range map[string]string{
		"repo = \"x\"\nspool = \"/a b\" # comment\n": "/a b",
		"  spool=\"/tight\"":                         "/tight",
		"# spool = \"/comment\"\n":                   "",
		"[table]\nspool = \"/in a table\"\n":         "",
		"x = \"\"\"\nspool = \"/in a string\"\n":     "",
		"spool = '/single'\n":                        "",
		"spool = \"/esc\\u0041\"\n":                  "",
		"spool = \"/a\" \"/b\"\n":                    "",
		"spool_x = \"/other\"\n":                     "",
	} {
		write(t, config, text)
		p, err := parse(t, "push", "--config", config, data+"/pg_wal/X").Spool("1", nil)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, root := range p.Roots {
			if root != hotpath.DefaultSpool {
				got = root
			}
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
