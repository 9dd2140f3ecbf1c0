package pgconf

import (
	"errors"
	"strings"
)

// ErrValue is a value with a zero byte: the server's strings end there.
var ErrValue = errors.New("a setting's value may not hold a zero byte")

// Quote returns value as a quoted string of a configuration file: quotes are doubled, backslashes and line ends
// escaped (the reverse of DeescapeQuotedString in guc-file.l).
func Quote(value string) (string, error) {
	if strings.IndexByte(value, 0) >= 0 {
		return "", ErrValue
	}
	return "'" + strings.NewReplacer("'", "''", `\`, `\\`, "\n", `\n`, "\r", `\r`).Replace(value) + "'", nil
}

// unquote undoes the quoting of raw, which begins and ends with a quote (DeescapeQuotedString).
func unquote(raw []byte) string {
	raw = raw[1 : len(raw)-1]
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		switch {
		case raw[i] == '\\' && i+1 < len(raw):
			c, used := escape(raw[i+1:])
			i += used
			if c == 0 { // the server's C string ends here
				return string(out)
			}
			out = append(out, c)
		case raw[i] == '\'' && i+1 < len(raw) && raw[i+1] == '\'':
			i++
			out = append(out, '\'')
		default:
			out = append(out, raw[i])
		}
	}
	return string(out)
}

// escape reads what follows a backslash: its byte and how many bytes of s it took.
func escape(s []byte) (c byte, used int) {
	switch s[0] {
	case 'b':
		return '\b', 1
	case 'f':
		return '\f', 1
	case 'n':
		return '\n', 1
	case 'r':
		return '\r', 1
	case 't':
		return '\t', 1
	}
	for used < len(s) && used < 3 && s[used] >= '0' && s[used] <= '7' {
		c = c<<3 | (s[used] - '0')
		used++
	}
	if used > 0 {
		return c, used
	}
	return s[0], 1
}

// ShellQuote returns s as one word of a POSIX shell, for restore_command and archive_command.
func ShellQuote(s string) string {
	if s != "" && strings.IndexFunc(s, func(r rune) bool {
		safe := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./:=@,+", r)
		return !safe
	}) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
