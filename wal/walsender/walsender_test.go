package walsender_test

import (
	"testing"

	"pgstow/wal/walsender"
)

func TestParseSize(t *testing.T) {
	for text, want := range map[string]uint64{"8192": 8192, "16MB": 16 << 20, "1GB": 1 << 30, "64kB": 64 << 10, "1TB": 1 << 40} {
		if got, err := walsender.ParseSize(text); err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "MB", "1XB", "-1", "1MBMB", "99999999999"} {
		if got, err := walsender.ParseSize(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}
