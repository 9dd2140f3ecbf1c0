package page

// ChecksumGeneric is the checksum computed without assembly.
func ChecksumGeneric(page []byte, block uint32) uint16 { return fold(checksumGeneric(page), block) }
