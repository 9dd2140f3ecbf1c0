package restore

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"pgstow/backup/pgconf"
	"pgstow/catalog"
)

// includes finds where files went that a configuration file of the original included. Files from outside of the data
// directory all come into it itself, so a directive that named one of them, or a folder of them, would lead nowhere, or to
// the original's own: the server would not start, or not with these settings.
type includes struct {
	from map[string]string // original path -> name in the data directory
	data string            // the original's data directory
}

func includesOf(h catalog.BackupHeader) includes {
	in := includes{from: make(map[string]string), data: h.DataDirectory}
	for key, at := range h.ConfigFiles {
		if filepath.IsAbs(key) { // the others are called by the name of their setting
			in.from[key] = path.Base(at)
		}
	}
	return in
}

// edit puts directives that find the files into the place of those that do not. outside: the file itself lay outside, so
// that also relative names lead elsewhere. It returns whether it changed anything, and what the operator should know.
func (in includes) edit(f *pgconf.File, outside bool) (changed bool, warnings []string, err error) {
	err = f.Replace(func(s pgconf.Setting) ([]pgconf.Setting, bool) {
		if s.Name != "include" && s.Name != "include_if_exists" && s.Name != "include_dir" || !outside && !filepath.IsAbs(s.Value) {
			return nil, false
		}
		names, known := in.names(s.Name == "include_dir", s.Value)
		if !known && !outside {
			return nil, false
		}
		changed = true
		if len(names) == 0 && s.Name == "include" {
			warnings = append(warnings, fmt.Sprintf("line %d included %s, which could not be read when the backup was taken: the line is gone", s.Line, s.Value))
		}
		var instead []pgconf.Setting
		for _, name := range names {
			instead = append(instead, pgconf.Setting{Name: "include", Value: name})
		}
		return instead, true
	})
	return changed, warnings, err
}

// names are the files, in the server's order, that the directive's value stands for.
func (in includes) names(folder bool, value string) (names []string, known bool) {
	value = filepath.Clean(value)
	if rel, err := filepath.Rel(in.data, value); err == nil && in.data != "" && filepath.IsLocal(rel) && !folder {
		return []string{rel}, true // it was, and is, in the data directory
	}
	for strings.HasPrefix(value, "../") {
		value = value[len("../"):]
	}
	var found []string // the original paths: of several that fit a relative name those nearest to the root
	for from := range in.from {
		what := from
		if folder {
			what = filepath.Dir(from)
		}
		if what == value || !filepath.IsAbs(value) && strings.HasSuffix(what, "/"+value) {
			found = append(found, from)
		}
	}
	slices.SortFunc(found, func(a, b string) int {
		if depth := strings.Count(a, "/") - strings.Count(b, "/"); depth != 0 {
			return depth
		}
		return strings.Compare(a, b)
	})
	for _, from := range found {
		if filepath.Dir(from) == filepath.Dir(found[0]) && (folder || from == found[0]) {
			names = append(names, in.from[from])
		}
	}
	return names, len(names) > 0
}
