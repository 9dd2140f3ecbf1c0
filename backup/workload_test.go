package backup_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgstow/backup"
	"pgstow/catalog"
	"pgstow/test/pg"
)

// workload does to a server what databases go through, from a seed.
type workload struct {
	s     *pg.Server
	rng   *rand.Rand
	major int
	n     int
	dbs   []string
}

func newWorkload(s *pg.Server, major int, seed uint64) *workload {
	w := &workload{s: s, rng: rand.New(rand.NewPCG(seed, 11)), major: major}
	if major >= 15 { // a folder in pg_tblspc: a test's restore cannot meet the original
		s.Exec("CREATE TABLESPACE side LOCATION ''")
	}
	for i := range 6 {
		s.Exec(w.makeTable(i))
	}
	s.Exec("CREATE UNLOGGED TABLE volatile AS SELECT generate_series(1, 1000) a")
	s.Exec("CREATE TABLE wide (a int, b text)")
	s.Exec("ALTER TABLE wide ALTER b SET STORAGE EXTERNAL")
	return w
}

// makeTable makes table t<i>, with an index of some kind.
func (w *workload) makeTable(i int) string {
	w.n++
	kind := []string{"btree (a)", "hash (a)", "gin (c)", "brin (a)", "gist (d)", "spgist (d)"}[i%6]
	return fmt.Sprintf(`CREATE TABLE t%d AS SELECT g a, repeat(md5(g::text || '%d'), 3) b, ARRAY[g, g %% 7] c, point(g, g %% 11) d
		FROM generate_series(1, %d) g; CREATE INDEX ON t%d USING %s`, i, w.n, 500+w.rng.IntN(3000), i, kind)
}

// step does one thing.
func (w *workload) step() {
	i := w.rng.IntN(6)
	w.n++
	t := fmt.Sprint("t", i)
	var sql string
	switch w.rng.IntN(16) {
	case 0:
		sql = "TRUNCATE " + t
	case 1:
		sql = "VACUUM FULL " + t
	case 2:
		sql = "DROP TABLE " + t + "; " + w.makeTable(i)
	case 3: // cut at the end, and grown again
		sql = fmt.Sprintf("DELETE FROM %s WHERE ctid >= '(10,0)'", t)
		w.s.Exec(sql)
		sql = "VACUUM " + t
	case 4:
		sql = fmt.Sprintf("INSERT INTO %s SELECT g, repeat(md5(g::text || '%d'), 3), ARRAY[g], point(g, 1) FROM generate_series(1, 1500) g", t, w.n)
	case 5:
		sql = fmt.Sprintf("UPDATE %s SET b = md5(b) WHERE a %% %d = 0", t, 2+w.rng.IntN(40))
	case 6:
		sql = "REINDEX TABLE " + t
	case 7:
		sql = fmt.Sprintf("INSERT INTO wide SELECT %d, string_agg(md5(g::text), '') FROM generate_series(1, 3000) g", w.n)
	case 8:
		sql = "VACUUM (FREEZE) " + t
	case 9:
		w.database()
		return
	case 10:
		sql = "SELECT lo_from_bytea(0, convert_to(repeat('x" + fmt.Sprint(w.n) + "', 9000), 'UTF8'))"
	case 11:
		if w.major < 15 {
			return
		}
		sql = "ALTER TABLE " + t + " SET TABLESPACE " + []string{"side", "pg_default"}[w.rng.IntN(2)]
	case 12:
		sql = "ALTER TABLE volatile SET " + []string{"LOGGED", "UNLOGGED"}[w.rng.IntN(2)]
	case 13:
		sql = "CHECKPOINT"
	case 14:
		sql = fmt.Sprintf("BEGIN; INSERT INTO %s SELECT g, 'gone', ARRAY[g], point(1, 1) FROM generate_series(1, 2000) g; ROLLBACK", t)
	default:
		sql = fmt.Sprintf("DELETE FROM %s WHERE a %% %d = 1", t, 2+w.rng.IntN(9))
	}
	w.s.Exec(sql)
}

// database makes or drops one: by copying files, or page by page; with an OID that was
// used before where the server lets us choose.
func (w *workload) database() {
	if len(w.dbs) > 1 || len(w.dbs) > 0 && w.rng.IntN(2) == 0 {
		w.s.Exec("DROP DATABASE " + w.dbs[0])
		w.dbs = w.dbs[1:]
		return
	}
	name := fmt.Sprint("db", w.n)
	sql := "CREATE DATABASE " + name
	if w.major >= 15 {
		sql += " OID " + fmt.Sprint(100000+len(w.dbs)) + " STRATEGY " + []string{"file_copy", "wal_log"}[w.rng.IntN(2)]
	}
	w.s.Exec(sql)
	w.dbs = append(w.dbs, name)
}

// methodsOf says by which methods backups of a major are made in turn.
func methodsOf(major int) []catalog.Method {
	if major >= 17 {
		return []catalog.Method{catalog.MethodSummaries, catalog.MethodScan, catalog.MethodSummaries}
	}
	return []catalog.Method{catalog.MethodScan}
}

// incrementalMajors are those of the matrix, or the default and the newest one, which
// has WAL summaries.
func incrementalMajors(t *testing.T) []int {
	majors := pg.Majors(t)
	if len(majors) == 1 && majors[0] == pg.DefaultMajor {
		majors = append(majors, 18)
	}
	return majors
}

func newIncrementalServer(t *testing.T, major int, checksums bool) *pg.Server {
	conf := map[string]string{"autovacuum": "off"}
	if major >= 15 {
		conf["allow_in_place_tablespaces"] = "on"
	}
	if major >= 17 {
		conf["summarize_wal"] = "on"
	}
	return pg.New(t, pg.Options{Major: major, Checksums: checksums, WALSegmentSizeMiB: 1, Conf: conf})
}

// A random life of a server with incremental backups in it: each of them, restored, is
// what the server was; and while nobody writes, the pages are those on disk.
func TestRandomWorkload(t *testing.T) {
	for _, major := range incrementalMajors(t) {
		for seed := range uint64(pg.Rounds(t, 1)) {
			t.Run(fmt.Sprintf("%d/%d", major, seed), func(t *testing.T) {
				t.Parallel()
				randomWorkload(t, major, seed)
			})
		}
	}
}

func randomWorkload(t *testing.T, major int, seed uint64) {
	s := newIncrementalServer(t, major, true)
	repo, _ := newRepo(t)
	w := newWorkload(s, major, seed)
	type taken struct {
		header catalog.BackupHeader
		sums   pg.Sums
	}
	var all []taken
	methods := append([]catalog.Method{catalog.MethodFull}, methodsOf(major)...)
	for i := range 4 {
		if i > 0 {
			for range 8 {
				w.step()
			}
			if w.rng.IntN(3) == 0 { // a crash
				s.Stop(pg.Immediate)
				s.Start()
			}
		}
		want := methods[0]
		if i > 0 {
			want = methods[1+(i-1)%(len(methods)-1)]
		}
		sums := s.Sums()
		h, err := backup.Create(t.Context(), repo, backup.CreateOptions{
			Cluster: "main", Conn: s.DSN("postgres"), WAL: backup.WALInclude, Scan: want == catalog.MethodScan,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %s because %q: %d pages changed, %d refreshed, %d bytes read", h.ID, h.Method, h.Why, h.PagesChanged, h.PagesRefreshed, h.BytesRead)
		if h.Method != want {
			t.Errorf("backup %d is by %s: %s", i, h.Method, h.Why)
		}
		all = append(all, taken{h, sums})
		samePages(t, rebuild(t, repo, h), s.Dir)
	}
	s.Stop(pg.Fast)
	if dropped := all[w.rng.IntN(len(all)-1)]; true {
		if _, err := repo.DeleteBackup(t.Context(), dropped.header.Ref(), dropped.header.ID, catalog.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		all = slices.DeleteFunc(all, func(x taken) bool { return x.header.ID == dropped.header.ID })
	}
	for _, x := range all[max(0, len(all)-pg.Rounds(t, 1)):] {
		dir := filepath.Join(pg.TempDir(t), "data")
		rebuild(t, repo, x.header).write(t, dir)
		pg.Chown(t, dir)
		restored := pg.Restored(t, dir, pg.Options{Major: major})
		restored.WaitPrimary()
		if got := restored.Sums(); fmt.Sprint(got) != fmt.Sprint(x.sums) {
			t.Errorf("backup %s holds %v, and the server held %v", x.header.ID, got, x.sums)
		}
		restored.Stop(pg.Fast)
	}
}

// samePages compares the pages of a backup with the directory of the server, on which
// nobody has written since.
func samePages(t *testing.T, r *rebuilt, dir string) {
	t.Helper()
	n := 0
	for path, e := range r.entries {
		if e.Map == nil {
			continue
		}
		n++
		want, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil {
			t.Errorf("backup %s has %s: %v", r.header.ID, path, err)
			continue
		}
		got := r.files[path]
		if r.header.Method == catalog.MethodSummaries && hasSPGiSTMeta(got) && hasSPGiSTMeta(want) {
			// Where an SP-GiST index last found room is kept in its first page, and no WAL tells of it
			// (SpGistUpdateMetaPage in backend/access/spgist/spgutils.c).
			got, want = got[8192:], want[8192:]
		}
		if !bytes.Equal(got, want) {
			t.Errorf("backup %s by %s: %s: %d bytes, on disk %d; first difference at page %d",
				r.header.ID, r.header.Method, path, len(got), len(want), firstDifference(got, want)/8192)
		}
	}
	if n < 100 {
		t.Errorf("only %d relations", n)
	}
}

// hasSPGiSTMeta says whether a file begins with the meta page of an SP-GiST index, by its
// magic number (SPGIST_MAGIC_NUMBER).
func hasSPGiSTMeta(b []byte) bool {
	return len(b) >= 8192 && binary.LittleEndian.Uint32(b[24:]) == 0xBA0BABEE
}

func firstDifference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// RULES-physical A1, A2: visibility maps and the pages' own flags are of one time, also
// where neither an LSN nor WAL tells that they changed.
func TestVisibility(t *testing.T) {
	for _, major := range incrementalMajors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := newIncrementalServer(t, major, false)
			repo, _ := newRepo(t)
			s.Exec("CREATE TABLE seen AS SELECT g a, repeat('x', 200) b FROM generate_series(1, 5000) g")
			s.Exec("CREATE INDEX ON seen (a)")
			s.Exec("CREATE TABLE fresh AS SELECT g a, repeat('x', 200) b FROM generate_series(1, 5000) g")
			s.Exec("CREATE INDEX ON fresh (a)")
			s.Exec("VACUUM seen")
			create := func() catalog.BackupHeader {
				h, err := backup.Create(t.Context(), repo, backup.CreateOptions{Cluster: "main", Conn: s.DSN("postgres"), WAL: backup.WALInclude})
				if err != nil {
					t.Fatal(err)
				}
				return h
			}
			create()
			s.Exec("UPDATE seen SET b = 'y' WHERE a % 100 = 0")
			s.Exec("DELETE FROM seen WHERE a % 70 = 0")
			s.Exec("VACUUM fresh")
			h := create()
			if h.Method == catalog.MethodFull {
				t.Fatalf("full: %s", h.Why)
			}
			dir := filepath.Join(pg.TempDir(t), "data")
			rebuild(t, repo, h).write(t, dir)
			pg.Chown(t, dir)
			restored := pg.Restored(t, dir, pg.Options{Major: major, Args: []string{"-c", "autovacuum=off"}})
			restored.WaitPrimary()
			restored.Exec("DELETE FROM fresh WHERE a % 50 = 0")
			for _, table := range []string{"seen", "fresh"} {
				const count = "SELECT count(a) FROM %s WHERE a > 0"
				byIndex := with(t, restored, fmt.Sprintf(count, table), "enable_seqscan", "enable_bitmapscan")
				byTable := with(t, restored, fmt.Sprintf(count, table), "enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan")
				if byIndex != byTable {
					t.Errorf("%s: %d rows by its index and visibility map, %d in the table", table, byIndex, byTable)
				}
			}
			if restored.Install.Has("pg_amcheck") || major == pg.DefaultMajor {
				restored.Exec("CREATE EXTENSION pg_visibility")
				for _, table := range []string{"seen", "fresh"} {
					if n := restored.Value("SELECT count(*) FROM pg_check_visible('" + table + "')"); n != "0" {
						t.Errorf("%s: pg_check_visible finds %s", table, n)
					}
				}
			}
		})
	}
}

// with answers a query while some plans are switched off.
func with(t *testing.T, s *pg.Server, sql string, off ...string) (n int64) {
	t.Helper()
	conn, err := s.Conn(t.Context(), "postgres")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	for _, name := range off {
		if _, err := conn.Exec(t.Context(), "SET "+name+" = off"); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.QueryRow(t.Context(), sql).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// B4: where the summaries do not tell everything, all pages are read, and it is said
// why.
func TestSummariesFallBack(t *testing.T) {
	t.Parallel()
	s := newIncrementalServer(t, 18, true)
	repo, _ := newRepo(t)
	s.Exec("CREATE TABLE t AS SELECT generate_series(1, 20000) a")
	create := func(want catalog.Method, why string) {
		t.Helper()
		var said backup.MethodEvent
		h, err := backup.Create(t.Context(), repo, backup.CreateOptions{
			Cluster: "main", Conn: s.DSN("postgres"), WAL: backup.WALInclude, Events: func(e backup.Event) {
				if m, ok := e.(backup.MethodEvent); ok {
					said = m
				}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		if h.Method != want || !strings.Contains(h.Why, why) || said.Method != h.Method || said.Why != h.Why || said.Reference != h.Reference {
			t.Errorf("%s: %q, said %+v; want %s: %s", h.Method, h.Why, said, want, why)
		}
		if want == catalog.MethodScan {
			samePages(t, rebuild(t, repo, h), s.Dir)
		}
		s.Exec("UPDATE t SET a = a + 1 WHERE a % 1000 = 0")
	}
	create(catalog.MethodFull, "no earlier backup")
	create(catalog.MethodSummaries, "")
	s.Stop(pg.Fast)
	s.Start()
	create(catalog.MethodSummaries, "") // a restart alone leaves no gap
	s.Stop(pg.Immediate)
	s.Start()
	create(catalog.MethodSummaries, "") // nor does a crash
	s.Exec("ALTER SYSTEM SET summarize_wal = off")
	s.Exec("SELECT pg_reload_conf()")
	s.AwaitValue("SHOW summarize_wal", "off")
	create(catalog.MethodScan, "summarize_wal is off")
	s.Exec("ALTER SYSTEM SET summarize_wal = on")
	s.Exec("SELECT pg_reload_conf()")
	s.AwaitValue("SELECT (summarizer_pid IS NOT NULL)::text FROM pg_get_wal_summarizer_state()", "true")
	create(catalog.MethodSummaries, "")
	for range 4 { // of WAL that is there a summary would be made again
		s.Exec("SELECT pg_switch_wal()")
		s.Exec("CHECKPOINT")
	}
	s.Stop(pg.Fast)
	// As wal_summary_keep_time does.
	summaries, err := filepath.Glob(filepath.Join(s.Dir, "pg_wal", "summaries", "*"))
	if err != nil || len(summaries) == 0 {
		t.Fatalf("%v, error %v", summaries, err)
	}
	slices.Sort(summaries)
	for _, f := range summaries {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	s.Start()
	create(catalog.MethodScan, "no WAL summary")
	create(catalog.MethodSummaries, "")
	s.Stop(pg.Fast)
	auto := filepath.Join(s.Dir, "postgresql.auto.conf") // would win over what follows
	if err := os.WriteFile(auto, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.AppendConf(map[string]string{"wal_level": "minimal", "max_wal_senders": "0", "summarize_wal": "off"})
	s.Start()
	s.Exec("CREATE TABLE unseen AS SELECT generate_series(1, 5000) a")
	s.Stop(pg.Fast)
	s.AppendConf(map[string]string{"wal_level": "replica", "max_wal_senders": "10", "summarize_wal": "on"})
	s.Start()
	create(catalog.MethodScan, "")
}

// A6: with data checksums turned on meanwhile, old images would not fit pg_control.
func TestChecksumsTurnedOn(t *testing.T) {
	s := newIncrementalServer(t, pg.DefaultMajor, false)
	repo, _ := newRepo(t)
	create := func() catalog.BackupHeader {
		t.Helper()
		h, err := backup.Create(t.Context(), repo, backup.CreateOptions{Cluster: "main", Conn: s.DSN("postgres"), WAL: backup.WALInclude})
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	create()
	s.Stop(pg.Fast)
	if out, err := pg.Command(t.Context(), s.Install.Bin("pg_checksums"), "--enable", "-D", s.Dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s.Start()
	if h := create(); h.Method != catalog.MethodFull || !strings.Contains(h.Why, "data checksum version") {
		t.Errorf("%s: %s", h.Method, h.Why)
	}
	if h := create(); h.Method != catalog.MethodScan {
		t.Errorf("%s: %s", h.Method, h.Why)
	}
}

// A5: a database made by copying files has pages with old LSNs in files that have old
// names, and one row of a summary tells.
func TestCopiedDatabases(t *testing.T) {
	// Databases get an OID of our choice from 15 on.
	majors := slices.DeleteFunc(pg.Majors(t), func(m int) bool { return m < 15 })
	if len(majors) <= 1 {
		majors = []int{18} // one that trusts summaries
	}
	for _, major := range majors {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := newIncrementalServer(t, major, true)
			repo, _ := newRepo(t)
			create := func(want catalog.Method) {
				t.Helper()
				h, err := backup.Create(t.Context(), repo, backup.CreateOptions{Cluster: "main", Conn: s.DSN("postgres"), WAL: backup.WALInclude})
				if err != nil {
					t.Fatal(err)
				}
				if h.Method != want {
					t.Errorf("%s: %s", h.Method, h.Why)
				}
				samePages(t, rebuild(t, repo, h), s.Dir)
			}
			by := catalog.MethodScan
			if major >= 17 {
				by = catalog.MethodSummaries
			}
			s.Exec("CREATE TABLESPACE side LOCATION ''")
			s.Exec("CREATE DATABASE source")
			s.Exec("CREATE DATABASE copied OID 100000 STRATEGY file_copy")
			create(catalog.MethodFull)
			s.ExecIn("source", "CREATE TABLE t AS SELECT generate_series(1, 5000) a")
			s.ExecIn("source", "ANALYZE")
			s.Exec("CHECKPOINT")
			create(by)
			s.Exec("DROP DATABASE copied")
			s.Exec("CREATE DATABASE copied OID 100000 TEMPLATE source STRATEGY file_copy")
			create(by)
			s.Exec("ALTER DATABASE copied SET TABLESPACE side")
			s.ExecIn("copied", "DELETE FROM t WHERE a % 3 = 0")
			create(by)
			s.Exec("ALTER DATABASE copied SET TABLESPACE pg_default")
			create(by)
		})
	}
}
