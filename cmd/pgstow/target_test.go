package main

import (
	"testing"
	"time"
)

func TestParseTime(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	want := time.Date(2026, 11, 24, 15, 45, 0, 0, time.UTC)
	for _, text := range []string{
		"2026-11-24 15:45:00+00", "2026-11-24T15:45:00Z", "2026-11-24 16:45:00", "2026-11-24 16:45", "2026-11-24 15:45:00 UTC",
		"2026-11-24 16:45:00+01:00", "2026-11-24 16:45:00 +01:00", " 2026-11-24 16:45:00 CET", "2026-11-24 15:45:00.000000+00",
	} {
		got, err := parseTime(text, berlin)
		if err != nil || !got.Equal(want) {
			t.Errorf("parseTime(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	if got, err := parseTime("2026-11-24 15:45:00.123456+00", berlin); err != nil || got.Nanosecond() != 123456000 {
		t.Errorf("microseconds: %v %v", got, err)
	}
	for _, text := range []string{"", "yesterday", "2026-11-24", "2026-13-24 00:00:00", "2026-11-24 15:45:00 XYZ", "15:45"} {
		if got, err := parseTime(text, berlin); err == nil {
			t.Errorf("parseTime(%q) = %v, want an error", text, got)
		}
	}
}

func TestParseXID(t *testing.T) {
	for text, want := range map[string]uint32{"3": 3, "731": 731, "4294967295": 4294967295, "4294968027": 731} {
		if got, err := parseXID(text); err != nil || got != want {
			t.Errorf("parseXID(%q) = %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "2", "-1", "x", "4294967297"} {
		if got, err := parseXID(text); err == nil {
			t.Errorf("parseXID(%q) = %d, want an error", text, got)
		}
	}
}
