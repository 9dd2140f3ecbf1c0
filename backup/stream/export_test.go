package stream

import "pgstow/wal"

// SQL is the command for a major.
func (o BackupOptions) SQL(major int) string { return o.sql(major) }

// ValidPath is validPath.
func ValidPath(path string) bool { return validPath(path) }

// Announced is the index of the tablespace that a message of kind 'n' names.
func Announced(message []byte, list ...Tablespace) (int, error) {
	b := &Backup{Tablespaces: list, next: -1}
	err := b.kind(message)
	return b.next, err
}

// Position is position.
func Position(rows [][]string) (wal.LSN, wal.TimelineID, error) { return position(rows) }

// ParseTablespace is tablespace.
func ParseTablespace(row []string) (Tablespace, error) { return tablespace(row) }
