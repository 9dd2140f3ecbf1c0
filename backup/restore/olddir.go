package restore

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"pgstow/catalog"
	"pgstow/wal"
	"pgstow/wal/archive"
	"pgstow/wal/pgcontrol"
)

// oldDirectory is what a delta restore finds in its place.
type oldDirectory struct {
	empty     bool // nothing, or no directory
	resume    bool // an interrupted delta restore of the same plan goes on
	marked    bool // an interrupted restore of this cluster left it
	startable bool // there is a pg_control
}

// checkOld decides whether a delta restore may overwrite dir: only a copy of the same system, in which no server runs
// (RULES-physical E7).
func checkOld(dir string, want Marker, force bool) (oldDirectory, error) {
	var old oldDirectory
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		old.empty = true
		return old, checkParent(dir)
	}
	if err != nil {
		return old, err
	}
	if !info.IsDir() {
		return old, refuse(dir, "", "it is not a directory")
	}
	names, err := readNames(dir)
	if err != nil {
		return old, err
	}
	if len(names) == 0 || len(names) == 1 && names[0] == MarkerName+temporarySuffix {
		old.empty = true
		return old, nil
	}
	if err := checkStopped(dir, force); err != nil {
		return old, err
	}
	if _, err := os.Lstat(filepath.Join(dir, controlPath)); err == nil {
		old.startable = true
	}
	raw, err := readLimited(filepath.Join(dir, MarkerName), maxMarker)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return old, err
	}
	var have Marker
	if err == nil && json.Unmarshal(raw, &have) == nil && have.Format == want.Format {
		if have.SystemID != want.SystemID {
			return old, refuse(dir, "is it the right directory?", "it holds a half-done restore of system %d, and the backup is of system %d", have.SystemID, want.SystemID)
		}
		old.marked, old.resume = true, have.equal(want)
		return old, nil
	}
	return old, checkIdentity(dir, want.SystemID)
}

// checkStopped refuses a directory with a running server. A postmaster.pid counts as one, since a server in another
// container or on another host cannot be seen; force goes on in spite of it, but not of a server that can be seen.
func checkStopped(dir string, force bool) error {
	if pid := serverIn(dir); pid != 0 {
		return refuse(dir, "stop that server", "process %d, a PostgreSQL server, works there", pid)
	}
	if _, err := os.Lstat(filepath.Join(dir, "postmaster.pid")); !errors.Is(err, fs.ErrNotExist) && !force {
		return refuse(dir, "stop that server; if none runs anywhere, use --force",
			"it has a postmaster.pid: a server may be running there, perhaps in another container or on another host")
	}
	return nil
}

// serverIn is a process of PostgreSQL that works in dir, as every one does in its data directory; 0 if this process can see
// none.
func serverIn(dir string) int {
	found := 0
	eachServer(func(pid int, cwd string) bool {
		if cwd == dir {
			found = pid
		}
		return found == 0
	})
	return found
}

// eachServer visits the processes called postgres whose working directory this process may know.
func eachServer(visit func(pid int, cwd string) bool) {
	names, err := readNames("/proc")
	if err != nil {
		return
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		comm, err := os.ReadFile(filepath.Join("/proc", name, "comm"))
		if err != nil || strings.TrimSpace(string(comm)) != "postgres" && strings.TrimSpace(string(comm)) != "postmaster" {
			continue
		}
		if cwd, err := os.Readlink(filepath.Join("/proc", name, "cwd")); err == nil && !visit(pid, cwd) {
			return
		}
	}
}

// checkIdentity makes sure that dir is a data directory of this system: by pg_control, even if it is damaged, or, where that
// is lost, by its WAL.
func checkIdentity(dir string, want uint64) error {
	raw, err := readLimited(filepath.Join(dir, controlPath), 1<<20)
	if err == nil && len(raw) >= 8 {
		have := []uint64{binary.LittleEndian.Uint64(raw), binary.BigEndian.Uint64(raw)}
		if slices.Contains(have, want) {
			return nil
		}
		if control, err := pgcontrol.Parse(raw); err == nil {
			return refuse(dir, "is it the right directory?", "it is a data directory of system %d, and the backup is of system %d", control.SystemID, want)
		}
	}
	switch id, err := walIdentity(filepath.Join(dir, "pg_wal")); {
	case err != nil:
		return refuse(dir, "give a data directory of this cluster, or an empty one",
			"it is not empty, and neither %s nor WAL in it shows that it is a data directory of system %d", controlPath, want)
	case id != want:
		return refuse(dir, "is it the right directory?", "its WAL is of system %d, and the backup is of system %d", id, want)
	}
	return nil
}

// walIdentity is the system identifier in the newest segment of a folder.
func walIdentity(dir string) (uint64, error) {
	names, err := readNames(dir)
	if err != nil {
		return 0, err
	}
	slices.Sort(names)
	for _, name := range slices.Backward(names) {
		if parsed, err := wal.ParseFileName(name); err != nil || parsed.Kind != wal.Segment {
			continue
		}
		f, err := openRegular(filepath.Join(dir, name))
		if f == nil || err != nil {
			continue
		}
		first := make([]byte, wal.LongHeaderSize)
		_, err = io.ReadFull(f, first)
		if err = errors.Join(err, f.Close()); err != nil {
			continue
		}
		if h, err := wal.ParseSegmentHeader(first); err == nil {
			return h.SystemID, nil
		}
	}
	return 0, errors.New("no segment")
}

// checkOldWAL refuses to remove WAL that neither the archive nor the backup has (RULES-physical A15): it may hold what nobody
// else has.
func checkOldWAL(ctx context.Context, repo *catalog.Repository, dir string, c *content) error {
	ref := c.header.Ref()
	folder := filepath.Join(dir, "pg_wal")
	info, err := os.Lstat(folder)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return nil // what lies behind a link stays where it is
	}
	if err != nil {
		return err
	}
	result, err := archive.Repair(ctx, archive.RepairOptions{
		PushOptions: archive.PushOptions{Options: archive.Options{
			Store: repo.Store, Cluster: ref.Name, SystemID: ref.SystemID,
			Pins: catalog.Pins{Recipients: repo.Recipients, EncryptionNone: !repo.Encrypted, Identities: repo.Identities(), AllowUnsafe: repo.Unsafe},
		}},
		From: folder, DryRun: true,
	})
	var other *archive.RefusedError
	if err != nil && !errors.As(err, &other) {
		return fmt.Errorf("compare %s with the archive: %w", folder, err)
	}
	var missing, refused []string
	for _, f := range result.Files {
		name, err := wal.ParseFileName(f.Name)
		if err != nil || name.Kind == wal.BackupHistory || f.Action != archive.RepairMissing && f.Action != archive.RepairRefused || onlyShutdown(dir, f) {
			continue
		}
		same, err := c.hasWAL(dir, f.Name)
		switch {
		case err != nil:
			return err
		case same:
		case f.Action == archive.RepairMissing:
			missing = append(missing, f.Name)
		default:
			refused = append(refused, f.Name)
		}
	}
	const giveUp = "; --discard-wal gives it up"
	switch {
	case len(refused) > 0:
		return refuse(folder, "copy "+folder+" to a safe place if it may be needed"+giveUp,
			"it has WAL that is not the archive's: it went another way (%s)", someNames(refused))
	case len(missing) > 0:
		return refuse(folder, "pgstow wal repair --pgdata "+dir+" stores it"+giveUp,
			"it has WAL that the archive lacks, which would be lost (%s)", someNames(missing))
	}
	return nil
}

// hasWAL reports whether the backup itself has a file of pg_wal, as it is there.
func (c *content) hasWAL(dir, name string) (bool, error) {
	id, ok := c.wal[name]
	sum, known := c.digests[id]
	if !ok || !known {
		return false, nil
	}
	probe := &writer{dir: dir, table: c.table}
	return probe.keepBlob(id, sum)
}

// onlyShutdown reports whether all that a file has is the checkpoint of a clean shutdown: the server switches to a new segment
// before it writes that (ShutdownXLOG in access/transam/xlog.c), so that it is never archived, and nobody needs it.
func onlyShutdown(dir string, f archive.RepairedFile) bool {
	raw, err := readLimited(filepath.Join(dir, controlPath), 1<<20)
	if err != nil || !f.Piece {
		return false
	}
	control, err := pgcontrol.Parse(raw)
	const longest = 256 // bytes of that record
	return err == nil && control.State == pgcontrol.StateShutDown && control.Checkpoint == f.From+wal.LongHeaderSize && f.To <= control.Checkpoint+longest
}
