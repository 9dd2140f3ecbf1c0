//go:build !amd64

package page

func checksum(page []byte) uint32 { return checksumGeneric(page) }
