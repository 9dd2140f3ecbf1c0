package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"pgstow/backup/pgconf"
	"pgstow/catalog"
	"pgstow/wal"
)

// Action is what the server does at the target (recovery_target_action).
type Action string

// The actions.
const (
	ActionPause    Action = "pause" // PostgreSQL's default
	ActionPromote  Action = "promote"
	ActionShutdown Action = "shutdown"
)

// setting is one line to be written.
type setting struct{ name, value string }

// recovery is what postgresql.auto.conf and the signal file must say.
type recovery struct {
	target     catalog.Target
	action     Action
	timeline   wal.TimelineID
	command    string // restore_command
	standby    bool
	connInfo   string // primary_conninfo, of a standby
	slot       string // primary_slot_name, of a standby
	archiveOff bool
	inPlace    bool // there are tablespaces in place
	hollow     bool // databases are left out
}

const (
	autoConf    = "postgresql.auto.conf"
	mainConf    = "postgresql.conf"
	commentMark = "pgstow restore:"
)

// inPlaceSetting must be on when recovery reaches consistency, or it takes tablespaces in place for leftovers and panics
// (CheckTablespaceDirectory in backend/access/transam/xlogrecovery.c).
const inPlaceSetting = "allow_in_place_tablespaces"

// invalidPagesSetting lets recovery go on where WAL changes a page that is empty or missing (XLogCheckInvalidPages in
// backend/access/transam/xlogutils.c).
const invalidPagesSetting = "ignore_invalid_pages"

// targetNames are the settings of which at most one may be set. Even resetting one raises an error in the server while
// another is set (guc assign_recovery_target_*), so the order of lines matters.
var targetNames = map[catalog.TargetKind]string{
	catalog.TargetImmediate: "recovery_target",
	catalog.TargetTime:      "recovery_target_time",
	catalog.TargetLSN:       "recovery_target_lsn",
	catalog.TargetXID:       "recovery_target_xid",
	catalog.TargetName:      "recovery_target_name",
}

// targetOrder gives the lines of resets a fixed order.
var targetOrder = []catalog.TargetKind{catalog.TargetImmediate, catalog.TargetTime, catalog.TargetLSN, catalog.TargetXID, catalog.TargetName}

// isRecoverySetting reports whether a line of the backup's postgresql.auto.conf belongs to an earlier recovery
// (RULES-physical E1).
func isRecoverySetting(name string) bool {
	switch name {
	case "primary_conninfo", "primary_slot_name", "restore_command", "archive_cleanup_command", "recovery_end_command", "recovery_min_apply_delay":
		return true
	}
	return name == "recovery_target" || strings.HasPrefix(name, "recovery_target_")
}

// resets are the settings that must not keep a value that another configuration file gives them, with what turns them off.
var resets = []setting{
	{"archive_cleanup_command", ""}, // would delete from the archive of the original
	{"recovery_end_command", ""},
	{"recovery_min_apply_delay", "0"},
	{"primary_conninfo", ""},
	{"primary_slot_name", ""},
	{"restore_command", ""},
}

// lines are what is to be appended to postgresql.auto.conf, in this order. others are the settings of all other
// configuration files; complete is false if the main file could not be seen (it lies outside of the data directory), so
// that anything may be set there.
func (r recovery) lines(others []pgconf.Found, complete bool) []setting {
	elsewhere := make(map[string]string)
	for _, s := range others {
		elsewhere[s.Name] = s.Value
	}
	var out []setting
	ours := targetNames[r.target.Kind] // "" for latest
	if r.standby {
		ours = ""
	}
	// First those that are set elsewhere, then, to be sure, the rest; our own target is last of all.
	for _, seen := range []bool{true, false} {
		for _, kind := range targetOrder {
			name := targetNames[kind]
			set := elsewhere[name] != ""
			if name != ours && set == seen && (set || !complete) {
				out = append(out, setting{name, ""})
			}
		}
	}
	if ours != "" {
		out = append(out, setting{ours, targetValue(r.target)})
		if r.target.Kind != catalog.TargetImmediate {
			out = append(out, setting{"recovery_target_inclusive", onOff(!r.target.Exclusive)})
		}
		action := r.action
		if action == "" {
			action = ActionPause
		}
		out = append(out, setting{"recovery_target_action", string(action)})
	}
	timeline := strconv.FormatUint(uint64(r.timeline), 10)
	if r.standby {
		timeline = "latest"
	}
	out = append(out, setting{"recovery_target_timeline", timeline})
	given := map[string]string{"restore_command": r.command}
	if r.hollow {
		// WAL of databases that are left out meets empty pages. Nothing else may meet one unnoticed, so the setting goes when
		// recovery ends: the server runs the command in the data directory.
		given["recovery_end_command"] = "sh " + endScriptName
		out = append(out, setting{invalidPagesSetting, "on"})
	}
	if r.standby {
		given["primary_conninfo"], given["primary_slot_name"] = r.connInfo, r.slot
	}
	for _, s := range resets {
		switch value := given[s.name]; {
		case value != "":
			out = append(out, setting{s.name, value})
		case elsewhere[s.name] != "" && elsewhere[s.name] != s.value && !(r.standby && s.name == "recovery_min_apply_delay"):
			out = append(out, s)
		}
	}
	if r.archiveOff {
		out = append(out, setting{"archive_mode", "off"})
	}
	if r.inPlace && elsewhere[inPlaceSetting] != "on" {
		out = append(out, setting{inPlaceSetting, "on"})
	}
	return out
}

func onOff(v bool) string {
	if v {
		return "on"
	}
	return "off"
}

// editAutoConf returns the new postgresql.auto.conf: the backup's, without old recovery settings, with ours at its end.
func (r recovery) editAutoConf(old []byte, others []pgconf.Found, complete bool, note string) ([]byte, error) {
	f := pgconf.Parse(old)
	lines := r.lines(others, complete)
	written := make(map[string]bool, len(lines))
	for _, s := range lines {
		written[s.name] = true
	}
	f.Remove(func(name string) bool { return isRecoverySetting(name) || written[name] })
	f.RemoveComments(commentMark)
	if len(old) == 0 {
		f.Comment("Do not edit this file manually!")
		f.Comment("It will be overwritten by the ALTER SYSTEM command.")
	}
	f.Comment(commentMark + " " + note)
	for _, s := range lines {
		if err := f.Append(s.name, s.value); err != nil {
			return nil, err
		}
	}
	return f.Bytes(), nil
}

// signal is the file that makes the server recover: recovery.signal to a target and on to a new timeline,
// standby.signal to follow for ever.
func (r recovery) signal() string {
	if r.standby {
		return "standby.signal"
	}
	return "recovery.signal"
}

// otherSettings reads the configuration files of the restored directory but postgresql.auto.conf. complete is false if
// not all of it could be read.
func otherSettings(dir string) (settings []pgconf.Found, complete bool, problems []error) {
	path := filepath.Join(dir, mainConf)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	settings, problems = pgconf.ReadTree(path)
	return settings, len(problems) == 0, problems
}

// strayPaths warns of settings by which a server started here would use files of the original.
func strayPaths(dir string, settings []pgconf.Found) []string {
	var warnings []string
	for _, s := range settings {
		switch s.Name {
		case "data_directory":
			if s.Value != "" && filepath.Clean(s.Value) != filepath.Clean(dir) {
				warnings = append(warnings, fmt.Sprintf("%s line %d sets data_directory = %s: a server started on %s would use that directory instead; remove the line or start with -c data_directory=%s",
					s.File, s.Line, s.Value, dir, dir))
			}
		case "hba_file", "ident_file", "external_pid_file":
			if s.Value != "" && !inside(filepath.Join(dir, s.Value), dir) || filepath.IsAbs(s.Value) && !inside(filepath.Clean(s.Value), dir) {
				warnings = append(warnings, fmt.Sprintf("%s line %d sets %s = %s, outside of %s", s.File, s.Line, s.Name, s.Value, dir))
			}
		}
	}
	return warnings
}

// targetValue is the target as the server reads it.
func targetValue(t catalog.Target) string {
	switch t.Kind {
	case catalog.TargetImmediate:
		return "immediate"
	case catalog.TargetTime:
		return formatTime(t.Time)
	case catalog.TargetLSN:
		return t.LSN.String()
	case catalog.TargetXID:
		return strconv.FormatUint(uint64(t.XID), 10)
	default:
		return t.Name
	}
}

// outsideSettings are those that a configuration file from outside of the data directory must not bring into it.
func outsideSettings(name string) bool {
	switch name {
	case "data_directory", "config_file", "hba_file", "ident_file", "external_pid_file":
		return true
	}
	return false
}

// formatTime is a recovery_target_time: with its offset, so that the server's time zone does not matter.
func formatTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.999999") + "+00" }
