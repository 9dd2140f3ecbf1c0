package source_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"pgstow/backup/source"
)

const version = "PG_15_202209061"

// tree makes files (and, for names that end in '/', folders) below a new folder.
// "a -> b" makes a symbolic link.
func tree(t *testing.T, names ...string) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "data")
	for _, name := range names {
		link, target, isLink := strings.Cut(name, " -> ")
		path := filepath.Join(root, link)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		var err error
		switch {
		case isLink:
			err = os.Symlink(target, path)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(path, 0o700)
		default:
			err = os.WriteFile(path, []byte(name), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

var classNames = map[source.Class]string{
	source.Dir: "dir", source.Link: "link", source.Relation: "pages", source.Blob: "blob",
}

func walk(t *testing.T, o source.Options) (got []string, skipped []string) {
	t.Helper()
	o.VersionDir = version
	o.Skipped = func(s source.Skip) { skipped = append(skipped, s.Path) }
	for e, err := range source.Walk(t.Context(), o) {
		if err != nil {
			t.Fatal(err)
		}
		line := classNames[e.Class] + " " + e.Path
		if e.Class == source.Link {
			line += " -> " + e.Target
		}
		got = append(got, line)
	}
	return got, skipped
}

func compare(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// RULES-physical C5 and C6: which files are in, and which of them are pages.
func TestWalkClassifies(t *testing.T) {
	root := tree(t, "PG_VERSION", "postgresql.conf", "postgresql.auto.conf.tmp", "current_logfiles.tmp",
		"backup_label", "tablespace_map", "backup_manifest", "postmaster.pid", "postmaster.opts", ".DS_Store",
		"backup_label.old", "postgresql.auto.conf",
		"base/1/112", "base/1/112_fsm", "base/1/112_vm", "base/1/113", "base/1/113.1", "base/1/113.12",
		"base/1/0", "base/1/0113", "base/1/113.0", "base/1/113.01", "base/1/113_x", "base/1/113_vm_fsm", "base/1/113.",
		"base/1/PG_VERSION", "base/1/pg_filenode.map", "base/1/pg_internal.init", "base/1/pg_internal.init.77",
		"base/1/t3_16400", "base/1/t3_16400_fsm.1", "base/1/t_16400", "base/1/t3_x",
		"base/1/200", "base/1/200.1", "base/1/200_vm", "base/1/200_init", "base/1/2000",
		"base/pgsql_tmp/pgsql_tmp1.0", "base/pgsql_tmp_x", "base/17", "base/x/18",
		"global/1260", "global/1260_init", "global/pg_control", "global/pg_filenode.map", "global/t1_12",
		"pg_wal/000000010000000000000001", "pg_wal/archive_status/x", "pg_replslot/s/state", "pg_stat_tmp/db_0.stat",
		"pg_subtrans/0000", "pg_notify/0000", "pg_serial/0000", "pg_snapshots/x", "pg_dynshmem/mmap.1",
		"pg_xact/0000", "pg_logical/mappings/m", "pg_stat/pgstat.stat", "pg_twophase/1", "pg_commit_ts/0", "pg_multixact/members/0000",
		"own/stats/global.stat", "own/pg_wal/kept", "own/16384",
		"pg_tblspc/")
	got, skipped := walk(t, source.Options{Root: root, StatsTempDirectory: "own/stats"})
	compare(t, got, []string{
		"blob PG_VERSION", "blob backup_label.old",
		"dir base", "dir base/1", "blob base/1/0", "blob base/1/0113",
		"pages base/1/112", "pages base/1/112_fsm", "pages base/1/112_vm",
		"pages base/1/113", "blob base/1/113.", "blob base/1/113.0", "blob base/1/113.01", "pages base/1/113.1", "pages base/1/113.12",
		"blob base/1/113_vm_fsm", "blob base/1/113_x",
		"pages base/1/2000", "pages base/1/200_init",
		"blob base/1/PG_VERSION", "blob base/1/pg_filenode.map", "blob base/1/t3_x", "blob base/1/t_16400",
		"blob base/17", "dir base/x", "blob base/x/18",
		"dir global", "pages global/1260", "pages global/1260_init", "blob global/pg_control", "blob global/pg_filenode.map", "blob global/t1_12",
		"dir own", "blob own/16384", "dir own/pg_wal", "blob own/pg_wal/kept", "dir own/stats",
		"dir pg_commit_ts", "blob pg_commit_ts/0", "dir pg_dynshmem", "dir pg_logical", "dir pg_logical/mappings", "blob pg_logical/mappings/m",
		"dir pg_multixact", "dir pg_multixact/members", "blob pg_multixact/members/0000",
		"dir pg_notify", "dir pg_replslot", "dir pg_serial", "dir pg_snapshots",
		"dir pg_stat", "blob pg_stat/pgstat.stat", "dir pg_stat_tmp", "dir pg_subtrans", "dir pg_tblspc",
		"dir pg_twophase", "blob pg_twophase/1", "dir pg_wal", "dir pg_xact", "blob pg_xact/0000",
		"blob postgresql.auto.conf", "blob postgresql.conf",
	})
	if len(skipped) != 0 {
		t.Errorf("skipped %v", skipped)
	}
}

// B6: tablespaces of the list are followed, into this version's folder only; one
// in the data directory is read once; younger ones are left to recovery.
func TestWalkTablespaces(t *testing.T) {
	other := tree(t, version+"/5/16500", version+"/5/16500_init", version+"/5/16501", "PG_14_1/5/1", "stray")
	root := tree(t, "inside/"+version+"/5/16600", "pg_tblspc/3/"+version+"/5/16700", "base/",
		"pg_tblspc/1 -> "+other, "pg_tblspc/4 -> "+other)
	if err := os.Symlink(filepath.Join(root, "inside"), filepath.Join(root, "pg_tblspc/2")); err != nil {
		t.Fatal(err)
	}
	got, skipped := walk(t, source.Options{Root: root, Tablespaces: []source.Tablespace{
		{OID: 1, Location: other}, {OID: 2, Location: filepath.Join(root, "inside")}, {OID: 3, InPlace: true},
	}})
	compare(t, got, []string{
		"dir base", "dir inside", "dir pg_tblspc",
		"link pg_tblspc/1 -> " + other, "dir pg_tblspc/1/" + version, "dir pg_tblspc/1/" + version + "/5",
		"pages pg_tblspc/1/" + version + "/5/16500_init", "pages pg_tblspc/1/" + version + "/5/16501",
		"link pg_tblspc/2 -> " + root + "/inside", "dir pg_tblspc/2/" + version, "dir pg_tblspc/2/" + version + "/5",
		"pages pg_tblspc/2/" + version + "/5/16600",
		"dir pg_tblspc/3", "dir pg_tblspc/3/" + version, "dir pg_tblspc/3/" + version + "/5",
		"pages pg_tblspc/3/" + version + "/5/16700",
	})
	compare(t, skipped, []string{"pg_tblspc/4"})
}

// C7: links are recorded and reported, never followed; configuration from
// outside comes under its own folder.
func TestWalkLinksAndExternals(t *testing.T) {
	etc := tree(t, "postgresql.conf", "pg_hba.conf", "sub/postgresql.conf")
	root := tree(t, "log -> /var/log", "pg_wal -> /wal", "pg_ident.conf", "zconf", "postgresql.conf -> "+etc+"/postgresql.conf", "0first")
	externals := source.ExternalsOf(root, []string{
		filepath.Join(root, "postgresql.conf"), filepath.Join(etc, "pg_hba.conf"), filepath.Join(root, "pg_ident.conf"),
		filepath.Join(etc, "sub/postgresql.conf"), "", filepath.Join(etc, "pg_hba.conf"), filepath.Join(etc, "gone.conf"),
	})
	got, skipped := walk(t, source.Options{Root: root, Externals: externals})
	compare(t, got, []string{
		"blob 0first", "dir @config", "blob @config/pg_hba.conf", "blob @config/postgresql.conf", "blob @config/postgresql.conf.2",
		"link log -> /var/log", "blob pg_ident.conf", "link pg_wal -> /wal", "link postgresql.conf -> " + etc + "/postgresql.conf", "blob zconf",
	})
	compare(t, skipped, []string{"@config/gone.conf", "log", "postgresql.conf"})
}

func TestWalkRefusesLinksToData(t *testing.T) {
	for _, name := range []string{"base/5", "pg_xact", "global/1260", "pg_tblspc"} {
		root := tree(t, name+" -> /elsewhere")
		var failed error
		for _, err := range source.Walk(t.Context(), source.Options{Root: root, VersionDir: version}) {
			failed = errors.Join(failed, err)
		}
		if failed == nil || !strings.Contains(failed.Error(), "symbolic link to /elsewhere") {
			t.Errorf("%s: %v", name, failed)
		}
	}
}

func TestWalkStops(t *testing.T) {
	root := tree(t, "a", "b/c", "b/d", "e")
	n := 0
	for _, err := range source.Walk(t.Context(), source.Options{Root: root}) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 3 {
			break
		}
	}
	if n != 3 {
		t.Errorf("%d entries", n)
	}
	for _, err := range source.Walk(t.Context(), source.Options{Root: filepath.Join(root, "nothing")}) {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("missing root: %v", err)
		}
	}
}

// manyFS is a data directory with n relations in one database, none of them real.
type manyFS struct {
	source.OS
	n int
}

func (m manyFS) Names(dir string, each func(string)) error {
	switch filepath.Base(dir) {
	case "data":
		each("base")
	case "base":
		each("5")
	case "5":
		for i := range m.n {
			each(fmt.Sprint(16384 + (i*7919)%m.n))
		}
	}
	return nil
}

func (m manyFS) Lstat(path string) (fs.FileInfo, error) {
	if strings.Count(path, "/") < 5 {
		return os.Lstat("/")
	}
	return os.Lstat("/proc/self/exe") // a link: see below
}

func (m manyFS) Readlink(string) (string, error) { return "", fs.ErrNotExist }

// A directory of 200,000 files costs no more than its names.
func TestWalkMemory(t *testing.T) {
	const n = 200_000
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	f := manyFS{n: n}
	seen := 0
	counted := countingFS{f, func(int) {
		if seen++; seen == n/2 {
			if used := int64(heap()) - int64(before); used > 20*n {
				t.Errorf("%d bytes of heap for %d names", used, n)
			}
		}
	}}
	for _, err := range source.Walk(t.Context(), source.Options{Root: "/x/data", FS: counted, VersionDir: version}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if seen != n {
		t.Fatalf("%d files seen", seen)
	}
}

type countingFS struct {
	manyFS
	each func(int)
}

func (c countingFS) Readlink(path string) (string, error) {
	c.each(1)
	return c.manyFS.Readlink(path)
}

func TestParseRelationFile(t *testing.T) {
	for name, want := range map[string]source.RelationFile{
		"1":                {Node: "1"},
		"16384.7":          {Node: "16384", Segment: 7},
		"4294967295_vm.12": {Node: "4294967295", Fork: source.ForkVM, Segment: 12},
		"12_fsm":           {Node: "12", Fork: source.ForkFSM},
		"12_init":          {Node: "12", Fork: source.ForkInit},
	} {
		if got, ok := source.ParseRelationFile(name); !ok || got != want {
			t.Errorf("%s: %+v %v", name, got, ok)
		}
	}
	for _, name := range []string{"", "0", "01", "a", "1a", "1_", "1_main", "1.", "1.0", "1.01", "1.1.1", "1_vmx", "1_vm_vm", "1.4294967296", "-1", "1 "} {
		if got, ok := source.ParseRelationFile(name); ok {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
