package wal

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// BackupLabel is the contents of a backup_label file (build_backup_content in backend/access/transam/xlogbackup.c).
type BackupLabel struct {
	StartLSN      LSN      // the redo point of the checkpoint the backup starts with
	StartSegment  FileName // holds StartLSN, on StartTimeline
	CheckpointLSN LSN
	Method        string    // "streamed"
	From          string    // "primary" or "standby"
	StartTimeText string    // as written, in the server's log_timezone
	StartTime     time.Time // zero if the zone in StartTimeText is not one that can be told for certain (UTC, GMT, +hh)
	Label         string
	StartTimeline TimelineID

	IncrementalFromLSN      LSN // start of the reference of an incremental backup of PostgreSQL 17 or newer; 0: none
	IncrementalFromTimeline TimelineID
}

// BackupFile is the contents of a backup history file, which a primary archives at the end of each backup.
type BackupFile struct {
	BackupLabel
	StopLSN      LSN
	StopSegment  FileName // the one that PostgreSQL writes: of the byte at StopLSN, which is the one after the backup's last
	StopTimeText string
	StopTime     time.Time // see StartTime
	StopTimeline TimelineID
}

// ParseBackupLabel reads a backup_label file.
func ParseBackupLabel(b []byte) (BackupLabel, error) {
	f, err := parseBackup(b, false)
	if err != nil {
		return BackupLabel{}, fmt.Errorf("backup_label: %w", err)
	}
	return f.BackupLabel, nil
}

// ParseBackupFile reads a backup history file.
func ParseBackupFile(b []byte) (BackupFile, error) {
	f, err := parseBackup(b, true)
	if err != nil {
		return BackupFile{}, fmt.Errorf("backup history file: %w", err)
	}
	return f, nil
}

// parseBackup takes the lines before the label from the top and those after it from the end: a label may contain line
// breaks, and must not pass for other lines.
func parseBackup(b []byte, history bool) (f BackupFile, err error) {
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	p := backupParser{lines: lines}
	f.StartLSN, f.StartSegment = p.location("START WAL LOCATION: ")
	if history {
		f.StopLSN, f.StopSegment = p.location("STOP WAL LOCATION: ")
	}
	f.CheckpointLSN = p.lsn(p.first("CHECKPOINT LOCATION: "))
	f.Method = p.first("BACKUP METHOD: ")
	f.From = p.first("BACKUP FROM: ")
	f.StartTimeText = p.first("START TIME: ")
	if p.hasLast("INCREMENTAL FROM TLI: ") { // last of all in both
		f.IncrementalFromTimeline = p.timeline(p.last("INCREMENTAL FROM TLI: "))
		f.IncrementalFromLSN = p.lsn(p.last("INCREMENTAL FROM LSN: "))
	}
	if history {
		f.StopTimeline = p.timeline(p.last("STOP TIMELINE: "))
		f.StopTimeText = p.last("STOP TIME: ")
	}
	f.StartTimeline = p.timeline(p.last("START TIMELINE: "))
	if p.err == nil {
		label, ok := strings.CutPrefix(strings.Join(p.lines, "\n"), "LABEL: ")
		if !ok {
			p.err = fmt.Errorf("no line %q", "LABEL: ")
		}
		f.Label = label
	}
	f.StartTime, f.StopTime = parseLogTime(f.StartTimeText), parseLogTime(f.StopTimeText)
	return f, p.err
}

// backupParser takes lines off both ends. After the first error it gives zero values.
type backupParser struct {
	lines []string
	err   error
}

func (p *backupParser) first(prefix string) string {
	if p.err != nil {
		return ""
	}
	if len(p.lines) > 0 {
		if v, ok := strings.CutPrefix(p.lines[0], prefix); ok {
			p.lines = p.lines[1:]
			return v
		}
	}
	p.err = fmt.Errorf("no line %q where it belongs", prefix)
	return ""
}

func (p *backupParser) hasLast(prefix string) bool {
	return p.err == nil && len(p.lines) > 0 && strings.HasPrefix(p.lines[len(p.lines)-1], prefix)
}

func (p *backupParser) last(prefix string) string {
	if p.err != nil {
		return ""
	}
	if !p.hasLast(prefix) {
		p.err = fmt.Errorf("no line %q where it belongs", prefix)
		return ""
	}
	v := p.lines[len(p.lines)-1][len(prefix):]
	p.lines = p.lines[:len(p.lines)-1]
	return v
}

func (p *backupParser) lsn(s string) LSN {
	if p.err != nil {
		return 0
	}
	var l LSN
	l, p.err = ParseLSN(s)
	return l
}

func (p *backupParser) timeline(s string) TimelineID {
	if p.err != nil {
		return 0
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 0 {
		p.err = fmt.Errorf("%q is not a timeline", s)
	}
	return TimelineID(n)
}

// location reads "0/2000028 (file 000000010000000000000002)".
func (p *backupParser) location(prefix string) (l LSN, f FileName) {
	s := p.first(prefix)
	if p.err != nil {
		return 0, f
	}
	at, file, ok := strings.Cut(s, " (file ")
	file, ok2 := strings.CutSuffix(file, ")")
	if !ok || !ok2 {
		p.err = fmt.Errorf("%s%q: want an LSN and a file", prefix, s)
		return 0, f
	}
	if l = p.lsn(at); p.err != nil {
		return 0, f
	}
	if f, p.err = ParseFileName(file); p.err == nil && f.Kind != Segment {
		p.err = fmt.Errorf("%s%q: the file is not a segment", prefix, s)
	}
	return l, f
}

// parseLogTime reads "2026-11-24 15:38:00 UTC". Zone abbreviations other than UTC and GMT mean different things in
// different places, so they give the zero time.
func parseLogTime(s string) time.Time {
	const layout = "2006-01-02 15:04:05 "
	for _, zone := range []string{"UTC", "GMT", "-07", "-0700", "-07:00"} {
		if t, err := time.Parse(layout+zone, s); err == nil {
			return t.UTC()
		}
	}
	return time.Time{}
}
