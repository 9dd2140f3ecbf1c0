package main

import (
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// newTable makes a plain table that is written to the result stream by its Render method.
func (e *environment) newTable(header ...any) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(e.stdout)
	style := table.StyleLight
	style.Options = table.OptionsNoBordersAndSeparators
	style.Format.Header = text.FormatDefault
	t.SetStyle(style)
	t.AppendHeader(header)
	return t
}

func bytesText(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// timeText shows a moment as PostgreSQL's log does, in the local zone; the zero time is a dash.
func timeText(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05 MST")
}
