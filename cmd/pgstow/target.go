package main

import (
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"pgstow/catalog"
	"pgstow/wal"
)

func targetFlags() []cli.Flag {
	const category = "Target"
	return []cli.Flag{
		&cli.StringFlag{Name: "to-time", Usage: "recover to `TIME`: 2026-11-24 15:45:00+00, RFC 3339, or without a zone in the local one", Category: category},
		&cli.StringFlag{Name: "to-lsn", Usage: "recover to `LSN`", Category: category},
		&cli.StringFlag{Name: "to-xid", Usage: "recover to the end of transaction `XID`", Category: category},
		&cli.StringFlag{Name: "to-name", Usage: "recover to the restore point `NAME`", Category: category},
		&cli.BoolFlag{Name: "immediate", Usage: "stop as soon as the backup is consistent", Category: category},
		&cli.BoolFlag{Name: "exclusive", Usage: "stop before the target, not after it (time, LSN, xid)", Category: category},
		&cli.BoolFlag{Name: "stop-at-hole", Usage: "without another target: recover up to the first WAL that is missing, and give up what is behind it", Category: category},
		&cli.StringFlag{Name: "timeline", Usage: "follow timeline `N`, latest or current", Value: "latest", Category: category},
	}
}

// targetOf reads the target flags; none means the end of the archive.
func targetOf(c *cli.Context) (catalog.Target, error) {
	t := catalog.Target{Exclusive: c.Bool("exclusive")}
	var given []string
	for _, name := range []string{"to-time", "to-lsn", "to-xid", "to-name", "immediate"} {
		if c.IsSet(name) {
			given = append(given, "--"+name)
		}
	}
	if len(given) > 1 {
		return t, usage("one target at a time: %s", strings.Join(given, " and "))
	}
	var err error
	switch {
	case c.IsSet("to-time"):
		t.Kind = catalog.TargetTime
		t.Time, err = parseTime(c.String("to-time"), time.Local)
	case c.IsSet("to-lsn"):
		t.Kind = catalog.TargetLSN
		if t.LSN, err = wal.ParseLSN(c.String("to-lsn")); err != nil {
			err = usage("--to-lsn: %s", err)
		}
	case c.IsSet("to-xid"):
		t.Kind = catalog.TargetXID
		t.XID, err = parseXID(c.String("to-xid"))
	case c.IsSet("to-name"):
		t.Kind, t.Name = catalog.TargetName, c.String("to-name")
		if t.Name == "" || len(t.Name) > 63 {
			err = usage("--to-name wants the name of a restore point, 1 to 63 bytes")
		}
	case c.Bool("immediate"):
		t.Kind = catalog.TargetImmediate
	}
	if err != nil {
		return t, err
	}
	if t.Exclusive && t.Kind != catalog.TargetTime && t.Kind != catalog.TargetLSN && t.Kind != catalog.TargetXID {
		return t, usage("--exclusive goes with --to-time, --to-lsn or --to-xid")
	}
	if t.StopAtHole = c.Bool("stop-at-hole"); t.StopAtHole && t.Kind != catalog.TargetLatest {
		return t, usage("--stop-at-hole goes without %s, which says where recovery ends", given[0])
	}
	t.Timeline, err = parseTimeline(c.String("timeline"))
	return t, err
}

func parseTimeline(text string) (catalog.TimelineChoice, error) {
	switch text {
	case "", "latest":
		return catalog.TimelineChoice{}, nil
	case "current":
		return catalog.TimelineChoice{Current: true}, nil
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n == 0 {
		return catalog.TimelineChoice{}, usage("--timeline wants a number, latest or current, not %q", text)
	}
	return catalog.TimelineChoice{ID: wal.TimelineID(n)}, nil
}

// parseXID takes a transaction id as PostgreSQL shows it: 32 bits, or 64 with the epoch (pg_current_xact_id), which recovery ignores.
func parseXID(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || uint32(n) < 3 {
		return 0, usage("--to-xid wants a transaction id of 3 or more, not %q", text)
	}
	return uint32(n), nil
}

// parseTime reads a moment as PostgreSQL prints it, or as RFC 3339. Without a zone it is in local.
func parseTime(text string, local *time.Location) (time.Time, error) {
	text = strings.TrimSpace(text)
	for _, zone := range []string{"Z07:00", "Z0700", "Z07", " Z07:00", " MST", ""} {
		for _, layout := range []string{"2006-01-02 15:04:05", "2006-01-02T15:04:05", "2006-01-02 15:04"} {
			if t, err := time.ParseInLocation(layout+zone, text, local); err == nil && knownZone(t, zone, local) {
				return t, nil
			}
		}
	}
	return time.Time{}, usage("--to-time %q is not a time such as \"2026-11-24 15:45:00+00\"", text)
}

// knownZone refuses abbreviations that Go only pretends to know: it gives an unknown one the offset zero.
func knownZone(t time.Time, layout string, local *time.Location) bool {
	if layout != " MST" {
		return true
	}
	name, offset := t.Zone()
	return name == "UTC" || name == "GMT" || offset != 0 || t.Location() == local
}
