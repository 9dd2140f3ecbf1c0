package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pgstow/cmd/internal/config"
)

// A Go program whose runtime cannot start (too little memory, no thread) exits with 2 before its main can do anything about it, and
// PostgreSQL takes every code up to 125 for the end of the archive.
func TestTheRestoreCommandGivesNoCodeOfTheRuntime(t *testing.T) {
	program := filepath.Join(t.TempDir(), "pgstow's program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\ntest \"$#\" = 3 && test \"$2 $3\" = \"a b/c\" || exit 99\nexit $CODE\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	conf := &config.Config{WALProgram: program}
	line, err := walCommandLine(conf, "fetch", "%f", "%p")
	if err != nil {
		t.Fatal(err)
	}
	line = strings.NewReplacer("%f", "a", "%p", "b/c", "%%", "%").Replace(line)
	for code, want := range map[int]int{0: 0, 1: 1, 2: 126, 126: 126, 134: 134, 143: 143} {
		cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", line)
		cmd.Env = []string{fmt.Sprintf("CODE=%d", code)}
		err := cmd.Run()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if got := cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("the program exits with %d: the command with %d, want %d", code, got, want)
		}
	}
	push, err := walCommandLine(conf, "push", "%p")
	if err != nil || !strings.HasSuffix(push, " push %p") {
		t.Errorf("%q, %v", push, err)
	}
}

// The scanner of postgresql.conf takes a backslash in a string for an escape (GUC_scanstr in src/backend/utils/misc/guc-file.l), and the
// shell's way to write a quote has one.
func TestConfQuote(t *testing.T) {
	conf := &config.Config{WALProgram: `/it's a\n odd/pgstow-wal`}
	line, err := walCommandLine(conf, "push", "%p")
	if err != nil {
		t.Fatal(err)
	}
	quoted := confQuote(line)
	var got strings.Builder
	for text := quoted[1 : len(quoted)-1]; text != ""; {
		switch {
		case strings.HasPrefix(text, `''`), strings.HasPrefix(text, `\\`):
			got.WriteByte(text[0])
			text = text[2:]
		case text[0] == '\'', text[0] == '\\':
			t.Fatalf("%s: %q stands alone", quoted, text[0])
		default:
			got.WriteByte(text[0])
			text = text[1:]
		}
	}
	if got.String() != line {
		t.Errorf("got %q, want %q", got.String(), line)
	}
}
