package source

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// externals yields the configuration files from outside of the data directory.
// Their links are followed: what the server reads is what is kept.
func (w *walker) externals() error {
	list := slices.Clone(w.Externals)
	slices.SortFunc(list, func(a, b External) int { return cmp.Compare(a.Name, b.Name) })
	if err := w.emit(Entry{Path: ConfigPrefix, Class: Dir, Mode: 0o700}); err != nil {
		return err
	}
	for _, x := range list {
		info, err := os.Stat(x.File)
		if err != nil {
			w.skip(ConfigPrefix+"/"+x.Name, "configuration file from outside: "+err.Error())
			continue
		}
		e := Entry{
			Path: ConfigPrefix + "/" + x.Name, File: x.File, Class: Blob,
			Mode: info.Mode().Perm(), Size: info.Size(), ModTime: info.ModTime(),
		}
		if err := w.emit(e); err != nil {
			return err
		}
	}
	return nil
}

// ExternalsOf gives those of the files that lie outside of root, links resolved,
// a name each: the base name, with a number where two have the same.
func ExternalsOf(root string, files []string) []External {
	var out []External
	seen, taken := map[string]bool{}, map[string]bool{}
	for _, file := range files {
		if file == "" || seen[file] {
			continue
		}
		seen[file] = true
		if _, in := below(root, file); in {
			continue
		}
		name := filepath.Base(file)
		for n := 2; taken[name]; n++ {
			name = filepath.Base(file) + "." + strconv.Itoa(n)
		}
		taken[name] = true
		out = append(out, External{Name: name, File: file})
	}
	return out
}
