// Package law_test asserts by machine what the packages of this module have agreed on: who imports whom, which dependency is used where, and what a
// library must not do. A package or a dependency that is not named here fails the test: it is to be added with thought.
package law_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "pgstow"

// layers are the packages of this module that a package may import, itself and what lies below its own folder apart. The longest matching prefix
// rules, so that "storage" is not the rule of "storage/s3".
var layers = map[string][]string{
	"cmd/pgstow":           {"*"},
	"cmd/internal":         {"*"},
	"cmd/internal/hotpath": {"wal/spool", "wal"},
	"cmd/internal/detach":  {},
	"cmd/pgstow-wal":       {"cmd/internal/hotpath", "cmd/internal/detach", "wal/spool", "wal"},

	"backup": {"catalog", "wal/archive", "wal/walsender", "wal/pgcontrol", "wal/page", "wal", "storage/object", "storage"},

	"wal/archive":   {"catalog", "wal/spool", "wal/pgcontrol", "wal", "storage/object", "storage"},
	"wal/walsender": {"catalog", "wal"},
	"wal/receive":   {"catalog", "wal/archive", "wal/walsender", "wal/spool", "wal/pgcontrol", "wal", "storage/object", "storage"},

	"catalog": {"wal/pgcontrol", "wal", "storage/object", "storage/probe", "storage"},

	"storage":        {},
	"storage/object": {},
	"storage/file":   {"storage"}, "storage/s3": {"storage"},
	"storage/retry": {"storage"}, "storage/limit": {"storage"}, "storage/fault": {"storage"}, "storage/probe": {"storage"},
	"storage/storetest": {"storage"},

	"wal": {}, "wal/spool": {"wal"}, "wal/pgcontrol": {"wal"}, "wal/page": {"wal"},

	"test": {"*"},
}

// isolated packages may not import what lies below them or beside them without being told so: for these "itself and below" does not hold.
var isolated = []string{"storage", "wal", "catalog"}

// standardOnly packages use the standard library and our own packages only: the server calls them for every segment, or anybody may use them.
var standardOnly = []string{"cmd/pgstow-wal", "cmd/internal/hotpath", "cmd/internal/detach", "wal", "wal/spool", "wal/pgcontrol", "wal/page", "storage"}

// dependencies are the modules, or parts of them, that may be imported, and by whom. "test" may import all of them.
var dependencies = map[string][]string{
	"github.com/aws/aws-sdk-go-v2":     {"storage/s3"},
	"github.com/aws/smithy-go":         {"storage/s3"},
	"github.com/klauspost/compress":    {"storage/object"},
	"filippo.io/age":                   {"storage/object", "catalog", "backup", "wal/archive", "wal/receive", "cmd/pgstow", "cmd/internal"},
	"github.com/zeebo/xxh3":            {"backup"},
	"github.com/jackc/pgx/v5":          {"backup", "wal/receive", "wal/walsender", "cmd/pgstow"},
	"github.com/jackc/pglogrepl":       {"backup", "wal/receive", "wal/walsender"},
	"github.com/coreos/go-systemd/v22": {"cmd/pgstow"},
	"github.com/cenkalti/backoff/v5":   {"storage/retry", "wal/receive"},
	"golang.org/x/time":                {"storage/limit", "backup"},
	"golang.org/x/sys":                 {"backup", "catalog", "wal/archive", "wal/receive", "storage/file", "cmd/pgstow"},
	"golang.org/x/sync":                {"backup", "catalog", "wal/archive", "wal/receive", "storage/object", "storage/limit", "cmd/pgstow"},
	"golang.org/x/term":                {"cmd/pgstow"},
	"github.com/urfave/cli/v2":         {"cmd/pgstow", "cmd/internal"},
	"github.com/BurntSushi/toml":       {"cmd/pgstow", "cmd/internal"},
	"github.com/vbauerster/mpb/v8":     {"cmd/pgstow"},
	"github.com/jedib0t/go-pretty/v6":  {"cmd/pgstow"},
	"github.com/dustin/go-humanize":    {"cmd/pgstow", "cmd/internal"},
	"github.com/rogpeppe/go-internal":  {}, // tests only
}

type goPackage struct {
	ImportPath string
	Dir        string
	Name       string
	Imports    []string
	Deps       []string
	Standard   bool
	GoFiles    []string
}

// goList runs go list over the whole module. Packages that do not compile are listed all the same.
func goList(t *testing.T, args ...string) []goPackage {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-e", "-json=ImportPath,Dir,Name,Imports,Deps,Standard,GoFiles"}, args...)...)
	cmd.Dir = root(t)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var pkgs []goPackage
	dec := json.NewDecoder(bytes.NewReader(out))
	for {
		var p goPackage
		switch err := dec.Decode(&p); {
		case errors.Is(err, io.EOF):
			return pkgs
		case err != nil:
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "go.mod")); err != nil || !strings.HasPrefix(string(b), "module "+module+"\n") {
		t.Fatalf("%s is not the root of module %s: %v", dir, module, err)
	}
	return dir
}

// ours cuts the module's name off an import path.
func ours(importPath string) (pkg string, ok bool) { return strings.CutPrefix(importPath, module+"/") }

// within tells whether pkg is folder or lies below it.
func within(pkg, folder string) bool { return pkg == folder || strings.HasPrefix(pkg, folder+"/") }

// rule is the longest prefix of pkg in layers.
func rule(pkg string) (string, bool) {
	for p := pkg; p != "."; p = path.Dir(p) {
		if _, ok := layers[p]; ok {
			return p, true
		}
	}
	return "", false
}

// checkImport is "" if pkg may import the path, else why not. Paths of the standard library have no dot in their first element.
func checkImport(pkg, importPath string) string {
	r, ok := rule(pkg)
	if !ok {
		return fmt.Sprintf("%s is not in the import law: add it to layers", pkg)
	}
	if target, ok := ours(importPath); ok {
		return checkOwn(pkg, r, target)
	}
	if first, _, _ := strings.Cut(importPath, "/"); !strings.Contains(first, ".") {
		return ""
	}
	if slices.Contains(standardOnly, pkg) {
		return fmt.Sprintf("%s imports %s: it may use the standard library only", pkg, importPath)
	}
	for dep, users := range dependencies {
		if !within(importPath, dep) {
			continue
		}
		if within(pkg, "test") || slices.ContainsFunc(users, func(u string) bool { return within(pkg, u) }) {
			return ""
		}
		return fmt.Sprintf("%s imports %s: only %v may", pkg, importPath, users)
	}
	return fmt.Sprintf("%s imports %s, which is not in the import law: add it to dependencies", pkg, importPath)
}

func checkOwn(pkg, r, target string) string {
	allowed := layers[r]
	if slices.Contains(allowed, "*") || slices.Contains(allowed, target) {
		return ""
	}
	tr, _ := rule(target)
	if tr == r && !slices.Contains(isolated, r) {
		return "" // within one part
	}
	return fmt.Sprintf("%s imports %s: it may import %v", pkg, target, allowed)
}

func TestImports(t *testing.T) {
	pkgs := goList(t, "./...")
	if len(pkgs) < 5 {
		t.Fatalf("go list found %d packages", len(pkgs))
	}
	for _, p := range pkgs {
		pkg, ok := ours(p.ImportPath)
		if !ok {
			continue
		}
		for _, i := range p.Imports {
			if why := checkImport(pkg, i); why != "" {
				t.Error(why)
			}
		}
	}
}

// TestEntrypoint looks at all that is linked into pgstow-wal. What starts with the process costs every archived segment: a process with the SDK needs 40 to
// 50 ms before main, a bare one 7 to 12.
func TestEntrypoint(t *testing.T) {
	heavy := []string{"net/http", "crypto/tls", "net", "text/template", "html/template", "encoding/xml", "go/parser"}
	for _, p := range goList(t, "./cmd/pgstow-wal") {
		for _, d := range p.Deps {
			if pkg, ok := ours(d); ok {
				if !slices.Contains(layers["cmd/pgstow-wal"], pkg) {
					t.Errorf("pgstow-wal links %s", pkg)
				}
				continue
			}
			first, _, _ := strings.Cut(d, "/")
			if strings.Contains(first, ".") || slices.Contains(heavy, d) {
				t.Errorf("pgstow-wal links %s", d)
			}
		}
	}
}

// TestDependenciesAreExplained: each module that we import has its line in docs/dependencies.md.
func TestDependenciesAreExplained(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join(root(t), "docs", "dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	for dep := range dependencies {
		if !bytes.Contains(doc, []byte(dep)) {
			t.Errorf("docs/dependencies.md does not name %s", dep)
		}
	}
}

// TestLawItself shows that the checks find what they are to find.
func TestLawItself(t *testing.T) {
	for _, c := range []struct {
		pkg, imports string
		ok           bool
	}{
		{"cmd/pgstow", "pgstow/backup", true},
		{"cmd/pgstow", "pgstow/storage/s3", true},
		{"backup", "pgstow/backup/pagemap", true},
		{"backup/restore", "pgstow/catalog", true},
		{"backup", "pgstow/storage/s3", false},
		{"backup", "pgstow/cmd/pgstow", false},
		{"catalog", "pgstow/backup", false},
		{"catalog", "pgstow/wal/archive", false},
		{"catalog", "pgstow/wal", true},
		{"wal", "pgstow/wal/archive", false},
		{"wal", "pgstow/wal/spool", false},
		{"wal/archive", "pgstow/wal/spool", true},
		{"wal/archive", "pgstow/backup", false},
		{"storage", "pgstow/storage/object", false},
		{"storage/retry", "pgstow/storage", true},
		{"storage/retry", "pgstow/storage/s3", false},
		{"storage/object", "pgstow/storage", false},
		{"cmd/pgstow-wal", "pgstow/wal/spool", true},
		{"cmd/pgstow-wal", "pgstow/catalog", false},
		{"cmd/pgstow-wal", "golang.org/x/sys/unix", false},
		{"storage/s3", "github.com/aws/aws-sdk-go-v2/service/s3", true},
		{"catalog", "github.com/aws/aws-sdk-go-v2/service/s3", false},
		{"backup", "github.com/klauspost/compress/zstd", false},
		{"storage/object", "github.com/klauspost/compress/zstd", true},
		{"backup", "filippo.io/age", true},
		{"storage/file", "filippo.io/age", false},
		{"catalog", "example.com/new", false},
		{"new/package", "os", false},
		{"catalog", "encoding/json", true},
	} {
		if why := checkImport(c.pkg, c.imports); (why == "") != c.ok {
			t.Errorf("%s imports %s: %q", c.pkg, c.imports, why)
		}
	}
}
