package object

import (
	"errors"
	"fmt"
)

var (
	// ErrCorrupt is matched (errors.Is) by every [*CorruptError].
	ErrCorrupt = errors.New("object is corrupt")
	// ErrNoIdentity says that the object is encrypted and no identity was given.
	ErrNoIdentity = errors.New("object is encrypted and no identity was given")
	// ErrWrongIdentity says that the object is encrypted and undamaged, and that
	// none of the given identities opens it.
	ErrWrongIdentity = errors.New("object is encrypted to other identities")
	// ErrFormat says that the object is sound but that its format, or its kind, is
	// newer than this program.
	ErrFormat = errors.New("object has a newer format than this program knows")
	// ErrTooLarge says that the object is sound, as far as was seen, but needs more
	// memory than is allowed.
	ErrTooLarge = errors.New("object needs more memory than allowed")
)

// CorruptError says that stored bytes are not what a writer wrote. It never
// stands for a failure to read them: that error is passed on as it came.
type CorruptError struct {
	// What is wrong, for people.
	What string
	// Offset in the stored object near which it was found. Inside an encrypted
	// object it counts as if the object were not encrypted.
	Offset int64
	// Err is the cause, if a library named one; may be nil. It is for the message
	// alone and deliberately not unwrapped: it may be io.EOF, and a caller who asks
	// errors.Is for that must not take damage for the end.
	Err error
}

func (e *CorruptError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%v: %s at byte %d: %v", ErrCorrupt, e.What, e.Offset, e.Err)
	}
	return fmt.Sprintf("%v: %s at byte %d", ErrCorrupt, e.What, e.Offset)
}

// Is makes errors.Is(err, ErrCorrupt) true.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

func corrupt(offset int64, format string, args ...any) *CorruptError {
	return &CorruptError{What: fmt.Sprintf(format, args...), Offset: offset}
}
