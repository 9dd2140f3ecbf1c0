// Package topology_test runs several servers on one archive: standbys that archive too, failovers, old primaries that come back or never noticed,
// copies, drills. Whatever they do to each other, the archive holds whole segments only, each of them WAL that one of its servers has written.
package topology_test

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgstow/catalog"
	"pgstow/storage/object"
	"pgstow/test/e2e/world"
	"pgstow/test/pg"
	"pgstow/wal"
)

func TestMain(m *testing.M) { os.Exit(world.Main(m)) }

const patience = 2 * time.Minute

// field is a world with more servers than one, and what they have written.
type field struct {
	*world.World
	t    *testing.T
	real map[string]map[[32]byte]bool // by file name: the content of the servers' own files
}

// newField makes a world in which servers keep their WAL, so that it can be compared. conf is added to their settings.
func newField(t *testing.T, o world.Options, conf map[string]string) *field {
	t.Helper()
	o.WALSegmentSizeMiB = 1
	o.Conf = map[string]string{
		"wal_keep_size": "512MB", "wal_log_hints": "on", "max_wal_senders": "10", "max_replication_slots": "10", "hot_standby_feedback": "off",
	}
	if o.Major == 13 || o.Major == 0 {
		o.Conf["wal_recycle"] = "off"
	}
	maps.Copy(o.Conf, conf)
	w := world.New(t, o)
	f := &field{World: w, t: t, real: map[string]map[[32]byte]bool{}}
	w.Server.Exec("CREATE TABLE t (i int)")
	return f
}

// rows adds n rows of some size, of which each is some WAL, and closes the segment.
func (f *field) rows(s *pg.Server, from, n int) {
	f.t.Helper()
	s.Exec(fmt.Sprintf("INSERT INTO t SELECT generate_series(%d, %d)", from, from+n-1))
	s.SwitchWAL()
}

// role is what a copy of a server does.
type role struct {
	upstream *pg.Server // streams from it; nil: does not stream
	archive  string     // archive_mode; "" is always
	restore  string     // restore_command; "" is the one that the restore has set, "-" none
	cluster  string     // PGSTOW_CLUSTER, where it is another
}

// args are the settings of a role. On the command line they win over every file.
func (f *field) args(r role) []string {
	if r.archive == "" {
		r.archive = "always"
	}
	set := map[string]string{"archive_mode": r.archive, "archive_command": f.ArchiveCommand()}
	if r.upstream != nil {
		set["primary_conninfo"] = conninfo(r.upstream)
	}
	if r.restore == "-" {
		set["restore_command"] = ""
	} else if r.restore != "" {
		set["restore_command"] = r.restore
	}
	var args []string
	for k, v := range set {
		args = append(args, "-c", k+"="+v)
	}
	return args
}

func conninfo(s *pg.Server) string {
	return fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres", s.SocketDir, s.Port)
}

// attach makes a server of a data directory.
func (f *field) attach(dir string, r role) *pg.Server {
	f.t.Helper()
	env := f.Env()
	if r.cluster != "" {
		env = append(env, "PGSTOW_CLUSTER="+r.cluster)
	}
	return pg.Attach(f.t, dir, pg.Options{Major: f.Server.Install.Major, Args: f.args(r), Env: env})
}

// standby makes a standby from the newest backup and starts it.
func (f *field) standby(r role) *pg.Server {
	f.t.Helper()
	dir := f.Restore("--timeline", "current")
	if err := os.Rename(filepath.Join(dir, "recovery.signal"), filepath.Join(dir, "standby.signal")); err != nil {
		f.t.Fatal(err)
	}
	f.latest(dir)
	s := f.attach(dir, r)
	s.Start()
	f.streams(s, r.upstream)
	return s
}

// latest lets a restored directory follow the newest timeline, as a standby does.
func (f *field) latest(dir string) {
	f.t.Helper()
	auto, err := os.OpenFile(filepath.Join(dir, "postgresql.auto.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := auto.WriteString("recovery_target_timeline = 'latest'\n"); err != nil {
		f.t.Fatal(err)
	}
	if err := auto.Close(); err != nil {
		f.t.Fatal(err)
	}
}

// streams waits until a standby has what its upstream has, by streaming.
func (f *field) streams(s, upstream *pg.Server) {
	f.t.Helper()
	if upstream == nil {
		return
	}
	s.Await("streaming", patience, func() (bool, error) {
		if !s.Running() {
			return false, fmt.Errorf("the standby has exited")
		}
		v, err := s.TryValue("postgres", "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'")
		return err == nil && v == "1", nil
	})
	f.level(s, upstream)
}

// level waits until a standby has replayed all that its upstream has.
func (f *field) level(s, upstream *pg.Server) {
	f.t.Helper()
	end := upstream.CurrentLSN()
	s.AwaitValue("SELECT pg_last_wal_replay_lsn() >= '"+end+"'", "t")
}

// drained waits until nothing waits to be archived on any of the servers, and wants nothing to have failed.
func (f *field) drained(servers ...*pg.Server) {
	f.t.Helper()
	for _, s := range servers {
		s.Await("an empty queue", patience, func() (bool, error) { return len(s.ReadyFiles()) == 0, nil })
		if n := s.Value("SELECT failed_count || ' ' || coalesce(last_failed_wal, '') FROM pg_stat_archiver"); n != "0 " {
			f.t.Errorf("failed pushes of %s: %s\n%s", s.Dir, n, s.LogTail())
		}
	}
}

// save remembers what files a server has in pg_wal now. It is to be called before anything else is done to them.
func (f *field) save(servers ...*pg.Server) {
	f.t.Helper()
	for _, s := range servers {
		entries, err := os.ReadDir(filepath.Join(s.Dir, "pg_wal"))
		if err != nil {
			f.t.Fatal(err)
		}
		for _, e := range entries {
			name, err := wal.ParseFileName(e.Name())
			if err != nil {
				continue
			}
			body, err := os.ReadFile(filepath.Join(s.Dir, "pg_wal", e.Name()))
			if os.IsNotExist(err) {
				continue
			}
			if err != nil {
				f.t.Fatal(err)
			}
			f.remember(e.Name(), body)
			if name.Kind == wal.Segment {
				f.remember(e.Name()+".partial", body) // under this name the archive has a segment that ends at a fork
			}
		}
	}
}

func (f *field) remember(name string, body []byte) {
	if f.real[name] == nil {
		f.real[name] = map[[32]byte]bool{}
	}
	f.real[name][sha256.Sum256(body)] = true
}

// wantHonest fails the test unless every object in the archive is whole, of its name, of the server whose prefix it lies under, and the same as a
// file of one of the servers that were saved. It returns the names and how many objects bear each.
func (f *field) wantHonest() map[string]int {
	f.t.Helper()
	found := map[string]int{}
	for _, key := range f.KeysWith("/wal/") {
		parts := strings.Split(key, "/")
		var system uint64
		if _, err := fmt.Sscan(parts[1], &system); err != nil {
			f.t.Fatal(err)
		}
		ref := catalog.ClusterRef{Name: parts[0], SystemID: system}
		o, ok := catalog.ParseWALKey(ref, key)
		if !ok {
			f.t.Errorf("%s is no object of WAL", key)
			continue
		}
		found[o.Name.String()]++
		f.wantHonestObject(key, o, system)
	}
	if len(found) == 0 {
		f.t.Error("the archive is empty")
	}
	return found
}

func (f *field) wantHonestObject(key string, o catalog.WALObject, system uint64) {
	f.t.Helper()
	opened, err := object.Open(f.Read(key), nil)
	if err != nil {
		f.t.Errorf("%s: %v", key, err)
		return
	}
	plain, err := opened.Plain()
	if err != nil {
		f.t.Errorf("%s: %v", key, err)
		return
	}
	if h := opened.Header(); h.SystemID != system {
		f.t.Errorf("%s: its header has system id %d", key, h.SystemID)
	}
	if o.Kind == catalog.WALPiece {
		return // its bytes are compared by who reads it
	}
	name := o.Name
	if !f.real[name.String()][sha256.Sum256(plain)] {
		f.t.Errorf("%s is not what any server has written", key)
	}
	if name.Kind != wal.Segment && name.Kind != wal.Partial {
		return
	}
	info, err := wal.InspectSegment(plain, name)
	if err != nil {
		f.t.Errorf("%s: %v", key, err)
	}
	if info.Header.SystemID != system {
		f.t.Errorf("%s holds WAL of system id %d", key, info.Header.SystemID)
	}
}

// wantRestored restores a timeline of the archive and compares it with what a server had.
func (f *field) wantRestored(what string, want pg.Sums, args ...string) {
	f.t.Helper()
	dir := f.Restore(append([]string{"--action", "promote"}, args...)...)
	s := f.Attach(dir)
	s.Start()
	s.WaitPrimary()
	if d := want.Diff(s.Sums()); d != "" {
		f.t.Errorf("%s:\n%s", what, d)
	}
	s.Kill()
}

// receive streams from a server.
func (f *field) receive(name string, from *pg.Server) *world.Receiver {
	f.t.Helper()
	r := f.Receive(nil, "--dsn", conninfo(from), "--slot", name, "--create-slot", "--application-name", name)
	r.AwaitText("receiving timeline")
	return r
}
