package docs_test

import (
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

var settingRow = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|(.*?)\\| (.*) \\|$")

// inWords are the defaults that the table tells in words, and what the program calls them.
var inWords = map[string]string{
	"pgdata": "", "spool": "", "workers": "0", "rate_limit": "0", "wal_program": "",
}

// TestSettings: the table of the configuration has each key once, with its default.
func TestSettings(t *testing.T) {
	// Without a repository check fails, but shows its settings all the same.
	out, _ := try(t, []string{"HOME=/nonexistent"}, "check", "--no-server", "--json", "--repo", "file:///nonexistent")
	var report struct {
		Settings []struct{ Key, Value, Source string }
	}
	if err := json.NewDecoder(strings.NewReader(out)).Decode(&report); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	table := map[string]string{}
	for _, m := range settingRow.FindAllStringSubmatch(section(t, page(t, "docs/operations.md"), "## Configuration"), -1) {
		if _, twice := table[m[1]]; twice {
			t.Errorf("%s stands twice in the table", m[1])
		}
		table[m[1]] = strings.Trim(m[2], "` ")
	}
	for _, s := range report.Settings {
		told, ok := table[s.Key]
		delete(table, s.Key)
		if !ok {
			t.Errorf("%s is missing in the table", s.Key)
			continue
		}
		if value, words := inWords[s.Key]; words {
			if value != s.Value || told == "" {
				t.Errorf("%s: the table says %q, the program %q", s.Key, told, s.Value)
			}
			continue
		}
		if s.Source == "default" && !sameValue(told, s.Value) {
			t.Errorf("%s: the table says %q, the program %q", s.Key, told, s.Value)
		}
	}
	for key := range table {
		t.Errorf("the program has no %s", key)
	}
	if len(report.Settings) < 15 {
		t.Errorf("only %d settings", len(report.Settings))
	}
}

func sameValue(a, b string) bool {
	if x, err := time.ParseDuration(a); err == nil {
		y, err := time.ParseDuration(b)
		return err == nil && x == y
	}
	if x, err := strconv.Atoi(a); err == nil {
		y, err := strconv.Atoi(b)
		return err == nil && x == y
	}
	return a == b
}
