package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"pgstow/catalog"
)

// planTablespaces decides where each tablespace of the backup goes. mapping has an OID or the old location as its key
// and the new location as its value; every key must be used.
func planTablespaces(list []catalog.Tablespace, mapping map[string]string) ([]PlannedTablespace, error) {
	used := make(map[string]bool)
	out := make([]PlannedTablespace, 0, len(list))
	for _, t := range list {
		p := PlannedTablespace{OID: t.OID, Path: "pg_tblspc/" + strconv.FormatUint(uint64(t.OID), 10), Original: t.Location, InPlace: t.InPlace}
		if t.OID == 0 || t.Path != p.Path {
			return nil, fmt.Errorf("the backup has a tablespace %d at %q", t.OID, t.Path)
		}
		if t.InPlace {
			out = append(out, p)
			continue
		}
		p.Location = t.Location
		for _, key := range []string{strconv.FormatUint(uint64(t.OID), 10), t.Location, filepath.Clean(t.Location)} {
			if to, ok := mapping[key]; ok {
				p.Location, used[key] = to, true
				break
			}
		}
		out = append(out, p)
	}
	for key := range mapping {
		if !used[key] {
			return nil, fmt.Errorf("%w: tablespace %s: the backup has none with this OID or location (it has %s)", ErrOptions, key, describeTablespaces(list))
		}
	}
	return out, nil
}

func describeTablespaces(list []catalog.Tablespace) string {
	var parts []string
	for _, t := range list {
		if !t.InPlace {
			parts = append(parts, fmt.Sprintf("%d at %s", t.OID, t.Location))
		}
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

// resolveTablespaces makes locations real paths. PostgreSQL wants them absolute (commands/tablespace.c).
func resolveTablespaces(list []PlannedTablespace) error {
	for i, t := range list {
		if t.InPlace {
			continue
		}
		if !filepath.IsAbs(t.Location) || strings.ContainsAny(t.Location, "\x00") {
			return refuse(t.Location, "", "the location of tablespace %d must be an absolute path", t.OID)
		}
		real, err := realPath(t.Location)
		if err != nil {
			return err
		}
		list[i].Location = real
	}
	return nil
}

// checkTablespaces refuses locations that are in use (RULES-physical A10): each must be empty or absent, apart from the
// data directory and from the others. mayBeOld says of one that its own files may be there: of an interrupted restore that
// goes on, or of an older copy.
func checkTablespaces(dir string, list []PlannedTablespace, mayBeOld func(PlannedTablespace) bool) error {
	for i, t := range list {
		if t.InPlace {
			continue
		}
		if inside(t.Location, dir) || inside(dir, t.Location) {
			return refuse(t.Location, "map the tablespace to a place of its own with --tablespace", "tablespace %d and the data directory %s lie in each other", t.OID, dir)
		}
		for _, other := range list[:i] {
			if !other.InPlace && (inside(t.Location, other.Location) || inside(other.Location, t.Location)) {
				return refuse(t.Location, "map each tablespace to a place of its own with --tablespace", "tablespaces %d and %d lie in each other", other.OID, t.OID)
			}
		}
		if err := checkTablespace(t, mayBeOld(t)); err != nil {
			return err
		}
	}
	return nil
}

func checkTablespace(t PlannedTablespace, mayBeOld bool) error {
	info, err := os.Stat(t.Location)
	if errors.Is(err, fs.ErrNotExist) {
		return checkParent(t.Location)
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return refuse(t.Location, "", "it is not a directory")
	}
	names, err := readNames(t.Location)
	if err != nil || len(names) == 0 || mayBeOld {
		return err
	}
	advice := fmt.Sprintf("map it elsewhere: --tablespace %d=DIRECTORY", t.OID)
	if t.Location == t.Original {
		return refuse(t.Location, advice, "tablespace %d was there when the backup was taken and the place is not empty (%s): the original may be using it", t.OID, someNames(names))
	}
	return refuse(t.Location, advice, "the place for tablespace %d is not empty (%s)", t.OID, someNames(names))
}
