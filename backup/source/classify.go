package source

import (
	"slices"
	"strconv"
	"strings"
)

// Fork is one of the files that make up a relation (common/relpath.c).
type Fork string

// The forks. The main fork has no suffix in file names.
const (
	ForkMain Fork = ""
	ForkFSM  Fork = "fsm"
	ForkVM   Fork = "vm"
	ForkInit Fork = "init"
)

// RelationFile is the parsed name of a file that consists of pages.
type RelationFile struct {
	// Node is the relfilenode, in decimal.
	Node string
	Fork Fork
	// Segment is the number behind the dot, 0 for the first file.
	Segment uint32
}

// ParseRelationFile parses ^[1-9]\d*(_(fsm|vm|init))?(\.[1-9]\d*)?$. It says
// nothing about the directory: only those that HoldsRelations names have pages.
func ParseRelationFile(name string) (RelationFile, bool) {
	var f RelationFile
	n := numberLength(name)
	if n == 0 {
		return f, false
	}
	f.Node, name = name[:n], name[n:]
	if strings.HasPrefix(name, "_") {
		for _, fork := range []Fork{ForkFSM, ForkVM, ForkInit} {
			if rest, ok := strings.CutPrefix(name[1:], string(fork)); ok {
				f.Fork, name = fork, rest
				break
			}
		}
	}
	if name == "" {
		return f, true
	}
	if name[0] != '.' || numberLength(name[1:]) != len(name)-1 {
		return f, false
	}
	segment, err := strconv.ParseUint(name[1:], 10, 32)
	f.Segment = uint32(segment)
	return f, err == nil
}

// numberLength is the length of the decimal number without leading zero that s
// begins with; 0 if it begins with none.
func numberLength(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	if n > 0 && s[0] == '0' {
		return 0
	}
	return n
}

// isNumber says whether all of s is a decimal number without leading zero.
func isNumber(s string) bool { return s != "" && numberLength(s) == len(s) }

// isTempRelation says whether a file belongs to a temporary relation:
// t<backend>_<relfilenode>… (looks_like_temp_rel_name in backend/storage/file/fd.c).
func isTempRelation(name string) bool {
	rest, ok := strings.CutPrefix(name, "t")
	if !ok {
		return false
	}
	backend, file, ok := strings.Cut(rest, "_")
	if !ok || backend == "" || strings.Trim(backend, "0123456789") != "" {
		return false
	}
	_, ok = ParseRelationFile(file)
	return ok
}

// dirKind says what rules hold for the files of a directory.
type dirKind uint8

const (
	plainDir    dirKind = iota
	databaseDir         // base/N, pg_tblspc/O/PG_x/N: relations, unlogged and temporary ones too
	globalDir           // global: relations, none of them unlogged
)

// kindOf classifies a directory by its path below the data directory;
// version is the name PG_<major>_<catalog version>.
func kindOf(path, version string) dirKind {
	if path == "global" {
		return globalDir
	}
	parts := strings.Split(path, "/")
	switch {
	case len(parts) == 2 && parts[0] == "base" && isNumber(parts[1]):
		return databaseDir
	case len(parts) == 4 && parts[0] == "pg_tblspc" && isNumber(parts[1]) && parts[2] == version && isNumber(parts[3]):
		return databaseDir
	}
	return plainDir
}

// contentExcluded lists the top directories that are kept empty
// (excludeDirContents in backend/replication/basebackup.c, and pg_wal).
// PostgreSQL makes their contents anew, or they must not be taken over.
func contentExcluded(path string) bool {
	switch path {
	case "pg_wal", "pg_stat_tmp", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_subtrans":
		return true
	}
	return false
}

// nameExcluded lists the files that are left out wherever they are
// (excludeFiles there): they describe the running server or another backup.
func nameExcluded(name string) bool {
	switch name {
	case "postgresql.auto.conf.tmp", "current_logfiles.tmp", "backup_label", "tablespace_map", "backup_manifest",
		"postmaster.pid", "postmaster.opts", ".DS_Store":
		return true
	}
	return strings.HasPrefix(name, "pg_internal.init") || strings.HasPrefix(name, "pgsql_tmp")
}

// linkForbidden says whether a symbolic link at path would make the backup
// useless, because what the server cannot live without lies behind it.
func linkForbidden(path string) bool {
	top, _, _ := strings.Cut(path, "/")
	switch top {
	case "base", "global", "pg_xact", "pg_multixact", "pg_commit_ts", "pg_twophase", "pg_logical", "PG_VERSION":
		return true
	}
	return path == "pg_tblspc"
}

// Sent classifies a file that a server sends in a base backup; left says that no
// backup has it, whatever the server thinks. path is the one in the manifest, major
// PostgreSQL's version.
func Sent(path string, dir bool, major int) (class Class, rel RelationFile, left bool) {
	parts := strings.Split(path, "/")
	if len(parts) > 1 && contentExcluded(parts[0]) || parts[0] == "lost+found" || slices.ContainsFunc(parts, nameExcluded) {
		return 0, rel, true
	}
	if dir {
		return Dir, rel, false
	}
	version := ""
	if len(parts) > 2 && strings.HasPrefix(parts[2], "PG_"+strconv.Itoa(major)+"_") {
		version = parts[2]
	}
	name := parts[len(parts)-1]
	kind := kindOf(strings.Join(parts[:len(parts)-1], "/"), version)
	if kind == databaseDir && isTempRelation(name) {
		return 0, rel, true
	}
	if rel, ok := ParseRelationFile(name); ok && kind != plainDir {
		return Relation, rel, false
	}
	return Blob, rel, false
}
