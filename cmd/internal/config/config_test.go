package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgstow/cmd/internal/config"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pgstow.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFlagsBeatEnvironmentBeatsFile(t *testing.T) {
	file := write(t, "repo = \"file:///from-file\"\ncluster = \"from-file\"\npush_deadline = \"5s\"\nrecipients = [\"age1a\", \"age1b\"]\nworkers = 3\n")
	c, warnings, err := config.Load(config.Sources{
		File:    file,
		Environ: []string{"PGSTOW_CLUSTER=from-env", "PGSTOW_REPO=file:///from-env", "PATH=/bin", "PGSTOWX=1"},
		Flags:   map[string]string{"repo": "file:///from-flag"},
	})
	if err != nil || len(warnings) != 0 {
		t.Fatal(err, warnings)
	}
	if c.Repo != "file:///from-flag" || c.Cluster != "from-env" || c.PushDeadline != 5*time.Second || c.Workers != 3 {
		t.Errorf("wrong precedence: %+v", c)
	}
	if got := strings.Join(c.Recipients, " "); got != "age1a age1b" {
		t.Errorf("recipients = %q", got)
	}
	for key, want := range map[string]string{"repo": "flag", "cluster": "environment", "workers": file, "spool": "default"} {
		if got := c.Source(key); got != want {
			t.Errorf("source of %s = %q, want %q", key, got, want)
		}
	}
}

func TestFileNamedByEnvironment(t *testing.T) {
	file := write(t, "cluster = \"named\"\n")
	c, _, err := config.Load(config.Sources{Environ: []string{"PGSTOW_CONFIG=" + file}})
	if err != nil || c.Cluster != "named" || c.File != file {
		t.Fatalf("%+v %v", c, err)
	}
	if _, _, err := config.Load(config.Sources{File: file + ".missing"}); err == nil {
		t.Error("a configuration file that was named and is missing must be an error")
	}
}

func TestUnknownKeysAreNamed(t *testing.T) {
	file := write(t, "clutser = \"main\"\n")
	_, warnings, err := config.Load(config.Sources{File: file, Environ: []string{"PGSTOW_FOO=1"}})
	if err != nil {
		t.Fatal(err)
	}
	if all := strings.Join(warnings, "\n"); !strings.Contains(all, "clutser in "+file) || !strings.Contains(all, "PGSTOW_FOO in environment") {
		t.Errorf("warnings: %q", warnings)
	}
}

func TestBadValuesNameTheKeyAndTheSource(t *testing.T) {
	for _, test := range []struct{ env, want string }{
		{"PGSTOW_PUSH_DEADLINE=fast", "PGSTOW_PUSH_DEADLINE in environment"},
		{"PGSTOW_PUSH_DEADLINE=-1s", "not a duration"},
		{"PGSTOW_COMPRESSION=lzma", "fastest, default"},
		{"PGSTOW_WORKERS=many", "PGSTOW_WORKERS"},
		{"PGSTOW_RATE_LIMIT=quick", "50MiB"},
		{"PGSTOW_ALLOW_UNSAFE_STORE=maybe", "neither true nor false"},
		{"PGSTOW_ENCRYPTION=gpg", "none, age"},
	} {
		_, _, err := config.Load(config.Sources{Environ: []string{test.env}})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want it to contain %q", test.env, err, test.want)
		}
	}
	for _, text := range []string{"repo = ", "repo = [1]", "repo = { a = 1 }", "repo = 1.5"} {
		if _, _, err := config.Load(config.Sources{File: write(t, text)}); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

func TestEverySettingIsListedOnce(t *testing.T) {
	c, _, err := config.Load(config.Sources{Environ: []string{"PGSTOW_RATE_LIMIT=50MiB"}})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for _, s := range c.Settings() {
		if _, twice := seen[s.Key]; twice {
			t.Errorf("%s is listed twice", s.Key)
		}
		seen[s.Key] = s.Value
	}
	if seen["rate_limit"] != "52428800" || seen["fetch_deadline"] != "15m" || seen["cluster"] != "main" {
		t.Errorf("settings: %v", seen)
	}
}
