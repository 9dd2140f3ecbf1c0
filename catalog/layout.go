package catalog

import (
	"fmt"
	"strconv"
	"strings"

	"pgstow/wal"
)

// Keys at the root of a repository.
const (
	RepoKey          = "repo.json" // format, id, encrypted or not: for ever
	generationPrefix = "repo/"     // repo/<n>.json: recipients; the highest n wins
)

// MaxClusterName is the greatest length of a cluster's name in bytes.
const MaxClusterName = 63

// ClusterRef names one PostgreSQL cluster in a repository: the name that the operator chose and the system identifier
// that initdb chose. Two servers configured alike have different ones, so they cannot write into each other's archive.
type ClusterRef struct {
	Name     string
	SystemID uint64
}

// String is for messages: "main/7300123456789012345".
func (c ClusterRef) String() string { return c.Name + "/" + strconv.FormatUint(c.SystemID, 10) }

// Check returns an error unless c can be part of a key and names a real system identifier.
func (c ClusterRef) Check() error {
	if c.SystemID == 0 {
		return fmt.Errorf("cluster %q has no system identifier", c.Name)
	}
	return CheckClusterName(c.Name)
}

// CheckClusterName returns an error unless name is 1 to 63 characters of A-Z a-z 0-9 . _ -, begins with a letter or a
// digit and is not "repo" or "repo.json", which are the repository's own.
func CheckClusterName(name string) error {
	if name == "" || len(name) > MaxClusterName {
		return fmt.Errorf("cluster name %q must have 1 to %d characters", name, MaxClusterName)
	}
	for i, c := range []byte(name) {
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '.' && c != '_' && c != '-') {
			return fmt.Errorf("cluster name %q: only A-Z a-z 0-9 . _ - are allowed, with a letter or digit first", name)
		}
	}
	if name == "repo" || name == RepoKey {
		return fmt.Errorf("cluster name %q is reserved for the repository itself", name)
	}
	return nil
}

// Prefix is where all objects of the cluster lie but leases, sweep lists and holds: "<cluster>/<system-id>/".
func (c ClusterRef) Prefix() string { return c.String() + "/" }

// InfoKey is the key of cluster.json.
func (c ClusterRef) InfoKey() string { return c.Prefix() + "cluster.json" }

// WALPrefix is where the cluster's WAL lies.
func (c ClusterRef) WALPrefix() string { return c.Prefix() + "wal/" }

// TimelinePrefix is where the WAL of one timeline lies.
func (c ClusterRef) TimelinePrefix(tli wal.TimelineID) string {
	return fmt.Sprintf("%s%08X/", c.WALPrefix(), uint32(tli))
}

// LogPrefix is where the segments of one log id (the second part of a segment's name) lie.
func (c ClusterRef) LogPrefix(tli wal.TimelineID, log uint32) string {
	return fmt.Sprintf("%s%08X/", c.TimelinePrefix(tli), log)
}

// WALKey returns the one key of a WAL file, encrypted or not. hash8, the first 8 hex digits of the SHA-256 of the plain
// bytes, is part of the key of a .partial file only: two promotions from one segment leave two of them that differ
// (RULES-archive B7 in words: different ones live side by side).
func (c ClusterRef) WALKey(name wal.FileName, hash8 string) string {
	switch name.Kind {
	case wal.HistoryFile:
		return c.HistoryKey(name.Timeline)
	case wal.Partial:
		return c.LogPrefix(name.Timeline, name.Log) + name.String() + "." + strings.ToLower(hash8)
	default:
		return c.LogPrefix(name.Timeline, name.Log) + name.String()
	}
}

// HistoryKey is the key of a timeline's history file.
func (c ClusterRef) HistoryKey(tli wal.TimelineID) string {
	return fmt.Sprintf("%s%08X.history", c.TimelinePrefix(tli), uint32(tli))
}

// PieceKey is the key of a streamed piece of a segment that is not yet full: the bytes from LSN from to LSN to.
func (c ClusterRef) PieceKey(segment wal.FileName, from, to wal.LSN) string {
	return fmt.Sprintf("%s%s.%016X-%016X", c.LogPrefix(segment.Timeline, segment.Log), segment.String(), uint64(from), uint64(to))
}

// BackupPrefix is where the manifests of all backups of the cluster lie, or, with an id, that of one backup.
func (c ClusterRef) BackupPrefix() string { return c.Prefix() + "backup/" }

// BackupManifestKey is the commit point of a backup: without an object there the backup does not exist.
func (c ClusterRef) BackupManifestKey(id string) string { return c.BackupPrefix() + id + "/manifest" }

// PackPrefix is where the packs lie that the backup id wrote.
func (c ClusterRef) PackPrefix(id string) string { return c.Prefix() + "pack/" + id + "/" }

// PackKey is the key of pack number n that the backup id wrote.
func (c ClusterRef) PackKey(id string, n int) string { return c.PackPrefix(id) + strconv.Itoa(n) }

// DumpPrefix is where the objects of one logical dump lie; with an empty id, of all.
func (c ClusterRef) DumpPrefix(id string) string {
	if id == "" {
		return c.Prefix() + "dump/"
	}
	return c.Prefix() + "dump/" + id + "/"
}

// DumpManifestKey is the commit point of a dump.
func (c ClusterRef) DumpManifestKey(id string) string { return c.DumpPrefix(id) + "manifest" }

// DumpKey is the key of object n (from 1) of a dump.
func (c ClusterRef) DumpKey(id string, n int) string { return c.DumpPrefix(id) + strconv.Itoa(n) }

// LeasePrefix is where the leases of all clusters of one name lie.
func LeasePrefix(cluster string) string { return cluster + "/lease/" }

// LeaseKey is the key of a lease.
func LeaseKey(cluster, name string) string { return LeasePrefix(cluster) + name + ".json" }

// SweepPrefix is where the lists of condemned objects lie.
func SweepPrefix(cluster string) string { return cluster + "/sweep/" }

// SweepKey is the key of a list of condemned objects.
func SweepKey(cluster, name string) string { return SweepPrefix(cluster) + name + ".json" }

// HoldPrefix is where the holds lie, which keep what they name from being deleted.
func HoldPrefix(cluster string) string { return cluster + "/hold/" }

// HoldKey is the key of a hold.
func HoldKey(cluster, name string) string { return HoldPrefix(cluster) + name + ".json" }

// afterFolder returns the List position behind all keys of a folder: prefix ends with '/', and '0' is the next byte.
func afterFolder(prefix string) string { return prefix[:len(prefix)-1] + "0" }

// ParsePackKey reads the parts of a key that PackKey made.
func ParsePackKey(c ClusterRef, key string) (id string, n int, ok bool) {
	rest, ok := strings.CutPrefix(key, c.Prefix()+"pack/")
	if !ok {
		return "", 0, false
	}
	id, tail, ok := strings.Cut(rest, "/")
	if !ok || CheckBackupID(id) != nil {
		return "", 0, false
	}
	n, err := strconv.Atoi(tail)
	if err != nil || n < 0 || strconv.Itoa(n) != tail {
		return "", 0, false
	}
	return id, n, true
}

// parseManifestKey reads the id out of a key that BackupManifestKey made.
func parseManifestKey(c ClusterRef, key string) (id string, ok bool) {
	rest, ok := strings.CutPrefix(key, c.BackupPrefix())
	if !ok {
		return "", false
	}
	id, tail, _ := strings.Cut(rest, "/")
	return id, tail == "manifest" && CheckBackupID(id) == nil
}
