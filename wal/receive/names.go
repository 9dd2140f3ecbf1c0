package receive

import "strings"

// waitsFor tells whether a server with this synchronous_standby_names may wait for a standby of that name. It reads more into the setting
// than the server does, never less: "2 (a, b)" has the items 2, a and b (syncrep_gram.y and SyncRepGetStandbyPriority in syncrep.c; names
// are compared without regard to case).
func waitsFor(setting, name string) bool {
	for item := range splitNames(setting) {
		if item == "*" || strings.EqualFold(item, name) {
			return true
		}
	}
	return false
}

// splitNames yields the words of the setting: quoted, or parted by spaces, commas and brackets.
func splitNames(s string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for s != "" {
			switch c := s[0]; {
			case c == '"':
				var word strings.Builder
				rest := s[1:]
				for {
					head, tail, _ := strings.Cut(rest, `"`)
					word.WriteString(head)
					if !strings.HasPrefix(tail, `"`) {
						s = tail
						break
					}
					word.WriteByte('"') // a doubled one
					rest = tail[1:]
				}
				if !yield(word.String()) {
					return
				}
			case strings.IndexByte(" \t\n\r,()", c) >= 0:
				s = s[1:]
			default:
				n := strings.IndexAny(s, " \t\n\r,()\"")
				if n < 0 {
					n = len(s)
				}
				if !yield(s[:n]) {
					return
				}
				s = s[n:]
			}
		}
	}
}
