package object

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
)

// Recipient is the public half of a key: age's own type, under a name that does
// not make others import age.
type Recipient = age.Recipient

// Identity is the secret half of a key: age's own type as well.
type Identity = age.Identity

// GenerateIdentity makes a key pair: identity is the secret AGE-SECRET-KEY-PQ-1…,
// recipient the public age1pq1…. It is hybrid (X25519 and ML-KEM-768): what is
// stored today stays secret from tomorrow's quantum computers.
func GenerateIdentity() (identity, recipient string, err error) {
	id, err := age.GenerateHybridIdentity()
	if err != nil {
		return "", "", fmt.Errorf("generate identity: %w", err)
	}
	return id.String(), id.Recipient().String(), nil
}

// ParseRecipients reads public keys, age1pq1… (hybrid) or age1… (X25519). At
// least one is required, so that no list read from a file by mistake turns
// encryption off; duplicates and a mixture of the two sorts, which would undo
// the hybrid's protection, are refused. Errors never repeat the text, since it
// may be a secret key in the wrong place.
func ParseRecipients(keys []string) ([]Recipient, error) {
	if len(keys) == 0 {
		return nil, errors.New("parse recipients: none given")
	}
	out := make([]Recipient, 0, len(keys))
	seen := make(map[string]int, len(keys))
	hybrid := 0
	for i, key := range keys {
		key = strings.ToLower(strings.TrimSpace(key))
		if j, dup := seen[key]; dup {
			return nil, fmt.Errorf("parse recipients: number %d repeats number %d", i+1, j)
		}
		seen[key] = i + 1
		r, err := parseRecipient(key)
		if err != nil {
			return nil, fmt.Errorf("parse recipients: number %d: %w", i+1, err)
		}
		if _, ok := r.(*age.HybridRecipient); ok {
			hybrid++
		}
		out = append(out, r)
	}
	if hybrid != 0 && hybrid != len(out) {
		return nil, errors.New("parse recipients: age1pq1… and age1… cannot be mixed")
	}
	return out, nil
}

func parseRecipient(key string) (Recipient, error) {
	switch {
	case strings.HasPrefix(key, "age1pq1"):
		r, err := age.ParseHybridRecipient(key)
		if err != nil {
			return nil, errors.New("malformed age1pq1… recipient")
		}
		return r, nil
	case strings.HasPrefix(key, "age1"):
		r, err := age.ParseX25519Recipient(key)
		if err != nil {
			return nil, errors.New("malformed age1… recipient")
		}
		return r, nil
	case strings.HasPrefix(key, "age-secret-key-"):
		return nil, errors.New("this is a secret identity, not a recipient")
	default:
		return nil, errors.New("not an age1… recipient")
	}
}

// ParseIdentities reads secret keys, one a line, empty lines and lines that
// begin with '#' ignored: the format of age-keygen and of pgstow keygen.
func ParseIdentities(r io.Reader) ([]Identity, error) {
	ids, err := age.ParseIdentities(r)
	if err != nil {
		return nil, fmt.Errorf("parse identities: %w", err)
	}
	return ids, nil
}

// RecipientOf returns the public half of an identity that ParseIdentities
// returned, and false for any other.
func RecipientOf(id Identity) (string, bool) {
	switch id := id.(type) {
	case *age.HybridIdentity:
		return id.Recipient().String(), true
	case *age.X25519Identity:
		return id.Recipient().String(), true
	}
	return "", false
}

// Fingerprint is a short name for a recipient (a hybrid one has some 1950
// characters): "sha256:" and what `printf %s age1… | sha256sum` prints.
func Fingerprint(recipient string) string {
	sum := sha256.Sum256([]byte(strings.ToLower(strings.TrimSpace(recipient))))
	return "sha256:" + hex.EncodeToString(sum[:])
}
