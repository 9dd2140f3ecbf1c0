package source

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"
)

// A relation map file is magic, count and mappings, then a CRC-32C of all that
// (RelMapFile in backend/utils/cache/relmapper.c): 62 mappings and padding up to
// PostgreSQL 15, 64 mappings since.
const (
	relMapMagic = 0x592717
	relMapCRC15 = 8 + 62*8
	relMapCRC16 = 8 + 64*8
	maxSmall    = 64 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// RelMapValid says whether b is a whole pg_filenode.map: before PostgreSQL 16 it
// is written in place, so a reader can meet half of one. As all that pgstow reads,
// it is of a little-endian machine.
func RelMapValid(b []byte) bool {
	le := binary.LittleEndian
	if len(b) < relMapCRC15+4 || le.Uint32(b) != relMapMagic {
		return false
	}
	for _, at := range []int{relMapCRC15, relMapCRC16} {
		if len(b) >= at+4 && le.Uint32(b[at:]) == crc32.Checksum(b[:at], castagnoli) {
			return true
		}
	}
	return false
}

// Waiting for a file that is written in place.
const (
	stableTries = 100
	stablePause = 10 * time.Millisecond
)

// ReadStable reads a small file that PostgreSQL writes in place, again and again
// until valid says that it is whole. The error is valid's last one, fs.ErrNotExist
// if the file is gone, or that of reading.
func ReadStable(ctx context.Context, f FS, path string, valid func([]byte) error) ([]byte, error) {
	for i := 0; ; i++ {
		b, err := readSmall(f, path)
		if err != nil {
			return nil, err
		}
		if err = valid(b); err == nil {
			return b, nil
		}
		if i == stableTries {
			return nil, fmt.Errorf("%s, read %d times: %w", path, i, err)
		}
		if err := pause(ctx, stablePause); err != nil {
			return nil, err
		}
	}
}

func readSmall(f FS, path string) (b []byte, err error) {
	file, err := f.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	b, err = io.ReadAll(io.NewSectionReader(file, 0, maxSmall+1))
	if err == nil && len(b) > maxSmall {
		err = fmt.Errorf("%s is longer than %d bytes", path, maxSmall)
	}
	return b, err
}
