package pgconf

// token kinds, as in PostgreSQL's src/backend/utils/misc/guc-file.l.
type tokenKind int

const (
	tokenEOF tokenKind = iota
	tokenEOL
	tokenID
	tokenQualifiedID
	tokenString
	tokenUnquoted
	tokenNumber // INTEGER or REAL: both are values and nothing else
	tokenEquals
	tokenError
)

// token is a piece data[start:end] of the file.
type token struct {
	kind       tokenKind
	start, end int
}

func isLetter(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c >= 0x80
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isLetterOrDigit(c byte) bool { return isLetter(c) || isDigit(c) }

// next returns the token at or after position i. Blanks and comments are skipped, as the server's scanner does.
func next(data []byte, i int) token {
	for i < len(data) {
		switch c := data[i]; {
		case c == ' ' || c == '\t' || c == '\r':
			i++
		case c == '#':
			for i < len(data) && data[i] != '\n' {
				i++
			}
		case c == '\n':
			return token{tokenEOL, i, i + 1}
		case c == '=':
			return token{tokenEquals, i, i + 1}
		case c == '\'':
			return quoted(data, i)
		case isLetter(c):
			return word(data, i)
		default:
			return number(data, i)
		}
	}
	return token{tokenEOF, len(data), len(data)}
}

// quoted scans STRING: \'([^'\\\n]|\\.|\'\')*\'. The longest match wins, so a doubled quote never ends the string.
func quoted(data []byte, start int) token {
	i := start + 1
	for i < len(data) {
		switch data[i] {
		case '\n':
			return token{tokenError, start, start + 1}
		case '\\':
			if i+1 >= len(data) || data[i+1] == '\n' {
				return token{tokenError, start, start + 1}
			}
			i += 2
		case '\'':
			if i+1 < len(data) && data[i+1] == '\'' {
				i += 2
				continue
			}
			return token{tokenString, start, i + 1}
		default:
			i++
		}
	}
	return token{tokenError, start, start + 1}
}

// word scans ID, QUALIFIED_ID and UNQUOTED_STRING; at equal length the earlier rule of the scanner wins.
func word(data []byte, start int) token {
	id := start
	for id < len(data) && isLetterOrDigit(data[id]) {
		id++
	}
	qualified := 0
	if id+1 < len(data) && data[id] == '.' && isLetter(data[id+1]) {
		qualified = id + 1
		for qualified < len(data) && isLetterOrDigit(data[qualified]) {
			qualified++
		}
	}
	unquoted := start
	for unquoted < len(data) && (isLetterOrDigit(data[unquoted]) || isUnquotedExtra(data[unquoted])) {
		unquoted++
	}
	switch {
	case unquoted > id && unquoted > qualified:
		return token{tokenUnquoted, start, unquoted}
	case qualified > id:
		return token{tokenQualifiedID, start, qualified}
	default:
		return token{tokenID, start, id}
	}
}

func isUnquotedExtra(c byte) bool { return c == '-' || c == '.' || c == '_' || c == ':' || c == '/' }

// number scans INTEGER and REAL; whatever fits neither is one byte of error.
func number(data []byte, start int) token {
	end := max(integerEnd(data, start), realEnd(data, start))
	if end == start {
		return token{tokenError, start, start + 1}
	}
	return token{tokenNumber, start, end}
}

// integerEnd matches {SIGN}?({DIGIT}+|0x{HEXDIGIT}+){UNIT_LETTER}* and returns where it ends, or start.
func integerEnd(data []byte, start int) int {
	i := skipSign(data, start)
	digits := i
	for i < len(data) && isDigit(data[i]) {
		i++
	}
	if i == digits {
		return start
	}
	if i == digits+1 && data[digits] == '0' && i+1 < len(data) && data[i] == 'x' && isHex(data[i+1]) {
		for i++; i < len(data) && isHex(data[i]); i++ {
			continue
		}
	}
	for i < len(data) && (data[i] >= 'a' && data[i] <= 'z' || data[i] >= 'A' && data[i] <= 'Z') {
		i++
	}
	return i
}

// realEnd matches {SIGN}?{DIGIT}*"."{DIGIT}*{EXPONENT}? and returns where it ends, or start.
func realEnd(data []byte, start int) int {
	i := skipSign(data, start)
	for i < len(data) && isDigit(data[i]) {
		i++
	}
	if i >= len(data) || data[i] != '.' {
		return start
	}
	for i++; i < len(data) && isDigit(data[i]); i++ {
		continue
	}
	if i < len(data) && (data[i] == 'e' || data[i] == 'E') {
		j := skipSign(data, i+1)
		k := j
		for k < len(data) && isDigit(data[k]) {
			k++
		}
		if k > j {
			i = k
		}
	}
	return i
}

func skipSign(data []byte, i int) int {
	if i < len(data) && (data[i] == '-' || data[i] == '+') {
		i++
	}
	return i
}

func isHex(c byte) bool {
	return isDigit(c) || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}
