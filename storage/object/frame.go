package object

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Frame tells the lengths of one frame in bytes: as stored (compressed, not
// encrypted) and plain.
type Frame struct{ Stored, Plain int }

const (
	// FrameSize is the plain length into which pgstow cuts by habit.
	FrameSize = 1 << 20
	// MaxFrame is the greatest plain length of a frame.
	MaxFrame = 64 << 20

	frameMagic    = 0xFD2FB528
	maxBlock      = 128 << 10
	frameChecksum = 4
	minFrame      = 4 + 1 + 1 + 3 + 1 + frameChecksum
)

// maxStored is the greatest stored length of a frame of n plain bytes. A
// compressor that finds nothing to compress adds 3 bytes a block; more would be
// padding, which only serves to make a reader buffer it.
func maxStored(n int) int { return n + n>>8 + 64 }

// entry is a frame as the footer's table describes it.
type entry struct {
	Frame
	crc uint32 // CRC32C of the stored bytes
}

const (
	blockRaw = iota
	blockRLE
	blockCompressed
)

// parseFrameHeader reads the only form of zstd frame header that we write:
// single segment, content size in its shortest form, checksum, no dictionary. b
// begins with the frame and may be short: then need is the length that is
// missing to decide, and n is 0.
func parseFrameHeader(b []byte) (plain, n, need int, err error) {
	if len(b) < 5 {
		return 0, 0, 5, nil
	}
	if binary.LittleEndian.Uint32(b) != frameMagic {
		return 0, 0, 0, fmt.Errorf("no zstd frame")
	}
	const single, checksum = 1 << 5, 1 << 2
	if b[4]&0x3f != single|checksum {
		return 0, 0, 0, fmt.Errorf("zstd frame descriptor %#x", b[4])
	}
	var size uint64
	var least uint64
	switch b[4] >> 6 {
	case 0:
		n, least = 6, 1
		if len(b) >= n {
			size = uint64(b[5])
		}
	case 1:
		n, least = 7, 256
		if len(b) >= n {
			size = uint64(binary.LittleEndian.Uint16(b[5:])) + 256
		}
	case 2:
		n, least = 9, 256+1<<16
		if len(b) >= n {
			size = uint64(binary.LittleEndian.Uint32(b[5:]))
		}
	default:
		return 0, 0, 0, fmt.Errorf("zstd frame is too large")
	}
	if len(b) < n {
		return 0, 0, n, nil
	}
	if size < least || size > MaxFrame {
		return 0, 0, 0, fmt.Errorf("zstd frame of %d plain bytes", size)
	}
	return int(size), n, 0, nil
}

// block is a zstd block header.
type block struct {
	last   bool
	stored int // bytes that follow the header
	most   int // plain bytes it can give
}

func parseBlock(b []byte) (block, error) {
	h := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16
	size := int(h >> 3)
	if size > maxBlock {
		return block{}, fmt.Errorf("zstd block of %d bytes", size)
	}
	blk := block{last: h&1 != 0, stored: size, most: size}
	switch h >> 1 & 3 {
	case blockRaw:
	case blockRLE:
		blk.stored = 1
	case blockCompressed:
		blk.most = maxBlock
	default:
		return block{}, fmt.Errorf("zstd block of a reserved type")
	}
	return blk, nil
}

// checkFrame checks that b is exactly one zstd frame of the form that we write
// and returns its plain length. It allocates nothing, so that a decoder is only
// set on frames whose claims are possible.
func checkFrame(b []byte) (int, error) {
	plain, n, need, err := parseFrameHeader(b)
	if err != nil {
		return 0, err
	}
	if need > 0 {
		return 0, fmt.Errorf("zstd frame is cut")
	}
	if len(b) > maxStored(plain) {
		return 0, fmt.Errorf("zstd frame is padded")
	}
	most := 0
	for {
		if len(b) < n+3 {
			return 0, fmt.Errorf("zstd frame is cut")
		}
		blk, err := parseBlock(b[n:])
		if err != nil {
			return 0, err
		}
		n += 3 + blk.stored
		most += blk.most
		if blk.last {
			break
		}
	}
	if n += frameChecksum; n != len(b) {
		return 0, fmt.Errorf("zstd frame has another length than stored")
	}
	if most < plain {
		return 0, fmt.Errorf("zstd frame cannot hold what it claims")
	}
	return plain, nil
}

// sharedDecoder decodes whole frames for all readers of the process: as many at
// a time as there are processors; more would only cost memory.
var sharedDecoder = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(runtime.GOMAXPROCS(0)),
		zstd.WithDecoderMaxMemory(MaxFrame),
		zstd.WithDecodeAllCapLimit(true))
})

// comparingDecoder is for frames whose plain bytes are at hand and compared with
// what it decodes: zstd's own checksum, a quarter of the time, would add nothing.
var comparingDecoder = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(runtime.GOMAXPROCS(0)),
		zstd.WithDecoderMaxMemory(MaxFrame),
		zstd.WithDecodeAllCapLimit(true),
		zstd.IgnoreChecksum(true))
})

// decodeFrame decodes the one frame that stored consists of into dst, whose
// memory is used when it is large enough. at is the frame's offset, for errors.
func decodeFrame(stored []byte, e entry, at int64, dst []byte) ([]byte, error) {
	return decodeWith(sharedDecoder, stored, e, at, dst)
}

func decodeWith(decoder func() (*zstd.Decoder, error), stored []byte, e entry, at int64, dst []byte) ([]byte, error) {
	if len(stored) != e.Stored {
		return nil, corrupt(at, "frame is cut: %d of %d bytes", len(stored), e.Stored)
	}
	if crc32.Checksum(stored, castagnoli) != e.crc {
		return nil, corrupt(at, "frame checksum does not match")
	}
	plain, err := checkFrame(stored)
	if err != nil {
		return nil, &CorruptError{What: "frame is malformed", Offset: at, Err: err}
	}
	if plain != e.Plain {
		return nil, corrupt(at, "frame has %d plain bytes and not %d", plain, e.Plain)
	}
	dec, err := decoder()
	if err != nil {
		return nil, fmt.Errorf("make decoder: %w", err)
	}
	if cap(dst) < plain {
		dst = make([]byte, 0, plain)
	}
	dst, err = dec.DecodeAll(stored, dst[:0:plain])
	if err != nil {
		return nil, &CorruptError{What: "frame does not decode", Offset: at, Err: err}
	}
	if len(dst) != plain {
		return nil, corrupt(at, "frame decodes to %d bytes and not %d", len(dst), plain)
	}
	return dst, nil
}
