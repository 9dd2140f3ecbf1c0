package storage

import (
	"fmt"
	"strings"
)

// MaxKey is the greatest length of a key in bytes. It leaves room for a prefix within the 1024 bytes of S3.
const MaxKey = 512

// maxSegment is the greatest length of one part of a key: the longest file name that common file systems take.
const maxSegment = 255

// CheckKey returns an error that wraps ErrInvalidKey unless key is one that every store can hold under exactly this
// name: parts of A-Z a-z 0-9 . _ -, joined by single slashes, none beginning with a dot, at most MaxKey bytes.
func CheckKey(key string) error {
	if key == "" {
		return fmt.Errorf("empty key: %w", ErrInvalidKey)
	}
	if len(key) > MaxKey {
		return fmt.Errorf("key of %d bytes, at most %d are allowed: %w", len(key), MaxKey, ErrInvalidKey)
	}
	for part := range strings.SplitSeq(key, "/") {
		switch {
		case part == "":
			return fmt.Errorf("%q has an empty part: %w", key, ErrInvalidKey)
		case part[0] == '.':
			return fmt.Errorf("%q has a part that begins with a dot: %w", key, ErrInvalidKey)
		case len(part) > maxSegment:
			return fmt.Errorf("%q has a part of more than %d bytes: %w", key, maxSegment, ErrInvalidKey)
		}
	}
	if i := strings.IndexFunc(key, func(r rune) bool { return !allowed(r) }); i >= 0 {
		return fmt.Errorf("%q has a character other than A-Z a-z 0-9 . _ - /: %w", key, ErrInvalidKey)
	}
	return nil
}

// CheckPrefix is CheckKey for what List takes: the beginning of a key, which may be empty or end anywhere.
func CheckPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	return CheckKey(strings.TrimSuffix(prefix, "/"))
}

func allowed(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		return true
	default:
		return r == '.' || r == '_' || r == '-' || r == '/'
	}
}
