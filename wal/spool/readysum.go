package spool

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"syscall"
)

// The companion of a waiting file:
//
//	  0  8  magic
//	  8  8  size of the file
//	 16 16  the server's run, see ForRun
//	 32  1  length of the name
//	 33 75  name, zero padded
//	108  4  number of chunks
//	112 4n  CRC32C of each chunk
//	    4   CRC32C of all before; all integers little endian
const (
	sumMagic = "pgstowF2"
	sumHead  = 112
	runSize  = 16
	// chunkSize is what one checksum is for: several are checked at a time.
	chunkSize = 1 << 20
	// maxReady is the size of PostgreSQL's largest segment.
	maxReady = 1 << 30
	maxSum   = sumHead + 4*(maxReady/chunkSize) + 4
)

type sumRecord struct {
	size   int64
	chunks []uint32
}

// summer computes the checksums of chunks as the bytes come.
type summer struct {
	size   int64
	chunks []uint32
	last   uint32 // of the chunk that is not full
}

func (m *summer) add(p []byte) {
	for len(p) > 0 {
		n := min(int64(len(p)), chunkSize-m.size%chunkSize)
		m.last = crc32.Update(m.last, castagnoli(), p[:n])
		m.size += n
		p = p[n:]
		if m.size%chunkSize == 0 {
			m.chunks, m.last = append(m.chunks, m.last), 0
		}
	}
}

func (m *summer) finish() []uint32 {
	if m.size%chunkSize != 0 {
		return append(m.chunks, m.last)
	}
	return m.chunks
}

var errTooLarge = errors.New("larger than any WAL file")

func encodeSum(name string, run [runSize]byte, size int64, chunks []uint32) ([]byte, error) {
	if size > maxReady {
		return nil, &os.PathError{Op: "spool", Path: name, Err: errTooLarge}
	}
	b := make([]byte, sumHead, sumHead+4*len(chunks)+4)
	copy(b, sumMagic)
	binary.LittleEndian.PutUint64(b[8:], uint64(size))
	copy(b[16:], run[:])
	b[32] = byte(len(name))
	copy(b[33:33+maxNameSize], name)
	binary.LittleEndian.PutUint32(b[108:], uint32(len(chunks)))
	for _, c := range chunks {
		b = binary.LittleEndian.AppendUint32(b, c)
	}
	return binary.LittleEndian.AppendUint32(b, castagnoliOf(b)), nil
}

// decodeSum reads the companion of the file of this name, made in this run of the server.
func decodeSum(b []byte, name string, run [runSize]byte) (sumRecord, bool) {
	if len(b) < sumHead+4 || len(b) > maxSum {
		return sumRecord{}, false
	}
	size := binary.LittleEndian.Uint64(b[8:])
	if size > maxReady || (size+chunkSize-1)/chunkSize != uint64(len(b)-sumHead-4)/4 {
		return sumRecord{}, false
	}
	r := sumRecord{size: int64(size), chunks: make([]uint32, (size+chunkSize-1)/chunkSize)}
	for i := range r.chunks {
		r.chunks[i] = binary.LittleEndian.Uint32(b[sumHead+4*i:])
	}
	want, err := encodeSum(name, run, r.size, r.chunks)
	return r, err == nil && string(want) == string(b)
}

func (s *Spool) readSum(name string) (sumRecord, bool) {
	f, err := os.OpenFile(s.readyPath(name)+sumSuffix, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return sumRecord{}, false
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxSum+1))
	if err != nil {
		return sumRecord{}, false
	}
	return decodeSum(b, name, s.run)
}
