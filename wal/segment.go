package wal

import "fmt"

// Segment sizes that initdb --wal-segsize accepts, in bytes (include/access/xlog_internal.h, WalSegMinSize and
// WalSegMaxSize).
const (
	MinSegmentSize     SegmentSize = 1 << 20
	DefaultSegmentSize SegmentSize = 16 << 20
	MaxSegmentSize     SegmentSize = 1 << 30
)

// SegmentSize is the size in bytes of every WAL segment file of a cluster: a power of two from 1 MiB to 1 GiB.
type SegmentSize uint32

// Valid is PostgreSQL's IsValidWalSegSize.
func (s SegmentSize) Valid() bool {
	return s >= MinSegmentSize && s <= MaxSegmentSize && s&(s-1) == 0
}

// Check gives an error that names the size unless it is Valid.
func (s SegmentSize) Check() error {
	if !s.Valid() {
		return fmt.Errorf("WAL segment size %d: not a power of two between 1 MiB and 1 GiB", uint32(s))
	}
	return nil
}

// PerLog is the number of segments in 4 GiB of WAL: the third group of a segment's name runs from 0 to
// PerLog()-1 (XLogSegmentsPerXLogId). The size must be Valid.
func (s SegmentSize) PerLog() uint32 { return uint32(1 << 32 / uint64(s)) }

// SegmentNumber counts segments from the beginning of the log (XLogSegNo). It depends on the segment size.
type SegmentNumber uint64

// SegmentOf is the segment that holds the byte at l (XLByteToSeg). The size must be Valid.
func (s SegmentSize) SegmentOf(l LSN) SegmentNumber { return SegmentNumber(uint64(l) / uint64(s)) }

// PrevSegmentOf is the segment of the byte before l (XLByteToPrevSeg): where a record or backup that ends at l
// lies, also when l is the boundary between two segments. For l = 0, which is before every byte, it is 0.
func (s SegmentSize) PrevSegmentOf(l LSN) SegmentNumber {
	if l == 0 {
		return 0
	}
	return s.SegmentOf(l - 1)
}

// Start is the LSN of the first byte of segment n.
func (s SegmentSize) Start(n SegmentNumber) LSN { return LSN(uint64(n) * uint64(s)) }

// End is the LSN just after the last byte of segment n. It wraps to 0 for the very last one of the log.
func (s SegmentSize) End(n SegmentNumber) LSN { return s.Start(n + 1) }

// Offset is the distance in bytes of l from the start of its segment (XLogSegmentOffset).
func (s SegmentSize) Offset(l LSN) uint32 { return uint32(uint64(l) % uint64(s)) }
