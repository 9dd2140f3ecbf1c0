package walsender

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"pgstow/wal"
)

// CodeUndefinedFile is the SQLSTATE of WAL that was removed, and of a history file that is not there (XLogRead, WalSndSegmentOpen and
// SendTimeLineHistory in src/backend/replication/walsender.c).
const CodeUndefinedFile = "58P01"

// IsCode tells whether a server refused something for this reason (src/backend/utils/errcodes.txt).
func IsCode(err error, code string) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == code
}

// System is what IDENTIFY_SYSTEM says.
type System struct {
	ID       uint64
	Timeline wal.TimelineID
	// End of the WAL that the server has written to disk, or on a standby received.
	End wal.LSN
}

// Identify asks which server this is, and where in the WAL it is now.
func Identify(ctx context.Context, conn *pgconn.PgConn) (System, error) {
	r, err := pglogrepl.IdentifySystem(ctx, conn)
	if err != nil {
		return System{}, fmt.Errorf("IDENTIFY_SYSTEM: %w", err)
	}
	// The server prints the 64 bits without a sign here (IdentifySystem in src/backend/replication/walsender.c).
	id, err := strconv.ParseUint(r.SystemID, 10, 64)
	if err != nil {
		return System{}, fmt.Errorf("IDENTIFY_SYSTEM: %w", err)
	}
	return System{ID: id, Timeline: wal.TimelineID(r.Timeline), End: wal.LSN(r.XLogPos)}, nil
}

// Facts are what does not change while a server runs, and what each one tells.
type Facts struct {
	SystemID       uint64
	Version        int    // server_version_num
	BlockSize      uint32 // bytes
	WALSegmentSize wal.SegmentSize
	Checksums      bool
}

// Major is PostgreSQL's major version.
func (f Facts) Major() int { return f.Version / 10000 }

// Learn asks for the facts. A server of a version that pgstow does not know is an error.
func Learn(ctx context.Context, conn *pgconn.PgConn) (f Facts, err error) {
	id, err := Identify(ctx, conn)
	if err != nil {
		return f, err
	}
	f.SystemID = id.ID
	for _, q := range []struct {
		name string
		take func(string) error
	}{
		{"server_version_num", f.takeVersion},
		{"block_size", func(v string) error {
			n, err := strconv.ParseUint(v, 10, 32)
			f.BlockSize = uint32(n)
			return err
		}},
		{"wal_segment_size", func(v string) error {
			n, err := ParseSize(v)
			if err != nil {
				return err
			}
			f.WALSegmentSize = wal.SegmentSize(n)
			return f.WALSegmentSize.Check()
		}},
		{"data_checksums", func(v string) error { f.Checksums = v == "on"; return nil }},
	} {
		v, err := Show(ctx, conn, q.name)
		if err != nil {
			return f, err
		}
		if err := q.take(v); err != nil {
			return f, fmt.Errorf("%s: %w", q.name, err)
		}
	}
	return f, nil
}

func (f *Facts) takeVersion(v string) (err error) {
	if f.Version, err = strconv.Atoi(v); err != nil {
		return err
	}
	if m := f.Major(); m < 13 || m > 18 {
		return fmt.Errorf("PostgreSQL %d: pgstow knows 13 to 18", m)
	}
	return nil
}

// IsStandby asks by what the server tells from 14 on, and before that by what a session of a standby cannot be but.
func IsStandby(ctx context.Context, conn *pgconn.PgConn) (bool, error) {
	if told := conn.ParameterStatus("in_hot_standby"); told != "" {
		return told == "on", nil
	}
	value, err := Show(ctx, conn, "transaction_read_only")
	return value == "on", err
}

// HistoryFile is the contents of a timeline's history file; ok is false if the server has none.
func HistoryFile(ctx context.Context, conn *pgconn.PgConn, tli wal.TimelineID) (b []byte, ok bool, err error) {
	file, err := pglogrepl.TimelineHistory(ctx, conn, int32(tli))
	if IsCode(err, CodeUndefinedFile) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("TIMELINE_HISTORY %d: %w", tli, err)
	}
	return file.Content, true, nil
}

// Show is a setting as a walsender tells it (SHOW is a command of the replication protocol).
func Show(ctx context.Context, conn *pgconn.PgConn, name string) (string, error) {
	rows, err := Query(ctx, conn, "SHOW "+name)
	if err != nil {
		return "", fmt.Errorf("SHOW %s: %w", name, err)
	}
	if len(rows) != 1 || len(rows[0]) != 1 {
		return "", fmt.Errorf("SHOW %s: no value", name)
	}
	return string(rows[0][0]), nil
}

// Query runs one statement, by whichever protocol the connection speaks, and returns its rows; nil is NULL.
func Query(ctx context.Context, conn *pgconn.PgConn, sql string) ([][][]byte, error) {
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(results) != 1 {
		return nil, fmt.Errorf("%d results", len(results))
	}
	return results[0].Rows, nil
}

// ParseSize reads a setting with a unit of memory, such as 16MB, as bytes.
func ParseSize(text string) (uint64, error) {
	digits := strings.TrimRight(text, "kMGTB")
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil {
		return 0, err
	}
	shift, ok := map[string]uint{"": 0, "B": 0, "kB": 10, "MB": 20, "GB": 30, "TB": 40}[text[len(digits):]]
	if !ok {
		return 0, fmt.Errorf("%q is no size", text)
	}
	return n << shift, nil
}
