package backupmanifest_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgstow/backup/backupmanifest"
	"pgstow/test/pg"
)

func TestText(t *testing.T) {
	when := time.Date(2026, 11, 24, 15, 4, 5, 999, time.FixedZone("x", 3600))
	files := `"Files": [
{ "Path": "a\"\\\tb\u0001", "Size": 9, "Last-Modified": "2026-11-24 14:04:05 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "839206e3" },
{ "Encoded-Path": "ff2f31", "Size": 0, "Last-Modified": "2026-11-24 14:04:05 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "00000000" }
],
"WAL-Ranges": [
{ "Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/3000000" },
{ "Timeline": 2, "Start-LSN": "0/3000000", "End-LSN": "1/2000100" }
],
`
	for major, head := range map[int]string{
		15: "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n",
		17: "{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": 18446744073709551615,\n",
	} {
		var out bytes.Buffer
		w := backupmanifest.NewWriter(&out, backupmanifest.Version(major), 1<<64-1)
		for _, err := range []error{
			w.AddFile(backupmanifest.File{Path: "a\"\\\tb\x01", Size: 9, Modified: when, CRC32C: 0xE3069283}),
			w.AddFile(backupmanifest.File{Path: "\xff/1", Modified: when}),
			w.AddWALRange(backupmanifest.WALRange{Timeline: 1, Start: 0x2000028, End: 0x3000000}),
			w.AddWALRange(backupmanifest.WALRange{Timeline: 2, Start: 0x3000000, End: 0x1_02000100}),
			w.Close(),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		want := head + files
		digest := sha256.Sum256([]byte(want))
		want += "\"Manifest-Checksum\": \"" + hex.EncodeToString(digest[:]) + "\"}\n"
		if got := out.String(); got != want {
			t.Errorf("PostgreSQL %d:\ngot  %s\nwant %s", major, got, want)
		}
	}
}

func TestOrder(t *testing.T) {
	w := backupmanifest.NewWriter(&bytes.Buffer{}, 1, 0)
	if err := w.AddWALRange(backupmanifest.WALRange{Timeline: 1}); err != nil {
		t.Fatal(err)
	}
	if err := w.AddFile(backupmanifest.File{Path: "late"}); !errors.Is(err, backupmanifest.ErrOrder) {
		t.Errorf("a file after the WAL ranges: %v", err)
	}
	if err := w.Close(); !errors.Is(err, backupmanifest.ErrOrder) {
		t.Errorf("Close after an error: %v", err)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, fs.ErrClosed }

func TestWriteError(t *testing.T) {
	w := backupmanifest.NewWriter(brokenWriter{}, 1, 0)
	if err := w.Close(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// TestVerifyBackup lets PostgreSQL's own tool judge a manifest, whole and after a change of one byte.
func TestVerifyBackup(t *testing.T) {
	tools, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pg_verifybackup")
	if len(tools) == 0 {
		pg.Missing(t, "no pg_verifybackup on this machine")
	}
	tool := tools[len(tools)-1]
	dir := t.TempDir()
	contents := map[string]string{
		"PG_VERSION":                      "15\n",
		"base/5/112":                      strings.Repeat("x", 8192),
		"base/5/113":                      "",
		"pg_tblspc/16384/PG_15_2/5/16385": strings.Repeat("\x00", 24576),
		"quote\"back\\slash":              "a",
		"latin1-\xe9":                     "b",
		"utf8-é":                          "c",
	}
	var manifest bytes.Buffer
	w := backupmanifest.NewWriter(&manifest, 1, 0)
	for path, text := range contents {
		full := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := w.AddFile(backupmanifest.File{Path: path, Size: int64(len(text)), Modified: time.Now(), CRC32C: backupmanifest.Checksum([]byte(text))}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.AddWALRange(backupmanifest.WALRange{Timeline: 1, Start: 0x2000028, End: 0x2000100}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, backupmanifest.FileName), manifest.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(tool, "-n", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, manifest.String())
	}
	if err := os.WriteFile(filepath.Join(dir, "utf8-é"), []byte("d"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(tool, "-n", dir).CombinedOutput(); err == nil || !strings.Contains(string(out), "checksum mismatch") {
		t.Errorf("a changed byte went unnoticed: %v\n%s", err, out)
	}
}
