// Package docs_test keeps README.md and docs/ true: the commands, options, settings, exit codes and JSON that they show are those of the
// programs, and what they point to is there.
package docs_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgstow/test/pg"
)

const root = "../.."

// pages are the documents, by their paths from the root.
func pages(t *testing.T) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil || len(list) < 5 {
		t.Fatalf("docs: %v, %v", list, err)
	}
	names := []string{"README.md", "test/README.md"}
	for _, path := range list {
		names = append(names, "docs/"+filepath.Base(path))
	}
	return names
}

func page(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// section is what stands under a heading, up to the next of the same or a higher level.
func section(t *testing.T, text, heading string) string {
	t.Helper()
	level, _, _ := strings.Cut(heading, " ")
	_, rest, ok := strings.Cut("\n"+text, "\n"+heading+"\n")
	if !ok {
		t.Fatalf("there is no %q", heading)
	}
	end := regexp.MustCompile(`(?m)^#{1,` + string('0'+rune(len(level))) + `} `).FindStringIndex(rest)
	if end != nil {
		rest = rest[:end[0]]
	}
	return rest
}

// run gives what a program prints. It runs as the server's user, where a test may have another.
func run(t *testing.T, env []string, args ...string) string {
	t.Helper()
	out, err := try(t, env, args...)
	if err != nil {
		t.Fatalf("pgstow %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func try(t *testing.T, env []string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := pg.Command(ctx, pg.Binary(t, "pgstow"), args...)
	cmd.Env = append(cmd.Env, env...)
	cmd.Dir = os.TempDir()
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out) + stderr.String(), err
	}
	return string(out), nil
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

func TestLinks(t *testing.T) {
	found := 0
	for _, name := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(page(t, name), -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			found++
			path := name
			if target != "" {
				path = filepath.Join(filepath.Dir(name), target)
			}
			if _, err := os.Stat(filepath.Join(root, path)); err != nil {
				t.Errorf("%s points to %s: %v", name, m[1], err)
				continue
			}
			if anchor != "" && !slices.Contains(anchors(page(t, path)), anchor) {
				t.Errorf("%s points to %s: there is no such heading", name, m[1])
			}
		}
	}
	if found < 8 {
		t.Errorf("only %d links were found", found)
	}
}

var heading = regexp.MustCompile(`(?m)^#+ (.*)$`)

// anchors are the names that headings get.
func anchors(text string) (names []string) {
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		clean := regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		names = append(names, strings.ReplaceAll(clean, " ", "-"))
	}
	return names
}

var makeLine = regexp.MustCompile("(?m)(?:^|`|&& )make ((?:[a-z][a-z-]* ?)+)")

func TestMakeTargets(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "make", "-s", "help")
	cmd.Dir = root
	help, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, name := range pages(t) {
		for _, m := range makeLine.FindAllStringSubmatch(page(t, name), -1) {
			for _, target := range strings.Fields(m[1]) {
				found++
				if !regexp.MustCompile(`(?m)^ +` + target + ` `).Match(help) {
					t.Errorf("%s: `make %s`: make help has no %s", name, strings.TrimSpace(m[1]), target)
				}
			}
		}
	}
	if found < 5 {
		t.Errorf("only %d targets were found", found)
	}
}

var (
	exitConstant  = regexp.MustCompile(`(?m)^\texit[A-Z]\w+ += (\d+)$`)
	pushConstant  = regexp.MustCompile(`(?m)^\tpush[A-Z]\w+ += (\d+)$`)
	fetchConstant = regexp.MustCompile(`(?m)^\tfetch[A-Z]\w+ += (\d+)`)
	codeRow       = regexp.MustCompile(`(?m)^\| (\d+) \|`)
	serverRow     = regexp.MustCompile(`(?m)^\| ([a-z]+ \([a-z_` + "`" + `]+\))? ?\| (\d+) \|`)
)

func codes(re *regexp.Regexp, text string) (list []string) {
	for _, m := range re.FindAllStringSubmatch(text, -1) {
		list = append(list, m[len(m)-1])
	}
	return list
}

func TestExitCodes(t *testing.T) {
	text := page(t, "docs/exit-codes.md")
	people, _, _ := strings.Cut(text, "\n## ")
	want := codes(exitConstant, page(t, "cmd/pgstow/exit.go"))
	if got := codes(codeRow, people); !slices.Equal(got, want) || len(want) < 6 {
		t.Errorf("the table for people has %v, the program %v", got, want)
	}
	constants := page(t, "wal/archive/archive.go")
	want = append(codes(pushConstant, constants), codes(fetchConstant, constants)...)
	if got := codes(serverRow, section(t, text, "## What PostgreSQL calls")); !slices.Equal(got, want) || len(want) != 6 {
		t.Errorf("the table of what PostgreSQL calls has %v, the program %v", got, want)
	}
}
