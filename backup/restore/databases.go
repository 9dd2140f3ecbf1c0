package restore

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"pgstow/catalog"
)

// PlannedDatabase is one database, and whether it is restored.
type PlannedDatabase struct {
	OID   uint32 `json:"oid"`
	Name  string `json:"name,omitempty"` // at the backup's end; empty if it is not known
	Bytes int64  `json:"bytes"`
	Drop  string `json:"drop,omitempty"` // SQL that removes a database that was left out
}

// firstNormalOID is the first OID that is not initdb's (FirstNormalObjectId in access/transam.h).
const firstNormalOID = 16384

// always reports whether a database is restored in any case: the server cannot do without those that initdb makes, nor make
// or drop others.
func always(d PlannedDatabase) bool {
	return d.OID < firstNormalOID || d.Name == "template0" || d.Name == "template1" || d.Name == "postgres"
}

// databaseOf is the OID of the database that a path of the manifest belongs to; version is the name of the version's folder in
// tablespaces.
func databaseOf(path, version string) (oid uint32, ok bool) {
	parts := strings.SplitN(path, "/", 5)
	var number string
	switch {
	case len(parts) >= 3 && parts[0] == "base":
		number = parts[1]
	case len(parts) == 5 && parts[0] == "pg_tblspc" && parts[2] == version:
		number = parts[3]
	default:
		return 0, false
	}
	n, err := strconv.ParseUint(number, 10, 32)
	return uint32(n), err == nil
}

// chooseDatabases parts the databases into those that are restored and those that are left out. sizes are the bytes by OID of
// all that the backup has files of. wanted are names or OIDs.
func chooseDatabases(known []catalog.Database, sizes map[uint32]int64, wanted []string) (restored, leftOut []PlannedDatabase, err error) {
	var all []PlannedDatabase
	templates := make(map[uint32]bool)
	for _, d := range known {
		if bytes, ok := sizes[d.OID]; ok {
			all = append(all, PlannedDatabase{OID: d.OID, Name: d.Name, Bytes: bytes})
			templates[d.OID] = d.Template
		}
	}
	for oid, bytes := range sizes {
		if !slices.ContainsFunc(all, func(d PlannedDatabase) bool { return d.OID == oid }) {
			all = append(all, PlannedDatabase{OID: oid, Bytes: bytes})
		}
	}
	slices.SortFunc(all, func(a, b PlannedDatabase) int { return int(int64(a.OID) - int64(b.OID)) })
	keep := make(map[uint32]bool)
	for _, name := range wanted {
		i := slices.IndexFunc(all, func(d PlannedDatabase) bool { return d.Name != "" && d.Name == name })
		if i < 0 {
			i = slices.IndexFunc(all, func(d PlannedDatabase) bool { return strconv.FormatUint(uint64(d.OID), 10) == name })
		}
		if i < 0 {
			return nil, nil, fmt.Errorf("%w: database %s: the backup has none of this name or OID: %s", ErrOptions, name, describeDatabases(all))
		}
		keep[all[i].OID] = true
	}
	for _, d := range all {
		if keep[d.OID] || always(d) {
			restored = append(restored, d)
			continue
		}
		if d.Name != "" {
			name := `"` + strings.ReplaceAll(d.Name, `"`, `""`) + `"`
			if d.Drop = "DROP DATABASE " + name + ";"; templates[d.OID] {
				d.Drop = "ALTER DATABASE " + name + " IS_TEMPLATE false; " + d.Drop
			}
		}
		leftOut = append(leftOut, d)
	}
	return restored, leftOut, nil
}

func describeDatabases(all []PlannedDatabase) string {
	var parts []string
	named := false
	for _, d := range all {
		if d.Name == "" {
			parts = append(parts, strconv.FormatUint(uint64(d.OID), 10))
			continue
		}
		named = true
		parts = append(parts, fmt.Sprintf("%s (%d)", d.Name, d.OID))
	}
	text := "it has " + strings.Join(parts, ", ")
	if !named {
		text += "; no server was asked for names when it was taken"
	}
	return text
}

// endScriptName is a script in the data directory that the server runs when recovery ends; it removes itself. The command could
// not be long enough (MAXPGPATH in ExecuteRecoveryCommand of PostgreSQL 13 to 15).
const endScriptName = "pgstow.recovery_end"

// endScript takes out the setting that is for recovery alone, and empties the relation maps of the databases that are left out
// once more: WAL may have brought one back.
func (c *content) endScript() []byte {
	script := []byte("# Made by pgstow restore, run by recovery_end_command, in the data directory.\n" +
		"sed -i -e '/^" + invalidPagesSetting + " /d' -e '/^recovery_end_command /d' " + autoConf + "\nfor map in")
	for i := range c.table.len() {
		if id := fileID(i); c.table.state(id).hollow && strings.HasSuffix(c.table.path(id), "/pg_filenode.map") {
			script = append(append(script, " \\\n  "...), c.table.path(id)...)
		}
	}
	return append(script, "; do\n  if [ -f \"$map\" ]; then : > \"$map\"; fi\ndone\nrm -f "+endScriptName+"\n"...)
}

// isHollow reports whether a file of a database that is left out is made as a hole of its full length (RULES-physical E4): WAL
// finds it, and DROP DATABASE removes it. PG_VERSION is kept. The relation map is not, although it is small: with it a
// connection, autovacuum's too, would go on to pg_class, find it empty, and panic (load_critical_index in
// utils/cache/relcache.c); an invalid one is a FATAL of that connection alone.
func (l *loader) isHollow(path string) bool {
	if len(l.leftOut) == 0 || strings.HasSuffix(path, "/PG_VERSION") {
		return false
	}
	oid, ok := databaseOf(path, l.plan.versionDir)
	return ok && l.leftOut[oid]
}
