package page

import "encoding/binary"

// The data checksum is FNV-1a over 32 interleaved lanes of 32-bit words, with a shift mixed in, and two rounds of zeros at the
// end (include/storage/checksum_impl.h).
const (
	lanes   = 32
	rowSize = lanes * 4 // bytes
	prime   = 16777619
)

// offsets are the lanes' starting values (checksumBaseOffsets).
var offsets = [lanes]uint32{
	0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
	0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
	0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
	0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
}

// Checksum computes the data checksum of a page with that block number (pg_checksum_page). The page's own pd_checksum does
// not take part; the page is not changed. Its length must be a multiple of 128 bytes, and not 0.
func Checksum(page []byte, block uint32) uint16 {
	return fold(checksum(page), block)
}

// fold makes 16 bits of a block's 32, never 0.
func fold(sum, block uint32) uint16 { return uint16((sum^block)%65535 + 1) }

// mix is CHECKSUM_COMP: one round of one lane.
func mix(s, word uint32) uint32 {
	v := s ^ word
	return v*prime ^ v>>17
}

// checksumGeneric goes down the page once for each 8 lanes, which the compiler keeps in registers.
func checksumGeneric(page []byte) uint32 {
	var sum uint32
	for first := 0; first < lanes; first += 8 {
		sum ^= eightLanes(page, first)
	}
	return sum
}

func eightLanes(page []byte, first int) uint32 {
	le := binary.LittleEndian
	o := (*[8]uint32)(offsets[first : first+8])
	a, b, c, d, e, f, g, h := o[0], o[1], o[2], o[3], o[4], o[5], o[6], o[7]
	for at := first * 4; at+32 <= len(page); at += rowSize {
		w := page[at : at+32 : at+32]
		third := le.Uint32(w[8:])
		if at == 0 {
			third &= 0xFFFF0000 // pd_checksum, bytes 8 and 9, counts as 0
		}
		a, b, c, d = mix(a, le.Uint32(w)), mix(b, le.Uint32(w[4:])), mix(c, third), mix(d, le.Uint32(w[12:]))
		e, f, g, h = mix(e, le.Uint32(w[16:])), mix(f, le.Uint32(w[20:])), mix(g, le.Uint32(w[24:])), mix(h, le.Uint32(w[28:]))
	}
	for range 2 {
		a, b, c, d, e, f, g, h = mix(a, 0), mix(b, 0), mix(c, 0), mix(d, 0), mix(e, 0), mix(f, 0), mix(g, 0), mix(h, 0)
	}
	return a ^ b ^ c ^ d ^ e ^ f ^ g ^ h
}
