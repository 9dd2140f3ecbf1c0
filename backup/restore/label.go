package restore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// cleanLabel removes the two lines that the server adds to the label of an incremental stream: with them it would refuse
// to start, and what is restored here is whole. Everything else stays as it is (RULES-physical A9; xlogbackup.c).
func cleanLabel(label []byte) []byte {
	var out []byte
	for line := range bytes.Lines(label) {
		if bytes.HasPrefix(line, []byte("INCREMENTAL FROM LSN: ")) || bytes.HasPrefix(line, []byte("INCREMENTAL FROM TLI: ")) {
			continue
		}
		out = append(out, line...)
	}
	return out
}

// Offsets in ControlFileData (catalog/pg_control.h), the same from PostgreSQL 13 to 18.
const (
	controlCheckpoint = 32
	controlMinSize    = 128
	controlMaxSize    = 512 // PG_CONTROL_MAX_SAFE_SIZE: the structure fits into one disk sector
	// invalidCheckpoint is an LSN that passes the server's check of its form and where no record can be.
	invalidCheckpoint = 0xDEAD
)

var errControl = errors.New("pg_control: its checksum does not match")

// invalidateCheckpoint makes pg_control's own checkpoint unusable and its checksum right again. With backup_label the
// server takes the checkpoint from there; if someone deletes the label the server must not start from the control file
// as if after a crash: it would come up and be corrupt (RULES-physical A11). raw is not changed.
func invalidateCheckpoint(raw []byte) ([]byte, error) {
	out := bytes.Clone(raw)
	table := crc32.MakeTable(crc32.Castagnoli)
	for at := controlMinSize; at+4 <= min(len(out), controlMaxSize); at += 4 {
		sum := crc32.Checksum(out[:at], table)
		for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
			if order.Uint32(out[at:]) != sum {
				continue
			}
			order.PutUint64(out[controlCheckpoint:], invalidCheckpoint)
			order.PutUint32(out[at:], crc32.Checksum(out[:at], table))
			return out, nil
		}
	}
	return nil, errControl
}
