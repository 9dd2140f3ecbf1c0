package pgconf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
)

// maxDepth is CONF_FILE_MAX_DEPTH of guc-file.l.
const maxDepth = 10

// Found is a setting together with the file that holds it.
type Found struct {
	Setting
	File string // absolute path
}

// ReadTree reads the configuration file at path and everything it includes, and returns the settings in the order in
// which the server meets them (include directives themselves left out). Files named by include_if_exists may be
// missing. A missing or unreadable included file, or one with syntax errors, does not stop the walk: it is returned in
// problems, with what could be read.
func ReadTree(path string) (settings []Found, problems []error) {
	w := walker{}
	w.file(path, 0, true)
	return w.settings, w.problems
}

// Files names the configuration file at path and every file that it includes, in the order in which the server reads
// them, each once. Those that cannot be read are left out: the server would not start with them, or does without.
func Files(path string) []string {
	w := walker{}
	w.file(path, 0, false)
	return w.files
}

type walker struct {
	settings []Found
	problems []error
	files    []string
}

func (w *walker) file(path string, depth int, strict bool) {
	if depth > maxDepth {
		w.problems = append(w.problems, fmt.Errorf("read %s: files include each other more than %d deep", path, maxDepth))
		return
	}
	data, err := os.ReadFile(path)
	if err != nil {
		if strict || !errors.Is(err, fs.ErrNotExist) {
			w.problems = append(w.problems, err)
		}
		return
	}
	if !slices.Contains(w.files, path) {
		w.files = append(w.files, path)
	}
	f := Parse(data)
	for _, e := range f.Errors() {
		w.problems = append(w.problems, fmt.Errorf("%s: %w", path, e))
	}
	for _, s := range f.Settings() {
		switch s.Name {
		case "include":
			w.file(beside(path, s.Value), depth+1, true)
		case "include_if_exists":
			w.file(beside(path, s.Value), depth+1, false)
		case "include_dir":
			w.directory(beside(path, s.Value), depth+1)
		default:
			w.settings = append(w.settings, Found{Setting: s, File: path})
		}
	}
}

// directory reads *.conf of a folder in C locale order, hidden files left out (ParseConfigDirectory).
func (w *walker) directory(path string, depth int) {
	entries, err := os.ReadDir(path)
	if err != nil {
		w.problems = append(w.problems, err)
		return
	}
	var names []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && strings.HasSuffix(e.Name(), ".conf") && len(e.Name()) >= 6 {
			if info, err := os.Stat(filepath.Join(path, e.Name())); err == nil && !info.IsDir() {
				names = append(names, e.Name())
			}
		}
	}
	sort.Strings(names)
	for _, name := range names {
		w.file(filepath.Join(path, name), depth, true)
	}
}

// beside resolves name against the folder of the file that includes it (AbsoluteConfigLocation).
func beside(file, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(filepath.Dir(file), name)
}
