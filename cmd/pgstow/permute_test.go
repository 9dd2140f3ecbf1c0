package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestPermute(t *testing.T) {
	app := newApp(&environment{stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}})
	for _, test := range []struct{ in, want string }{
		{"pgstow restore DIR --to-time T --json", "pgstow restore --to-time T --json DIR"},
		{"pgstow restore DIR --to-time=T", "pgstow restore --to-time=T DIR"},
		{"pgstow restore --dry-run DIR", "pgstow restore --dry-run DIR"},
		{"pgstow restore --json DIR -- --odd", "pgstow restore --json DIR -- --odd"},
		{"pgstow backup delete ID --repo R", "pgstow backup delete --repo R ID"},
		{"pgstow backup", "pgstow backup"},
		{"pgstow --version", "pgstow --version"},
		{"pgstow restore DIR --no-such thing", "pgstow restore --no-such DIR thing"},
		{"pgstow", "pgstow"},
	} {
		if got := permute(app, strings.Fields(test.in)); !slices.Equal(got, strings.Fields(test.want)) {
			t.Errorf("permute(%s)\n got %s\nwant %s", test.in, strings.Join(got, " "), test.want)
		}
	}
	if got := permute(app, nil); len(got) != 0 {
		t.Errorf("permute of nothing = %q", got)
	}
}
