package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"pgstow/backup"
	"pgstow/catalog"
	"pgstow/storage"
	"pgstow/storage/object"
	"pgstow/wal/archive"
	"pgstow/wal/receive"
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
	case errors.Is(err, catalog.ErrNoRepository), errors.Is(err, storage.ErrNoStore), errors.Is(err, catalog.ErrFormatTooNew), errors.Is(err, object.ErrFormat):
		return exitNoRepository
	case errors.Is(err, catalog.ErrLeaseHeld), errors.Is(err, catalog.ErrLeaseLost), errors.Is(err, catalog.ErrInUse):
		return exitLeaseHeld
	case errors.As(err, &refused), errors.Is(err, catalog.ErrRecipients), errors.Is(err, catalog.ErrClusterMismatch), errors.Is(err, catalog.ErrNoCluster), errors.Is(err, catalog.ErrUnsafeStore), errors.Is(err, receive.ErrServer):
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
func isWALPush(args []string) bool  { return hasWord(args, "push") }
func isWALFetch(args []string) bool { return isRecovery(args) || hasWord(args, "fetch") }

// hasWord looks for a word anywhere in a line that is not plainly one of the commands for people: a backup may be labelled "push".
func hasWord(args []string, word string) bool {
	if len(args) > 1 && args[1] != "wal" && slices.ContainsFunc(newApp(&environment{}).Commands, func(c *cli.Command) bool { return c.HasName(args[1]) }) {
		return false
	}
	return slices.Contains(args, word)
}

// isRecovery tells by the names that PostgreSQL gives to %p (RestoreArchivedFile in src/backend/access/transam/xlogarchive.c) that it is
// recovery that called, whatever the command says.
func isRecovery(args []string) bool {
	return slices.ContainsFunc(args, func(arg string) bool {
		name := filepath.Base(arg)
		return name == "RECOVERYXLOG" || name == "RECOVERYHISTORY"
	})
}

// report prints an error as every error of pgstow looks: what failed: why, then hints.
func (e *environment) report(err error, command string) {
	e.message("%s", err)
	for _, hint := range hints(err, command) {
		_, _ = fmt.Fprintf(e.stderr, "hint: %s\n", hint)
	}
}

// hints says what to do about an error of this command, where that is known.
func hints(err error, command string) []string {
	if text := catalog.Hint(err); text != "" {
		lines := strings.Split(strings.TrimSpace(text), "\n")
		if errors.Is(err, catalog.ErrInUse) {
			lines = append(lines, "pgstow backup delete --ignore-holds deletes it all the same")
		}
		return lines
	}
	var gap *catalog.GapError
	switch {
	case errors.As(err, &gap):
		return []string{"the server's pg_wal, or a standby's, may still have what is missing, and pgstow wal repair stores it; if it is lost, pgstow restore --stop-at-hole, without another target, recovers up to " + gap.Reached.String()}
	case isUsage(err):
		return []string{command + " --help shows the options and examples"}
	case errors.Is(err, storage.ErrNoStore):
		return []string{"the bucket or folder itself is missing: is the URL right, is it mounted, was it created by pgstow init?"}
	case errors.Is(err, catalog.ErrNoRepository):
		return []string{"make one with: pgstow init --repo URL --cluster NAME --pgdata DIR"}
	case errors.Is(err, catalog.ErrFormatTooNew), errors.Is(err, object.ErrFormat):
		return []string{"this is " + program() + "; use the version that wrote it, or a newer one"}
	case errors.Is(err, catalog.ErrNoCluster):
		return []string{"--cluster, PGSTOW_CLUSTER or cluster in the configuration name it; a first push or backup makes it"}
	case errors.Is(err, catalog.ErrNoBackup):
		return []string{"pgstow backup list shows the ids"}
	case errors.Is(err, storage.ErrPermission):
		return []string{"with s3:// the credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID) and the bucket's policy decide, with file:// the owner and mode of the folder"}
	case errors.Is(err, storage.ErrFull):
		return []string{"make room there, or raise the quota; deleting old backups frees what no other backup needs: pgstow backup list, pgstow backup delete ID"}
	case errors.Is(err, storage.ErrUntrusted):
		return []string{"a certificate of your own is named by ca_file=FILE in the repository's URL, or by AWS_CA_BUNDLE; an expired one, or one for another name, must be made anew; a store without TLS has endpoint=http://…"}
	case errors.Is(err, object.ErrNoIdentity):
		return []string{"the repository is encrypted: name the file with its identity by --identity-file or PGSTOW_IDENTITY_FILE"}
	case errors.Is(err, object.ErrWrongIdentity):
		return []string{"none of the identities in that file opens this object; pgstow inspect shows the key generation it was made for"}
	}
	return nil
}

// withState adds to an error in which state it leaves things, and calls it an interruption if a signal ended the command.
func withState(ctx context.Context, what string, err error, state string) error {
	cause := context.Cause(ctx)
	if cause != nil && (errors.Is(err, cause) || errors.Is(err, context.Canceled)) {
		return &catalog.HintError{Err: fmt.Errorf("%s: interrupted: %w", what, cause), Hint: state}
	}
	hint := strings.TrimSpace(catalog.Hint(err) + "\n" + state)
	if hint == "" {
		return err
	}
	return &catalog.HintError{Err: err, Hint: hint}
}
