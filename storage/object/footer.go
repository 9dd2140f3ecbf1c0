package object

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
)

// The footer: one zstd skippable frame. Wire constants, do not change them.
//
//	┌───────┬──────┬────────────┬───────────────────────────┬───────────┬───────┬───────┬────────┬──────────┐
//	│ magic │ size │ header tie │ stored plain crc, × count │ plain sum │ count │ crc   │ length │ end mark │
//	│ 4     │ 4    │ 32         │ 12 × count                │ 8         │ 4     │ 4     │ 4      │ 8        │
//	└───────┴──────┴────────────┴───────────────────────────┴───────────┴───────┴───────┴────────┴──────────┘
//
// Its length and mark are last, so it is found from the tail.
const (
	footerMagic = 0x184D2A58 // zstd skippable frame number 8
	footerMark  = "pgstowed"

	footerFront = 4 + 4 + 32
	footerEntry = 12
	footerBack  = 8 + 4 + 4 + 4 + 8
	footerMin   = footerFront + footerBack
	footerTail  = 4 + 8 // what is read first: length and mark
)

// footer is what the footer says.
type footer struct {
	tie    [32]byte // SHA-256 of the header's bytes before tieEnd
	frames []entry
	plain  int64
}

// tieOf returns what ties a footer to its header: the hash of all of the header
// that is known before the last byte is stored.
func tieOf(header *[HeaderSize]byte) [32]byte { return sha256.Sum256(header[:tieEnd]) }

func appendFooter(b []byte, f footer) []byte {
	le := binary.LittleEndian
	start := len(b)
	length := footerMin + footerEntry*len(f.frames)
	b = le.AppendUint32(b, footerMagic)
	b = le.AppendUint32(b, uint32(length-8))
	b = append(b, f.tie[:]...)
	for _, e := range f.frames {
		b = appendEntry(b, e)
	}
	b = le.AppendUint64(b, uint64(f.plain))
	b = le.AppendUint32(b, uint32(len(f.frames)))
	b = le.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
	b = le.AppendUint32(b, uint32(length))
	return append(b, footerMark...)
}

func appendEntry(b []byte, e entry) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(e.Stored))
	b = binary.LittleEndian.AppendUint32(b, uint32(e.Plain))
	return binary.LittleEndian.AppendUint32(b, e.crc)
}

// footerLength reads the footer's length from the last bytes of what precedes
// offset end in the (decrypted) object.
func footerLength(tail []byte, end int64) (int64, error) {
	if int64(len(tail)) < footerTail || end < HeaderSize+footerMin {
		return 0, corrupt(end, "object has no footer")
	}
	tail = tail[len(tail)-footerTail:]
	if string(tail[4:]) != footerMark {
		return 0, corrupt(end-8, "object does not end in a footer")
	}
	n := int64(binary.LittleEndian.Uint32(tail))
	if n < footerMin || (n-footerMin)%footerEntry != 0 || n > end-HeaderSize {
		return 0, corrupt(end-footerTail, "footer has an impossible length")
	}
	return n, nil
}

// parseFooter reads b, which is exactly the footer, and checks it against its
// object: the header that it must be tied to, and the bytes that its frames must
// fill without a gap.
func parseFooter(b []byte, h Header, tie [32]byte, body int64) (footer, error) {
	var f footer
	at := HeaderSize + body
	le := binary.LittleEndian
	length, err := footerLength(b, at+int64(len(b)))
	if err != nil {
		return f, err
	}
	if length != int64(len(b)) || le.Uint32(b) != footerMagic || int64(le.Uint32(b[4:])) != length-8 {
		return f, corrupt(at, "footer is malformed")
	}
	crcAt := len(b) - footerTail - 4
	if le.Uint32(b[crcAt:]) != crc32.Checksum(b[:crcAt], castagnoli) {
		return f, corrupt(at+int64(crcAt), "footer checksum does not match")
	}
	if !bytes.Equal(b[8:footerFront], tie[:]) {
		return f, corrupt(at+8, "footer belongs to another header")
	}
	count := (len(b) - footerMin) / footerEntry
	if int64(le.Uint32(b[crcAt-4:])) != int64(count) {
		return f, corrupt(at+int64(crcAt)-4, "footer counts other frames than it lists")
	}
	f.tie = tie
	f.frames = make([]entry, count) // 16 bytes for 12 that were read
	var stored int64
	for i := range f.frames {
		p := b[footerFront+footerEntry*i:]
		s, n := le.Uint32(p), le.Uint32(p[4:])
		if n == 0 || n > MaxFrame || s < minFrame || int(s) > maxStored(int(n)) {
			return f, corrupt(at+footerFront+footerEntry*int64(i), "footer lists an impossible frame")
		}
		f.frames[i] = entry{Frame{int(s), int(n)}, le.Uint32(p[8:])}
		stored += int64(s)
		f.plain += int64(n)
	}
	switch {
	case stored != body:
		return f, corrupt(at, "frames of %d bytes fill %d", stored, body)
	case uint64(f.plain) != le.Uint64(b[crcAt-12:]):
		return f, corrupt(at+int64(crcAt)-12, "footer's frames have another plain size than it says")
	case f.plain != h.PlainSize:
		return f, corrupt(offPlainSize, "header and footer name different plain sizes")
	}
	return f, nil
}
