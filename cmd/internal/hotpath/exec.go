package hotpath

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Program is the full program that pgstow-wal hands over to.
const Program = "pgstow"

// Exec replaces this process by `pgstow wal <args>`: the one beside this program, else the one in PATH. It returns only if that
// failed. The new program's runtime is told to die by SIGABRT from its first instruction on (see Guard).
func Exec(args, environ []string) error {
	argv := append([]string{Program, "wal"}, args...)
	environ = append(without(environ, "GOTRACEBACK"), "GOTRACEBACK=crash")
	failure := error(syscall.ENOENT)
	for _, path := range candidates(environ) {
		err := syscall.Exec(path, argv, environ)
		if err != syscall.ENOENT {
			failure = err
		}
	}
	return &os.PathError{Op: "exec", Path: Program, Err: failure}
}

// candidates lists where the program may be. A relative entry of PATH is not looked at: the working directory is the data directory.
func candidates(environ []string) []string {
	var paths []string
	if self, err := os.Executable(); err == nil {
		paths = append(paths, filepath.Join(filepath.Dir(self), Program))
	}
	for dir := range strings.SplitSeq(lookup(environ, "PATH"), ":") {
		if filepath.IsAbs(dir) {
			paths = append(paths, filepath.Join(dir, Program))
		}
	}
	return paths
}

func without(environ []string, name string) []string {
	kept := make([]string, 0, len(environ)+1)
	for _, entry := range environ {
		if !strings.HasPrefix(entry, name+"=") {
			kept = append(kept, entry)
		}
	}
	return kept
}
