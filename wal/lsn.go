package wal

import (
	"fmt"
	"strconv"
	"strings"
)

// LSN is a position in the write-ahead log, in bytes. 0 is PostgreSQL's InvalidXLogRecPtr: no position.
type LSN uint64

// String gives the form PostgreSQL prints, two hexadecimal halves without leading zeros: "0/16B3748".
func (l LSN) String() string {
	return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l))
}

// ParseLSN reads "16/B374D848". Like pg_lsn_in (backend/utils/adt/pg_lsn.c) it wants one to eight hexadecimal
// digits of either case on both sides of one slash, and nothing else.
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	if !ok || !isHex(hi) || !isHex(lo) {
		return 0, fmt.Errorf("%q is not an LSN: want two hexadecimal numbers, as in 16/B374D848", s)
	}
	h, err := strconv.ParseUint(hi, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is not an LSN: %w", s, err)
	}
	l, err := strconv.ParseUint(lo, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is not an LSN: %w", s, err)
	}
	return LSN(h<<32 | l), nil
}

// isHex reports whether s is one to eight hexadecimal digits.
func isHex(s string) bool {
	if len(s) < 1 || len(s) > 8 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'F') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// MarshalText and UnmarshalText make an LSN a string such as "0/16B3748" in JSON and TOML.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText is ParseLSN.
func (l *LSN) UnmarshalText(b []byte) error {
	v, err := ParseLSN(string(b))
	if err != nil {
		return err
	}
	*l = v
	return nil
}

// TimelineID numbers a timeline, from 1. 0 means none.
type TimelineID uint32

// String gives the number in decimal, as pg_controldata and recovery_target_timeline do.
func (t TimelineID) String() string { return strconv.FormatUint(uint64(t), 10) }
