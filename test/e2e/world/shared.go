package world

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"pgstow/test/minio"
	"pgstow/test/pg"
)

// process is what all worlds of one test process share: the MinIO server and the template clusters, made when first asked for.
type process struct {
	mu        sync.Mutex
	cleanups  []func()
	minio     *minio.Server
	buckets   int
	templates map[template]string
}

// shared belongs to the process as its environment does; Main empties it.
var shared = &process{templates: map[template]string{}}

type template struct {
	major, walSegmentSizeMiB int
	checksums                bool
}

// Main runs the tests and ends what they shared. Its result is for os.Exit.
func Main(m *testing.M) int {
	code := m.Run()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	for i := len(shared.cleanups) - 1; i >= 0; i-- {
		shared.cleanups[i]()
	}
	return code
}

// MainAtOnce is Main for tests that wait most of their time: n run side by side, unless -parallel says more.
func MainAtOnce(m *testing.M, n int) int {
	flag.Parse()
	parallel := flag.Lookup("test.parallel")
	if set, err := strconv.Atoi(parallel.Value.String()); err != nil || set < n {
		if err := parallel.Value.Set(strconv.Itoa(n)); err != nil {
			panic(err)
		}
	}
	return Main(m)
}

// lender lets the harness fail the test that asks first, while what it makes lives as long as the process.
type lender struct{ *testing.T }

func (l lender) Cleanup(f func()) { shared.cleanups = append(shared.cleanups, f) }

// Failed is false: a shared server's log is in its folder, not in each test's output.
func (l lender) Failed() bool { return false }

// Logf drops what is said after the test has ended.
func (l lender) Logf(string, ...any) {}

// sharedBucket returns the MinIO server of this process and a new bucket.
func sharedBucket(t *testing.T) (*minio.Server, string) {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.minio == nil {
		shared.minio = minio.New(lender{t}, minio.Options{})
	}
	shared.buckets++
	bucket := fmt.Sprintf("world-%d", shared.buckets)
	shared.minio.MakeBucket(bucket)
	return shared.minio, bucket
}

// cloneTemplate copies a fresh cluster to dir. Clones share their system identifier, as copies of one server do.
func cloneTemplate(t *testing.T, dir string, k template) {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	from, ok := shared.templates[k]
	if !ok {
		from = pg.Create(lender{t}, pg.Options{Major: k.major, WALSegmentSizeMiB: k.walSegmentSizeMiB, Checksums: k.checksums}).Dir
		shared.templates[k] = from
	}
	if err := CopyDir(t.Context(), from, dir); err != nil {
		t.Fatalf("clone of the template: %v", err)
	}
}

// CopyDir copies a folder with owners, modes and links; dst must not exist.
func CopyDir(ctx context.Context, src, dst string) error {
	if _, err := os.Lstat(dst); err == nil {
		return fmt.Errorf("%s exists", dst)
	}
	out, err := exec.CommandContext(ctx, "cp", "-a", "--reflink=auto", filepath.Clean(src), filepath.Clean(dst)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cp: %w: %s", err, out)
	}
	return nil
}
