package docs_test

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"pgstow/backup/restore"
	"pgstow/test/pg"
)

var fieldName = regexp.MustCompile("`([a-z][a-z0-9_]*)`")

// notHere are names in docs/json.md that are values, or fields that come only where this test does not go: damage, encryption, tablespaces.
var notHere = map[string][]string{
	"backup list": {"full", "scan", "summaries", "stream", "local", "offline", "reference", "opaque", "show", "notes", "tablespaces", "damaged", "page", "what"},
	"info":        {"hole", "hole_last", "hole_since", "hole_overdue"},
	"wal repair":  {"stored", "existed", "missing", "skipped", "refused", "reason", "timeline", "first", "last", "start_lsn", "end_lsn", "segments"},
	"restore":     {"off", "kept"},
	"check":       {"ok", "warning", "failed", "hint"},
	"init":        {"recipients"},
	"inspect":     {"key_generation", "switched"},
}

// TestJSON compares the fields that docs/json.md names with those that the programs print.
func TestJSON(t *testing.T) {
	w := newWorld(t)
	list := w.json("backup", "list")
	all := map[string]map[string]bool{
		"init":        w.json("init", "--plain", "--pgdata", w.cold),
		"wal list":    w.json("wal", "list"),
		"backup list": list,
		"wal repair":  w.json("wal", "repair", "--from", filepath.Join(w.dir, "saved"), "--dry-run"),
		"info":        w.json("info"),
		"check":       w.json("check", "--no-server"),
		"restore":     w.json("restore", filepath.Join(w.dir, "new"), "--dry-run"),
		"inspect":     w.json("inspect", w.segment),
	}
	maps.Copy(list, w.json("backup", "show", "latest", "--files"))
	maps.Copy(all["restore"], w.json("restore", filepath.Join(w.dir, "new")))
	structFields(reflect.TypeFor[restore.Planned](), all["restore"])
	structFields(reflect.TypeFor[restore.Result](), all["restore"])
	maps.Copy(all["inspect"], w.json("inspect", "repo.json"))
	all["backup delete"] = w.json("backup", "delete", w.backup, "--dry-run", "--force", "--ignore-holds")
	w.compare(all)
}

type world struct {
	t               *testing.T
	dir, cold       string
	env             []string
	segment, backup string // a segment's key, a backup's id
}

// newWorld makes a repository with a cold backup, and with WAL of another server that has a hole.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, cold: pg.Create(t, pg.Options{}).Dir, dir: pg.TempDir(t)}
	w.env = []string{"PGSTOW_REPO=file://" + w.dir + "/repo", "PGSTOW_ENCRYPTION=none", "PGSTOW_SPOOL=" + w.dir + "/spool", "PGSTOW_CLUSTER=main"}
	run(t, w.env, "init", "--plain")
	var created struct{ ID string }
	w.decode(run(t, w.env, "backup", "create", "--offline", "--pgdata", w.cold, "--label", "x", "--json"), &created)
	w.backup = created.ID
	data := filepath.Join(w.dir, "data")
	w.unpack("wal/pgcontrol/testdata/15/control/pg_control.gz", filepath.Join(data, "global", "pg_control"))
	for _, name := range []string{"plain/000000010000000000000009", "huge/00000001000000000000000B"} {
		path := filepath.Join(data, "pg_wal", filepath.Base(name))
		w.unpack("wal/testdata/15/"+name+".gz", path)
		run(t, append(w.env, "PGSTOW_CLUSTER=other"), "wal", "push", path)
	}
	found, err := filepath.Glob(filepath.Join(w.dir, "repo/other/*/wal/*/*/000000010000000000000009"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%v %v", found, err)
	}
	w.unpack("wal/testdata/15/switched/00000001000000000000000A.gz", filepath.Join(w.dir, "saved", "00000001000000000000000A")) // fills the hole
	w.segment = strings.TrimPrefix(found[0], w.dir+"/repo/")
	// Lists need the names alone.
	w.must(os.WriteFile(filepath.Join(filepath.Dir(found[0]), "00000001000000000000000C.0000000000C00000-0000000000C00100"), nil, 0o600))
	return w
}

func (w *world) unpack(from, to string) {
	w.t.Helper()
	in, err := os.Open(filepath.Join(root, from))
	w.must(err)
	defer func() { _ = in.Close() }()
	zipped, err := gzip.NewReader(in)
	w.must(err)
	content, err := io.ReadAll(zipped)
	w.must(err)
	w.must(os.MkdirAll(filepath.Dir(to), 0o755))
	w.must(os.WriteFile(to, content, 0o644))
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) decode(text string, v any) {
	w.t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	w.must(d.Decode(v))
}

// json runs a command with --json and gives the names of all fields in what it prints. The commands about WAL look at the other server.
func (w *world) json(args ...string) map[string]bool {
	w.t.Helper()
	env := w.env
	if args[0] == "wal" {
		env = append(slices.Clone(env), "PGSTOW_CLUSTER=other")
	}
	if args[0] == "info" { // all clusters
		env = slices.DeleteFunc(slices.Clone(env), func(e string) bool { return strings.HasPrefix(e, "PGSTOW_CLUSTER") })
	}
	var value any
	w.decode(run(w.t, env, append(args, "--json")...), &value)
	names := map[string]bool{}
	collect(value, names)
	return names
}

func collect(value any, names map[string]bool) {
	switch v := value.(type) {
	case []any:
		for _, element := range v {
			collect(element, names)
		}
	case map[string]any:
		for name, inner := range v {
			names[name] = true
			if name != "content" { // of an object of the repository: docs/format.md
				collect(inner, names)
			}
		}
	}
}

// structFields adds the names of all fields that a type may print, also of those that are left out when they are empty.
func structFields(t reflect.Type, names map[string]bool) {
	switch t.Kind() {
	case reflect.Slice, reflect.Pointer:
		structFields(t.Elem(), names)
	case reflect.Struct:
		if t.Implements(reflect.TypeFor[json.Marshaler]()) {
			return
		}
		for field := range t.Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if name == "" || name == "-" {
				continue
			}
			names[name] = true
			structFields(field.Type, names)
		}
	}
}

func (w *world) compare(all map[string]map[string]bool) {
	w.t.Helper()
	text := page(w.t, "docs/json.md")
	told := map[string][]string{}
	for name := range all {
		for _, m := range fieldName.FindAllStringSubmatch(section(w.t, text, "## "+name), -1) {
			told[name] = append(told[name], m[1])
		}
	}
	for name, printed := range all {
		known := told[name]
		if name == "info" { // it says that it shows what these two do
			known = append(append(slices.Clone(known), told["wal list"]...), told["backup list"]...)
		}
		for field := range printed {
			if !slices.Contains(known, field) {
				w.t.Errorf("%s prints %s, of which docs/json.md does not tell", name, field)
			}
		}
		for _, field := range told[name] {
			if !printed[field] && !slices.Contains(notHere[name], field) {
				w.t.Errorf("docs/json.md says that %s prints %s", name, field)
			}
		}
	}
}

// TestTimesAndNumbers: what docs/json.md says of the form of values.
func TestTimesAndNumbers(t *testing.T) {
	w := newWorld(t)
	var list []struct {
		SystemID  string    `json:"system_id"`
		StartLSN  string    `json:"start_lsn"`
		StoppedAt time.Time `json:"stopped_at"`
	}
	w.decode(run(t, w.env, "backup", "list", "--json"), &list)
	if len(list) != 1 || !regexp.MustCompile(`^[0-9A-F]+/[0-9A-F]+$`).MatchString(list[0].StartLSN) || list[0].SystemID == "" || list[0].StoppedAt.IsZero() {
		t.Errorf("%+v", list)
	}
	for _, args := range [][]string{{"info"}, {"init", "--plain", "--pgdata", w.cold}, {"restore", w.dir + "/new", "--dry-run"}} {
		if out := run(t, w.env, append(args, "--json")...); !strings.Contains(out, `"system_id": "`+list[0].SystemID+`"`) {
			t.Errorf("%s: system_id is no string:\n%s", args[0], out)
		}
	}
}
