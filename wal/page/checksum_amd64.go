package page

// hasAVX2 is fixed for the life of the process.
var hasAVX2 = detectAVX2()

// detectAVX2 asks the processor for AVX2 and the system for saving its registers.
//
//go:noescape
func detectAVX2() bool

// checksumAVX2 is checksumGeneric for n rows of 128 bytes.
//
//go:noescape
func checksumAVX2(page *byte, n int, offsets *[lanes]uint32) uint32

func checksum(page []byte) uint32 {
	if n := len(page) / rowSize; hasAVX2 && n > 0 {
		return checksumAVX2(&page[0], n, &offsets)
	}
	return checksumGeneric(page)
}
