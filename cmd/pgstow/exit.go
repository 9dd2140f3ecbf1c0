package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"pgstow/backup"
	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/object"
	"pgstow/wal/archive"
)

// The published exit codes (docs/exit-codes.md). What PostgreSQL calls has its own, see walExit.
const (
	exitDone         = 0
	exitFailed       = 1
	exitPartial      = 3
	exitNoRepository = 10
	exitLeaseHeld    = 11
	exitRefused      = 12
	exitUnreachable  = 13
	exitUsage        = 64
)

// exitCode is the only mapping from errors to exit codes of the commands that people call.
func exitCode(err error) int {
	var partial *backup.PartialError
	var refused *archive.RefusedError
	var unreachable *catalog.UnreachableError
	var gap *catalog.GapError
	switch {
	case err == nil:
		return exitDone
	case isUsage(err):
		return exitUsage
	case errors.As(err, &partial), isPartial(err):
		return exitPartial
	case errors.Is(err, catalog.ErrNoRepository), errors.Is(err, catalog.ErrFormatTooNew), errors.Is(err, object.ErrFormat):
		return exitNoRepository
	case errors.Is(err, catalog.ErrLeaseHeld), errors.Is(err, catalog.ErrLeaseLost), errors.Is(err, catalog.ErrInUse):
		return exitLeaseHeld
	case errors.As(err, &refused), errors.Is(err, catalog.ErrRecipients), errors.Is(err, catalog.ErrClusterMismatch), errors.Is(err, catalog.ErrNoCluster), errors.Is(err, catalog.ErrUnsafeStore):
		return exitRefused
	case errors.As(err, &unreachable), errors.As(err, &gap):
		return exitUnreachable
	default:
		return exitFailed
	}
}

// walExit gives the codes of what PostgreSQL calls: push 0, 1, 12; fetch 0, 1 (proven absence), 126 (everything else).
func walExit(args []string, err error) int {
	if isWALPush(args) {
		return archive.PushExit(err)
	}
	return archive.FetchExit(err)
}

// isWALPush and isWALFetch tell what PostgreSQL may have meant, however wrong the rest of the line is: a mistyped restore_command that ended
// with 64 would be taken for the end of the archive.
func isWALPush(args []string) bool  { return slices.Contains(args, "push") }
func isWALFetch(args []string) bool { return slices.Contains(args, "fetch") }

// report prints an error as every error of pgstow looks: what failed: why, then hints.
func (e *environment) report(err error) {
	e.message("%s", err)
	for _, hint := range hints(err) {
		_, _ = fmt.Fprintf(e.stderr, "hint: %s\n", hint)
	}
}

// hints says what to do about an error, where that is known.
func hints(err error) []string {
	if text := catalog.Hint(err); text != "" {
		return strings.Split(strings.TrimSpace(text), "\n")
	}
	switch {
	case isUsage(err):
		return []string{"pgstow COMMAND --help shows the options and examples"}
	case errors.Is(err, catalog.ErrNoRepository):
		return []string{"make one with: pgstow init --repo URL --cluster NAME --pgdata DIR"}
	case errors.Is(err, storage.ErrNoStore):
		return []string{"the bucket or folder itself is missing: is the URL right, is it mounted, was it created?"}
	case errors.Is(err, storage.ErrPermission):
		return []string{"the store refused the credentials: AWS_PROFILE, AWS_ACCESS_KEY_ID and the bucket's policy decide"}
	case errors.Is(err, object.ErrNoIdentity):
		return []string{"the repository is encrypted: name the file with its identity by --identity-file or PGSTOW_IDENTITY_FILE"}
	case errors.Is(err, object.ErrWrongIdentity):
		return []string{"none of the identities in that file opens this object; pgstow inspect shows the key generation it was made for"}
	}
	return nil
}
