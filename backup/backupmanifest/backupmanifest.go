// Package backupmanifest writes PostgreSQL's backup_manifest, so that pg_verifybackup can check a restored data
// directory before its first start (src/backend/backup/backup_manifest.c, common/parse_manifest.c).
package backupmanifest

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"
	"unicode/utf8"
)

// FileName is the manifest's name in the data directory.
const FileName = "backup_manifest"

// File is one line of the manifest.
type File struct {
	Path     string // relative to the data directory; tablespaces as pg_tblspc/OID/…
	Size     int64
	Modified time.Time
	CRC32C   uint32
}

// WALRange is WAL needed to make the directory consistent.
type WALRange struct {
	Timeline   uint32
	Start, End uint64 // LSNs
}

// Version returns the manifest version that the server of this major writes and its tools read: 1 for 13 to 16, 2 after.
func Version(major int) int {
	if major >= 17 {
		return 2
	}
	return 1
}

// Writer writes one manifest as a stream: files first, then WAL ranges, then Close. Errors stick: the first is returned
// by every later call.
type Writer struct {
	out   *bufio.Writer
	sum   hash.Hash
	files int
	wal   int
	buf   []byte
	err   error
}

// ErrOrder is a file added after the first WAL range.
var ErrOrder = errors.New("backup_manifest: files come before WAL ranges")

// NewWriter begins a manifest. systemID is written in version 2 only.
func NewWriter(w io.Writer, version int, systemID uint64) *Writer {
	m := &Writer{sum: sha256.New()}
	m.out = bufio.NewWriterSize(io.MultiWriter(w, m.sum), 64<<10)
	m.printf("{ \"PostgreSQL-Backup-Manifest-Version\": %d,\n", version)
	if version >= 2 {
		m.printf("\"System-Identifier\": %d,\n", systemID)
	}
	m.printf("\"Files\": [")
	return m
}

func (m *Writer) printf(format string, args ...any) {
	if m.err == nil {
		_, m.err = fmt.Fprintf(m.out, format, args...)
	}
}

// AddFile adds one file, in any order.
func (m *Writer) AddFile(f File) error {
	if m.err == nil && m.wal > 0 {
		m.err = ErrOrder
	}
	if m.err != nil {
		return m.err
	}
	b := m.buf[:0]
	if m.files > 0 {
		b = append(b, ',')
	}
	m.files++
	if utf8.ValidString(f.Path) {
		b = append(b, "\n{ \"Path\": "...)
		b = appendJSON(b, f.Path)
	} else {
		b = append(b, "\n{ \"Encoded-Path\": \""...)
		b = hex.AppendEncode(b, []byte(f.Path))
		b = append(b, '"')
	}
	b = fmt.Appendf(b, ", \"Size\": %d, \"Last-Modified\": \"", f.Size)
	b = f.Modified.UTC().AppendFormat(b, "2006-01-02 15:04:05 GMT")
	// The server dumps its CRC as it lies in memory: low byte first.
	crc := [4]byte{byte(f.CRC32C), byte(f.CRC32C >> 8), byte(f.CRC32C >> 16), byte(f.CRC32C >> 24)}
	b = append(b, "\", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \""...)
	b = hex.AppendEncode(b, crc[:])
	b = append(b, "\" }"...)
	m.buf = b
	_, m.err = m.out.Write(b)
	return m.err
}

// AddWALRange adds one timeline's share of the WAL from start to stop of the backup.
func (m *Writer) AddWALRange(r WALRange) error {
	if m.wal == 0 {
		m.printf("\n],\n\"WAL-Ranges\": [\n")
	} else {
		m.printf(",\n")
	}
	m.wal++
	m.printf("{ \"Timeline\": %d, \"Start-LSN\": \"%s\", \"End-LSN\": \"%s\" }", r.Timeline, lsn(r.Start), lsn(r.End))
	return m.err
}

// Close ends the manifest with the checksum of all before it. It does not close the underlying writer.
func (m *Writer) Close() error {
	if m.wal == 0 {
		m.printf("\n],\n\"WAL-Ranges\": [")
	}
	m.printf("\n],\n")
	if m.err == nil {
		m.err = m.out.Flush()
	}
	// The checksum covers every byte before its own line.
	digest := hex.EncodeToString(m.sum.Sum(nil))
	m.printf("\"Manifest-Checksum\": \"%s\"}\n", digest)
	if m.err == nil {
		m.err = m.out.Flush()
	}
	return m.err
}

func lsn(v uint64) string { return fmt.Sprintf("%X/%X", v>>32, uint32(v)) }

// appendJSON quotes as escape_json of the server does (utils/adt/json.c).
func appendJSON(b []byte, s string) []byte {
	b = append(b, '"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\b':
			b = append(b, `\b`...)
		case c == '\f':
			b = append(b, `\f`...)
		case c == '\n':
			b = append(b, `\n`...)
		case c == '\r':
			b = append(b, `\r`...)
		case c == '\t':
			b = append(b, `\t`...)
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ':
			b = fmt.Appendf(b, `\u%04x`, c)
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}
