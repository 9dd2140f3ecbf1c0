// Package pgconf reads and edits PostgreSQL's configuration files (postgresql.conf, postgresql.auto.conf and what
// they include) the way the server's own scanner sees them (src/backend/utils/misc/guc-file.l), byte for byte
// keeping every line that is not edited: comments, order, line ends and lines the server itself would refuse.
package pgconf

import (
	"bytes"
	"fmt"
	"strings"
)

// Setting is one assignment or include directive of a file.
type Setting struct {
	Name  string // lower case: the server compares names without regard to ASCII case
	Value string // without quotes and escapes
	Line  int    // first line is 1
}

// SyntaxError is a line that the server refuses; with one of them in a file it does not start.
type SyntaxError struct {
	Line int
	Near string // the token the scanner stopped at; empty at the end of a line
}

func (e *SyntaxError) Error() string {
	if e.Near == "" {
		return fmt.Sprintf("line %d: syntax error near the end of the line", e.Line)
	}
	return fmt.Sprintf("line %d: syntax error near %q", e.Line, e.Near)
}

// line is one line of the file with its end; setting is nil for blank lines, comments and errors.
type line struct {
	text    []byte
	setting *Setting
}

// File is a configuration file in memory. The zero value is an empty file.
type File struct {
	lines  []line
	errors []*SyntaxError
}

// Parse splits data into lines. It never fails: lines that the server would refuse are kept and reported by Errors.
func Parse(data []byte) *File {
	f := &File{}
	for n := 1; len(data) > 0; n++ {
		// No token spans a line end, so lines can be taken apart first.
		end := bytes.IndexByte(data, '\n') + 1
		if end == 0 {
			end = len(data)
		}
		text := data[:end]
		data = data[end:]
		setting, err := parseLine(text, n)
		if err != nil {
			f.errors = append(f.errors, err)
		}
		f.lines = append(f.lines, line{text: text, setting: setting})
	}
	return f
}

// parseLine follows ParseConfigFp of guc-file.l: name, optional "=", value, end of line.
func parseLine(text []byte, n int) (*Setting, *SyntaxError) {
	fail := func(t token) (*Setting, *SyntaxError) {
		if t.kind == tokenEOL || t.kind == tokenEOF {
			return nil, &SyntaxError{Line: n}
		}
		return nil, &SyntaxError{Line: n, Near: string(text[t.start:t.end])}
	}
	name := next(text, 0)
	switch name.kind {
	case tokenEOL, tokenEOF:
		return nil, nil
	case tokenID, tokenQualifiedID:
	default:
		return fail(name)
	}
	value := next(text, name.end)
	if value.kind == tokenEquals {
		value = next(text, value.end)
	}
	s := &Setting{Name: foldName(string(text[name.start:name.end])), Line: n}
	raw := text[value.start:value.end]
	switch value.kind {
	case tokenString:
		s.Value = unquote(raw)
	case tokenID, tokenNumber, tokenUnquoted:
		s.Value = string(raw)
	default:
		return fail(value)
	}
	if end := next(text, value.end); end.kind != tokenEOL && end.kind != tokenEOF {
		return fail(end)
	}
	return s, nil
}

// foldName lowers ASCII letters only, as guc_name_compare does.
func foldName(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// Errors returns the lines that the server would refuse.
func (f *File) Errors() []*SyntaxError { return f.errors }

// Settings returns all assignments and include directives in file order, duplicates included: the last one of a name counts.
func (f *File) Settings() []Setting {
	var all []Setting
	for _, l := range f.lines {
		if l.setting != nil {
			all = append(all, *l.setting)
		}
	}
	return all
}

// Lookup returns the value that counts for name in this file alone.
func (f *File) Lookup(name string) (value string, found bool) {
	name = foldName(name)
	for _, l := range f.lines {
		if l.setting != nil && l.setting.Name == name {
			value, found = l.setting.Value, true
		}
	}
	return value, found
}

// Remove drops every assignment whose (lower case) name matches and returns them in file order.
func (f *File) Remove(match func(name string) bool) []Setting {
	var removed []Setting
	kept := f.lines[:0]
	for _, l := range f.lines {
		if l.setting != nil && match(l.setting.Name) {
			removed = append(removed, *l.setting)
			continue
		}
		kept = append(kept, l)
	}
	f.lines = kept
	return removed
}

// Replace puts other lines into the place of those for which edit says so: one for each setting that it returns, or none.
func (f *File) Replace(edit func(Setting) (instead []Setting, ok bool)) error {
	var out File
	for _, l := range f.lines {
		if l.setting != nil {
			if instead, ok := edit(*l.setting); ok {
				for _, s := range instead {
					if err := out.Append(s.Name, s.Value); err != nil {
						return err
					}
				}
				continue
			}
		}
		out.lines = append(out.lines, l)
	}
	f.lines = out.lines
	return nil
}

// Append adds `name = 'value'` as the last line. It fails on a value that no configuration file can hold.
func (f *File) Append(name, value string) error {
	if t := next([]byte(name), 0); (t.kind != tokenID && t.kind != tokenQualifiedID) || t.start != 0 || t.end != len(name) {
		return fmt.Errorf("%q is not the name of a setting", name)
	}
	quoted, err := Quote(value)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	f.appendLine(name+" = "+quoted, &Setting{Name: foldName(name), Value: value})
	return nil
}

// Comment adds a comment line; line ends in text become blanks.
func (f *File) Comment(text string) {
	f.appendLine("# "+strings.NewReplacer("\n", " ", "\r", " ").Replace(text), nil)
}

func (f *File) appendLine(text string, s *Setting) {
	if n := len(f.lines); n > 0 && !bytes.HasSuffix(f.lines[n-1].text, []byte("\n")) {
		last := f.lines[n-1].text
		f.lines[n-1].text = append(append([]byte(nil), last...), '\n')
	}
	if s != nil {
		s.Line = len(f.lines) + 1
	}
	f.lines = append(f.lines, line{text: []byte(text + "\n"), setting: s})
}

// Bytes returns the file's contents.
func (f *File) Bytes() []byte {
	var b bytes.Buffer
	for _, l := range f.lines {
		b.Write(l.text)
	}
	return b.Bytes()
}

// RemoveComments drops the comment lines whose text begins with prefix: those that Comment wrote earlier.
func (f *File) RemoveComments(prefix string) {
	kept := f.lines[:0]
	for _, l := range f.lines {
		if l.setting == nil && bytes.HasPrefix(l.text, []byte("# "+prefix)) {
			continue
		}
		kept = append(kept, l)
	}
	f.lines = kept
}
