// Package pg runs real PostgreSQL servers for tests and for the demo.
//
// A server lives in a folder of its own directly under the temporary folder, listens on a unix socket there (and on 127.0.0.1 when asked to), and
// is gone when the test ends. PostgreSQL refuses to run as root, so a test that runs as root starts it as user postgres, or as nobody where there
// is no such user; [Command] runs other programs as that same user.
//
// Nothing here waits a fixed time: every wait polls for its condition and fails with what was waited for and the server's log.
package pg

import (
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// TB is the part of testing.TB that the harness needs, so that a program that is not a test can use it too.
type TB interface {
	Helper()
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
	Failed() bool
	Cleanup(func())
}

// Options say how to make and run a server. The zero value is a PostgreSQL 15 cluster with 16 MiB segments and no archiving.
type Options struct {
	// Major is PostgreSQL's major version; 0 means [DefaultMajor].
	Major int
	// WALSegmentSizeMiB is initdb's --wal-segsize; 0 means 16.
	WALSegmentSizeMiB int
	// Checksums turns data checksums on (they are off otherwise, also where initdb's default is on).
	Checksums bool
	// InitdbArgs are added to initdb's arguments.
	InitdbArgs []string

	// ArchiveCommand, when set, turns archive_mode on with this command.
	ArchiveCommand string
	// Conf is written to postgresql.conf, after the harness's own settings and so over them. Values are quoted for the file.
	Conf map[string]string
	// Args are given to the postgres program, such as "-c", "restore_command=...": they win over every file.
	Args []string
	// Env is added to the server's environment, and so to that of archive_command and restore_command: "PGSTOW_REPO=...".
	// Nothing else is inherited but PATH and the temporary folder.
	Env []string

	// Fsync leaves fsync on. It is off otherwise: a test's server need not survive a power failure.
	Fsync bool
	// TCP also listens on 127.0.0.1 at Server.Port.
	TCP bool
	// Dir is where to make the data directory; "" means a new folder. It must not exist, and the server's user must be able to make it.
	Dir string
	// StartTimeout bounds Start, recovery up to the first consistent state included; 0 means two minutes.
	StartTimeout time.Duration
}

// DefaultMajor is the version that tests run against unless they ask for another.
const DefaultMajor = 15

func (o Options) withDefaults() Options {
	if o.Major == 0 {
		o.Major = DefaultMajor
	}
	if o.WALSegmentSizeMiB == 0 {
		o.WALSegmentSizeMiB = 16
	}
	if o.StartTimeout == 0 {
		o.StartTimeout = 2 * time.Minute
	}
	return o
}

// New makes a cluster with initdb and starts it. The test is skipped, or fails when PGSTOW_TEST_REQUIRE is set, where the version is not installed.
func New(t TB, o Options) *Server {
	t.Helper()
	s := Create(t, o)
	s.Start()
	return s
}

// Create makes a cluster with initdb and does not start it.
func Create(t TB, o Options) *Server {
	t.Helper()
	o = o.withDefaults()
	inst := Need(t, o.Major)
	if o.Dir == "" {
		o.Dir = filepath.Join(TempDir(t), "data")
	}
	s := attach(t, inst, o.Dir, o)
	s.initdb()
	return s
}

// Attach makes a Server of an existing data directory, such as a restored one, and does not start it. It writes nothing into the directory: port
// and sockets are given on the command line. Of the options only Major, Args, Env, TCP and StartTimeout have a meaning here.
func Attach(t TB, dir string, o Options) *Server {
	t.Helper()
	o = o.withDefaults()
	return attach(t, Need(t, o.Major), dir, o)
}

// Restored starts a server on an existing data directory and waits until it accepts connections, read-only ones included: recovery may still go on,
// or be paused at its target. [Server.WaitPrimary] waits for its end. See [Attach] for the options.
func Restored(t TB, dir string, o Options) *Server {
	t.Helper()
	s := Attach(t, dir, o)
	s.Start()
	return s
}

func attach(t TB, inst Installation, dir string, o Options) *Server {
	t.Helper()
	run := TempDir(t)
	s := &Server{
		t: t, opts: o, Install: inst,
		Dir:       dir,
		SocketDir: run,
		Port:      freePort(t),
		LogFile:   filepath.Join(run, "server.log"),
	}
	t.Cleanup(s.cleanup)
	return s
}

// Need is [Find] for a test: a version that is not there skips the test, or fails it when PGSTOW_TEST_REQUIRE is set, as it is by `make test`.
func Need(t TB, major int) Installation {
	t.Helper()
	inst, err := Find(major)
	if err == nil {
		return inst
	}
	Missing(t, err.Error())
	return Installation{}
}

// Missing ends a test for want of something that `make test` installs: it is skipped, or fails when PGSTOW_TEST_REQUIRE is set, so that a
// skip never hides a missing part where everything must be there.
func Missing(t TB, what string) {
	t.Helper()
	if os.Getenv("PGSTOW_TEST_REQUIRE") != "" {
		t.Fatalf("%s", what)
	}
	t.Skipf("%s", what)
}

// Rounds is how often a test with random crashes is to repeat them: PGSTOW_TEST_ROUNDS, which `make chaos` sets to 100, or else n.
func Rounds(t TB, n int) int {
	t.Helper()
	v := os.Getenv("PGSTOW_TEST_ROUNDS")
	if v == "" {
		return n
	}
	rounds, err := strconv.Atoi(v)
	if err != nil || rounds < 1 {
		t.Fatalf("PGSTOW_TEST_ROUNDS=%s: not a number of rounds", v)
	}
	return rounds
}
