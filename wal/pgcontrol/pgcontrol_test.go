package pgcontrol_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgstow/wal/pgcontrol"
)

var majors = []int{13, 14, 15, 16, 17, 18}

// control reads a fixture that ../testdata/make.sh took from a server.
func control(t testing.TB, major int, role string) []byte {
	t.Helper()
	packed, err := os.ReadFile(filepath.Join("testdata", fmt.Sprint(major), role, "pg_control.gz"))
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) != pgcontrol.FileSize {
		t.Fatalf("%d bytes", len(b))
	}
	return b
}

// serverSays reads what the pg_control_*() functions of that server returned for the same file.
func serverSays(t *testing.T, major int, role string) map[string]string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", fmt.Sprint(major), role, "server-says"))
	if err != nil {
		t.Fatal(err)
	}
	says := map[string]string{}
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		says[k] = v
	}
	return says
}

func TestParseAgreesWithServer(t *testing.T) {
	for _, major := range majors {
		for _, role := range []string{"control", "standby-control"} {
			t.Run(fmt.Sprint(major, "/", role), func(t *testing.T) {
				c, err := pgcontrol.Parse(control(t, major, role))
				if err != nil {
					t.Fatal(err)
				}
				flag := map[bool]string{true: "t", false: "f"}
				stamp := func(t time.Time) string { return t.Format("2006-01-02 15:04:05") + "+00" }
				says := serverSays(t, major, role)
				for name, got := range map[string]string{
					"pg_control_version":            fmt.Sprint(c.Version),
					"catalog_version_no":            fmt.Sprint(c.CatalogVersion),
					"system_identifier":             fmt.Sprint(c.SystemID),
					"pg_control_last_modified":      stamp(c.Modified),
					"checkpoint_lsn":                c.Checkpoint.String(),
					"redo_lsn":                      c.Redo.String(),
					"timeline_id":                   c.Timeline.String(),
					"prev_timeline_id":              c.PrevTimeline.String(),
					"full_page_writes":              flag[c.FullPageWrites],
					"next_xid":                      fmt.Sprintf("%d:%d", c.NextXID>>32, uint32(c.NextXID)),
					"oldest_xid":                    fmt.Sprint(c.OldestXID),
					"checkpoint_time":               stamp(c.CheckpointTime),
					"min_recovery_end_lsn":          c.MinRecoveryPoint.String(),
					"min_recovery_end_timeline":     c.MinRecoveryTimeline.String(),
					"backup_start_lsn":              c.BackupStart.String(),
					"backup_end_lsn":                c.BackupEnd.String(),
					"end_of_backup_record_required": flag[c.BackupEndRequired],
					"max_data_alignment":            fmt.Sprint(c.MaxAlign),
					"database_block_size":           fmt.Sprint(c.BlockSize),
					"blocks_per_segment":            fmt.Sprint(c.RelSegSize),
					"wal_block_size":                fmt.Sprint(c.WALBlockSize),
					"bytes_per_wal_segment":         fmt.Sprint(uint32(c.WALSegmentSize)),
					"data_page_checksum_version":    fmt.Sprint(c.DataChecksumVersion),
				} {
					if says[name] != got {
						t.Errorf("%s is %q, the server says %q", name, got, says[name])
					}
				}
				if c.WALLevel != pgcontrol.WALReplica || c.LogHints {
					t.Errorf("wal_level %s, wal_log_hints %v", c.WALLevel, c.LogHints)
				}
				if c.Major() != major {
					t.Errorf("major %d", c.Major())
				}
			})
		}
	}
}

func TestState(t *testing.T) {
	for _, major := range majors {
		for role, want := range map[string]pgcontrol.State{
			"control":         pgcontrol.StateInProduction,
			"standby-control": pgcontrol.StateArchiveRecovery,
			"stopped-control": pgcontrol.StateShutDown,
		} {
			c, err := pgcontrol.Parse(control(t, major, role))
			if err != nil {
				t.Fatal(err)
			}
			if c.State != want || c.State.Stopped() != (role == "stopped-control") {
				t.Errorf("%d: %s is %s", major, role, c.State)
			}
		}
	}
	if s := pgcontrol.State(9).String(); s != "unrecognized status code 9" {
		t.Error(s)
	}
}

// TestUsedPartIsEnough cuts the file: the rest of it is padding.
func TestUsedPartIsEnough(t *testing.T) {
	for _, major := range majors {
		b := control(t, major, "control")
		used := len(bytes.TrimRight(b, "\x00"))
		whole, err := pgcontrol.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := pgcontrol.Parse(b[:296]); err != nil || c != whole {
			t.Errorf("%d: the first 296 bytes: %v", major, err)
		}
		for n := range used - 1 {
			if _, err := pgcontrol.Parse(b[:n]); !errors.Is(err, pgcontrol.ErrCRC) {
				t.Fatalf("%d: %d bytes: %v", major, n, err)
			}
		}
	}
}

// TestEveryBitCounts flips each bit of the used part: a torn or damaged file is never taken.
func TestEveryBitCounts(t *testing.T) {
	for _, major := range majors {
		b := control(t, major, "control")
		for bit := range len(bytes.TrimRight(b, "\x00")) * 8 {
			c := slices.Clone(b)
			c[bit/8] ^= 1 << (bit % 8)
			_, err := pgcontrol.Parse(c)
			inVersion := bit/8 >= 8 && bit/8 < 12
			if !errors.Is(err, pgcontrol.ErrCRC) && (!inVersion || !errors.Is(err, pgcontrol.ErrVersion)) {
				t.Fatalf("%d: bit %d: %v", major, bit, err)
			}
		}
	}
}

// reseal writes a right checksum into a changed file of version 1300.
func reseal(b []byte) []byte {
	binary.LittleEndian.PutUint32(b[288:], crc32.Checksum(b[:288], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

func TestParseRefuses(t *testing.T) {
	b := control(t, 15, "control")
	put := func(at int, v uint32) []byte {
		c := slices.Clone(b)
		binary.LittleEndian.PutUint32(c[at:], v)
		return reseal(c)
	}
	swapped := slices.Clone(b)
	slices.Reverse(swapped[8:12])
	for _, c := range []struct {
		what string
		file []byte
		want error
	}{
		{"empty", nil, pgcontrol.ErrCRC},
		{"zeros", make([]byte, 8192), pgcontrol.ErrVersion},
		{"older", put(8, 1201), pgcontrol.ErrVersion},
		{"newer", put(8, 1900), pgcontrol.ErrVersion},
		{"big endian", swapped, pgcontrol.ErrByteOrder},
		{"alignment", put(204, 4), pgcontrol.ErrVersion},
		{"block size", put(216, 0), pgcontrol.ErrVersion},
		{"relation files", put(220, 0), pgcontrol.ErrVersion},
		{"WAL page size", put(224, 3000), pgcontrol.ErrVersion},
		{"segment size", put(228, 5), pgcontrol.ErrVersion},
	} {
		if _, err := pgcontrol.Parse(c.file); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
	}
	if c, err := pgcontrol.Parse(put(12, 1)); err != nil || c.Major() != 0 {
		t.Errorf("unknown catalog version: major %d, %v", c.Major(), err)
	}
}

func FuzzControl(f *testing.F) {
	f.Add(control(f, 13, "control")[:296])
	f.Add(control(f, 18, "standby-control")[:296])
	f.Fuzz(func(t *testing.T, b []byte) {
		// A right checksum lets the fuzzer reach the fields.
		if len(b) >= 292 {
			b = reseal(slices.Clone(b))
		}
		c, err := pgcontrol.Parse(b)
		if err != nil {
			return
		}
		if !c.WALSegmentSize.Valid() || c.BlockSize == 0 || c.WALBlockSize == 0 || c.RelSegSize == 0 {
			t.Errorf("accepted sizes that cannot be: %+v", c)
		}
	})
}
