package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"pgstow/cmd/internal/config"
	"pgstow/storage/object"
)

func program() string { return "pgstow " + version }

// walCommandLine gives the shell command that a server runs for its WAL: the small program by its absolute path, with the flags that this
// call's settings need. What came from the environment must be in the server's environment too, unless it can be said by a flag.
func walCommandLine(conf *config.Config, verb string, operands ...string) (string, error) {
	path := conf.WALProgram
	if path == "" {
		own, err := os.Executable()
		if err != nil {
			return "", fmt.Errorf("find this program: %w", err)
		}
		path = filepath.Join(filepath.Dir(own), "pgstow-wal")
	}
	words := []string{shellQuote(path), verb}
	if conf.File != "" && conf.File != config.DefaultFile {
		file, err := filepath.Abs(conf.File)
		if err != nil {
			return "", err
		}
		words = append(words, "--config", shellQuote(file))
	}
	for _, setting := range []struct{ key, value string }{
		{"repo", conf.Repo}, {"cluster", conf.Cluster}, {"spool", conf.Spool}, {"encryption", conf.Encryption},
		{"recipients", strings.Join(fingerprints(conf.Recipients), ",")}, {"identity_file", conf.IdentityFile},
	} {
		source := conf.Source(setting.key)
		if setting.value == "" || source == "default" || source == conf.File || setting.key == "identity_file" && verb == "push" {
			continue
		}
		value := setting.value
		if setting.key == "identity_file" || setting.key == "spool" {
			absolute, err := filepath.Abs(value)
			if err != nil {
				return "", err
			}
			value = absolute
		}
		words = append(words, "--"+strings.ReplaceAll(setting.key, "_", "-"), shellQuote(value))
	}
	words = append(words, operands...)
	if verb == "fetch" {
		// Until its main has begun, a Go program that is told to quit, or that gets too little memory to start, exits with 2, which recovery
		// would take for the end of the archive.
		words = append(words, "|| exit $(($? == 2 ? 126 : $?))")
	}
	return strings.Join(words, " "), nil
}

// fingerprints names recipients shortly: a post-quantum one has some 1950 characters, too many for a command line that people read.
func fingerprints(recipients []string) []string {
	short := make([]string, len(recipients))
	for i, r := range recipients {
		short[i] = r
		if strings.HasPrefix(r, "age1") {
			short[i] = object.Fingerprint(r)
		}
	}
	return short
}

// shellQuote makes a word of text for the shell that PostgreSQL runs its commands with; a % is doubled since PostgreSQL replaces %p and %f.
func shellQuote(text string) string {
	text = strings.ReplaceAll(text, "%", "%%")
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+:=@,%", r)
	}
	if text != "" && strings.TrimFunc(text, plain) == "" {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// confQuote makes a value of postgresql.conf, in which a backslash escapes.
func confQuote(text string) string {
	return "'" + strings.NewReplacer("'", "''", `\`, `\\`).Replace(text) + "'"
}
