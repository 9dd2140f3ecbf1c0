package object_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"pgstow/storage/object"
	"pgstow/test/pg"
)

// The documentation promises that zstd and age alone recover the plain bytes.
func TestZstdAlone(t *testing.T) {
	need(t, "zstd")
	for _, plain := range [][]byte{{}, textOf(10), textOf(3<<20 + 1), noiseOf(2 << 20)} {
		stored, err := object.EncodeAll(object.WriterOptions{}, sample, plain)
		must(t, err)
		if got := shell(t, stored, "zstd -dc"); !bytes.Equal(got, plain) {
			t.Errorf("zstd -dc gives %d bytes for %d", len(got), len(plain))
		}
		shell(t, stored, "zstd -t -")
	}
}

func TestAgeAndZstdAlone(t *testing.T) {
	need(t, "zstd", "age")
	key := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(key, []byte(x25519ID.text+"\n"), 0o600))
	for _, plain := range [][]byte{{}, textOf(10), textOf(3<<20 + 1), noiseOf(2 << 20)} {
		stored, err := object.EncodeAll(object.WriterOptions{Recipients: x25519ID.recs()}, sample, plain)
		must(t, err)
		got := shell(t, stored, "tail -c +513 | age -d -i "+key+" | zstd -dc")
		if !bytes.Equal(got, plain) {
			t.Errorf("got %d bytes for %d", len(got), len(plain))
		}
	}
}

// What zstd writes in the form that the specification asks for, we read.
func TestZstdWrites(t *testing.T) {
	need(t, "zstd")
	for _, plain := range [][]byte{textOf(1), textOf(300), textOf(1 << 20), noiseOf(1 << 20), make([]byte, 1<<20)} {
		for _, level := range []string{"-1", "-3", "-19"} {
			path := filepath.Join(t.TempDir(), "plain")
			must(t, os.WriteFile(path, plain, 0o600))
			frame := shell(t, nil, "zstd -q -c --single-thread --check --zstd=wlog=20 "+level+" "+path)
			if frame[4]&0x20 == 0 {
				t.Errorf("%d bytes, zstd %s: not a single segment, as the specification says", len(plain), level)
			}
			stored, err := object.EncodeAll(object.WriterOptions{}, sample, plain)
			must(t, err)
			f := footerOf(stored)
			b := append(append(clone(stored[:512]), frame...), stored[f:]...)
			put32(b, footerOf(b)+40, uint32(len(frame)))
			put32(b, footerOf(b)+48, crc(frame))
			reseal(b)
			for how, read := range readers {
				if got, err := read(b, nil); err != nil || !bytes.Equal(got, plain) {
					t.Errorf("%d bytes, zstd %s, %s: %v", len(plain), level, how, err)
				}
			}
		}
	}
}

func need(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			pg.Missing(t, tool+" is not installed")
		}
	}
}

func shell(t *testing.T, stdin []byte, command string) []byte {
	t.Helper()
	cmd := exec.Command("bash", "-o", "pipefail", "-c", command)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s", command, err, stderr.Bytes())
	}
	return out
}
