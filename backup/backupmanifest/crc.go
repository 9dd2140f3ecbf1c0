package backupmanifest

import (
	"hash/crc32"
	"sync/atomic"
)

// The CRC of PostgreSQL's backup manifests is CRC-32C (port/pg_crc32c.h), reflected, polynomial 0x1EDC6F41.
const reflectedPolynomial = 0x82F63B78

// A CRC is affine: without its initial and final inversion, crc(A‖B) = crc(A)·x^(8·len B) + crc(B) in GF(2)[x] modulo the
// polynomial. So the parts of a file may be summed in any order, by any number of writers, each part shifted by what
// follows it; zeros add nothing.

// multiply returns a·b modulo the polynomial; bit 31 is the coefficient of x^0.
func multiply(a, b uint32) uint32 {
	var product uint32
	for bit := uint32(1) << 31; bit != 0; bit >>= 1 {
		if a&bit != 0 {
			product ^= b
		}
		if b&1 != 0 {
			b = b>>1 ^ reflectedPolynomial
		} else {
			b >>= 1
		}
	}
	return product
}

// squares holds x^(8·2^k) modulo the polynomial.
var squares = func() (table [63]uint32) {
	table[0] = 1 << (31 - 8) // x^8
	for k := 1; k < len(table); k++ {
		table[k] = multiply(table[k-1], table[k-1])
	}
	return table
}()

// shift returns crc·x^(8n): what crc becomes when n zero bytes follow.
func shift(crc uint32, n int64) uint32 {
	for k := 0; n > 0 && crc != 0; k, n = k+1, n>>1 {
		if n&1 != 0 {
			crc = multiply(squares[k], crc)
		}
	}
	return crc
}

// castagnoli is the standard library's table; crc32 uses the processor's instruction with it.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// linear is the CRC of p without the inversions.
func linear(p []byte) uint32 { return ^crc32.Update(^uint32(0), castagnoli, p) }

// Checksum is the CRC-32C of p.
func Checksum(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

// Combine returns the CRC-32C of A‖B from those of A and of B, and B's length in bytes.
func Combine(a, b uint32, lengthB int64) uint32 { return shift(a, lengthB) ^ b }

// Sum collects the CRC-32C of a file whose parts come in any order, from any number of goroutines. Parts may not
// overlap; bytes never added count as zeros. The zero value is ready.
type Sum struct{ linear atomic.Uint32 }

// Add adds the bytes p at offset of a file of size bytes.
func (s *Sum) Add(size, offset int64, p []byte) {
	part := shift(linear(p), size-offset-int64(len(p)))
	for {
		old := s.linear.Load()
		if s.linear.CompareAndSwap(old, old^part) {
			return
		}
	}
}

// Checksum returns the CRC-32C of the file of size bytes.
func (s *Sum) Checksum(size int64) uint32 { return ^(shift(^uint32(0), size) ^ s.linear.Load()) }

// Reset forgets all parts.
func (s *Sum) Reset() { s.linear.Store(0) }
