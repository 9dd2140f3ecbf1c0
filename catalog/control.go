package catalog

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"pgstow/storage"
	"pgstow/storage/object"
)

// maxControl bounds the JSON objects that coordinate hosts, in bytes.
const maxControl = 64 << 20

// formatVersion is the version of every JSON object and of the manifest. A reader refuses a greater one.
const formatVersion = 1

// encodeControl is indented, with a final newline, for people who look at it with cat.
func encodeControl(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// checksumMember is the last member of a stored JSON object: the CRC-32C of all bytes before it. It is where a flipped bit in a name or a number
// shows, which leaves valid JSON behind.
const checksumMember = ",\n  \"crc32c\": \"%08x\"\n}\n"

// seal adds the checksum to what encodeControl made.
func seal(data []byte) []byte {
	body := bytes.TrimSuffix(data, []byte("\n}\n"))
	return fmt.Appendf(body, checksumMember, crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
}

// CheckControl finds damage in a JSON object of the repository. One that a person has written has no checksum, and is taken for what it is.
func CheckControl(key string, data []byte) error {
	at := max(0, len(data)-len(fmt.Sprintf(checksumMember, 0)))
	before, after, _ := strings.Cut(checksumMember, "%08x")
	end, sum := string(data[at:]), crc32.Checksum(data[:at], crc32.MakeTable(crc32.Castagnoli))
	if strings.HasPrefix(end, before) && strings.HasSuffix(end, after) && end != fmt.Sprintf(checksumMember, sum) {
		return fmt.Errorf("%s: the checksum at its end does not match: %w", key, object.ErrCorrupt)
	}
	return nil
}

// decodeControl refuses damage, then a newer format before it looks at anything else, tolerates unknown fields (they are additive)
// and refuses a second value.
func decodeControl(key string, data []byte, v any) error {
	if err := CheckControl(key, data); err != nil {
		return err
	}
	var f struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return fmt.Errorf("%s: not valid: %w", key, err)
	}
	switch {
	case f.Format > formatVersion:
		return fmt.Errorf("%s: format %d: %w", key, f.Format, ErrFormatTooNew)
	case f.Format < 1:
		return fmt.Errorf("%s: no format version", key)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("%s: not valid: %w", key, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return fmt.Errorf("%s: more than one value", key)
	}
	return nil
}

func readControl(ctx context.Context, s storage.Store, key string, v any) (storage.Info, error) {
	data, info, err := storage.ReadAll(ctx, s, key, maxControl)
	if err != nil {
		return storage.Info{}, err
	}
	return info, decodeControl(key, data, v)
}

func writeControl(ctx context.Context, s storage.Store, key string, v any, cond storage.Condition) (storage.Info, error) {
	data, err := encodeControl(v)
	if err != nil {
		return storage.Info{}, fmt.Errorf("encode %s: %w", key, err)
	}
	return s.Put(ctx, key, seal(data), cond)
}

// newNonce makes 16 random bytes as hex: what makes two writes of the same content different objects.
func newNonce() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	return hex.EncodeToString(b[:])
}
