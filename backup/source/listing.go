package source

import (
	"bytes"
	"fmt"
	"math"
	"slices"
)

// listing holds the names of one directory, sorted bytewise. A directory can
// have a million names, so they lie in one arena instead of as many strings.
type listing struct {
	arena []byte
	names []span
}

type span struct {
	at  uint32
	len uint16
}

func (l *listing) add(name string) error {
	if len(l.arena)+len(name) > math.MaxUint32 || len(name) > math.MaxUint16 {
		return fmt.Errorf("too many names in one directory")
	}
	l.names = append(l.names, span{uint32(len(l.arena)), uint16(len(name))})
	l.arena = append(l.arena, name...)
	return nil
}

func (l *listing) bytes(s span) []byte { return l.arena[s.at : s.at+uint32(s.len)] }

func (l *listing) name(i int) string { return string(l.bytes(l.names[i])) }

func (l *listing) sort() {
	slices.SortFunc(l.names, func(a, b span) int { return bytes.Compare(l.bytes(a), l.bytes(b)) })
}

// has says whether the sorted listing holds the name.
func (l *listing) has(name string) bool {
	_, ok := slices.BinarySearchFunc(l.names, name, func(s span, name string) int {
		return bytes.Compare(l.bytes(s), []byte(name))
	})
	return ok
}

// list reads and sorts the names of a directory.
func list(f FS, dir string) (*listing, error) {
	l := new(listing)
	var bad error
	err := f.Names(dir, func(name string) {
		if bad == nil {
			bad = l.add(name)
		}
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", dir, err)
	}
	l.sort()
	return l, nil
}
