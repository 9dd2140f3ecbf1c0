package docs_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// command is what --help says of one.
type command struct {
	flags       []string
	subcommands []string
}

var (
	helpCommand = regexp.MustCompile(`(?m)^   ([a-z]+)  `)
	helpFlag    = regexp.MustCompile(`(?m)^   +(--[a-z-]+)`)
)

// commandsOf asks the program for all of its commands; the key is the line, "pgstow wal push".
func commandsOf(t *testing.T) map[string]command {
	t.Helper()
	all := map[string]command{}
	var ask func(words []string)
	ask = func(words []string) {
		help := run(t, nil, append(slices.Clone(words), "--help")...)
		c := command{flags: codes(helpFlag, help)}
		if _, list, ok := strings.Cut(help, "\nCOMMANDS:\n"); ok {
			list, _, _ = strings.Cut(list, "\n\n")
			c.subcommands = codes(helpCommand, list+"\n")
		}
		all[strings.Join(append([]string{"pgstow"}, words...), " ")] = c
		for _, sub := range c.subcommands {
			ask(append(slices.Clone(words), sub))
		}
	}
	ask(nil)
	return all
}

var (
	fence      = regexp.MustCompile("(?ms)^ *```[a-z]*\n(.*?)^ *```$")
	inline     = regexp.MustCompile("`([^`\n]+)`")
	comment    = regexp.MustCompile(`\s#\s.*$`)
	invocation = regexp.MustCompile(`(?:^|[|(;'"=]|&&)\s*(pgstow(?:-wal)? [^|;)]*)`)
	option     = regexp.MustCompile(`(?:^|\s)(--[a-z][a-z-]*)`)
)

// snippets are the lines of code blocks, with continued lines joined, and what stands between backquotes.
func snippets(text string) (lines []string) {
	for _, m := range fence.FindAllStringSubmatch(text, -1) {
		lines = append(lines, strings.Split(strings.ReplaceAll(m[1], "\\\n", " "), "\n")...)
	}
	text = fence.ReplaceAllString(text, "")
	for _, m := range inline.FindAllStringSubmatch(text, -1) {
		lines = append(lines, m[1])
	}
	return lines
}

// TestCommandLines: what the documents tell people to type exists.
func TestCommandLines(t *testing.T) {
	known := commandsOf(t)
	if len(known) < 15 {
		t.Fatalf("only %d commands were found", len(known))
	}
	found := 0
	for _, name := range pages(t) {
		for _, line := range snippets(page(t, name)) {
			for _, m := range invocation.FindAllStringSubmatch(comment.ReplaceAllString(line, ""), -1) {
				found++
				checkLine(t, known, name, m[1])
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d command lines were found", found)
	}
}

func checkLine(t *testing.T, known map[string]command, name, line string) {
	t.Helper()
	words := strings.Fields(strings.TrimRight(line, `'"`))
	if words[0] == "pgstow-wal" {
		words = append([]string{"pgstow", "wal"}, words[1:]...)
	}
	at := "pgstow"
	for _, word := range words[1:] {
		if word == "COMMAND" {
			return
		}
		if next, ok := known[at+" "+strings.Split(word, "|")[0]]; ok && !strings.HasPrefix(word, "-") {
			at += " " + strings.Split(word, "|")[0]
			if len(next.subcommands) == 0 {
				break
			}
			continue
		}
		if len(known[at].subcommands) > 0 && !strings.HasPrefix(word, "-") {
			t.Errorf("%s: %s: %q is not a command of %s", name, line, word, at)
		}
	}
	if at == "pgstow" && !slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(w, "--") }) {
		t.Errorf("%s: %s: no command", name, line)
	}
	for _, m := range option.FindAllStringSubmatch(line, -1) {
		if !slices.Contains(known[at].flags, m[1]) {
			t.Errorf("%s: %s: %s has no %s", name, line, at, m[1])
		}
	}
}

// TestOptions: an option that is named alone is one of some command.
func TestOptions(t *testing.T) {
	var flags []string
	for _, c := range commandsOf(t) {
		flags = append(flags, c.flags...)
	}
	found := 0
	for _, name := range pages(t) {
		for _, line := range snippets(page(t, name)) {
			if !strings.HasPrefix(line, "--") {
				continue
			}
			for _, m := range option.FindAllStringSubmatch(line, -1) {
				found++
				if !slices.Contains(flags, m[1]) {
					t.Errorf("%s: no command has %s", name, m[1])
				}
			}
		}
	}
	if found < 10 {
		t.Errorf("only %d options were found", found)
	}
}
